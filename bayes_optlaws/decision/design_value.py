r"""What one more outcome is worth, given a mixture of Gaussians: the numeric kernels.

The outcome y of a pool run is a mixture over posterior draws s, with weights w_s, of
N(m_s, V_s).  After seeing it draw s has weight proportional to w_s N(y; m_s, V_s) and candidate
means mu_s(c) + k_s(c) (y - m_s) / V_s, where k_s is the covariance of the candidate with the run.
Integrals over y are trapezoidal sums over `NODES` points, exact to rounding for smooth integrands.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from bayes_optlaws.kernels.compiled import njit
from bayes_optlaws.kernels.threads import in_threads

REACH = 4.5
"""Half-width of the grid over the outcome, in sds of its predictive distribution."""


NARROWEST = 0.6
"""Least sd of a component, in steps of the grid: the sum is then exact to 1e-3."""


@njit(inline="always")
def _grid_weights(
    mean: np.ndarray, var: np.ndarray, weight: np.ndarray, nodes: int, P: np.ndarray, D: np.ndarray
) -> np.floating:
    """Fill P[q, j] = w_j N(y_q; m_j, V_j) dy and D = P (y - m) / V; return the sum of P."""
    total = np.float32(0.0)
    centre = np.float32(0.0)
    for j in range(weight.size):
        centre += weight[j] * mean[j]
    spread = np.float32(0.0)
    for j in range(weight.size):
        spread += weight[j] * (var[j] + (mean[j] - centre) ** 2)
    spread = np.sqrt(spread)
    step = np.float32(2.0 * REACH / (nodes - 1)) * spread
    # a component narrower than the grid would fall between its points: an outcome is read to the
    # grid's step, as if it were noisier, which can only lower its value
    narrowest = np.float32(NARROWEST) * step
    for j in range(weight.size):
        inverse = np.float32(1.0) / max(var[j], narrowest * narrowest)
        height = weight[j] * step * np.sqrt(inverse) * np.float32(0.3989422804)
        start = centre - np.float32(REACH) * spread - mean[j]
        for q in range(nodes):
            r = start + step * q
            p = height * np.exp(np.float32(-0.5) * r * r * inverse)
            P[q, j] = p
            D[q, j] = p * r * inverse
            total += p
    return total


@njit(nogil=True, fastmath=True)
def _expected_drop(
    mean: np.ndarray,
    var: np.ndarray,
    cov: np.ndarray,
    weight: np.ndarray,
    target: np.ndarray,
    best: np.ndarray,
    nodes: int,
) -> np.ndarray:
    n, n_fantasies, n_draws = mean.shape
    n_candidates = cov.shape[2]
    out = np.zeros(n)
    for i in range(n):
        P = np.empty((nodes, n_draws), np.float32)
        D = np.empty((nodes, n_draws), np.float32)
        acc = 0.0
        for f in range(n_fantasies):
            total = _grid_weights(mean[i, f], var[i], weight[f], nodes, P, D)
            U = np.dot(P, target[f]) + np.dot(D, cov[i])
            drop = 0.0
            for q in range(nodes):
                least = U[q, best[f]]
                for c in range(n_candidates):
                    least = min(least, U[q, c])
                drop += U[q, best[f]] - least
            acc += drop / total
        out[i] = acc / n_fantasies
    return out


def expected_drop(
    mean: np.ndarray,
    var: np.ndarray,
    cov: np.ndarray,
    weight: np.ndarray,
    target: np.ndarray,
    best: np.ndarray,
    nodes: int,
) -> np.ndarray:
    """Expected drop of the lowest posterior mean among the candidates (knowledge gradient).

    Parameters
    ----------
    mean : array, shape (n, n_fantasies, n_draws)
        Predicted outcome of each pool run.
    var : array, shape (n, n_draws)
        Variance of the outcome, noise included.
    cov : array, shape (n, n_draws, n_candidates)
        Covariance of candidate and outcome.
    weight : array, shape (n_fantasies, n_draws)
        Weights of the draws, summing to 1.
    target : array, shape (n_fantasies, n_draws, n_candidates)
        Candidate means.
    best : int array, shape (n_fantasies,)
        Candidate of the lowest posterior mean.
    nodes : int

    Returns
    -------
    array, shape (n,)
        Mean over fantasies; never negative.
    """

    def work(rows: np.ndarray) -> np.ndarray:
        i = slice(rows[0], rows[-1] + 1) if rows.size else slice(0)
        return _expected_drop(mean[i], var[i], cov[i], weight, target, best, nodes)

    return in_threads(work, np.arange(len(mean)))


@njit()
def _table_information(G: np.ndarray, first: int, n_labels: int, total: float) -> float:
    """Mutual information of rows and columns (from ``first`` on) of a table of weights."""
    by_label = np.zeros(n_labels)
    for q in range(G.shape[0]):
        for a in range(n_labels):
            by_label[a] += G[q, first + a] / total
    value = 0.0
    for q in range(G.shape[0]):
        row = 0.0
        for a in range(n_labels):
            row += G[q, first + a] / total
        for a in range(n_labels):
            g = G[q, first + a] / total
            if g > 1e-30:
                value += g * np.log(g / (row * by_label[a]))
    return max(value, 0.0)


@njit(nogil=True, fastmath=True)
def _mutual_information(
    mean: np.ndarray,
    var: np.ndarray,
    weight: np.ndarray,
    label: np.ndarray,
    n_labels: int,
    repeats: int,
    nodes: int,
) -> np.ndarray:
    n, n_fantasies, n_components = mean.shape
    shuffles = label.shape[1] // n_labels - 1
    out = np.zeros(n)
    for i in range(n):
        P = np.empty((nodes, n_components), np.float32)
        D = np.empty((nodes, n_components), np.float32)
        spread = np.empty(n_components, np.float32)
        for j in range(n_components):
            spread[j] = var[i, j // repeats]
        acc = 0.0
        for f in range(n_fantasies):
            total = _grid_weights(mean[i, f], spread, weight[f], nodes, P, D)
            G = np.dot(P, label)
            chance = 0.0
            for k in range(shuffles):
                chance += _table_information(G, (k + 1) * n_labels, n_labels, total) / shuffles
            acc += _table_information(G, 0, n_labels, total) - chance
        out[i] = max(acc / n_fantasies, 0.0)
    return out


def mutual_information(
    mean: np.ndarray,
    var: np.ndarray,
    weight: np.ndarray,
    label: np.ndarray,
    n_labels: int,
    repeats: int,
    nodes: int,
) -> np.ndarray:
    """Mutual information, in nats, of the outcome and a label of the components.

    A finite number of components makes any outcome look a little informative.  So the same is
    computed with shuffled labels, subtracted, and what falls below zero is zero (own choice).

    Parameters
    ----------
    mean : array, shape (n, n_fantasies, n_components)
        Predicted outcome given each component.
    var : array, shape (n, n_components // repeats)
        Its variance; component j has that of column ``j // repeats``.
    weight : array, shape (n_fantasies, n_components)
    label : array, shape (n_components, n_labels * (1 + n_shuffles))
        One in the column of the component's label; then the same with labels shuffled.
    n_labels, repeats, nodes : int

    Returns
    -------
    array, shape (n,)
        Mean over fantasies; never negative and never above the entropy of the label.
    """

    def work(rows: np.ndarray) -> np.ndarray:
        i = slice(rows[0], rows[-1] + 1) if rows.size else slice(0)
        return _mutual_information(mean[i], var[i], weight, label, n_labels, repeats, nodes)

    return in_threads(work, np.arange(len(mean)))


def pair_gain(gap: np.ndarray | float, sd: np.ndarray | float) -> np.ndarray:
    """Expected drop of the lower of two means when their gap will move by N(0, sd^2).

    The knowledge gradient of two candidates in closed form, ``sd phi(t) - |gap| Phi(-t)`` with
    ``t = |gap| / sd`` (Frazier, Powell and Dayanik 2009, doi:10.1287/ijoc.1080.0314).

    Examples
    --------
    >>> float(pair_gain(0.0, 1.0).round(4)), float(pair_gain(5.0, 0.0))
    (0.3989, 0.0)
    """
    gap, sd = np.abs(np.asarray(gap, float)), np.asarray(sd, float)
    t = np.minimum(gap / np.where(sd > 0, sd, 1.0), 1e3)
    return np.where(sd > 0, np.maximum(sd * norm.pdf(t) - gap * norm.cdf(-t), 0.0), 0.0)


def contrast_variance(cov: np.ndarray) -> np.ndarray:
    """Sum over pairs of the variance of their difference, from covariances (..., C, C).

    Examples
    --------
    >>> contrast_variance(np.diag([1.0, 2.0]))
    np.float64(3.0)
    """
    c = cov.shape[-1]
    return c * np.trace(cov, axis1=-2, axis2=-1) - cov.sum(axis=(-2, -1))


def contrast_reduction(cov: np.ndarray, var: np.ndarray) -> np.ndarray:
    """How much one outcome lowers `contrast_variance`; cov (n, C) with it, var (n,) of it."""
    c = cov.shape[1]
    return np.maximum(c * np.sum(cov**2, axis=1) - cov.sum(axis=1) ** 2, 0.0) / var


def temper(log_weight: np.ndarray, least: float) -> np.ndarray:
    """Weights from their logs (n, m); rows with too few effective draws are flattened.

    The power in (0, 1] that brings the effective number to ``least`` is taken (own choice): a
    long batch would otherwise lean on one or two draws.
    """
    out = np.empty_like(log_weight)
    least = min(least, log_weight.shape[1])
    for i, row in enumerate(log_weight):
        row = row - row.max()
        low, high = 0.0, 1.0
        w = np.exp(row)
        if w.sum() ** 2 / (w**2).sum() < least:
            for _ in range(30):
                middle = 0.5 * (low + high)
                w = np.exp(middle * row)
                if w.sum() ** 2 / (w**2).sum() < least:
                    high = middle
                else:
                    low = middle
            w = np.exp(low * row)
        out[i] = w / w.sum()
    return out
