"""Degrees of freedom of the noise, from residuals and the prior."""

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from bayes_optlaws.model.tails import PRIOR, learn

DEGREES = [*PRIOR]


def scaled(df, shape, rng):
    """Student-t draws of unit variance."""
    return rng.standard_t(df, shape) * np.sqrt((df - 2) / df)


@pytest.mark.parametrize("df", [3.0, 6.0])
def test_heavy_tails_are_found(df, rng):
    """In twelve tables of 800 runs; half of them at most one step off, none more than two."""
    found = [learn(scaled(df, (1, 800), rng)) for _ in range(12)]
    step = [abs(DEGREES.index(x.df) - DEGREES.index(df)) for x in found]
    assert np.median(step) <= 1 and max(step) <= 2


def test_normal_noise_of_many_runs_is_found_to_be_normal(rng):
    """Of forty tables of 3,000 runs none is called heavier than 20 degrees, most are normal."""
    found = [learn(rng.standard_normal((1, 3000))).df for _ in range(40)]
    assert min(found) >= 20 and np.mean(np.isinf(found)) > 0.6


def test_few_runs_do_not_tell():
    """The prior's mode without runs and with a few ordinary ones."""
    most = max(PRIOR, key=PRIOR.get)
    assert sum(PRIOR.values()) == pytest.approx(1)
    assert learn(np.zeros((4, 0))).df == most
    assert learn(np.array([[-0.7, 0.2, 1.1, 0.4, -1.3]])).df == most


def test_it_is_the_mode_of_the_posterior(rng):
    z = scaled(4.0, (3, 60), rng)
    found = learn(z)
    log = {
        df: np.log(p) + student.logpdf(z, df, scale=np.sqrt((df - 2) / df)).mean(axis=0).sum()
        for df, p in PRIOR.items()
        if np.isfinite(df)
    }
    normal = norm.logpdf(z).mean(axis=0).sum()
    log[np.inf] = np.log(PRIOR[np.inf]) + normal
    assert found.df == max(log, key=log.get)
    expected = log[found.df] - np.log(PRIOR[found.df]) - normal
    assert found.gain == pytest.approx(expected, rel=1e-9)
