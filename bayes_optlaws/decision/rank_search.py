"""Search, beside the candidates of a ranking, for a setting that is expected to be better.

The search is that of `bayes_optlaws.OptLaw.suggest`, on fewer points and draws; what it finds is
valued anew on all draws, jointly with the candidates. (Own choice.)
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayes_optlaws.decision.better_setting import BetterSetting
from bayes_optlaws.decision.rank_inputs import priced
from bayes_optlaws.decision.search_space import FAMILIES, Space, at_edge, run_beyond, space
from bayes_optlaws.decision.suggest import SHOWN, Judge, search
from bayes_optlaws.inference.fitted import FittedLaw

START, AROUND, ROUNDS, DRAWS = 64, 24, 3, 200
"""Sobol points of a family, points about the leaders a round, rounds, posterior draws."""

FINALISTS = 12
"""Settings that are valued anew on all draws."""

MAX_RISK = 0.05
"""Highest posterior mean probability of divergence of what is proposed."""


def better_setting(
    law: FittedLaw,
    table: pd.DataFrame,
    *,
    tie: float,
    price: float,
    max_draws: int,
    random_seed: int,
) -> BetterSetting | None:
    """Search a setting of lower expected loss than every candidate, within what was run.

    Parameters
    ----------
    law : FittedLaw
    table : DataFrame
        Validated candidates.
    tie : float
        Nats.
    price : float
        What a diverged run counts as, nats.
    max_draws, random_seed : int

    Returns
    -------
    BetterSetting or None
        None where the candidates are not of one scale, no family of theirs or of the runs can be
        searched, or no setting has so small a risk.
    """
    sp = _space_of(law, table)
    if sp is None:
        return None
    names = [name for name in law.encoding.covariates.names if name in table]
    if names:  # with the other settings of the candidate that is expected to be best
        few = law.draws.thin(DRAWS)
        first = law.predictor(few).mean(table, np.random.default_rng(random_seed)).mean(axis=0)
        law = law.assuming(dict(table[names].iloc[int(np.argmin(first))]))
    judge = Judge(law, MAX_RISK, random_seed, n_draws=DRAWS, price=price)
    tried = pd.concat(
        [
            search(judge, sp, family, random_seed, start=START, around=AROUND, rounds=ROUNDS)
            for family in sp.families
        ],
        ignore_index=True,
    )
    tried = tried[tried["allowed"]].sort_values("loss_mean", kind="stable")
    if tried.empty:
        return None
    found = tried.drop_duplicates(list(SHOWN)).head(FINALISTS)
    found = found.assign(**{name: law.encoding.covariates.assumed[name] for name in names})
    columns = [name for name in table.columns if name in found]
    both = pd.concat([table[columns], found[columns]], ignore_index=True)
    drawn = law.draw_loss(
        both, "mean", np.random.default_rng(random_seed), max_draws=max_draws
    )  # fmt: skip
    value = priced(drawn.loss, drawn.risk, price)
    own, other = value[:, : len(table)], value[:, len(table) :]
    best = int(np.argmin(other.mean(axis=0)))
    gap = own[:, int(np.argmin(own.mean(axis=0)))] - other[:, best]
    setting = found.iloc[[best]].drop(columns=["loss_mean", "p_diverge", "allowed"])
    edge = at_edge(sp.bounds["peak_lr"], float(setting["peak_lr"].iloc[0]))
    return BetterSetting(
        setting=setting.set_axis(["better-setting"], axis=0),
        gain=float(gap.mean()),
        gain_se=float(gap.std() / np.sqrt(len(gap))),
        p_better=float(np.mean(other[:, best] < own.min(axis=1))),
        tie=tie,
        edge=edge,
        next_run=None if edge is None else run_beyond(law.runs, setting, edge),
    )


def _space_of(law: FittedLaw, table: pd.DataFrame) -> Space | None:
    if len(table[["n_params", "tokens"]].drop_duplicates()) > 1:
        return None
    finished = law.encoding.finished
    families = [f for f in FAMILIES if f in {*finished["schedule"], *table["schedule"]}]
    steps = (table["tokens"] / table["batch_tokens"]).min()
    if not families or steps < 10:
        return None
    return space(
        law.runs, n_params=float(table["n_params"].iloc[0]),
        tokens=float(table["tokens"].iloc[0]), batch_tokens=table["batch_tokens"].unique(),
        families=families, bounds=None, min_lr=None,
    )  # fmt: skip
