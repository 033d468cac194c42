"""Rank candidates by the joint draws of a fitted law."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayes_optlaws.decision.ranking import Ranking
from bayes_optlaws.inference import stages
from bayes_optlaws.inference.fitted import FittedLaw, check_prob


def rank(
    law: FittedLaw,
    table: pd.DataFrame,
    *,
    kind: str = "new_run",
    prob: float = 0.9,
    tie: float | None = None,
    stage: stages.StageScores | None = None,
    divergence_loss: float = np.inf,
    random_seed: int = 0,
    max_draws: int = 4000,
    allow_unconverged: bool = False,
) -> Ranking:
    """Rank a validated candidate table; see `OptLaw.rank`.

    Parameters
    ----------
    law : FittedLaw
    table : DataFrame
    kind, prob, tie, divergence_loss, random_seed, max_draws, allow_unconverged
        As in `OptLaw.rank`.
    stage : StageScores, optional
        Of a later stage, from `FittedLaw.stage`.
    """
    check_prob(prob)
    if stage is not None:
        stage.check_comparable()
    draws = law.predict_draws(
        table, kind, stage=stage, random_seed=random_seed, max_draws=max_draws,
        allow_unconverged=allow_unconverged,
    )  # fmt: skip
    if tie is None:
        finite = draws.to_numpy()[np.isfinite(draws.to_numpy())]
        if finite.size:
            tie = float(draws.attrs["noise_sd"] * np.median(finite))
    return Ranking.from_draws(
        draws, prob=prob, tie=tie, kind=kind, divergence_loss=divergence_loss,
        level=draws.attrs["level"],
        divergence_known=law.models_divergence and stage is None,
    )  # fmt: skip
