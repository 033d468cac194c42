"""Counting over joint draws: ranks, pairs, regret, tie groups; in blocks.

Everywhere ``loss`` has shape (n_samples, n_candidates), is in nats and is +inf where the run
diverged. Infinite losses are equal, so runs that diverge together tie. Work goes in blocks of
about a million numbers, so that 5,000 candidates x 4,000 draws need little more memory than the
draws themselves. (All definitions here are own choice; the paper ranks by point predictions.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from bayes_optlaws.kernels.compiled import njit

_BLOCK = 1_000_000
MOST_MEMBERS = 200
"""Candidates of a tie group, best first, that others are compared with."""


def _blocks(length: int, width: int) -> Iterator[slice]:
    """Slices of ``range(length)`` such that slice x width is about `_BLOCK` numbers."""
    step = max(1, _BLOCK // max(width, 1))
    return (slice(i, min(i + step, length)) for i in range(0, length, step))


def ranks(loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and the last place, from 1, that each candidate's ties span in each draw.

    Examples
    --------
    >>> first, last = ranks(np.array([[2.0, 1.0, 2.0, np.inf]]))
    >>> first.tolist(), last.tolist()
    ([[2, 1, 2, 4]], [[3, 1, 3, 4]])
    """
    n = loss.shape[1]
    order = np.argsort(loss, axis=1)
    ordered = np.take_along_axis(loss, order, axis=1)
    place = np.broadcast_to(np.arange(1, n + 1), loss.shape)
    first = np.empty(loss.shape, dtype=np.int64)
    differs = ordered[:, 1:] != ordered[:, :-1]
    if differs.all():
        np.put_along_axis(first, order, place, axis=1)
        return first, first
    edge = np.ones((len(loss), 1), dtype=bool)
    start = np.where(np.hstack([edge, differs]), place, 0)
    stop = np.where(np.hstack([differs, edge]), place, n)
    last = np.empty_like(first)
    np.put_along_axis(first, order, np.maximum.accumulate(start, axis=1), axis=1)
    backwards = np.minimum.accumulate(stop[:, ::-1], axis=1)[:, ::-1]
    np.put_along_axis(last, order, backwards, axis=1)
    return first, last


def share_in_top(first: np.ndarray, last: np.ndarray, top: int) -> np.ndarray:
    """Return the share of the first ``top`` places that ties spanning first..last hold each."""
    return np.clip((top + 1 - first) / (last - first + 1), 0.0, 1.0)


def rank_probabilities(loss: np.ndarray, top: int) -> np.ndarray:
    """Return P(rank = 1), ..., P(rank = top) of each candidate, ties shared equally.

    Returns
    -------
    array, shape (n_candidates, top)
    """
    total = np.zeros((loss.shape[1], top + 1))
    for rows in _blocks(*loss.shape):
        first, last = ranks(loss[rows])
        for k in range(1, top + 1):
            total[:, k] += share_in_top(first, last, k).sum(axis=0)
    return np.clip(np.diff(total, axis=1) / len(loss), 0.0, 1.0)


@dataclass(frozen=True)
class DrawSummary:
    """Averages over draws, one entry a candidate, and what was counted for a diverged run."""

    p_best: np.ndarray
    p_best_or_tied: np.ndarray
    p_top2: np.ndarray
    expected_rank: np.ndarray
    expected_regret: np.ndarray
    regret_sd: np.ndarray


def summarise_draws(
    loss: np.ndarray, expected: np.ndarray, *, tie: float, divergence_loss: float
) -> DrawSummary:
    """Return probabilities of rank and expected regret; see `bayes_optlaws.Ranking`.

    Parameters
    ----------
    loss, expected : array, shape (n_samples, n_candidates)
        What order and regret are counted on, and what ties are judged on.
    tie, divergence_loss : float
        Nats; the latter is what an infinite loss counts as.
    """
    n_samples, n = loss.shape
    best, tied, top2, rank, regret, square = np.zeros((6, n))
    for rows in _blocks(n_samples, n):
        block = loss[rows]
        first, last = ranks(block)
        best += share_in_top(first, last, 1).sum(axis=0)
        top2 += share_in_top(first, last, 2).sum(axis=0)
        rank += (first + last).sum(axis=0) / 2
        none = ~np.isfinite(block).any(axis=1, keepdims=True)
        counted = np.where(np.isfinite(block), block, divergence_loss)
        excess = np.where(none, 0.0, counted - counted.min(axis=1, keepdims=True))
        regret += excess.sum(axis=0)
        square += np.square(excess).sum(axis=0)
        tied += _tied(expected[rows], tie).sum(axis=0)
    best, tied, top2, rank, regret, square = (
        total / n_samples for total in (best, tied, top2, rank, regret, square)
    )
    spread = np.sqrt(np.maximum(square - regret**2, 0.0))
    return DrawSummary(best, tied, top2, rank, regret, spread)


def _tied(expected: np.ndarray, tie: float) -> np.ndarray:
    """Whether each candidate is within the zone of the lowest of its draw; all are if none ends."""
    lowest = expected.min(axis=1, keepdims=True)
    none = np.isinf(lowest)
    excess = np.where(np.isfinite(expected), expected - np.where(none, 0.0, lowest), np.inf)
    return none | (excess <= tie)


def finite_summary(
    loss: np.ndarray, prob: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return mean and central interval among finite draws, and the share of infinite ones.

    A candidate without a finite draw has NaN. Quantiles interpolate linearly, as `numpy.quantile`.

    Returns
    -------
    mean, lower, upper, p_infinite : arrays, shape (n_candidates,)
    """
    n_samples, n = loss.shape
    mean, lower, upper = np.full((3, n), np.nan)
    count = np.zeros(n, dtype=int)
    for columns in _blocks(n, n_samples):
        ordered = np.sort(loss[:, columns].T, axis=1)  # infinite draws come last
        finite = np.isfinite(ordered)
        m = finite.sum(axis=1)
        count[columns] = m
        some = np.flatnonzero(m)
        kept, m = ordered[some], m[some]
        at = some + columns.start
        mean[at] = np.sum(kept, axis=1, where=finite[some]) / m
        for out, q in ((lower, (1 - prob) / 2), (upper, (1 + prob) / 2)):
            place = (m - 1) * q
            below = np.floor(place).astype(int)
            above = np.minimum(below + 1, m - 1)
            row = np.arange(len(some))
            a, b = kept[row, below], kept[row, above]
            out[at] = a + (b - a) * (place - below)
    return mean, lower, upper, (n_samples - count) / n_samples


@dataclass(frozen=True)
class PairSummary:
    """Averages over draws of pairs (i, j), one entry a pair."""

    gap: np.ndarray  # mean of loss[j] - loss[i] where both are finite, NaN where none is
    p_lower: np.ndarray  # i ends lower than j, equal ones count one half
    p_lower_beyond: np.ndarray  # i ends lower by more than the tie zone
    p_higher_beyond: np.ndarray  # i ends higher by more than the tie zone
    p_tie: np.ndarray  # they differ by at most the tie zone, or both diverge
    sd: np.ndarray  # of loss[j] - loss[i] where both are finite, NaN with fewer than 2 draws


def pair_summary(loss: np.ndarray, i: np.ndarray, j: np.ndarray, *, tie: float) -> PairSummary:
    """Return how often candidate ``i[k]`` ends lower than ``j[k]``, and by how much.

    Examples
    --------
    >>> pairs = pair_summary(np.array([[1.0, 2.0], [3.0, np.inf]]), [0], [1], tie=1.0)
    >>> pairs.p_lower.tolist(), pairs.p_lower_beyond.tolist(), pairs.gap.tolist()
    ([1.0], [0.5], [1.0])
    """
    i, j = np.asarray(i, dtype=int), np.asarray(j, dtype=int)
    n_samples = len(loss)
    out = np.full((6, len(i)), np.nan)
    for pairs in _blocks(len(i), n_samples):
        a, b = loss[:, i[pairs]], loss[:, j[pairs]]
        lower = (a < b).mean(axis=0) + 0.5 * (a == b).mean(axis=0)
        both = np.isfinite(a) & np.isfinite(b)
        gap = np.subtract(b, a, out=np.zeros_like(a), where=both)
        m = both.sum(axis=0)
        mean = np.divide(gap.sum(axis=0), m, out=np.full(len(m), np.nan), where=m > 0)
        square = np.square(gap - mean, out=np.zeros_like(a), where=both).sum(axis=0)
        variance = np.divide(square, m - 1, out=np.full(len(m), np.nan), where=m > 1)
        wins = np.count_nonzero(b > a + tie, axis=0)
        losses = np.count_nonzero(a > b + tie, axis=0)
        shares = np.stack([wins, losses, n_samples - wins - losses]) / n_samples
        out[:, pairs] = mean, lower, *shares, np.sqrt(variance)
    return PairSummary(*out)


def p_lower_matrix(loss: np.ndarray) -> np.ndarray:
    """Return the matrix of P(row ends lower than column), ties half, one half on the diagonal.

    Works on ranks in 16 bits, so at most 32,767 candidates; compares with the bits of eight draws
    counted at once.

    Returns
    -------
    array, shape (n_candidates, n_candidates)
    """
    n_samples, n = loss.shape
    padded = -(-n_samples // 8) * 8  # bits are counted 8 bytes at a time; zeros never compare
    rank = np.zeros((n, padded), dtype=np.int16)
    ties = False
    for rows in _blocks(n_samples, n):
        first, last = ranks(loss[rows])
        ties |= bool((first != last).any())
        rank[:, rows] = first.T
    lower = np.full((n, n), 0.5)
    flags = np.empty((n, padded), dtype=bool)
    for i in range(n - 1):
        rest, out = rank[i + 1 :], flags[i + 1 :]
        wins = _count(np.greater(rest, rank[i], out=out))
        losses = _count(np.less(rest, rank[i], out=out)) if ties else n_samples - wins
        lower[i, i + 1 :] = (n_samples + wins - losses) / (2 * n_samples)
        lower[i + 1 :, i] = (n_samples + losses - wins) / (2 * n_samples)
    return lower


def _count(flags: np.ndarray) -> np.ndarray:
    """Return the number of true flags of each row, whose length is a multiple of 8."""
    return np.bitwise_count(flags.view(np.uint64)).sum(axis=1, dtype=np.int64)


def tie_groups(loss: np.ndarray, *, tie: float, prob: float) -> np.ndarray:
    """Return the tie group of each candidate, from 1; columns of ``loss`` are ordered best first.

    The first candidate without a group leads the next one; every later candidate without a group
    joins unless one that has joined is better by more than ``tie`` with probability ``prob`` or
    more. So no such pair shares a group (of its first `MOST_MEMBERS` candidates, that is).

    Returns
    -------
    int array, shape (n_candidates,)
    """
    n_samples, n = loss.shape
    # Exact shortcut: let a draws at most put the leader above u and a draws at most the candidate
    # below v. If v > u + tie, the leader wins by more than tie in all but 2 a draws. Taking off
    # each draw's lowest loss changes no difference and narrows both.
    finite = np.isfinite(loss).any(axis=1, keepdims=True)
    lowest = np.where(finite, loss.min(axis=1, keepdims=True), 0.0)
    allowed = int((1.0 - prob) * n_samples / 2)
    by_candidate = np.empty((n, n_samples))
    high, low = np.empty((2, n))
    for columns in _blocks(n, n_samples):
        by_candidate[columns] = (loss[:, columns] - lowest).T
        ordered = np.sort(by_candidate[columns], axis=1)
        high[columns], low[columns] = ordered[:, n_samples - 1 - allowed], ordered[:, allowed]

    failures = np.arange(n_samples + 1)
    most = int(failures[(n_samples - failures) / n_samples >= prob].max(initial=-1))
    group = np.zeros(n, dtype=int)
    waiting = np.arange(n)
    number = 0
    while waiting.size:
        number += 1
        leader = waiting[0]
        group[leader] = number
        close = waiting[1:][low[waiting[1:]] <= high[leader] + tie]
        bound = by_candidate[leader] + tie
        survived = [close[:0]]
        for some in _blocks(len(close), n_samples):  # most lose to the first: all of them at once
            failed = np.count_nonzero(~(by_candidate[close[some]] > bound), axis=1)
            survived.append(close[some][(n_samples - failed) / n_samples < prob])
        left = np.concatenate(survived)
        group[left[_joins(by_candidate, left, tie, most, MOST_MEMBERS - 1)]] = number
        waiting = waiting[group[waiting] == 0]
    return group


@njit(nogil=True)
def _joins(by_candidate, candidates, tie, most, most_members):
    """Whether each candidate, in turn, joins those that have joined, shape (n,).

    It does unless it is higher than one of the first ``most_members`` of them by more than ``tie``
    in all but ``most`` draws.
    """
    joins = np.zeros(candidates.size, dtype=np.bool_)
    members = np.empty(most_members, dtype=np.int64)
    count = 0
    for c in range(candidates.size):
        own = by_candidate[candidates[c]]
        beaten = False
        for m in range(count):
            other = by_candidate[members[m]]
            failed = 0
            for s in range(own.size):
                if not own[s] > other[s] + tie:
                    failed += 1
                    if failed > most:
                        break
            if failed <= most:
                beaten = True
                break
        joins[c] = not beaten
        if joins[c] and count < most_members:
            members[count] = candidates[c]
            count += 1
    return joins


def resolution(loss: np.ndarray, prob: float) -> float:
    """Gap of mean losses at which a pair would be called with probability ``prob``.

    Parameters
    ----------
    loss : array, shape (n_samples, n_candidates)
        Joint draws, infinite where a run diverged.
    prob : float

    Returns
    -------
    float
        Median over all pairs of the sd of their difference, over draws in which both finish,
        times the normal quantile of ``prob``; nan where no pair has two such draws.
    """
    i, j = np.triu_indices(loss.shape[1], k=1)
    sd = pair_summary(loss, i, j, tie=0.0).sd
    sd = sd[np.isfinite(sd)]
    return float(np.median(sd) * norm.ppf(prob)) if sd.size else np.nan
