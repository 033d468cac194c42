"""Coordinates of the noise: the same density, held against the space that they read."""

import numpy as np
import pytest
from laws import encoded

from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.noise_coordinates import NoiseCoordinates
from bayes_optlaws.model.priors import Priors


@pytest.fixture(scope="module")
def space(pocket) -> HyperSpace:
    return HyperSpace(encoded(pocket).encoding.data, Priors())


def points(space, n, rng):
    return space.mean + space.sd * rng.standard_normal((n, space.size))


def test_there_and_back(space, rng):
    there, x = NoiseCoordinates(space), points(space, 50, rng)
    np.testing.assert_allclose(there.to_logs(there.from_logs(x)), x, rtol=1e-12)


def test_first_two_are_total_noise_and_ratio_of_its_parts(space, rng):
    x = points(space, 20, rng)
    y, values = NoiseCoordinates(space).from_logs(x), space.split(x)
    floor, growth = values["noise_sd"][:, 0], values["noise_growth"][:, 0]
    np.testing.assert_allclose(np.exp(y[:, 0]), np.hypot(floor, growth))
    np.testing.assert_allclose(np.exp(y[:, 1]), growth / floor)
    np.testing.assert_array_equal(y[:, 2:], x[:, 2:])


def test_density_is_that_of_the_space_for_the_map_keeps_volumes(space, rng):
    there, h = NoiseCoordinates(space), 1e-5
    for y in there.from_logs(points(space, 3, rng)):
        jacobian = np.array(
            [(there.to_logs(y + e) - there.to_logs(y - e)) / (2 * h) for e in h * np.eye(y.size)]
        )
        assert np.linalg.det(jacobian) == pytest.approx(1.0, abs=1e-8)
        assert there.log_density(y)[0] == space.log_density(there.to_logs(y))[0]
        assert there.log_densities(y[None])[0] == pytest.approx(there.log_density(y)[0], rel=1e-9)


def test_gradient_is_that_of_differences(space, rng):
    there, h = NoiseCoordinates(space), 1e-5
    for y in there.from_logs(points(space, 3, rng)):
        _, gradient = there.log_density(y)
        steps = h * np.eye(y.size)
        rise = [
            (there.log_density(y + e)[0] - there.log_density(y - e)[0]) / (2 * h) for e in steps
        ]
        np.testing.assert_allclose(gradient, rise, rtol=1e-4, atol=1e-3)


def test_curvature_at_the_mode_is_that_of_differences_of_the_gradient(space):
    """Where it is no wider than the prior, which the factor never is."""
    there, h = NoiseCoordinates(space), 1e-4
    y = there.mode()
    factor = there.curvature_factor(y)
    precision = np.linalg.inv(factor @ factor.T)
    steps = h * np.eye(y.size)
    curved = [(there.log_density(y - e)[1] - there.log_density(y + e)[1]) / (2 * h) for e in steps]
    two = [there.space.names.index(n) for n in ("noise_sd", "noise_growth")]
    np.testing.assert_allclose(
        np.array(curved)[np.ix_(two, two)], precision[np.ix_(two, two)], rtol=0.05
    )


def test_noise_of_one_part_is_left_as_it_is(pocket, rng):
    plain = HyperSpace(encoded(pocket, transfer=False).encoding.data, Priors())
    there, x = NoiseCoordinates(plain), points(plain, 5, rng)
    np.testing.assert_array_equal(there.from_logs(x), x)
    np.testing.assert_array_equal(there.log_density(x[0])[1], plain.log_density(x[0])[1])
