"""Degrees of freedom of the noise, learned from residuals."""

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from bayes_optlaws.model.tails import DEGREES, learn


def scaled(df, shape, rng):
    """Student-t draws of unit variance."""
    return rng.standard_t(df, shape) * np.sqrt((df - 2) / df)


@pytest.mark.parametrize("df", [3.0, 6.0])
def test_heavy_tails_are_found(df, rng):
    """Of twelve tables of 800 runs all are clear, and half of them at most one step off."""
    found = [learn(scaled(df, (1, 800), rng)) for _ in range(12)]
    assert all(x.clear for x in found)
    step = [abs(DEGREES.index(x.df) - DEGREES.index(df)) for x in found]
    assert np.median(step) <= 1 and max(step) <= 2


def test_normal_noise_stays_normal(rng):
    """Of 200 tables at most four are called heavy by chance."""
    clear = [learn(rng.standard_normal((1, n))).clear for n in (30, 100, 400, 1000) * 50]
    assert sum(clear) <= 4


def test_the_gain_is_that_of_the_log_density(rng):
    z = scaled(4.0, (3, 500), rng)
    found = learn(z)
    scale = np.sqrt((found.df - 2) / found.df)
    by_run = (student.logpdf(z, found.df, scale=scale) - norm.logpdf(z)).mean(axis=0)
    assert found.gain == pytest.approx(by_run.sum(), rel=1e-9)
    assert found.standard_error == pytest.approx(by_run.std() * np.sqrt(500), rel=1e-9)
