"""Whether something learned from the residuals of the runs is clearly better than without it."""

from __future__ import annotations

import numpy as np

LEAST_GAIN, LEAST_RATIO = 3.0, 2.0
"""The gain in summed log density counts from this many nats, and this many standard errors."""


def summed(by_run: np.ndarray) -> tuple[float, float]:
    """Gain over all runs and its standard error.

    Parameters
    ----------
    by_run : array, shape (n_draws, n)
        Gain in log density of each run, by posterior draw.

    Examples
    --------
    >>> summed(np.array([[1.0, 3.0], [3.0, 5.0]]))
    (6.0, 1.4142135623730951)
    """
    mean = by_run.mean(axis=0)
    return float(mean.sum()), float(mean.std() * np.sqrt(mean.size))


def is_clear(gain: float, standard_error: float) -> bool:
    """Whether a gain is large enough to be used.

    Examples
    --------
    >>> is_clear(5.0, 1.0), is_clear(5.0, 3.0), is_clear(1.0, 0.1)
    (True, False, False)
    """
    return gain >= max(LEAST_GAIN, LEAST_RATIO * standard_error)
