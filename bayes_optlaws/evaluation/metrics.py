"""Metrics of held-out predictions: error, selection of schedules, calibration of probabilities.

Inputs everywhere: ``observed``, the final losses of the held-out runs in nats per token, shape
(n,); ``predicted``, one number a run, shape (n,); ``draws``, joint draws of the loss of a *new* run
of each configuration, shape (n_samples, n), whose row is one joint outcome; ``blocks``, labels of
shape (n,): runs of one block (model size, token budget, and fold where there are folds) are ranked
against each other, runs of different blocks never.

The error and selection metrics are the paper's (arXiv 2409.04777, Appendix A.2.1); the others judge
the whole predictive distribution. Draws may be infinite (diverged) where only their order counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from bayes_optlaws.evaluation import metric_parts as parts
from bayes_optlaws.evaluation.scores import (
    coverage,
    crps,
    interval_width,
    log_score,
    pit,
    pit_distance,
)

__all__ = [
    "LEVELS",
    "Pairs",
    "bootstrap_se",
    "brier_best",
    "coverage",
    "crps",
    "interval_width",
    "log_score",
    "pairwise",
    "pairwise_accuracy",
    "pairwise_calibration_error",
    "pit",
    "pit_distance",
    "r2",
    "regret",
    "relative_error",
    "spearman",
    "summarize",
    "top2",
]

LEVELS = (0.50, 0.80, 0.90, 0.95)
"""Probabilities of the central intervals that `summarize` judges."""


def r2(observed: ArrayLike, predicted: ArrayLike) -> float:
    """Coefficient of determination, ``1 - sum (y - f)^2 / sum (y - mean y)^2``.

    Source: Kvalseth, doi:10.1080/00031305.1985.10479448 (its R2_1). The paper takes log losses,
    and so does `summarize`.

    Examples
    --------
    >>> r2([1.0, 2.0, 3.0], [1.0, 2.0, 2.0])
    0.5
    """
    y, f = parts.as_points(observed, predicted)
    return parts.weighted_r2(y, f, np.ones(y.size))


def relative_error(observed: ArrayLike, predicted: ArrayLike) -> float:
    """Mean absolute relative error in percent, ``100 mean |f / y - 1|``.

    Source: arXiv 2409.04777, Appendix A.2.1; doi:10.1016/j.ijforecast.2006.03.001.

    Examples
    --------
    >>> round(relative_error([2.0, 4.0], [2.02, 3.88]), 9)
    2.0
    """
    y, f = parts.as_points(observed, predicted)
    return float(100.0 * np.mean(np.abs(f / y - 1.0)))


def spearman(
    observed: ArrayLike, predicted: ArrayLike, blocks: ArrayLike, *, min_runs: int = 3
) -> float:
    """Rank correlation inside a block, averaged over the blocks.

    Source: Spearman, doi:10.2307/1412159; arXiv 2409.04777, Appendix A.2.1. Ties share their mean
    rank. A prediction that does not tell the runs of a block apart counts as 0 (own choice).

    Parameters
    ----------
    observed, predicted, blocks : array_like, shape (n,)
        See the module.
    min_runs : int
        Smaller blocks are left out; NaN when none is left.

    Examples
    --------
    >>> spearman([1, 2, 3, 5, 6, 7], [1, 2, 3, 9, 8, 7], [0, 0, 0, 1, 1, 1])
    0.0
    """
    return float(parts.mean_over_blocks(observed, predicted, blocks, min_runs)[0])


def top2(
    observed: ArrayLike, predicted: ArrayLike, blocks: ArrayLike, *, min_runs: int = 3
) -> float:
    """Share of blocks whose predicted best run is among the observed two best.

    Source: arXiv 2409.04777, Appendix A.2.1. Where several runs are predicted best, the share of
    them that hits counts: what a choice by lot would earn (own choice).

    Examples
    --------
    >>> top2([1.0, 2.0, 3.0, 4.0], [0.2, 0.1, 0.3, 0.4], ["a"] * 4)
    1.0
    >>> top2([1.0, 2.0, 3.0, 4.0], [0.1, 0.1, 0.1, 0.1], ["a"] * 4)
    0.5
    """
    return float(parts.mean_over_blocks(observed, predicted, blocks, min_runs)[1])


def regret(
    observed: ArrayLike,
    predicted: ArrayLike,
    blocks: ArrayLike,
    *,
    relative: bool = False,
    min_runs: int = 3,
) -> float:
    """Observed loss of the predicted best minus the best observed loss, mean over the blocks.

    Source: arXiv 2409.04777, Appendix A.2.1. Nats per token, or a fraction of the best loss with
    ``relative=True`` (the paper's text reads both ways). Ties are drawn by lot, as in `top2`.

    Examples
    --------
    >>> regret([2.0, 2.5, 3.0], [0.2, 0.1, 0.3], [0, 0, 0])
    0.5
    >>> regret([2.0, 2.5, 3.0], [0.2, 0.1, 0.3], [0, 0, 0], relative=True)
    0.25
    """
    means = parts.mean_over_blocks(observed, predicted, blocks, min_runs)
    return float(means[3 if relative else 2])


@dataclass(frozen=True)
class Pairs:
    """Pairs of runs of one block and the probability that the first ends lower.

    Attributes
    ----------
    first, second : ndarray of int, shape (n_pairs,)
        Rows of the two runs.
    p_lower : ndarray of float, shape (n_pairs,)
        P(first ends lower), from joint draws; equal draws count one half.
    lower : ndarray of bool, shape (n_pairs,)
        The first did end lower. Pairs with equal observed losses are left out.
    """

    first: np.ndarray
    second: np.ndarray
    p_lower: np.ndarray
    lower: np.ndarray

    @property
    def said(self) -> np.ndarray:
        """Probability of the order that was called, between 1/2 and 1."""
        return 0.5 + np.abs(self.p_lower - 0.5)

    @property
    def right(self) -> np.ndarray:
        """1 where the called order came true, 0 where not, 1/2 where none was called."""
        return np.where(self.p_lower == 0.5, 0.5, (self.p_lower > 0.5) == self.lower)


def pairwise(
    observed: ArrayLike,
    draws: ArrayLike,
    blocks: ArrayLike,
    *,
    max_pairs: int = 3000,
    random_seed: int = 0,
) -> Pairs:
    """All pairs of runs inside the blocks, with the probability of each order.

    Parameters
    ----------
    observed, draws, blocks
        See the module.
    max_pairs : int
        Blocks with more pairs are represented by a random sample of this many.
    random_seed : int
        Seed of that sample.

    Returns
    -------
    Pairs

    Examples
    --------
    >>> pairwise([1.0, 2.0], [[1.0, 2.0], [3.0, 2.0], [0.0, 2.0], [1.0, 1.0]], [0, 0]).p_lower
    array([0.625])
    """
    y, d = parts.with_draws(observed, draws)
    rng = np.random.default_rng(random_seed)
    firsts, seconds = [], []
    for rows in parts.members(blocks, y.size):
        m = rows.size
        total = m * (m - 1) // 2
        chosen = np.arange(total)
        if total > max_pairs:
            chosen = np.sort(rng.choice(total, size=max_pairs, replace=False))
        # Pair k of the upper triangle, row by row.
        starts = np.concatenate([[0], np.cumsum(np.arange(m - 1, 0, -1))])
        i = np.searchsorted(starts, chosen, side="right") - 1
        j = chosen - starts[i] + i + 1
        firsts.append(rows[i])
        seconds.append(rows[j])
    first = np.concatenate([*firsts, np.empty(0, dtype=int)]).astype(int)
    second = np.concatenate([*seconds, np.empty(0, dtype=int)]).astype(int)
    differ = y[first] != y[second]
    first, second = first[differ], second[differ]
    by_run = np.ascontiguousarray(d.T)
    p = np.empty(first.size)
    for part in parts.column_chunks(d.shape[0], first.size):
        a, b = by_run[first[part]], by_run[second[part]]
        p[part] = np.mean(a < b, axis=1) + 0.5 * np.mean(a == b, axis=1)
    return Pairs(first, second, p, y[first] < y[second])


def pairwise_accuracy(pairs: Pairs) -> float:
    """Share of pairs whose more probable order came true.

    Examples
    --------
    >>> pairwise_accuracy(pairwise([1.0, 2.0], [[1.0, 2.0]], [0, 0]))
    1.0
    """
    return parts.weighted_mean(pairs.right, np.ones(pairs.first.size))


def pairwise_calibration_error(pairs: Pairs, *, bins: int = 10) -> float:
    """Gap between the probabilities said and the share that came true, over equal-count bins.

    Pairs are sorted by ``|p - 1/2|`` and cut into `bins` bins of equal count (pairs with equal
    probabilities stay together); the mean of |mean said - mean right| over the pairs' bins.

    Source: expected calibration error, doi:10.1609/aaai.v29i1.9602, with equal-count bins (own
    choice). It is above 0 even for calibrated probabilities, the more the fewer the pairs.

    Examples
    --------
    >>> p = Pairs(np.zeros(4, int), np.ones(4, int), np.full(4, 0.75), np.array([1, 1, 1, 0]) > 0)
    >>> pairwise_calibration_error(p)
    0.0
    """
    return parts.calibration_error(pairs.said, pairs.right, np.ones(pairs.first.size), bins)


def brier_best(
    observed: ArrayLike, draws: ArrayLike, blocks: ArrayLike, *, min_runs: int = 3
) -> float:
    """Brier score of P(best), ``sum_i (p_i - o_i)^2`` in a block, mean over the blocks.

    ``p_i`` is the share of joint draws in which run i is lowest (shared among equals), ``o`` marks
    the observed best. 0 is perfect, 1 - 1/m is a uniform guess among m runs, 2 the worst.

    Source: Brier, doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.

    Examples
    --------
    >>> brier_best([1.0, 2.0, 3.0], [[1.0, 2.0, 3.0], [2.0, 1.0, 3.0]], [0, 0, 0])
    0.5
    """
    y, d = parts.with_draws(observed, draws)
    scores = [
        parts.brier(y, d, rows) for rows in parts.members(blocks, y.size) if rows.size >= min_runs
    ]
    return float(np.mean(scores)) if scores else float("nan")


def summarize(
    observed: ArrayLike,
    draws: ArrayLike,
    blocks: ArrayLike,
    *,
    predicted: ArrayLike | None = None,
    cond_mean: ArrayLike | None = None,
    cond_sd: ArrayLike | None = None,
    cond_df: ArrayLike = np.inf,
    diverged_loss: float | None = None,
    random_seed: int = 0,
) -> pd.Series:
    """Return all metrics of one set of held-out predictions.

    Parameters
    ----------
    observed, draws, blocks
        See the module.
    predicted : array_like, shape (n,), optional
        Point predictions for the error and selection metrics; default: the median of the draws.
    cond_mean, cond_sd : array_like, shape (n_samples, n), optional
    cond_df : float or array_like, shape (n,)
        For `log_score`.
    diverged_loss : float, optional
        Loss that infinite draws are replaced by (the paper uses 7).
    random_seed : int
        Seed of the sample of pairs.

    Returns
    -------
    Series
        ``n_runs``, ``n_blocks`` (of at least 3 runs), ``r2`` (of log losses), ``relative_error``
        (percent), ``spearman``, ``top2`` (share), ``regret`` (nats), ``regret_relative``
        (fraction), ``coverage_50 _80 _90 _95``, ``width_50 _80 _90 _95`` (nats), ``crps`` (nats,
        of finished draws), ``log_score`` (of log losses), ``pit_distance``, ``pair_accuracy``,
        ``pair_said`` (mean probability of the called order; above ``pair_accuracy``:
        over-confident), ``pair_calibration_error``, ``brier_best``.

    Raises
    ------
    ValueError
        When shapes disagree, values are missing, or draws are infinite and `diverged_loss` is not
        given.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> centre = np.linspace(2.0, 3.0, 8)
    >>> y = centre + 0.1 * rng.normal(size=8)
    >>> draws = centre + 0.1 * rng.normal(size=(1000, 8))
    >>> found = summarize(y, draws, np.repeat(["a", "b"], 4))
    >>> found[["n_runs", "n_blocks", "top2"]].tolist()
    [8.0, 2.0, 1.0]
    """
    pieces = _pieces(
        observed, draws, blocks, predicted, cond_mean, cond_sd, cond_df, diverged_loss, random_seed
    )
    return _assemble(pieces, np.ones(pieces.y.size), pieces.members, pieces.selection, None)


def bootstrap_se(
    observed: ArrayLike,
    draws: ArrayLike,
    blocks: ArrayLike,
    *,
    predicted: ArrayLike | None = None,
    cond_mean: ArrayLike | None = None,
    cond_sd: ArrayLike | None = None,
    cond_df: ArrayLike = np.inf,
    diverged_loss: float | None = None,
    resample: str = "blocks",
    cells: ArrayLike | None = None,
    n_boot: int = 200,
    random_seed: int = 0,
) -> pd.Series:
    """Bootstrap standard errors of what `summarize` returns.

    Parameters
    ----------
    observed, draws, blocks, predicted, cond_mean, cond_sd, cond_df, diverged_loss
        As for `summarize`.
    resample : {"blocks", "runs"}
        Resample whole blocks: the error for new blocks, NaN with fewer than two. Or the runs
        inside each block: the error for the same blocks; a run that is drawn twice counts once
        where the best of a block is sought, for it would tie with itself.
    cells : array_like, shape (n,), optional
        What is resampled in place of blocks: a cell (model size, token budget) whose runs are
        spread over several blocks, one a fold, shares its level error among them. Each block
        must lie in one cell.
    n_boot : int
        Number of bootstrap samples.
    random_seed : int

    Returns
    -------
    Series
        The index of `summarize`; 0 for ``n_runs`` and ``n_blocks`` where the resampling keeps them.

    Notes
    -----
    Source: Efron, doi:10.1214/aos/1176344552. The predictions are held fixed: this is the error
    from the choice of held-out runs, not from the fit.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> y, blocks = rng.normal(3, 0.1, 60), np.repeat(np.arange(10), 6)
    >>> se = bootstrap_se(y, rng.normal(3, 0.1, (100, 60)), blocks, n_boot=50)
    >>> bool(0.02 < se["coverage_50"] < 0.15)
    True
    """
    if resample not in ("blocks", "runs"):
        raise ValueError(f"resample = {resample!r}: must be 'blocks' or 'runs'; choose one")
    pieces = _pieces(
        observed, draws, blocks, predicted, cond_mean, cond_sd, cond_df, diverged_loss, random_seed
    )
    rng = np.random.default_rng(random_seed)
    n, n_blocks = pieces.y.size, len(pieces.members)
    groups = _blocks_of_cells(pieces, cells)
    found = []
    for _ in range(n_boot):
        if resample == "blocks":
            drawn = rng.integers(len(groups), size=len(groups))
            picked = np.concatenate([groups[c] for c in drawn])
            times = np.bincount(picked, minlength=n_blocks).astype(float)
            weight = times[pieces.code]
            members = [pieces.members[b] for b in picked]
            selection = pieces.selection[picked]
            found.append(_assemble(pieces, weight, members, selection, times))
        else:
            rows = [rng.choice(m, size=m.size) for m in pieces.members]
            weight = np.bincount(np.concatenate(rows), minlength=n).astype(float)
            once = [np.unique(r) for r in rows]
            selection = np.array([_select(pieces, r) for r in once])
            found.append(_assemble(pieces, weight, once, selection, None))
    out = pd.DataFrame(found).std(ddof=1)
    if resample == "blocks" and len(groups) < 2:
        out[:] = np.nan
    return out


def _blocks_of_cells(pieces: _Pieces, cells: ArrayLike | None) -> list[np.ndarray]:
    """Blocks of each cell; without cells each block is one."""
    if cells is None:
        return [np.array([b]) for b in range(len(pieces.members))]
    label = np.asarray(cells)
    parts.same_length(label.size, pieces.y.size)
    of_block = []
    for rows in pieces.members:
        inside = pd.unique(label[rows])
        if len(inside) > 1:
            raise ValueError(
                f"a block holds runs of the cells {inside[0]} and {inside[1]}: every block must "
                "lie in one cell; give blocks that are no larger than cells"
            )
        of_block.append(inside[0])
    code = pd.factorize(np.asarray(of_block))[0]
    return [np.flatnonzero(code == c) for c in range(code.max() + 1)]


@dataclass(frozen=True)
class _Pieces:
    """Everything that does not change when runs or blocks are resampled."""

    y: np.ndarray
    predicted: np.ndarray
    draws: np.ndarray
    code: np.ndarray
    members: list[np.ndarray]
    names: list[str]
    scores: np.ndarray
    pit: np.ndarray
    pairs: Pairs
    selection: np.ndarray


def _pieces(
    observed: ArrayLike,
    draws: ArrayLike,
    blocks: ArrayLike,
    predicted: ArrayLike | None,
    cond_mean: ArrayLike | None,
    cond_sd: ArrayLike | None,
    cond_df: ArrayLike,
    diverged_loss: float | None,
    random_seed: int,
) -> _Pieces:
    y, d = parts.with_draws(observed, draws)
    parts.positive(y, "observed")
    score = crps(y, d)  # before losses are put in the place of divergences
    if diverged_loss is not None:
        d = np.where(np.isposinf(d), diverged_loss, d)
    parts.finite_draws(d, "a summary")
    f = np.median(d, axis=0) if predicted is None else parts.as_points(y, predicted)[1]
    parts.positive(f, "predicted")
    columns = {"relative_error": 100.0 * np.abs(f / y - 1.0)}
    for prob in LEVELS:
        low, high = parts.interval(d, prob)
        columns[f"coverage_{100 * prob:.0f}"] = ((low <= y) & (y <= high)).astype(float)
        columns[f"width_{100 * prob:.0f}"] = high - low
    columns["crps"] = score
    columns["log_score"] = log_score(y, d, cond_mean=cond_mean, cond_sd=cond_sd, cond_df=cond_df)
    members = parts.members(blocks, y.size)
    code = np.empty(y.size, dtype=int)
    for b, rows in enumerate(members):
        code[rows] = b
    pieces = _Pieces(
        y,
        f,
        d,
        code,
        members,
        list(columns),
        np.column_stack(list(columns.values())),
        pit(y, d),
        pairwise(y, d, blocks, random_seed=random_seed),
        np.empty((0, 5)),
    )
    return replace(pieces, selection=np.array([_select(pieces, rows) for rows in members]))


def _select(pieces: _Pieces, rows: np.ndarray) -> tuple[float, ...]:
    """Spearman, Top-2, regret, relative regret, Brier of P(best) of one block."""
    best = parts.block_selection(pieces.y[rows], pieces.predicted[rows])
    return (*best, parts.brier(pieces.y, pieces.draws, rows))


def _assemble(
    pieces: _Pieces,
    weight: np.ndarray,
    members: list[np.ndarray],
    selection: np.ndarray,
    times: np.ndarray | None,
) -> pd.Series:
    """Metrics with each run counted `weight` times; `times` each block, when blocks are drawn."""
    enough = np.array([rows.size >= 3 for rows in members])
    means = dict(zip(pieces.names, weight @ pieces.scores / weight.sum(), strict=True))
    by_block = selection[enough].mean(axis=0) if enough.any() else np.full(5, np.nan)
    pairs = pieces.pairs
    if times is None:
        pair_weight = weight[pairs.first] * weight[pairs.second]
    else:
        pair_weight = times[pieces.code[pairs.first]]
    right, said = pairs.right, pairs.said
    out = {
        "n_runs": float(weight.sum()),
        "n_blocks": float(enough.sum()),
        "r2": parts.weighted_r2(np.log(pieces.y), np.log(pieces.predicted), weight),
        "relative_error": means.pop("relative_error"),
        "spearman": by_block[0],
        "top2": by_block[1],
        "regret": by_block[2],
        "regret_relative": by_block[3],
        **{k: v for k, v in means.items() if k.startswith("coverage")},
        **{k: v for k, v in means.items() if k.startswith("width")},
        "crps": means["crps"],
        "log_score": means["log_score"],
        "pit_distance": pit_distance(np.repeat(pieces.pit, weight.astype(int))),
        "pair_accuracy": parts.weighted_mean(right, pair_weight),
        "pair_said": parts.weighted_mean(said, pair_weight),
        "pair_calibration_error": parts.calibration_error(said, right, pair_weight, 10),
        "brier_best": by_block[4],
    }
    return pd.Series(out, dtype=float)
