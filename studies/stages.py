"""How well later stages are ranked: every measured set, by the law and by its rivals.

A *set* is one block of a table of later stages: schedules that continue one run on the same data
for the same number of tokens, each with several seeds. The truth is the mean over seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from bayes_optlaws.baselines.generalized import GeneralizedOptLaw
from bayes_optlaws.inference.stage_posterior import StagePrior
from bayes_optlaws.inference.stages import history, read_stages
from bayes_optlaws.model.features import Earlier
from bayes_optlaws.runs.readers import read_candidates
from bayes_optlaws.runs.stages import earlier_of_runs
from studies.stage_prior import learn_prior, weight_evidence, with_parents

if TYPE_CHECKING:
    import xarray as xr

    from bayes_optlaws.inference.fitted import FittedLaw
    from bayes_optlaws.law import OptLaw

__all__ = [
    "METHODS",
    "compare_sets",
    "pair_calibration",
    "summarize_null",
    "summarize_pairs",
    "summarize_sets",
]

REPLICATES = 400
"""Simulated outcomes of every set, by which the share of pairs right is judged."""

PARTS = ("lr", "shape", "tuned")

METHODS = {
    "law": "shipped form of the prior, learned from all other sets; no run of the set known",
    "law, other sizes": "the prior learned from the sets of other model sizes",
    "law, other shifts": "the prior learned from the sets of other blocks of the same table",
    "law, two runs known": "as the first, with one run of the two candidates ranked first",
    "law, paper's form": "history-aware as in the paper, no later stage known",
    "law without history": "as if trained from scratch",
    "least squares": "point ranking by the paper's history-aware score",
    "least squares without history": "point ranking as if trained from scratch",
}
"""What `compare_sets` compares; the last two give no probability, so they count as sure."""


def compare_sets(
    law: OptLaw,
    stage_runs: pd.DataFrame,
    *,
    label: str = "name",
    random_seed: int = 0,
    max_draws: int = 4000,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Rank every measured set of later stages by every method.

    Parameters
    ----------
    law : OptLaw
        Fitted to runs from scratch alone.
    stage_runs : DataFrame
        Table of stages, see `bayes_optlaws.stages.read_stages`, with the columns ``block``, one
        value a set, and ``label``.
    label : str
        Column that, with the peak LR, names a schedule.
    random_seed, max_draws : int

    Returns
    -------
    sets : DataFrame
        One row a set and method: ``n`` candidates, ``spearman``, ``top1``, ``p_best`` of the truly
        best, ``regret`` (nats).
    pairs : DataFrame
        One row a pair and method: ``p`` that the first ends lower, as measured over its seeds,
        ``lower`` whether it did, ``gap`` in nats and
        its standard error ``gap_se`` by the noise pooled over the set, ``same_lr`` whether the
        peak LRs are equal.
    null : DataFrame
        Were a method's joint draws the truth: number of pairs and of those right by set, method,
        replicate and part, as `summarize_pairs` counts them. One draw of all losses of a set is a
        replicate, so what pairs of a set share is in it; what sets share is not.
    """
    table = read_stages(stage_runs)
    squares = GeneralizedOptLaw().fit(law.runs)
    fitted, priors = law.fitted, {}
    sets, pairs, nulls = [], [], []
    for block, runs in table[table["stage"] > 1].groupby("block", sort=False):
        by = runs.groupby([label, "peak_lr"], sort=False)["final_loss"]
        truth, seeds = by.mean().to_numpy(), by.size().to_numpy()
        error = np.sqrt((by.var() * (by.size() - 1)).sum() / (seeds - 1).sum() / seeds)
        first = runs.groupby([label, "peak_lr"], sort=False).head(1)
        candidates = first.drop(columns=["final_loss", "diverged"]).reset_index(drop=True)
        past = history(table, first["parent"].iloc[0])
        size, shift = first["n_params"].iloc[0], block.split("_")[0]
        apart = {
            "law": table["block"] == block,
            "law, other sizes": table["n_params"] == size,
            "law, other shifts": table["block"].str.split("_").str[0] == shift,
        }
        options: dict[str, Any] = {
            "kind": "mean",
            "random_seed": random_seed,
            "max_draws": max_draws,
        }
        draws = {}
        for name, left_out in apart.items():
            key = (name, size if name == "law, other sizes" else shift, name == "law" and block)
            if key not in priors:
                kept = table[~left_out | (table["stage"] == 1)]
                priors[key] = learn_prior(fitted, with_parents(table, kept))
            own = replace(fitted, stage_prior=priors[key])
            draws[name] = _draws(own, candidates, past, _none(table), options)
            if name == "law":
                best = draws[name].mean("sample").to_numpy().argsort()[:2]
                known = first.iloc[best]
                runs_known = with_parents(table, pd.concat([_none(table), known]))
                draws["law, two runs known"] = _draws(own, candidates, past, runs_known, options)
        paper = replace(fitted, stage_prior=StagePrior.paper())
        draws["law, paper's form"] = _draws(paper, candidates, past, _none(table), options)
        draws["law without history"] = law.predict_draws(candidates, finished=True, **options)
        before = earlier_of_runs(table)[:2, table.index.get_indexer(first.index)]
        points = {
            "least squares": squares.score(first, Earlier(*before)),
            "least squares without history": squares.predict(first),
        }
        rng = np.random.default_rng(random_seed)
        for name in METHODS:
            if name in draws:
                loss = draws[name].to_numpy()
                noise = draws[name].attrs["noise_sd"] * np.median(loss, axis=0) / np.sqrt(seeds)
                loss = loss + noise * rng.standard_normal(loss.shape)
            else:
                loss = points[name][None]
            sets.append({"set": block, "method": name, **_set_figures(loss, truth)})
            pairs.append(_pairs(loss, truth, error, first["peak_lr"].to_numpy(), block, name))
            if name in draws:
                nulls.append(_null(loss, pairs[-1]))
    return pd.DataFrame(sets), *(pd.concat(x, ignore_index=True) for x in (pairs, nulls))


def _none(table: pd.DataFrame) -> pd.DataFrame:
    """Runs from scratch alone: nothing of a later stage is known."""
    return table[table["stage"] == 1]


def _draws(
    law: FittedLaw, candidates: pd.DataFrame, past: pd.DataFrame, runs: pd.DataFrame, options: dict
) -> xr.DataArray:
    table = read_candidates(candidates)
    return law.predict_draws(table, stage=law.stage(table, past, runs), **options)


def _set_figures(loss: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    finite = np.where(np.isfinite(loss), loss, 1e9)
    centre = np.median(finite, axis=0)
    best, chosen = truth.argmin(), centre.argmin()
    return {
        "n": truth.size,
        "spearman": float(spearmanr(centre, truth).statistic),
        "top1": bool(best == chosen),
        "p_best": float(np.mean(finite.argmin(axis=1) == best)),
        "regret": float(truth[chosen] - truth[best]),
    }


def _pairs(
    loss: np.ndarray,
    truth: np.ndarray,
    error: np.ndarray,
    lr: np.ndarray,
    block: str,
    method: str,
) -> pd.DataFrame:
    i, j = np.triu_indices(truth.size, k=1)
    p = np.mean((loss[:, i] < loss[:, j]) + 0.5 * (loss[:, i] == loss[:, j]), axis=0)
    return pd.DataFrame(
        {
            "set": block,
            "method": method,
            "p": p,
            "lower": truth[i] < truth[j],
            "gap": np.abs(truth[i] - truth[j]),
            "gap_se": np.hypot(error[i], error[j]),
            "same_lr": lr[i] == lr[j],
        }
    )


def _null(loss: np.ndarray, pairs: pd.DataFrame) -> pd.DataFrame:
    """Pairs, and pairs right, of each part, were each of some draws what was measured."""
    i, j = np.triu_indices(loss.shape[1], k=1)
    gap = loss[:REPLICATES, i] - loss[:REPLICATES, j]
    right = (gap < 0) == (pairs["p"] > 0.5).to_numpy()
    apart = np.abs(gap) > pairs["gap_se"].to_numpy()
    columns = {"set": pairs["set"].iloc[0], "method": pairs["method"].iloc[0]}
    columns["replicate"] = np.arange(len(gap))
    for name, part in _parts(pairs, apart).items():
        columns[name] = part.sum(axis=1)
        columns[f"{name}_right"] = (part & right).sum(axis=1)
    return pd.DataFrame(columns)


def _parts(pairs: pd.DataFrame, apart: np.ndarray) -> dict[str, np.ndarray]:
    """Which pairs count for learning rates, shapes and fine-tuning; of the shape of ``apart``."""
    tuned = pairs["set"].str.startswith("tuned").to_numpy()
    same = pairs["same_lr"].to_numpy(bool)
    every = np.ones_like(apart)
    masks = (every & ~tuned & ~same, apart & ~tuned & same, every & tuned)
    return dict(zip(PARTS, masks, strict=True))


def summarize_null(null: pd.DataFrame, *, prob: float = 0.95) -> pd.DataFrame:
    """Return, by method, the range of the share of pairs right that its own draws let expect.

    Parameters
    ----------
    null : DataFrame
        From `compare_sets`.
    prob : float
        Probability of the range.

    Returns
    -------
    DataFrame
        ``lr_from``, ``lr_to`` and the same of the other parts of `summarize_pairs`. Sets are taken
        as independent given the law; what a change of stage does to all of them is one and the
        same, so the true range is wider.
    """
    by = null.groupby(["method", "replicate"], sort=False).sum(numeric_only=True)
    tail = (1 - prob) / 2
    out = {}
    for name in PARTS:
        share = (by[f"{name}_right"] / by[name]).groupby("method", sort=False)
        out[f"{name}_from"], out[f"{name}_to"] = share.quantile(tail), share.quantile(1 - tail)
    return pd.DataFrame(out)


def summarize_sets(sets: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Return one row a method: means over sets, and calibration over all pairs.

    Returns
    -------
    DataFrame
        ``spearman``, ``top1``, ``p_best``, ``regret``: means over sets. ``said``: mean probability
        given to the order called; ``right``: share of pairs called right; ``brier``: mean squared
        error of the probability of a pair (0.25 for a coin).
    """
    rows = sets.groupby("method", sort=False)[["spearman", "top1", "p_best", "regret"]].mean()
    for name, p in pairs.groupby("method", sort=False):
        sure = np.maximum(p["p"], 1 - p["p"])
        right = np.where(p["p"] == 0.5, 0.5, (p["p"] > 0.5) == p["lower"])
        rows.loc[name, ["said", "right", "brier"]] = [
            sure.mean(),
            right.mean(),
            np.mean((p["p"] - p["lower"]) ** 2),
        ]
    return rows


def summarize_pairs(pairs: pd.DataFrame, *, sure: float = 0.95) -> pd.DataFrame:
    """Return, by method, how pairs come out: learning rates, shapes, fine-tuning, ties apart.

    Returns
    -------
    DataFrame
        ``lr``: pairs of different peak LR in continual training; ``shape``: of one peak LR there,
        further apart than the standard error of the truth; ``tuned``: all pairs of fine-tuning;
        each as the number of pairs, the mean ``_said`` and the share ``_right``.
        ``within_noise`` pairs are nearer than the standard error of the truth, ``undecided`` the
        share of them said with less than 0.9. ``sure`` pairs are said with more than ``sure``,
        ``sure_wrong`` is the share of them that came out wrong.
    """
    p = pairs["p"]
    table = pairs.assign(said=np.maximum(p, 1 - p))
    table["right"] = np.where(p == 0.5, 0.5, (p > 0.5) == pairs["lower"])
    apart = (table["gap"] > table["gap_se"]).to_numpy()
    parts = _parts(table, apart)
    rows = {}
    for method, mine in table.groupby("method", sort=False):
        row = rows[method] = {}
        for name, part in parts.items():
            some = table[part & (table["method"] == method).to_numpy()]
            row |= {
                name: len(some),
                f"{name}_said": some["said"].mean(),
                f"{name}_right": some["right"].mean(),
            }
        near = table[~apart & (table["method"] == method).to_numpy()]
        row |= {"within_noise": len(near), "undecided": (near["said"] < 0.9).mean()}
        called = mine[mine["said"] > sure]
        row |= {"sure": len(called), "sure_wrong": 1 - called["right"].mean()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def pair_calibration(
    pairs: pd.DataFrame, edges: Sequence[float] = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
) -> pd.DataFrame:
    """Return, by method and bin of the probability said, how many pairs came out right.

    Returns
    -------
    DataFrame
        Index method and bin; ``pairs``, ``said`` (mean), ``right`` (share).
    """
    sure = np.maximum(pairs["p"], 1 - pairs["p"])
    right = np.where(pairs["p"] == 0.5, 0.5, (pairs["p"] > 0.5) == pairs["lower"])
    bins = pd.cut(sure, edges, include_lowest=True)
    table = pd.DataFrame({"method": pairs["method"], "bin": bins, "said": sure, "right": right})
    by = table.groupby(["method", "bin"], sort=False, observed=True)
    return by.agg(
        pairs=("said", "size"), said=("said", "mean"), right=("right", "mean")
    ).sort_index()


def main() -> None:
    """Compare all methods on the shipped sets; ``python -m studies.stages LAW.nc``."""
    from bayes_optlaws import datasets
    from studies.stored_law import law_of

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("law", metavar="LAW.nc", help="fitted to the shipped grid `pocket`")
    parser.add_argument("--out", default="studies/results", help="where result tables go")
    arguments = parser.parse_args()
    law = law_of(arguments.law, "pocket")
    sets, pairs, null = compare_sets(law, datasets.load("pocket-stages"), max_draws=2000)
    table = summarize_sets(sets, pairs).join(summarize_pairs(pairs)).join(summarize_null(null))
    out = Path(arguments.out)
    table.to_csv(out / "stages.csv", float_format="%.4g")
    sets.to_csv(out / "stages-sets.csv", index=False, float_format="%.4g")
    runs = read_stages(datasets.load("pocket-stages"))
    evidence = weight_evidence(law.fitted, runs)
    evidence.to_csv(out / "stages-weights.csv", float_format="%.4g")
    print(evidence.round(1).to_string())
    print(table.T.round(3).to_string())


if __name__ == "__main__":
    main()
