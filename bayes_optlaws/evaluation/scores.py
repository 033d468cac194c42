"""Scores of a predictive distribution: coverage, width, CRPS, log score, PIT.

Inputs as in `bayes_optlaws.evaluation.metrics`, which also exports these functions: ``observed``
losses (n,) in nats per token, ``draws`` of the loss of a new run (n_samples, n).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from bayes_optlaws.evaluation import metric_parts as parts


def coverage(observed: ArrayLike, draws: ArrayLike, *, prob: float = 0.95) -> float:
    """Share of runs whose observed loss lies in the central interval of probability `prob`.

    Source: Gneiting and Raftery, doi:10.1198/016214506000001437, section 6.2.

    Examples
    --------
    >>> coverage([0.0, 5.0], [[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]], prob=0.5)
    0.5
    """
    y, d = parts.with_draws(observed, draws)
    low, high = parts.interval(d, prob)
    return float(np.mean((low <= y) & (y <= high)))


def interval_width(draws: ArrayLike, *, prob: float = 0.95) -> float:
    """Mean width of the central intervals of probability `prob`, nats per token.

    Source: Gneiting and Raftery, doi:10.1198/016214506000001437, section 6.2. To be read beside
    `coverage`: of two methods that cover, the narrower is better.

    Examples
    --------
    >>> interval_width([[0.0], [1.0], [2.0], [3.0], [4.0]], prob=0.5)
    2.0
    """
    low, high = parts.interval(parts.as_draws(draws), prob)
    return float(np.mean(high - low))


def crps(observed: ArrayLike, draws: ArrayLike, *, fair: bool = True) -> np.ndarray:
    """Continuous ranked probability score of every run, nats per token, lower is better.

    ``mean_s |x_s - y| - sum_s (2 s - S - 1) x_(s) / S^2`` with sorted draws ``x_(s)``: the second
    part is half the mean distance of two draws, in O(S log S).

    Parameters
    ----------
    observed : array_like, shape (n,)
        Losses of runs that finished.
    draws : array_like, shape (n_samples, n)
        Infinite ones (diverged) are left out: the score is that of the loss given that the run
        finishes, as the observed ones did. Whatever loss stood in their place would decide it.
    fair : bool
        Divide by S (S - 1) in place of S^2, which takes the bias against few draws away.

    Returns
    -------
    ndarray, shape (n,)

    Raises
    ------
    ValueError
        When a run has no finite draw, or one where ``fair`` needs two.

    Notes
    -----
    Source: Gneiting and Raftery, doi:10.1198/016214506000001437, eq. 21; ``fair``: Ferro,
    doi:10.1002/qj.2270.

    Examples
    --------
    >>> crps([0.0], [[1.0], [3.0]], fair=False)
    array([1.5])
    >>> crps([0.0], [[1.0], [3.0], [np.inf]], fair=False)
    array([1.5])
    """
    y, d = parts.with_draws(observed, draws)
    finite = np.isfinite(d)
    s = finite.sum(axis=0)
    least = 2 if fair else 1
    if (s < least).any():
        run = int(np.argmax(s < least))
        raise ValueError(
            f"n_samples = {s[run]} finished draws of run {run}: the {'fair ' * fair}CRPS needs "
            f"{least}; give more draws"
        )
    out = np.empty(y.size)
    for part in parts.column_chunks(d.shape[0], y.size):
        n = s[part]
        # infinite draws sort to the end, where their weight is zero
        x = np.where(finite[:, part], d[:, part], np.inf)
        x.sort(axis=0)
        place = np.arange(1, d.shape[0] + 1)[:, None]
        used = place <= n
        x = np.where(used, x, 0.0)
        rank = (2.0 * place - n - 1.0) * used / (n * (n - 1) if fair else n * n)
        out[part] = np.sum(np.abs(x - y[part]) * used, axis=0) / n - np.sum(rank * x, axis=0)
    return out


def log_score(
    observed: ArrayLike,
    draws: ArrayLike | None = None,
    *,
    cond_mean: ArrayLike | None = None,
    cond_sd: ArrayLike | None = None,
    cond_df: ArrayLike = np.inf,
) -> np.ndarray:
    """Log predictive density of the log loss of every run, nats, higher is better.

    ``log mean_s N(log y | m_s, v_s)`` when the conditional means and sds of the draws are known:
    exact for that mixture, no kernel. Otherwise ``log N(log y | m, v)`` with mean and sd of the
    log draws.

    Parameters
    ----------
    observed : array_like, shape (n,)
    draws : array_like, shape (n_samples, n), optional
        Positive and finite; used when `cond_mean` is absent.
    cond_mean, cond_sd : array_like, shape (n_samples, n), optional
        Mean and sd of the log loss of a new run given posterior draw s. `cond_sd` may be of any
        shape that broadcasts.
    cond_df : float or array_like, shape (n,)
        Degrees of freedom given a draw, where that is a Student-t of this sd; default: normal.

    Returns
    -------
    ndarray, shape (n,)

    Raises
    ------
    ValueError
        When neither draws nor conditional moments are given, or draws are not positive.

    Notes
    -----
    Source: Gneiting and Raftery, doi:10.1198/016214506000001437, section 4.1.

    Examples
    --------
    >>> log_score([1.0], cond_mean=[[0.0], [0.0]], cond_sd=[[1.0], [1.0]]).round(6)
    array([-0.918939])
    """
    needs = "log_score needs draws, or cond_mean together with cond_sd; give them"
    if (cond_mean is None) != (cond_sd is None):
        raise ValueError(needs)
    y = np.log(parts.positive(np.asarray(observed, dtype=float), "observed"))
    if cond_mean is None:
        if draws is None:
            raise ValueError(needs)
        _, d = parts.with_draws(observed, draws)
        parts.finite_draws(d, "the log score")
        log_draws = np.log(parts.positive(d, "draws"))
        sd = np.maximum(log_draws.std(axis=0, ddof=1), 1e-12)
        return parts.log_normal(y, log_draws.mean(axis=0), sd)
    mean = parts.as_draws(cond_mean, name="cond_mean")
    parts.same_length(mean.shape[1], y.size)
    sd = np.broadcast_to(parts.positive(np.asarray(cond_sd, dtype=float), "cond_sd"), mean.shape)
    df = np.broadcast_to(np.asarray(cond_df, dtype=float), y.shape)
    out = np.empty(y.size)
    for part in parts.column_chunks(mean.shape[0], y.size):
        density = parts.log_noise(y[part], mean[:, part], sd[:, part], df[part])
        top = density.max(axis=0)
        out[part] = top + np.log(np.mean(np.exp(density - top), axis=0))
    return out


def pit(observed: ArrayLike, draws: ArrayLike) -> np.ndarray:
    """Probability integral transform of every run, ``P(draw < y) + P(draw = y) / 2``.

    Uniform on (0, 1) for a calibrated prediction. Source: Dawid, doi:10.2307/2981683; Gneiting,
    Balabdaoui and Raftery, doi:10.1111/j.1467-9868.2007.00587.x.

    Returns
    -------
    ndarray, shape (n,)

    Examples
    --------
    >>> pit([0.5], [[0.0], [0.0], [0.0], [1.0]])
    array([0.75])
    """
    y, d = parts.with_draws(observed, draws)
    out = np.empty(y.size)
    for part in parts.column_chunks(d.shape[0], y.size):
        x = d[:, part]
        out[part] = np.mean(x < y[part], axis=0) + 0.5 * np.mean(x == y[part], axis=0)
    return out


def pit_distance(values: ArrayLike) -> float:
    """Largest distance of the distribution of PIT values from uniform (Kolmogorov-Smirnov).

    Examples
    --------
    >>> pit_distance([0.5])
    0.5
    """
    u = np.sort(np.asarray(values, dtype=float))
    i = np.arange(u.size)
    return float(max(np.max((i + 1) / u.size - u), np.max(u - i / u.size)))
