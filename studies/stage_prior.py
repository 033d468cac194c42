"""Learn what a change of stage does from the shipped sets, and write the package's numbers.

``python -m studies.stage_prior LAW.nc`` takes a law fitted to the shipped grid (`pocket`), writes
``bayes_optlaws/inference/stage_numbers.py`` and prints the default deviation of `StagePrior`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from bayes_optlaws import datasets
from bayes_optlaws.inference import stage_numbers, stages
from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.inference.stage_change import StageChange, change_columns
from bayes_optlaws.inference.stage_learning import learn_change, log_evidence
from bayes_optlaws.inference.stage_posterior import StageData, StagePrior
from bayes_optlaws.model.priors import LogNormal
from bayes_optlaws.runs.stages import parents
from studies.stored_law import law_of

MAX_DRAWS = 2000

WEIGHTS = (0.0, 0.1, 0.25, 0.5, 1.0)
"""Shares of the law's differences that are compared by their evidence."""

BROAD = StagePrior(LogNormal(0.0025, 1.0), change=StageChange.none())
"""Prior that the shipped numbers are learned under; the change has that of `learn_change`."""


def with_parents(table: pd.DataFrame, kept: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``kept`` and, as they must be in the table, one run for each parent.

    A parent that belongs to the set left out stays only for what it leaves to later stages: its
    loss is not used where it is marked as diverged.
    """
    have = set(kept["run_id"])
    needed, missing = kept, []
    while True:
        wanted = set(parents(needed)) - have - {""}
        if not wanted:
            break
        needed = table[table["run_id"].isin(wanted)]
        have |= wanted
        missing.append(needed.assign(diverged=True))
    return pd.concat([kept, *missing]) if missing else kept


def learn_prior(
    law: FittedLaw, stage_runs: pd.DataFrame, *, base: StagePrior = BROAD, random_seed: int = 0
) -> StagePrior:
    """Return the prior that measured later stages teach.

    Parameters
    ----------
    law : FittedLaw
        Fitted to runs from scratch.
    stage_runs : DataFrame
        Validated table of stages, each with its parent.
    base : StagePrior
        Prior of deviation and noise, and form of the law's score.
    random_seed : int
    """
    change, median, log_sd = learn_change(*measured(law, stage_runs, base, random_seed)[:4], base)
    return replace(base, change=change, deviation=LogNormal(median, log_sd))


def measured(
    law: FittedLaw, stage_runs: pd.DataFrame, base: StagePrior, random_seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, StageData, pd.DataFrame]:
    """Mean and covariance of the scores of the measured configurations, and what they are.

    Returns
    -------
    mean, cov : array, shape (n,), (n, n)
    z : array, shape (n, k)
        Columns of the change of stage.
    data : StageData
        Losses.
    table : DataFrame
        The configurations, one row each.
    """
    later = stage_runs[(stage_runs["stage"] > 1) & ~stage_runs["diverged"]]
    # any candidate does, and any history: the measured configurations are what is scored
    past = stages.history(stage_runs, parents(later)[0])
    stage = replace(law, stage_prior=base).stage(later.iloc[:1], past, stage_runs)
    n = len(stage.measured)
    rng = np.random.default_rng(random_seed)
    scores = stage.law_scores(law.predictor(law.draws.thin(MAX_DRAWS)), rng)[:, :n]
    z = change_columns(stage.measured, stage.reference)
    return scores.mean(axis=0), np.cov(scores.T), z, stage.data, stage.measured


def weight_evidence(
    law: FittedLaw,
    stage_runs: pd.DataFrame,
    *,
    weights: Sequence[float] = WEIGHTS,
    base: StagePrior = BROAD,
    random_seed: int = 0,
) -> pd.DataFrame:
    """Evidence for the share of the law's differences that a later stage keeps, each set left out.

    Parameters
    ----------
    law, stage_runs, base, random_seed
        As for `learn_prior`; with a column ``block``, one value a set.
    weights : sequence of float

    Returns
    -------
    DataFrame
        Rows: the set left out; columns: log evidence of each weight on the others, less the
        highest.
    """
    rows = {}
    for block in stage_runs.loc[stage_runs["stage"] > 1, "block"].unique():
        kept = stage_runs[(stage_runs["block"] != block) | (stage_runs["stage"] == 1)]
        kept = with_parents(stage_runs, kept)
        each = [replace(base, score_weight=w) for w in weights]
        rows[block] = [log_evidence(*measured(law, kept, p, random_seed)[:4], p) for p in each]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(weights))
    return table.sub(table.max(axis=1), axis=0).rename_axis("left_out")


def source(prior: StagePrior) -> str:
    """Return the text of the module that holds the numbers."""
    change, k = prior.change, len(prior.change.mean)
    rows = np.reshape(change.covariance, (k, k)).tolist()
    number = "{:.6g}".format
    lines = ["(", *(f"    {', '.join(map(number, row))}," for row in rows), ")"]
    return (
        f'"""{stage_numbers.__doc__}"""\n\n'
        f"MEAN = ({', '.join(map(number, change.mean))})\n"
        f"COVARIANCE = {chr(10).join(lines)}\n"
        f"BETWEEN = {number(change.between)}\n"
    )


def main() -> None:
    """Learn from all shipped sets and write the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("law", metavar="LAW.nc")
    law = law_of(parser.parse_args().law, "pocket").fitted
    prior = learn_prior(law, stages.read_stages(datasets.load("pocket-stages")))
    Path(stage_numbers.__file__).write_text(source(prior))
    print(prior.deviation)


if __name__ == "__main__":
    main()
