"""Equally weighted draws of weighted ones."""

from __future__ import annotations

import numpy as np


def systematic(weight: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of n draws, each as often as its weight says, to within one; in order.

    Parameters
    ----------
    weight : array, shape (n_draws,)
        Not negative; of any sum.
    n : int
    rng : numpy Generator

    Examples
    --------
    >>> systematic(np.array([1.0, 0.0, 3.0]), 4, np.random.default_rng(0)).tolist()
    [0, 2, 2, 2]
    """
    position = (np.arange(n) + rng.random()) / n
    index = np.searchsorted(np.cumsum(weight / weight.sum()), position)
    return np.minimum(index, weight.size - 1)
