"""The final loss of a curve: the mean of its last part, with the standard error of that mean."""

from __future__ import annotations

import numpy as np

__all__ = ["final_loss"]

SHARE = 0.02
"""Part of the steps at the end over which a loss curve is averaged."""


def final_loss(
    steps: np.ndarray, losses: np.ndarray, *, share: float = SHARE
) -> tuple[float, float, bool]:
    """Mean loss over the last part of a training curve.

    Parameters
    ----------
    steps : array, shape (n,)
        In any order; where a step is there twice the later entry counts, as after a restart.
    losses : array, shape (n,)
    share : float
        Part of the steps that is averaged, from the last logged step back.

    Returns
    -------
    mean : float
        The last loss itself where only one point is in that part; NaN for an empty curve or one
        that ends in NaN or infinity.
    sd : float
        Standard error of the mean, with the correlation of neighbouring points counted (lag-one
        autocorrelation r: n (1 - r) / (1 + r) points count); NaN with fewer than three points.
    diverged : bool
        Whether the curve ends in NaN or infinity.

    Raises
    ------
    ValueError
        When `share` is not between 0 and 1, or the arrays differ in length.

    Examples
    --------
    >>> steps = np.arange(1000)
    >>> mean, sd, diverged = final_loss(steps, 3.0 + 0.01 * (-1.0) ** steps)
    >>> round(mean, 4), sd < 0.01, diverged
    (3.0, True, False)
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share!r}: it must be between 0 and 1")
    steps, losses = np.asarray(steps, dtype=float), np.asarray(losses, dtype=float)
    if steps.shape != losses.shape or steps.ndim != 1:
        raise ValueError(
            f"steps have the shape {steps.shape} and losses {losses.shape}: both must be (n,)"
        )
    if not steps.size:
        return np.nan, np.nan, False
    # the last entry of each step, in the order of the steps
    unique, place = np.unique(steps[::-1], return_index=True)
    values = losses[::-1][place]
    if not np.isfinite(values[-1]):
        return np.nan, np.nan, True
    last = unique > unique[-1] - share * (unique[-1] - unique[0])
    last[-1] = True
    tail = values[last]
    tail = tail[np.isfinite(tail)]
    n = tail.size
    if n < 3:
        return float(np.mean(tail)), np.nan, False
    off = tail - tail.mean()
    variance = float(off @ off) / (n - 1)
    if variance == 0:
        return float(tail.mean()), 0.0, False
    r = float(np.clip((off[1:] @ off[:-1]) / (off @ off), 0.0, 0.99))
    count = max(n * (1 - r) / (1 + r), 1.0)
    return float(tail.mean()), float(np.sqrt(variance / count)), False
