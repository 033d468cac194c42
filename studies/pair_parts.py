"""Which part of what a law does not know makes its statements on pairs too modest.

``python -m studies.pair_parts FOLDER`` (the public tables) fits the law by importance sampling
without the runs held out, takes the joint prediction of those as normal, and says every pair of a
cell with the variance of each independent part left out in turn: the *noise* of two single runs;
what is drawn anew for a scale that was not run, level and slopes over settings (*scale*), trends
beyond the table (*trend*), settings that never varied (*never varied*); what the local correction
leaves unlearned (*local*); and all that the runs inform (*informed*). The mean order, and so the
share of pairs right, is the same in all. The table goes to ``pair-parts.csv``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm

from bayes_optlaws.evaluation.refits import refit
from bayes_optlaws.evaluation.splits import block_labels, make_splits
from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.law import OptLaw
from studies.scenarios import NEAR, Study

STUDIES = ("steplaw-n", "steplaw-d", "pocket-n", "pocket-d")

PARTS = {
    "scale": ("level_sd", "slope_sd", "cell_sd"),
    "local": ("local_sd",),
    "trend": ("drift_sd",),
    "never varied": (),
}
"""Hyper-parameters of what is drawn anew for a candidate, by part."""


def variances(
    law: FittedLaw,
    table: pd.DataFrame,
    first: np.ndarray,
    second: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Mean difference of log loss of each pair, and the parts of its variance.

    Parameters
    ----------
    law : FittedLaw
    table : DataFrame
        Validated candidates.
    first, second : int array, shape (n_pairs,)
    rng : numpy Generator

    Returns
    -------
    gap : array, shape (n_pairs,)
        First less second.
    parts : dict of str to array, shape (n_pairs,)
        Variances that add up to that of the difference of two single runs.
    """
    predictor = law.predictor()
    draws, transfer = predictor.draws, predictor.transfer
    mean = predictor.mean(table, rng)
    noise = np.mean(predictor.noise_sd(table) ** 2, axis=0)
    difference = mean[:, first] - mean[:, second]
    parts = {"noise": noise[first] + noise[second]}
    total = difference.var(axis=0)
    nothing = replace(draws, beta=0 * draws.beta, fields=0 * draws.fields, local=0 * draws.local)
    for name, mine in PARTS.items() if transfer else ():
        every = {k for kept in PARTS.values() for k in kept}
        hyper = {k: v if k in mine or k not in every else 0 * v for k, v in draws.hyper.items()}
        unseen = law.priors.unseen_sd if name == "never varied" else 1e-12
        alone = replace(
            predictor, draws=replace(nothing, hyper=hyper), least=-np.inf,
            priors=replace(law.priors, unseen_sd=unseen),
        ).mean(table, rng)  # fmt: skip
        parts[name] = (alone[:, first] - alone[:, second]).var(axis=0)
    parts["informed"] = np.maximum(total - sum(parts.values()) + parts["noise"], 0.0)
    return difference.mean(axis=0), parts


def said(gap: np.ndarray, variance: np.ndarray) -> float:
    """Mean probability of the order said, differences being normal."""
    return float(norm.cdf(np.abs(gap) / np.sqrt(np.maximum(variance, 1e-300))).mean())


def judge(
    study: Study, *, folder: str | Path | None = None, draws: int = 500, random_seed: int = 0
) -> pd.DataFrame:
    """Pairs of a study: said with all parts, and with each left out.

    Returns
    -------
    DataFrame
        One row: ``pairs``, ``right``, ``said`` and, for each part, ``without NAME`` (said) and
        ``share NAME`` of the variance, mean over pairs.
    """
    runs = study.runs(folder)
    runs = runs[~runs["diverged"]].reset_index(drop=True)
    rng = np.random.default_rng(random_seed)
    gaps, kept, right = [], [], []
    for split in make_splits(runs, **study.split(runs)):
        law = refit(
            OptLaw(divergence=False), runs.iloc[split.fit], draws=draws, random_seed=random_seed,
            tune=draws, method="importance",
        ).fitted  # fmt: skip
        test = runs.iloc[split.test].reset_index(drop=True)
        for _, cell in test.groupby(block_labels(test)):
            i, j = np.triu_indices(len(cell), 1)
            if i.size:
                gap, parts = variances(law, cell.reset_index(drop=True), i, j, rng)
                loss = cell["final_loss"].to_numpy(float)
                gaps.append(gap)
                kept.append(pd.DataFrame(parts))
                right.append((gap < 0) == (loss[i] < loss[j]))
    gap, parts = np.concatenate(gaps), pd.concat(kept, ignore_index=True)
    total = parts.sum(axis=1)
    row = {"study": study.name, "pairs": gap.size, "right": np.concatenate(right).mean(),
           "said": said(gap, total)}  # fmt: skip
    for name in parts:
        row |= {f"without {name}": said(gap, total - parts[name])}
    for name in parts:
        row |= {f"share {name}": (parts[name] / total).mean()}
    return pd.DataFrame([row]).set_index("study")


def main(argv: Sequence[str] | None = None) -> None:
    """Judge and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="of the public tables")
    parser.add_argument("--studies", nargs="+", default=list(STUDIES))
    parser.add_argument("--out", type=Path, default=Path("studies/results"))
    a = parser.parse_args(argv)
    chosen = [s for s in NEAR if s.name in a.studies]
    table = pd.concat([judge(s, folder=a.folder) for s in chosen])
    table.to_csv(a.out / "pair-parts.csv", float_format="%.4g")
    print(table.T.round(3).to_string())


if __name__ == "__main__":
    main()
