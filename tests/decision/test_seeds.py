"""How many seeds tell two schedules apart."""

import numpy as np
import pytest
from scipy import stats

from bayes_optlaws.decision.seeds import MOST_SEEDS, p_right_after, seeds_to_decide


@pytest.mark.parametrize("gap", [0.0, 0.3, -0.7, 2.0])
@pytest.mark.parametrize("seeds", [1, 5, 200])
def test_probability_is_that_of_two_normals_of_one_sign(gap, seeds):
    """Oracle: SciPy's bivariate normal distribution."""
    rho = 1.1 / np.hypot(1.1, 1.6 * np.sqrt(2 / seeds))
    a, b = gap / 1.1, gap / 1.1 / rho
    both = stats.multivariate_normal([0, 0], [[1, rho], [rho, 1]])
    expected = both.cdf([a, b]) + both.cdf([-a, -b])
    assert p_right_after(gap, 1.1, 1.6, seeds) == pytest.approx(expected, abs=1e-6)


def test_probability_by_simulated_seeds(rng):
    """Posterior mean of the gap after three seeds of each; 4 standard errors."""
    n = 100_000
    true = 0.7 + 1.1 * rng.standard_normal(n)
    seen = true + 1.6 * (rng.standard_normal((3, n)) - rng.standard_normal((3, n))).mean(axis=0)
    gain = 1.1**2 / (1.1**2 + 2 * 1.6**2 / 3)
    right = np.mean(np.sign(0.7 + gain * (seen - 0.7)) == np.sign(true))
    p = p_right_after(0.7, 1.1, 1.6, 3)
    assert abs(right - p) < 4 * np.sqrt(p * (1 - p) / n)


def test_limits():
    assert p_right_after(0.5, 1.0, 1.0, 0) == pytest.approx(stats.norm.cdf(0.5))
    assert p_right_after(0.5, 0.0, 1.0, 3) == 1.0
    assert p_right_after(0.0, 1.0, 0.0, 1) == 1.0
    p = [p_right_after(0.2, 1.0, 2.0, k) for k in range(1, 60)]
    assert np.all(np.diff(p) > 0)


def test_seeds_are_the_fewest_that_do():
    n = seeds_to_decide(0.0004, 0.002, 0.002, 0.9)
    assert (
        p_right_after(0.0004, 0.002, 0.002, n) >= 0.9 > p_right_after(0.0004, 0.002, 0.002, n - 1)
    )
    assert seeds_to_decide(1.0, 0.1, 0.1) == 0
    assert seeds_to_decide(0.0, 1e-6, 1.0) == np.inf
    assert p_right_after(0.0, 1e-6, 1.0, MOST_SEEDS) < 0.9
    with pytest.raises(ValueError, match="prob"):
        seeds_to_decide(0.1, 0.1, 0.1, 1.0)
