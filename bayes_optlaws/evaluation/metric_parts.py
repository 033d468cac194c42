"""Parts that the metrics share: checks, blocks, chunks, and the scores of one block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from bayes_optlaws.model import student_t

_CHUNK = 1 << 22  # elements of a temporary: 32 MiB of floats


def same_length(found: int, wanted: int) -> None:
    """Refuse arrays of different lengths."""
    if found != wanted:
        raise ValueError(
            f"lengths differ: {found} predictions for {wanted} observed losses; "
            "give one column of draws, one prediction and one block label a run"
        )


def first_bad(bad: np.ndarray) -> int:
    """Run (last axis) of the first element where `bad` holds."""
    return int(np.argwhere(bad)[0][-1])


def as_draws(draws: ArrayLike, *, name: str = "draws") -> np.ndarray:
    """Draws as floats of shape (n_samples, n), without NaN."""
    d = np.asarray(draws, dtype=float)
    if d.ndim != 2 or d.shape[0] == 0:
        raise ValueError(f"{name} has shape {d.shape}: must be (n_samples, n); transpose or stack")
    bad = np.isnan(d)
    if bad.any():
        raise ValueError(
            f"{name} of run {first_bad(bad)} hold NaN: every draw must be a number; "
            "leave runs without a prediction out of all arguments"
        )
    return d


def as_points(observed: ArrayLike, predicted: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Observed and predicted losses of shape (n,), finite."""
    y, f = (np.asarray(v, dtype=float) for v in (observed, predicted))
    if y.ndim != 1 or y.size == 0:
        raise ValueError(f"observed has shape {y.shape}: must be (n,) with n > 0; give the losses")
    if f.ndim != 1:
        raise ValueError(f"predicted has shape {f.shape}: must be (n,); give one number a run")
    same_length(f.size, y.size)
    for name, values in (("observed", y), ("predicted", f)):
        bad = ~np.isfinite(values)
        if bad.any():
            raise ValueError(
                f"{name} of run {first_bad(bad)} is {values[first_bad(bad)]}: must be finite; "
                "leave the run out, or give the loss that a divergence stands for"
            )
    return y, f


def with_draws(observed: ArrayLike, draws: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Observed losses (n,) and draws (n_samples, n)."""
    d = as_draws(draws)
    y = as_points(observed, np.zeros(d.shape[1]))[0]
    return y, d


def positive(values: np.ndarray, name: str) -> np.ndarray:
    """Refuse values that have no logarithm."""
    bad = ~(values > 0)
    if bad.any():
        raise ValueError(
            f"{name} of run {first_bad(bad)} is {values[bad][0]}: must be positive, for its "
            "logarithm is taken; check the units (nats per token)"
        )
    return values


def finite_draws(draws: np.ndarray, what: str) -> None:
    """Refuse infinite draws where an average over them is taken."""
    bad = np.isinf(draws)
    if bad.any():
        raise ValueError(
            f"draws of run {first_bad(bad)} are infinite (diverged): {what} needs finite ones; "
            "replace them by the loss that a divergence stands for (diverged_loss=7 in the paper)"
        )


def column_chunks(n_samples: int, n: int) -> Iterator[slice]:
    """Slices of 0..n such that n_samples rows of one fit into a temporary."""
    width = max(1, _CHUNK // max(n_samples, 1))
    for start in range(0, n, width):
        yield slice(start, min(start + width, n))


def members(blocks: ArrayLike, n: int) -> list[np.ndarray]:
    """Row numbers of each block, in the order in which blocks appear."""
    labels = np.asarray(blocks)
    if labels.ndim != 1:
        raise ValueError(f"blocks has shape {labels.shape}: must be (n,); give one label a run")
    same_length(labels.size, n)
    code, found = pd.factorize(labels)
    if (code < 0).any():
        raise ValueError(
            f"blocks of run {first_bad(code < 0)} is missing: every run belongs to a block; "
            "give the label"
        )
    order = np.argsort(code, kind="stable")
    return np.split(order, np.cumsum(np.bincount(code, minlength=len(found)))[:-1])


def interval(draws: np.ndarray, prob: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of the central interval of each run."""
    if not 0 < prob < 1:
        raise ValueError(f"prob = {prob}: must lie between 0 and 1; give 0.95 for 95 %")
    # Interpolating between two infinite draws would give NaN.
    finite = np.isfinite(draws).all()
    method: Literal["linear", "inverted_cdf"] = "linear" if finite else "inverted_cdf"
    ends = np.empty((2, draws.shape[1]))
    for part in column_chunks(draws.shape[0], draws.shape[1]):
        tails = [0.5 * (1 - prob), 0.5 * (1 + prob)]
        ends[:, part] = np.quantile(draws[:, part], tails, axis=0, method=method)
    return ends[0], ends[1]


def log_normal(x: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Log density of the Gaussian."""
    return -0.5 * (np.log(2 * np.pi) + ((x - mean) / sd) ** 2) - np.log(sd)


def log_noise(x: np.ndarray, mean: np.ndarray, sd: np.ndarray, df: np.ndarray) -> np.ndarray:
    """Log density of the Student-t of that sd and of ``df`` degrees of freedom."""
    return student_t.log_density((x - mean) / sd, df) - np.log(sd)


def weighted_mean(values: np.ndarray, weight: np.ndarray) -> float:
    """Weighted mean, NaN when nothing has weight."""
    total = weight.sum()
    return float(weight @ values / total) if total > 0 else float("nan")


def weighted_r2(y: np.ndarray, f: np.ndarray, weight: np.ndarray) -> float:
    """Coefficient of determination; NaN when the observed losses do not vary."""
    spread = weight @ (y - weighted_mean(y, weight)) ** 2
    return float(1.0 - weight @ (y - f) ** 2 / spread) if spread > 0 else float("nan")


def ranks(x: np.ndarray) -> np.ndarray:
    """Ranks from 1, equal values sharing their mean rank."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - 0.5 * (counts - 1))[inverse]


def rank_correlation(y: np.ndarray, f: np.ndarray) -> float:
    """Spearman's correlation, 0 where one of the two is constant."""
    a, b = ranks(y), ranks(f)
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 0 else 0.0


def block_selection(y: np.ndarray, f: np.ndarray) -> tuple[float, float, float, float]:
    """Spearman, Top-2, regret and relative regret of one block."""
    # Equal predictions may differ by rounding: those of a law that does not see the schedule.
    f = np.where(np.abs(f - f.min()) <= 1e-12 * np.abs(f.min()), f.min(), f)
    chosen = y[f == f.min()]
    better = np.sum(y[:, None] < chosen, axis=0)
    loss = float(chosen.mean() - y.min())
    return rank_correlation(y, f), float(np.mean(better <= 1)), loss, loss / abs(float(y.min()))


def mean_over_blocks(
    observed: ArrayLike, predicted: ArrayLike, blocks: ArrayLike, min_runs: int
) -> np.ndarray:
    """Spearman, Top-2, regret and relative regret, means over blocks of at least `min_runs`."""
    y, f = as_points(observed, predicted)
    found = [block_selection(y[r], f[r]) for r in members(blocks, y.size) if r.size >= min_runs]
    return np.mean(found, axis=0) if found else np.full(4, np.nan)


def brier(y: np.ndarray, draws: np.ndarray, rows: np.ndarray) -> float:
    """Brier score of P(best) among the runs `rows`."""
    probability = np.zeros(rows.size)
    for part in column_chunks(rows.size, draws.shape[0]):
        d = draws[part][:, rows]
        lowest = d == d.min(axis=1, keepdims=True)
        probability += (lowest / lowest.sum(axis=1, keepdims=True)).sum(axis=0)
    best = y[rows] == y[rows].min()
    return float(np.sum((probability / draws.shape[0] - best / best.sum()) ** 2))


def calibration_error(said: np.ndarray, right: np.ndarray, weight: np.ndarray, bins: int) -> float:
    """Weighted mean over equal-count bins of |mean said - mean right|."""
    if weight.sum() <= 0:
        return float("nan")
    # Pairs with equal probabilities get the bin of their middle, whatever their order.
    _, group = np.unique(said, return_inverse=True)
    mass = np.bincount(group, weights=weight)
    middle = (np.cumsum(mass) - 0.5 * mass) / mass.sum()
    bin_ = np.minimum((bins * middle).astype(int), bins - 1)[group]
    gap = np.bincount(bin_, weights=weight * (said - right), minlength=bins)
    return float(np.abs(gap).sum() / weight.sum())
