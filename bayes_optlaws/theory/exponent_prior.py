"""A prior on how the best learning rate moves with tokens, by re-weighting posterior draws.

Every joint draw of a law's loss over (learning rate, tokens) has a best learning rate at each
budget, and so an exponent: the slope of its log in log tokens.  A prior on that exponent
multiplies the draw's weight.  Fields beyond the fitted scales are drawn together with the
candidates, so the prior reaches what the law does not know there.  (Own choice.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike

from bayes_optlaws.inference.fitted import FittedLaw, HasFitted, fitted_law
from bayes_optlaws.inference.resampling import systematic
from bayes_optlaws.runs.readers import read_candidates

LR_POINTS, TOKEN_POINTS, MOST_BATCHES = 15, 4, 12
"""Grid on which the best learning rate of a draw is sought."""


@dataclass(frozen=True)
class WeighedDraws:
    """Joint draws of the candidates' losses under a prior on the exponent of the best LR.

    Attributes
    ----------
    draws : DataArray, dims (sample, candidate)
        Loss, nats, resampled by the weights; inf where the run diverges. As from
        ``OptLaw.predict_draws``.
    exponent : ndarray, shape (n_draws,)
        Slope of log best LR in log tokens of each posterior draw.
    weights : ndarray, shape (n_draws,)
        Sum to 1.
    mean, sd : float
        Of the prior.
    ess, pareto_k : float
        Effective number of draws, and the tail index of the raw weights.
    at_edge : float
        Share of draws whose best LR lies at an end of the LR grid at some budget; their exponent
        is then only a limit.
    tokens : ndarray
        Budgets between which the exponent is measured.
    """

    draws: xr.DataArray = field(repr=False)
    exponent: np.ndarray = field(repr=False)
    weights: np.ndarray = field(repr=False)
    mean: float
    sd: float
    ess: float
    pareto_k: float
    at_edge: float
    tokens: np.ndarray

    def predict(self, prob: float = 0.9) -> pd.DataFrame:
        """Mean and central interval of each candidate, given that it finishes.

        Returns
        -------
        DataFrame
            ``loss_mean``, ``loss_sd``, ``loss_lower``, ``loss_upper``, ``p_diverge``.
        """
        loss = self.draws.to_numpy()
        finished = np.where(np.isfinite(loss), loss, np.nan)
        tail = (1 - prob) / 2
        lower, upper = np.nanquantile(finished, [tail, 1 - tail], axis=0)
        return pd.DataFrame(
            {
                "loss_mean": np.nanmean(finished, axis=0),
                "loss_sd": np.nanstd(finished, axis=0),
                "loss_lower": lower,
                "loss_upper": upper,
                "p_diverge": 1 - np.isfinite(loss).mean(axis=0),
            },
            index=pd.Index(self.draws["candidate"].to_numpy(), name="candidate"),
        )

    def summary(self) -> pd.Series:
        """Exponent before and after, and how much the draws could carry."""
        after = float(self.weights @ self.exponent)
        return pd.Series(
            {
                "rule": self.mean,
                "prior_sd": self.sd,
                "law_mean": float(self.exponent.mean()),
                "law_sd": float(self.exponent.std()),
                "weighed_mean": after,
                "weighed_sd": float(np.sqrt(self.weights @ (self.exponent - after) ** 2)),
                "ess": self.ess,
                "pareto_k": self.pareto_k,
                "at_edge": self.at_edge,
            }
        )


def weigh_draws(
    law: FittedLaw | HasFitted,
    candidates: pd.DataFrame,
    *,
    mean: float,
    sd: float,
    over_batches: bool,
    batch_tokens: ArrayLike | None = None,
    enabled: bool = True,
    n_params: float | None = None,
    tokens: ArrayLike | None = None,
    kind: str = "new_run",
    max_draws: int = 4000,
    random_seed: int = 0,
    min_ess: float = 100.0,
    max_k: float = 0.7,
    allow_unconverged: bool = False,
) -> WeighedDraws:
    """Re-weight joint draws of the candidates by a normal prior on the exponent of the best LR.

    Parameters
    ----------
    law : OptLaw or FittedLaw
    candidates : DataFrame
    mean, sd : float
        Of the prior.
    over_batches : bool
        Whether the best LR is that over several batches.
    batch_tokens, enabled
        As in `bayes_optlaws.theory.scaling_rules.weigh`.
    n_params : float, optional
        Model size at which the exponent is measured. Default: the median of the candidates.
    tokens : array_like, optional
        Budgets at which the best LR is sought, two or more. Default: four, evenly spaced on the
        log scale, from the least fitted at the nearest model size to the most of the candidates.
    kind, max_draws, random_seed, allow_unconverged
        As in ``OptLaw.predict_draws``.
    min_ess, max_k : float
        Limits of the effective sample size and of Pareto k.

    Returns
    -------
    WeighedDraws
    """
    from arviz_stats.base import array_stats  # here, so that the rules alone load without ArviZ

    law = fitted_law(law)
    law.require_converged(allow_unconverged)
    table = law.candidates(candidates)
    fitted = law.encoding.finished
    n_params = float(np.median(table["n_params"])) if n_params is None else float(n_params)
    budgets = _budgets(table, fitted, n_params, tokens)
    batches = _batches(fitted, batch_tokens, over_batches)
    rates = np.geomspace(fitted["peak_lr"].min(), fitted["peak_lr"].max(), LR_POINTS)
    other = [name for name in law.encoding.covariates.names if name in table]
    probes = _probes(fitted, n_params, budgets, batches, rates)
    probes = probes.assign(**dict(table[other].iloc[0]))
    columns = [c for c in probes.columns if c in table.columns and c != "run_id"]
    joined = read_candidates(
        pd.concat([table[columns], probes[columns]], ignore_index=True), warn=False
    )
    n = len(table)
    # The exponent is of the mean loss: seed noise would move every draw's best LR by chance.
    options: dict[str, Any] = {"max_draws": max_draws, "allow_unconverged": allow_unconverged}
    average = law.predict_draws(
        joined, "mean", finished=True, random_seed=random_seed, **options
    ).to_numpy()
    shape = (-1, budgets.size, batches.size, rates.size)
    slope, edge = implied_exponent(average[:, n:].reshape(shape), rates, budgets)
    log_weight = -0.5 * ((slope - mean) / sd) ** 2 if enabled else np.zeros(slope.size)
    if enabled:
        smooth, k = array_stats.psislw(-log_weight, r_eff=1.0)
        weights = np.exp(smooth - smooth.max())
    else:
        weights, k = np.ones(slope.size), np.nan
    weights = weights / weights.sum()
    ess = float(1.0 / np.sum(weights**2))
    if enabled and (ess < min_ess or k > max_k):
        raise ValueError(
            f"sd is {sd:g}: with a prior of {mean:.3g} ± {sd:g} on the exponent of the best LR "
            f"only {ess:.0f} of {slope.size} draws count (at least {min_ess:g} must) with Pareto k "
            f"{k:.2f} (at most {max_k:g}); the fitted runs say {slope.mean():.2f} ± "
            f"{slope.std():.2f}. Take a larger sd, another regime, or leave the rule out"
        )
    rng = np.random.default_rng(random_seed + 1)
    picked = systematic(weights, weights.size, rng)
    draws = law.draws.thin(max_draws)
    loss = average[:, :n][picked]
    if kind == "new_run":
        predictor = law.predictor(draws)
        noise = predictor.noise_draws(predictor.noise_sd(table)[picked], rng)
        loss = loss * np.exp(noise)
    risk = law.risk(table, draws)
    if risk is not None:
        risk = risk[picked]
        lost = risk > (rng.random(risk.shape) if kind == "new_run" else 0.5)
        loss = np.where(lost, np.inf, loss)
    out = xr.DataArray(
        loss,
        dims=("sample", "candidate"),
        coords={"candidate": table.index.to_numpy()},
        name="final_loss",
        attrs={"kind": kind, "units": "nats per token"},
    )
    return WeighedDraws(out, slope, weights, mean, sd, ess, float(k), float(edge.mean()), budgets)


def implied_exponent(
    loss: np.ndarray, rates: np.ndarray, budgets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Slope of log best LR in log tokens of every draw, and whether a best LR is at an end.

    Parameters
    ----------
    loss : ndarray, shape (n_draws, n_budgets, n_batches, n_rates)
    rates, budgets : ndarray
        Evenly spaced logs of the rates.

    Returns
    -------
    slope, at_edge : ndarray, shape (n_draws,)

    Notes
    -----
    The best rate of the best batch is refined by the parabola through its neighbours; the slope
    is that of least squares over the budgets.

    Examples
    --------
    >>> rates, budgets = np.geomspace(1e-4, 1e-2, 21), np.array([1e9, 1e10, 1e11])
    >>> best = 1e-3 * (budgets / 1e10) ** -0.25
    >>> loss = np.log(rates / best[:, None]) ** 2
    >>> slope, edge = implied_exponent(loss[None, :, None, :], rates, budgets)
    >>> round(float(slope[0]), 9), bool(edge[0])
    (-0.25, False)
    """
    by_batch = loss.min(axis=3).argmin(axis=2)
    curve = np.take_along_axis(loss, by_batch[:, :, None, None], axis=2)[:, :, 0, :]
    best = curve.argmin(axis=2)
    edge = (best == 0) | (best == rates.size - 1)
    inner = np.clip(best, 1, rates.size - 2)
    left, middle, right = (
        np.take_along_axis(curve, (inner + i)[:, :, None], axis=2)[:, :, 0] for i in (-1, 0, 1)
    )
    bend = left - 2 * middle + right
    shift = np.divide(0.5 * (left - right), bend, out=np.zeros_like(bend), where=bend > 0)
    log_rate = np.log(rates)
    step = log_rate[1] - log_rate[0]
    found = log_rate[inner] + np.clip(shift, -1.0, 1.0) * step
    x = np.log(budgets) - np.log(budgets).mean()
    return (found @ x) / (x @ x), edge.any(axis=1)


def _budgets(
    table: pd.DataFrame, fitted: pd.DataFrame, n_params: float, tokens: ArrayLike | None
) -> np.ndarray:
    if tokens is None:
        size = fitted["n_params"].to_numpy(float)
        gap = np.abs(np.log(size / n_params))
        low = fitted["tokens"].to_numpy(float)[gap <= gap.min() + 1e-9].min()
        high = max(table["tokens"].max(), fitted["tokens"].max())
        budgets = np.geomspace(low, high, TOKEN_POINTS)
    else:
        budgets = np.sort(np.atleast_1d(np.asarray(tokens, dtype=float)))
    if budgets.size < 2 or not budgets[0] > 0 or not budgets[-1] > 1.2 * budgets[0]:
        raise ValueError(
            f"tokens is {budgets.tolist()}: an exponent needs two or more positive budgets, the "
            "largest at least 1.2 times the smallest"
        )
    return budgets


def _batches(fitted: pd.DataFrame, given: ArrayLike | None, several: bool) -> np.ndarray:
    if given is not None:
        return np.atleast_1d(np.asarray(given, dtype=float))
    seen = np.unique(fitted["batch_tokens"].to_numpy(float))
    if not several:
        return seen[[np.argmin(np.abs(seen - fitted["batch_tokens"].median()))]]
    if seen.size > MOST_BATCHES:
        seen = seen[np.linspace(0, seen.size - 1, MOST_BATCHES).round().astype(int)]
    return seen


def _probes(
    fitted: pd.DataFrame,
    n_params: float,
    budgets: np.ndarray,
    batches: np.ndarray,
    rates: np.ndarray,
) -> pd.DataFrame:
    """Grid of runs of the commonest schedule, the last axis the learning rate."""
    d, b, lr = (x.ravel() for x in np.meshgrid(budgets, batches, rates, indexing="ij"))
    common = fitted["schedule"].mode().iloc[0]
    mine = fitted[fitted["schedule"] == common]
    steps = d / b
    share = float(np.median(mine["cooldown_start_step"] / mine["steps"]))
    warmup = np.minimum(float(mine["warmup_steps"].median()), 0.1 * steps)
    table = pd.DataFrame(
        {
            "n_params": n_params,
            "tokens": d,
            "batch_tokens": b,
            "peak_lr": lr,
            "warmup_steps": warmup,
            "schedule": common if common not in ("polygon", "array") else "linear",
            "min_lr": np.minimum(float(mine["min_lr"].median()), 0.5 * lr),
            "cooldown_start_step": np.nan,
        }
    )
    if common.startswith("wsd"):
        table["cooldown_start_step"] = np.maximum(share * steps, warmup)
    if common == "constant":
        table["min_lr"] = 0.0
    return read_candidates(table, warn=False)
