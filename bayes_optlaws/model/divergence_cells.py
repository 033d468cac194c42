"""Many runs in few rows: equal runs are counted, and long tables merged into cells.

The divergence likelihood depends on the runs through all their inputs, so it has no sufficient
statistics as the loss has.  A table longer than wanted is split like a tree, always the cell
in which the logit of a pilot logistic regression varies most, weighted by how much the outcome is
in doubt there.  Divergent and other runs are never in one cell and a cell stands at the mean of its
runs, so the error in the log likelihood is of second order in its width.
"""

from __future__ import annotations

import heapq

import numpy as np
from scipy.special import expit

PILOT_STEPS, PILOT_RIDGE = 8, 1.0
"""Newton steps of the pilot regression, and its ridge on standardised columns."""


def merge_rows(
    rows: np.ndarray, diverged: np.ndarray, max_rows: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct rows with counts, merged into cells where there are too many.

    Parameters
    ----------
    rows : array, shape (n, p)
    diverged : array, shape (n,)
        0 or 1.
    max_rows : int
        At least 2.

    Returns
    -------
    rows, runs, events : arrays, shapes (m, p), (m,), (m,)
    """
    if max_rows < 2:
        raise ValueError(f"max_rows must be at least 2, got {max_rows!r}")
    unique, index = np.unique(rows, axis=0, return_inverse=True)
    index = index.reshape(-1)
    if len(unique) <= max_rows:
        return unique, np.bincount(index).astype(float), np.bincount(index, weights=diverged)
    scaled, doubt = _pilot(rows, diverged)
    kinds = [np.flatnonzero(diverged == v) for v in (0, 1)]
    cells = _split([k for k in kinds if k.size], scaled, doubt, max_rows)
    runs = np.array([float(c.size) for c in cells])
    events = np.array([diverged[c].sum() for c in cells])
    return np.array([rows[c].mean(axis=0) for c in cells]), runs, events


def _pilot(rows: np.ndarray, diverged: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows in units of the pilot's logit, and the variance of each outcome."""
    sd = rows.std(axis=0)
    x = (rows - rows.mean(axis=0)) / np.where(sd > 1e-12, sd, 1.0)
    design = np.column_stack([np.ones(len(x)), x])
    ridge = np.diag([1e-3, *np.full(x.shape[1], PILOT_RIDGE)])
    coefficient = np.zeros(design.shape[1])
    for _ in range(PILOT_STEPS):
        p = expit(np.clip(design @ coefficient, -20.0, 20.0))
        gradient = design.T @ (diverged - p) - ridge @ coefficient
        hessian = design.T @ (design * (p * (1.0 - p))[:, None]) + ridge
        coefficient = coefficient + np.linalg.solve(hessian, gradient)
    p = expit(design @ coefficient)
    size = np.abs(coefficient[1:])
    return x * np.maximum(size, 0.1 * size.max()), p * (1.0 - p) + 1e-6


def _split(
    cells: list[np.ndarray], scaled: np.ndarray, doubt: np.ndarray, max_cells: int
) -> list[np.ndarray]:
    """Split the worst cell in two at its mean until there are enough."""
    heap: list[tuple] = []
    done: list[np.ndarray] = []
    number = 0
    for cell in cells:
        heapq.heappush(heap, (*_badness(cell, scaled, doubt), number, cell))
        number += 1
    while heap and len(heap) + len(done) < max_cells:
        badness, axis, _, cell = heapq.heappop(heap)
        if badness >= 0.0:  # all its runs are equal
            done.append(cell)
            continue
        value = scaled[cell, axis]
        low = value <= np.average(value, weights=doubt[cell])
        if low.all() or not low.any():  # rounding at the mean
            low = value < value.max()
        for part in (cell[low], cell[~low]):
            heapq.heappush(heap, (*_badness(part, scaled, doubt), number, part))
            number += 1
    return done + [item[-1] for item in heap]


def _badness(cell: np.ndarray, scaled: np.ndarray, doubt: np.ndarray) -> tuple[float, int]:
    """Minus the doubtful spread of the logit in a cell (a heap pops the least), and its axis."""
    x, weight = scaled[cell], doubt[cell]
    spread = weight @ (x - weight @ x / weight.sum()) ** 2
    axis = int(np.argmax(spread))
    flat = np.ptp(x, axis=0)[axis] <= 0.0
    return (0.0 if flat else -float(spread.sum())), axis
