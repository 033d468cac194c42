"""Risk of divergence in decisions: whether it is modelled, what it rests on, what it costs.

One place that predictions, rankings, reports and the command line ask, so that all of them say the
same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayes_optlaws.model.divergence import (
    DivergenceData,
    DivergencePriors,
    divergence_logit,
    parameters,
)

NOT_MODELLED = "the risk of divergence is not modelled: losses are those of runs that finish"
"""What is said where a law was fitted without its divergence part."""

PRICE_ABOVE = 1.0
"""Nats above the highest finished loss: what a diverged run counts as where no loss is recorded."""

PRIOR_DRAWS = 2000
"""Draws of the prior with which the posterior is compared."""

MOSTLY_PRIOR = 0.5
"""The runs taught little of a candidate whose logit has more than this share of its prior width."""


@dataclass(frozen=True)
class RiskBasis:
    """What probabilities of divergence rest on.

    Parameters
    ----------
    modelled : bool
        Whether the law has a divergence part at all.
    n_runs, n_diverged : int
        Runs of the table and how many of them diverged; 0 where risk is not modelled.
    beyond : dict of str to array of bool, shape (n_candidates,)
        Candidates that lie outside everything that ran, by what of them does.
    prior_share : array, shape (n_candidates,), optional
        Width of the central 90 % of the logit's posterior, as a share of the prior's: 1 where the
        runs taught nothing. None without draws.
    note : str, optional
        What a reader must know, in words; None where runs of both kinds surround all candidates.
    """

    modelled: bool
    n_runs: int
    n_diverged: int
    beyond: dict[str, np.ndarray]
    prior_share: np.ndarray | None
    note: str | None


def risk_basis(
    data: DivergenceData | None,
    candidates: pd.DataFrame | None = None,
    *,
    posterior: Mapping[str, np.ndarray] | None = None,
    priors: DivergencePriors | None = None,
) -> RiskBasis:
    """Say whether risk is modelled, and how much of the probabilities is prior.

    Parameters
    ----------
    data : DivergenceData or None
        None for a law without a divergence part.
    candidates : DataFrame, optional
        Validated candidate table.
    posterior : mapping, optional
        Draws as `divergence_probability` takes; with them the share of the prior
        is given candidate by candidate.
    priors : DivergencePriors, optional
        Those that the draws were made with.

    Examples
    --------
    >>> import bayes_optlaws as bo
    >>> risk_basis(None).note
    'the risk of divergence is not modelled: losses are those of runs that finish'
    >>> runs = bo.read_runs(bo.datasets.load("pocket"))
    >>> data = DivergenceData.from_runs(runs)
    >>> risk_basis(data, runs).note is None
    True
    >>> print(risk_basis(data, runs.assign(peak_lr=0.3)).note)
    the probability of divergence rests on the prior for candidates beyond all runs: peak LR above \
0.15 (all 260)
    """
    if data is None:
        return RiskBasis(False, 0, 0, {}, None, NOT_MODELLED)
    beyond, share, notes = {}, None, [data.message] if data.message else []
    if candidates is not None:
        beyond = _beyond(data, candidates)
        parts = [f"{what} ({_count(rows)})" for what, rows in beyond.items()]
        if parts:
            notes.append(
                "the probability of divergence rests on the prior for candidates beyond all runs: "
                + ", ".join(parts)
            )
        if posterior is not None:
            share = _prior_share(data, candidates, posterior, priors or DivergencePriors())
            mostly = share > MOSTLY_PRIOR
            if mostly.any():
                notes.append(
                    f"for {_count(mostly)} of the candidates the runs leave more than "
                    f"{MOSTLY_PRIOR:.0%} of the prior's width"
                )
    return RiskBasis(
        True, data.n_runs, data.n_diverged, beyond, share, "; ".join(notes) if notes else None
    )


def _count(rows: np.ndarray) -> str:
    return f"all {rows.size}" if rows.all() else f"{rows.sum()} of {rows.size}"


def _beyond(data: DivergenceData, candidates: pd.DataFrame) -> dict[str, np.ndarray]:
    """Candidates outside the range of the runs, towards more risk or without known direction."""
    scale = data.scale
    value = {
        "peak LR": ("lr", np.log(candidates["peak_lr"].to_numpy(float))),
        "model size": ("size", np.log(candidates["n_params"].to_numpy(float))),
        "tokens": ("tokens", np.log(candidates["tokens"].to_numpy(float))),
        "batch": ("batch", np.log(candidates["batch_tokens"].to_numpy(float))),
        "warm-up": ("warmup", np.log(np.maximum(candidates["warmup_steps"].to_numpy(float), 1.0))),
    }
    out = {}
    for label, (name, log) in value.items():
        sides = (
            ("above", log > scale.highest[name] + 1e-9, scale.highest[name]),
            ("below", log < scale.lowest[name] - 1e-9, scale.lowest[name]),
        )
        for side, rows, end in sides:
            # lower LRs, smaller models and longer warm-ups are on the safe side
            safe = (label, side) in {
                ("peak LR", "below"), ("model size", "below"), ("warm-up", "above")
            }  # fmt: skip
            if rows.any() and not safe:
                out[f"{label} {side} {np.exp(end):.3g}"] = rows
    return out


def _prior_share(
    data: DivergenceData,
    candidates: pd.DataFrame,
    posterior: Mapping[str, np.ndarray],
    priors: DivergencePriors,
) -> np.ndarray:
    size = priors.moments(len(data.scale.names))[0].size
    z = np.random.default_rng(0).standard_normal((PRIOR_DRAWS, size))
    prior = parameters(z, data, priors, np.eye(size))
    inputs = data.scale.inputs(candidates)
    width = [
        np.ptp(np.quantile(divergence_logit(draws, inputs), [0.05, 0.95], axis=0), axis=0)
        for draws in (posterior, prior)
    ]
    return np.minimum(width[0] / width[1], 1.0)


def divergence_price(runs: pd.DataFrame, *, price: float | None = None) -> float:
    """Loss that a diverged run counts as, in nats a token: a property of the table alone.

    The median of the losses recorded for runs that diverged; where none is recorded, the highest
    finished loss plus 1 nat (own choice).

    Parameters
    ----------
    runs : DataFrame
        Validated run table.
    price : float, optional
        The user's own number, returned as it is.

    Raises
    ------
    ValueError
        Where the number is not finite, or the table has no finite loss.

    Examples
    --------
    >>> runs = pd.DataFrame({"final_loss": [2.5, 3.0, None], "diverged": [False, False, True]})
    >>> divergence_price(runs)
    4.0
    >>> divergence_price(runs.assign(final_loss=[2.5, 3.0, 7.2]))
    7.2
    >>> divergence_price(runs, price=5.0)
    5.0
    """
    if price is not None:
        if not np.isfinite(price):
            raise ValueError(f"price must be a finite loss in nats, got {price!r}")
        return float(price)
    loss = runs["final_loss"].to_numpy(dtype=float)
    diverged, finite = runs["diverged"].to_numpy(dtype=bool), np.isfinite(loss)
    if (recorded := loss[diverged & finite]).size:
        return float(np.median(recorded))
    if not (finished := loss[~diverged & finite]).size:
        raise ValueError(
            "the run table has no finite final_loss to price a diverged run by; pass price="
        )
    return float(finished.max() + PRICE_ABOVE)
