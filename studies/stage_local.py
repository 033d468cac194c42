r"""Whether a change of stage needs a local correction of its own, shared by stages of near scale.

``python -m studies.stage_local LAW.nc`` adds to what a change of stage does a Gaussian process over
the settings and the scale of the stage, of several sds, leaves each shipped set of later stages out
in turn and judges how the set is predicted: its losses but for their level, and its pairs. *Blind*:
no run of another set is at hand, they only teach the coefficients of the change, as in the shipped
prior. *Others known*: the runs of all other sets are in the table. The figures, with those of no
correction (sd 0), go to ``stages-local.csv``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import multivariate_normal, norm

from bayes_optlaws import datasets
from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.inference.stage_change import COLUMN_SD, StageChange
from bayes_optlaws.inference.stage_posterior import StageData, contrasts, learn_scales
from bayes_optlaws.inference.stages import read_stages
from bayes_optlaws.model.discrepancy import matern52, squared_exponential
from bayes_optlaws.schedules import integrals
from studies.stage_prior import BROAD, measured
from studies.stored_law import law_of

SDS = (0.0, 0.001, 0.002, 0.003, 0.004)
"""Of the local correction, nats of log loss."""

SETTING_SCALES = (0.75, 0.5, 0.15)
"""Lengths in log peak LR, log of mean over peak LR, and share of warm-up: about the sds over
the shipped sets."""

SIZE_SCALES = (1.25, 3.0)
"""Lengths in log model size and log tokens, those of the local correction of the law."""


def kernel(table: pd.DataFrame) -> np.ndarray:
    """Correlation of the local correction among runs of later stages, shape (n, n)."""
    area = integrals(table)
    lr, steps = table["peak_lr"].to_numpy(float), table["steps"].to_numpy(float)
    share = np.log(2 * (area.conv_warmup + area.conv_cooldown) / (lr * steps))
    warm = table["warmup_steps"].to_numpy(float) / steps
    setting = np.column_stack([np.log(lr), share, warm]) / SETTING_SCALES
    size = np.log(table[["n_params", "tokens"]].to_numpy(float)) / SIZE_SCALES
    return matern52(setting, setting, 1.0) * squared_exponential(size, size, 1.0)


def predict_set(
    mean: np.ndarray,
    cov: np.ndarray,
    z: np.ndarray,
    local: np.ndarray,
    data: StageData,
    label: int,
    *,
    blind: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the measured mean losses of a set, but for a level in common.

    Parameters
    ----------
    mean, cov : array, shape (n,), (n, n)
        Of the law's scores of all measured configurations.
    z : array, shape (n, k)
        Columns of the change of stage.
    local : array, shape (n, n)
        Covariance of the local correction.
    data : StageData
        Of all sets.
    label : int
        The set; its losses are not used.
    blind : bool
        Other sets teach the coefficients of the change alone.
    """
    new, old = data.which_set == label, data.which_set != label
    among = z @ z.T
    change = COLUMN_SD**2 * among
    every = cov + local + change
    every = every + StageChange.shipped().between ** 2 * among * (
        data.which_set[:, None] == data.which_set
    )
    known = StageData(data.mean[old], data.runs[old], data.squares, data.which_set[old])
    scales = learn_scales(mean[old], every[np.ix_(old, old)], known, BROAD)
    own = scales.quantile("deviation", 0.5) ** 2 + scales.quantile("noise", 0.5) ** 2 / data.runs
    every = every + np.diag(own)
    c = contrasts(known.which_set)
    shared = c @ (change if blind else every)[np.ix_(old, new)]
    gain = np.linalg.solve(c @ every[np.ix_(old, old)] @ c.T, shared).T
    return (
        mean[new] + gain @ (c @ (data.mean - mean)[old]),
        every[np.ix_(new, new)] - gain @ shared,
    )


def judge(
    law: FittedLaw, stage_runs: pd.DataFrame, *, sds: Sequence[float] = SDS, random_seed: int = 0
) -> pd.DataFrame:
    """Leave each set out, with a local correction of several sds.

    Parameters
    ----------
    law : FittedLaw
        Fitted to runs from scratch.
    stage_runs : DataFrame
        Validated table of stages.
    sds : sequence of float
        The first is what the others are compared with.
    random_seed : int

    Returns
    -------
    DataFrame
        Index ``known`` ("blind", "others known") and ``sd``; ``lead``: log density of the sets'
        losses above that of the first sd, summed over sets, nats, and its standard error over sets
        ``lead_se``; ``said``, ``right``, ``brier`` of the pairs; ``regret`` nats, mean over sets.
    """
    mean, cov, z, data, table = measured(law, stage_runs, BROAD, random_seed)
    shape = kernel(table)
    rows, first = [], {}
    for blind in (True, False):
        for sd in sds:
            density, said, pairs, regret = [], [], [], []
            for label in np.unique(data.which_set):
                centre, spread = predict_set(mean, cov, z, sd**2 * shape, data, label, blind=blind)
                truth = data.mean[data.which_set == label]
                c = contrasts(np.zeros(truth.size, int))
                rest = multivariate_normal(np.zeros(len(c)), c @ spread @ c.T)
                density.append(rest.logpdf(c @ (truth - centre)))
                i, j = np.triu_indices(truth.size, 1)
                var = spread[i, i] + spread[j, j] - 2 * spread[i, j]
                said.append(norm.cdf((centre[j] - centre[i]) / np.sqrt(var)))
                pairs.append(truth[i] < truth[j])
                regret.append(truth[centre.argmin()] - truth.min())
            lead = np.array(density) - first.setdefault(blind, np.array(density))
            p, lower = np.concatenate(said), np.concatenate(pairs)
            rows.append(
                {
                    "known": "blind" if blind else "others known",
                    "sd": sd,
                    "lead": lead.sum(),
                    "lead_se": lead.std(ddof=1) * np.sqrt(lead.size),
                    "said": np.maximum(p, 1 - p).mean(),
                    "right": np.mean((p > 0.5) == lower),
                    "brier": np.mean((p - lower) ** 2),
                    "regret": np.mean(regret),
                }
            )
    return pd.DataFrame(rows).set_index(["known", "sd"])


def main(argv: Sequence[str] | None = None) -> None:
    """Judge on the shipped sets and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("law", metavar="LAW.nc", help="fitted to the shipped grid `pocket`")
    parser.add_argument("--out", type=Path, default=Path("studies/results"))
    a = parser.parse_args(argv)
    law = law_of(a.law, "pocket").fitted
    table = judge(law, read_stages(datasets.load("pocket-stages")))
    table.to_csv(a.out / "stages-local.csv", float_format="%.4g")
    print(table.round(4).to_string())


if __name__ == "__main__":
    main()
