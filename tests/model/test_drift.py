"""The drift against the closed form of the integrated Wiener process, and its joint draws."""

import numpy as np
import pytest

from bayes_optlaws.model.drift import Drift, beyond_covariance, draw_beyond


def integrated_wiener(a, b):
    """Covariance of an integrated Wiener process that starts at zero, a and b of one side."""
    low, high = np.minimum(a[:, None], b), np.maximum(a[:, None], b)
    return low**2 * (3 * high - low) / 6


def test_segments_carry_value_and_slope_of_the_process_at_the_edge():
    """Many fine segments are the process; few are its least bent version."""
    drift = Drift(0.0, 3.0)
    x = np.array([3.0])
    columns = drift.basis(x)
    slope = (drift.basis(x + 1e-6) - columns) / 1e-6
    np.testing.assert_allclose(slope @ slope.T, 3.0, rtol=1e-5)  # exact at segments' ends
    np.testing.assert_allclose(columns @ columns.T, integrated_wiener(x, x), rtol=0.02)


def test_the_two_sides_are_independent_and_flat_at_the_centre():
    drift = Drift(-2.0, 1.0)
    x = np.array([-2.0, 0.0, 1.0])
    cov = drift.basis(x) @ drift.basis(x).T
    assert cov[0, 2] == 0.0 and cov[1, 1] == 0.0
    assert Drift(0.0, 0.0).n_columns == 0


def test_whole_process_is_the_closed_form_at_any_distance_beyond():
    drift = Drift(0.0, 3.0)
    x = np.array([3.5, 5.0, 9.9])
    h = drift.beyond(x)
    cov = drift.basis(x) @ drift.basis(x).T + beyond_covariance(h, h)
    np.testing.assert_allclose(cov, integrated_wiener(x, x), rtol=0.02)


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_draws_beyond_have_the_closed_covariance(side, rng):
    h = side * np.array([0.7, 0.1, 2.0, 0.7, 6.9])
    n = 40_000
    draws = draw_beyond(h, n, rng)
    np.testing.assert_array_equal(draws[:, 0], draws[:, 3])
    cov = draws.T @ draws / n
    expected = beyond_covariance(h, h)
    np.testing.assert_allclose(expected, integrated_wiener(np.abs(h), np.abs(h)))
    sd = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / n)
    assert np.abs((cov - expected) / sd).max() < 4.5


def test_draws_inside_and_on_the_other_side_share_nothing(rng):
    draws = draw_beyond(np.array([-1.0, 0.0, 1.0]), 20_000, rng)
    assert np.all(draws[:, 1] == 0.0)
    assert abs(np.corrcoef(draws[:, 0], draws[:, 2])[0, 1]) < 4.5 / np.sqrt(20_000)
