"""A mapped coordinate: the same density, against derivatives by differences and known densities."""

import numpy as np
import pytest
from scipy.special import digamma, polygamma
from scipy.stats import kstest

from bayes_optlaws.inference.chains import run_chains
from bayes_optlaws.inference.tail_map import Mapped, TailMap

MAP = TailMap(1, location=0.3, scale=0.7, skewness=-0.4, tail=0.6)
SHAPE = 0.5


class LogGamma:
    """Entry 1 is the log of a gamma variate: a long lower tail.  The others follow it."""

    def log_density(self, y):
        off = y[[0, 2]] - 0.3 * y[1]
        value = SHAPE * y[1] - np.exp(y[1]) - 0.5 * np.sum(off**2)
        return value, np.array([-off[0], SHAPE - np.exp(y[1]) + 0.3 * off.sum(), -off[1]])

    def curvature_factor(self, y):
        return np.eye(3) * np.array([1.0, 1.5, 1.0])


def test_there_and_back_and_only_that_entry(rng):
    y = rng.normal(scale=3.0, size=(50, 3))
    v = MAP.forward(y)
    np.testing.assert_allclose(MAP.back(v), y, rtol=1e-10)
    np.testing.assert_array_equal(v[:, [0, 2]], y[:, [0, 2]])


def test_slopes_are_those_by_differences(rng):
    for v in rng.normal(scale=2.0, size=(10, 3)):
        e = np.array([0.0, 1e-5, 0.0])
        slope = (MAP.back(v + e) - MAP.back(v - e))[1] / 2e-5
        assert MAP.slope(v) == pytest.approx(slope, rel=1e-6)
        log = (np.log(MAP.slope(v + e)) - np.log(MAP.slope(v - e))) / 2e-5
        assert MAP.slope_of_log_slope(v) == pytest.approx(log, rel=1e-5, abs=1e-8)


def test_mapped_density_has_its_gradient_and_the_jacobian(rng):
    mapped = Mapped(LogGamma(), MAP)
    for v in rng.normal(size=(5, 3)):
        value, gradient = mapped.log_density(v)
        y = MAP.back(v)
        assert value == pytest.approx(LogGamma().log_density(y)[0] + np.log(MAP.slope(v)))
        for j, e in enumerate(1e-5 * np.eye(3)):
            by = (mapped.log_density(v + e)[0] - mapped.log_density(v - e)[0]) / 2e-5
            assert gradient[j] == pytest.approx(by, rel=1e-5, abs=1e-7)
        factor = mapped.curvature_factor(v)[1, 1]
        assert factor * MAP.slope(v) == pytest.approx(1.5)


def test_a_step_too_far_has_no_density():
    assert Mapped(LogGamma(), MAP).log_density(np.array([0.0, 1e300, 0.0]))[0] == -np.inf


@pytest.mark.parametrize("tail", [0.6, 1.0, 1.4])
def test_the_fit_finds_the_map_of_weighted_draws(rng, tail):
    true = TailMap(0, 2.0, 0.5, 0.3, tail)
    v = rng.normal(scale=1.5, size=(20_000, 1))
    weight = np.exp(-0.5 * v[:, 0] ** 2 * (1 - 1 / 1.5**2))  # back to the standard normal
    found = TailMap.fit(0, true.back(v), weight / weight.sum())
    for name in ("location", "scale", "skewness", "tail"):
        assert getattr(found, name) == pytest.approx(getattr(true, name), rel=0.1, abs=0.05)


def test_draws_of_a_long_tail_are_straightened_and_their_chains_have_its_moments(rng):
    y = np.log(rng.gamma(SHAPE, size=(4000, 1)))
    fitted = TailMap.fit(0, y, np.full(4000, 1 / 4000))
    assert kstest(fitted.forward(y)[:, 0], "norm").statistic < 0.03
    assert kstest((y[:, 0] - y.mean()) / y.std(), "norm").statistic > 0.06
    at = TailMap(1, fitted.location, fitted.scale, fitted.skewness, fitted.tail)
    mapped = Mapped(LogGamma(), at)
    v, _ = run_chains(
        mapped.log_density, np.zeros(3), np.eye(3), np.array([1, 2], np.uint32), chains=4,
        accept=(0.85, 0.97), draws=1000, tune=300, progress_bar=False,
    )  # fmt: skip
    x = at.back(v).reshape(-1, 3)[:, 1]
    mean, variance = digamma(SHAPE), polygamma(1, SHAPE)
    assert x.mean() == pytest.approx(mean, abs=4 * np.sqrt(variance / 1500))
    assert x.std() == pytest.approx(np.sqrt(variance), rel=0.1)
