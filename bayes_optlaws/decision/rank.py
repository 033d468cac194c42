"""Rank candidates by the joint draws of a fitted law."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from arviz_stats.base import array_stats

from bayes_optlaws.decision.rank_inputs import Outcomes, priced
from bayes_optlaws.decision.rank_search import better_setting
from bayes_optlaws.decision.ranking import LEADERS, Ranking
from bayes_optlaws.decision.stage_design import MOST_RUNS, one_more_run
from bayes_optlaws.inference import stages
from bayes_optlaws.inference.fitted import FittedLaw, check_kind, check_prob
from bayes_optlaws.model.risk import divergence_price

RISK_ROWS = 1000
"""Candidates, evenly spaced through the table, whose risk is looked at for what it rests on."""

MOST_RIVALS = 1000
"""Candidates, best first, that a setting beside them is compared with."""


def rank(
    law: FittedLaw,
    table: pd.DataFrame,
    *,
    kind: str = "mean",
    prob: float = 0.9,
    tie: float | None = None,
    stage: stages.StageScores | None = None,
    divergence_loss: float | None = None,
    search: bool = False,
    random_seed: int = 0,
    max_draws: int = 4000,
    allow_unconverged: bool = False,
) -> Ranking:
    """Rank a validated candidate table; see `OptLaw.rank`.

    Parameters
    ----------
    law : FittedLaw
    table : DataFrame
    kind, prob, tie, divergence_loss, search, random_seed, max_draws, allow_unconverged
        As in `OptLaw.rank`.
    stage : StageScores, optional
        Of a later stage, from `FittedLaw.stage`.
    """
    check_prob(prob)
    check_kind(kind)
    law.encoding.covariates.require_one_group(table)
    if stage is not None:
        stage.check_comparable()
    law.require_converged(allow_unconverged)
    if divergence_loss is None:
        divergence_loss = divergence_price(law.runs)
    elif not (np.isfinite(divergence_loss) and divergence_loss > 0):
        raise ValueError(f"divergence_loss is {divergence_loss}: it must be a finite loss in nats")
    mean, run = law.draw_losses(table, random_seed, max_draws=max_draws, stage=stage)
    if tie is None:
        tie = float(mean.noise_sd * np.median(mean.loss))
    elif not (np.isfinite(tie) and tie >= 0):
        raise ValueError(f"tie is {tie}: it must be finite, in nats and not negative")
    expected = priced(mean.loss, mean.risk, divergence_loss)
    counted = expected
    if kind == "new_run":
        counted = run.loss
        if run.risk is not None:
            lost = np.random.default_rng([random_seed, 1]).random(run.risk.shape) < run.risk
            counted = np.where(lost, np.maximum(run.loss, divergence_loss), run.loss)
    known = mean.risk is not None
    level = "loss" if stage is None or stage.level_learned.all() else "score"
    outcomes = Outcomes(
        xr.DataArray(
            counted, dims=("sample", "candidate"),
            coords={"candidate": table.index.to_numpy()}, name="loss",
            attrs={"kind": kind, "units": "nats per token", "level": level,
                   "noise_sd": mean.noise_sd},
        ),
        expected,
        run.loss,
        mean.loss if known else expected,
        mean.risk.mean(axis=0) if mean.risk is not None else np.full(len(table), np.nan),
        known,
    )  # fmt: skip
    n_effective = effective_draws(expected, law.sample.chains)
    better = next_runs = None
    if search and stage is not None and 1 < len(table) <= MOST_RUNS:
        next_runs = one_more_run(law, stage, table, tie=tie, random_seed=random_seed)
    if search and stage is None:
        lead = np.sort(np.argsort(expected.mean(axis=0), kind="stable")[:MOST_RIVALS])
        better = better_setting(
            law, table.iloc[lead], tie=tie, price=divergence_loss,
            max_draws=max_draws, random_seed=random_seed,
        )  # fmt: skip
    return Ranking.from_outcomes(
        outcomes, prob=prob, tie=tie, divergence_loss=divergence_loss, kind=kind, level=level,
        n_effective=n_effective,
        notes=law.notes(table, stage),
        risk_note=_risk_note(law, table) if known else None,
        better=better,
        noise_sd=float(mean.noise_sd * np.median(mean.loss)),
        next_runs=next_runs,
    )  # fmt: skip


def effective_draws(expected: np.ndarray, chains: int) -> float:
    """Effective number of draws behind comparisons: the least among the leading candidates.

    Parameters
    ----------
    expected : array, shape (n_draws, n)
        Chain by chain.
    chains : int

    Examples
    --------
    >>> draws = np.random.default_rng(0).normal(size=(2000, 3))
    >>> 1200 < effective_draws(draws, 4) <= 2000
    True
    """
    n = len(expected)
    size = n // max(chains, 1)
    if size < 8:
        return float(n)
    leaders = np.argsort(expected.mean(axis=0), kind="stable")[:LEADERS]
    excess = expected[:, leaders] - expected.min(axis=1, keepdims=True)
    excess = excess[:, excess.std(axis=0) > 0][: chains * size]
    if not excess.shape[1]:
        return float(n)
    by_chain = np.moveaxis(excess.reshape(chains, size, -1), -1, 0)
    least = min(float(array_stats.ess(x, chain_axis=0, draw_axis=1)) for x in by_chain)
    return float(np.clip(least, 1.0, n)) if np.isfinite(least) else float(n)


def _risk_note(law: FittedLaw, table: pd.DataFrame) -> str:
    """What the probabilities of divergence rest on."""
    rows = np.linspace(0, len(table) - 1, min(len(table), RISK_ROWS)).round().astype(int)
    basis = law.risk_basis(table.iloc[rows])
    few = f"{basis.n_diverged:,} of {basis.n_runs:,} runs diverged"
    prior = basis.note is not None
    return f"that risk is largely prior ({few})" if prior else few
