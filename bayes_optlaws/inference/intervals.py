"""Central intervals that hold their own mean."""

from __future__ import annotations

import numpy as np

__all__ = ["central_interval", "holding"]


def central_interval(draws: np.ndarray, tail: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the central interval of each column, see `holding`.

    Parameters
    ----------
    draws : array, shape (n_draws, n)
    tail : float
        Probability on either side.

    Returns
    -------
    lower, upper : arrays, shape (n,)

    Examples
    --------
    >>> few_far_off = np.r_[np.full(97, 2.0), np.full(3, 11.0)][:, None]
    >>> [float(bound[0].round(2)) for bound in central_interval(few_far_off, 0.05)]
    [2.0, 2.27]
    """
    lower, upper = np.quantile(draws, [tail, 1 - tail], axis=0)
    return holding(draws.mean(axis=0), lower, upper)


def holding(
    mean: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Widen intervals to hold the mean, which a few draws far off can take outside.

    A table whose mean lies outside its own interval reads as an error, and the wider interval
    still has at least its probability.

    Examples
    --------
    >>> lower, upper = holding(np.array([2.4]), np.array([1.9]), np.array([2.3]))
    >>> float(lower[0]), float(upper[0])
    (1.9, 2.4)
    """
    return np.fmin(lower, mean), np.fmax(upper, mean)
