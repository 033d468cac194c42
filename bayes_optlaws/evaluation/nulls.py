"""Measures against their null: what they would be if the predictions were right.

Runs of one cell (model size, token budget) share its level error, so ten runs of a cell are not ten
tests: with a predictive distribution that is exactly right, half of all 50 % intervals may miss
together. The null of a measure is its distribution when the truth is a joint draw of the predictive
distribution itself, noise included (a prior-predictive check of a held-out set; Box,
doi:10.2307/2982063). An observed measure is read against it, never against its nominal value.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from bayes_optlaws.evaluation import metric_parts as parts
from bayes_optlaws.evaluation.metrics import LEVELS, pairwise

N_NULL = 200
"""Truths drawn from the predictive distribution."""

_MOST_MOMENTS = 500  # conditional moments in the mixture density of the log score


def cell_scores(observed: ArrayLike, draws: ArrayLike, cells: ArrayLike) -> pd.DataFrame:
    """Compare each cell's mean log loss with its joint prediction.

    Parameters
    ----------
    observed : array_like, shape (n,)
        Losses, nats per token.
    draws : array_like, shape (n_samples, n)
        Joint draws of the loss of a new run of each row, finite.
    cells : array_like, shape (n,)
        Label of each run's cell.

    Returns
    -------
    DataFrame
        Index ``cell``; ``n_runs``, ``observed`` and ``predicted`` mean log loss, ``sd`` of the
        prediction, ``z``, and ``p_below``, the probability of a mean below the observed one.

    Examples
    --------
    >>> draws = np.exp([[1.0, 1.0], [1.2, 1.2]])
    >>> cell_scores(np.exp([1.1, 1.3]), draws, ["a", "a"])["z"].round(3).tolist()
    [0.707]
    """
    y, d = parts.with_draws(observed, draws)
    parts.finite_draws(d, "the score of a cell")
    labels = np.asarray(cells)
    members = parts.members(labels, y.size)
    mean, by_cell = _cell_means(np.log(d), members), _cell_means(np.log(y)[None], members)[0]
    sd = np.maximum(mean.std(axis=0, ddof=1), 1e-12)
    return pd.DataFrame(
        {
            "n_runs": [rows.size for rows in members],
            "observed": by_cell,
            "predicted": mean.mean(axis=0),
            "sd": sd,
            "z": (by_cell - mean.mean(axis=0)) / sd,
            "p_below": np.mean(mean < by_cell, axis=0) + 0.5 * np.mean(mean == by_cell, axis=0),
        },
        index=pd.Index([labels[rows[0]] for rows in members], name="cell"),
    )


def _cell_means(values: np.ndarray, members: list[np.ndarray]) -> np.ndarray:
    return np.column_stack([values[:, rows].mean(axis=1) for rows in members])


class Judge:
    """Measures of one predictive distribution, for any losses of the same runs.

    Parameters
    ----------
    draws : array_like, shape (n_samples, n)
        Joint draws of the loss of a new run, nats per token, finite.
    contests : array_like, shape (n,)
        Runs of one contest are ranked against each other.
    cells : array_like, shape (n,), optional
        Runs of one cell share their level error; default: the contests.
    predicted : array_like, shape (n,), optional
        Point predictions; default: the median of the draws.
    cond_mean, cond_sd : array_like, shape (n_samples, n), optional
        Mean and sd of log loss given each draw, for the log score.
    cond_df : float or array_like, shape (n,)
        Degrees of freedom of the Student-t that it then is; default: normal.
    random_seed : int
        Of the sample of pairs.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> level = 0.1 * rng.normal(size=(1000, 1))
    >>> draws = np.exp(1.0 + level + 0.01 * rng.normal(size=(1000, 20)))
    >>> judge = Judge(draws, ["a"] * 20)
    >>> found = judge.against_null(draws[0])
    >>> bool(found.loc["coverage_50", "null_95"] > 0.9), bool(found["p"].min() > 0)
    (True, True)
    """

    def __init__(
        self,
        draws: ArrayLike,
        contests: ArrayLike,
        *,
        cells: ArrayLike | None = None,
        predicted: ArrayLike | None = None,
        cond_mean: ArrayLike | None = None,
        cond_sd: ArrayLike | None = None,
        cond_df: ArrayLike = np.inf,
        random_seed: int = 0,
    ) -> None:
        d = parts.as_draws(draws)
        parts.finite_draws(d, "a null")
        n = d.shape[1]
        self._draws = parts.positive(d, "draws")
        self._predicted = (
            np.median(d, axis=0) if predicted is None else parts.as_points(np.ones(n), predicted)[1]
        )
        self._intervals = {prob: parts.interval(d, prob) for prob in LEVELS}
        self._contests = parts.members(contests, n)
        # Losses that all differ: which pairs there are must not depend on the losses.
        self._pairs = pairwise(np.arange(n) + 1.0, d, contests, random_seed=random_seed)
        self._cells = parts.members(contests if cells is None else cells, n)
        log_draws = np.log(self._draws)
        means = _cell_means(log_draws, self._cells)
        self._cell_mean = means.mean(axis=0)
        self._cell_sd = np.maximum(means.std(axis=0, ddof=1), 1e-12)
        self._mean = log_draws.mean(axis=0)
        self._sd = np.maximum(log_draws.std(axis=0, ddof=1), 1e-12)
        if (cond_mean is None) != (cond_sd is None):
            raise ValueError("cond_mean and cond_sd belong together: give both or neither")
        self._moments, self._df = None, np.broadcast_to(np.asarray(cond_df, dtype=float), n)
        if cond_mean is not None:
            mean = parts.as_draws(cond_mean, name="cond_mean")
            sd = np.broadcast_to(np.asarray(cond_sd, dtype=float), mean.shape)
            every = max(1, mean.shape[0] // _MOST_MOMENTS)
            self._moments = mean[::every], sd[::every]

    def measure(self, observed: ArrayLike) -> pd.Series:
        """Measures of the predictions against some losses, shape (n,).

        Returns
        -------
        Series
            ``coverage_50 _80 _90 _95``; ``relative_error`` and ``median_error``, mean and median
            absolute relative error in percent; ``bias``, mean log error; ``log_score`` (of log
            losses); ``regret`` (nats, mean over contests of three runs or more);
            ``pair_accuracy``, ``pair_gap`` (probability said less share right; above 0:
            over-confident), ``pair_calibration_error``; ``cell_z_rms`` and ``cell_z_max`` of the
            cell-level z scores.
        """
        y = parts.positive(parts.as_points(observed, self._predicted)[0], "observed")
        out: dict[str, float] = {}
        for prob, (low, high) in self._intervals.items():
            out[f"coverage_{100 * prob:.0f}"] = np.mean((low <= y) & (y <= high))
        error = 100.0 * np.abs(self._predicted / y - 1.0)
        out["relative_error"], out["median_error"] = error.mean(), np.median(error)
        out["bias"] = np.mean(np.log(y) - self._mean)
        out["log_score"] = self._log_score(np.log(y)).mean()
        selections = [
            parts.block_selection(y[rows], self._predicted[rows])[2]
            for rows in self._contests
            if rows.size >= 3
        ]
        out["regret"] = np.mean(selections) if selections else np.nan
        p = self._pairs.p_lower
        first, second = y[self._pairs.first], y[self._pairs.second]
        differ = first != second
        said = self._pairs.said[differ]
        right = np.where(p == 0.5, 0.5, (p > 0.5) == (first < second))[differ]
        weight = np.ones(said.size)
        out["pair_accuracy"] = parts.weighted_mean(right, weight)
        out["pair_gap"] = parts.weighted_mean(said - right, weight)
        out["pair_calibration_error"] = parts.calibration_error(said, right, weight, 10)
        z = (_cell_means(np.log(y)[None], self._cells)[0] - self._cell_mean) / self._cell_sd
        out["cell_z_rms"], out["cell_z_max"] = np.sqrt(np.mean(z**2)), np.abs(z).max()
        return pd.Series(out, dtype=float)

    def _log_score(self, log_loss: np.ndarray) -> np.ndarray:
        if self._moments is None:
            return parts.log_normal(log_loss, self._mean, self._sd)
        mean, sd = self._moments
        out = np.empty(log_loss.size)
        for part in parts.column_chunks(len(mean), log_loss.size):
            density = parts.log_noise(log_loss[part], mean[:, part], sd[:, part], self._df[part])
            out[part] = logsumexp(density, axis=0) - np.log(len(mean))
        return out

    def null(self, *, n: int = N_NULL, random_seed: int = 0) -> pd.DataFrame:
        """Measures with truths drawn from the predictive distribution, shape (n, n_measures)."""
        rng = np.random.default_rng(random_seed)
        size = len(self._draws)
        picked = rng.choice(size, size=n, replace=n > size)
        return pd.DataFrame([self.measure(self._draws[s]) for s in picked])

    def against_null(
        self, observed: ArrayLike, *, n: int = N_NULL, random_seed: int = 0
    ) -> pd.DataFrame:
        """Measures of the observed losses beside their null.

        Parameters
        ----------
        observed : array_like, shape (n_runs,)
        n : int
            Truths drawn.
        random_seed : int

        Returns
        -------
        DataFrame
            Index ``measure``; ``observed``, quantiles ``null_01 _05 _50 _95 _99``, and ``p``, the
            two-sided ``min(1, 2 min(P(null <= observed), P(null >= observed)))`` with
            one added to both counts.
        """
        found, null = self.measure(observed), self.null(n=n, random_seed=random_seed)
        below = (1 + (null <= found).sum()) / (n + 1)
        above = (1 + (null >= found).sum()) / (n + 1)
        p = (2 * np.minimum(below, above)).clip(upper=1.0).where(found.notna())
        quantiles = {
            f"null_{100 * q:02.0f}": null.quantile(q) for q in (0.01, 0.05, 0.5, 0.95, 0.99)
        }
        out = pd.DataFrame({"observed": found, **quantiles, "p": p})
        out.index.name = "measure"
        return out
