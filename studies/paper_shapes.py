"""The paper's tables beyond the grid, on measured pocket runs: Tables 2, 3, 4, 5, 10 and 13.

All laws are fitted to the pocket grid alone (linear schedules); truth is the mean over seeds.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from bayes_optlaws import baselines
from bayes_optlaws.baselines.generalized import GeneralizedOptLaw
from bayes_optlaws.datasets import load
from bayes_optlaws.inference.stage_posterior import StagePrior
from bayes_optlaws.inference.stages import history, read_stages
from bayes_optlaws.model.features import Earlier
from bayes_optlaws.runs.readers import read_candidates, read_runs
from bayes_optlaws.runs.stages import earlier_of_runs
from studies.paper_variants import with_decay
from studies.stages import compare_sets, summarize_sets

if TYPE_CHECKING:
    from bayes_optlaws.law import OptLaw

__all__ = [
    "by_group",
    "decay_phase",
    "decay_phase_stages",
    "families",
    "larger_runs",
    "stages",
]

KEYS = ["n_params", "tokens", "name", "peak_lr", "warmup_steps"]
GROUPS = {
    "multi-phase": ("Const+Linear", "Polygon1", "Polygon1v2", "Polygon2"),
    "loss-equivalent": ("Linear", "Const+Linear 2", "Polygon3"),
}
"""Shapes at 12,000 steps by the group of the paper's Table 2; single-phase: 36,000 steps."""

LAW = "opt-law"


def rivals() -> dict[str, baselines.Baseline]:
    """Return all baselines for a table of one batch size, not fitted."""
    return {name: baselines.get(name) for name in baselines.available()}


def _means(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a configuration: its first run, with the mean loss over seeds."""
    by = runs.groupby(KEYS, sort=False)["final_loss"]
    out = runs.groupby(KEYS, sort=False).head(1).copy()
    out["final_loss"] = by.mean().to_numpy()
    return out.assign(n_seeds=by.size().to_numpy())


def _predictions(
    table: pd.DataFrame, law: OptLaw | None, fitted: dict[str, baselines.Baseline]
) -> dict[str, np.ndarray]:
    inputs = table.drop(columns=["final_loss", "diverged"])
    found = {name: rival.predict(inputs) for name, rival in fitted.items()}
    if law is not None:
        found[LAW] = law.predict(inputs, kind="mean", random_seed=0)["loss_mean"].to_numpy()
    return found


@cache
def _fitted(names: tuple[str, ...] | None = None) -> dict[str, baselines.Baseline]:
    """Baselines fitted to the pocket grid; shared, not to be changed."""
    grid = read_runs(load("pocket"))
    return {k: v.fit(grid) for k, v in rivals().items() if names is None or k in names}


def larger_runs(law: OptLaw | None) -> pd.DataFrame:
    """Losses of runs longer and larger than the grid, as measured and as predicted (Table 2).

    Parameters
    ----------
    law : OptLaw or None
        Fitted to the pocket grid; left out where None.

    Returns
    -------
    DataFrame
        One row a configuration and method: ``group`` of the paper's Table 2, the settings,
        ``n_seeds``, ``actual_loss``, ``method``, ``predicted_loss``, ``error_pct``.
    """
    table = _means(read_runs(load("pocket-longer")))
    table["set"] = "loss-equivalent"
    table.loc[table["name"].isin(GROUPS["multi-phase"]), "set"] = "multi-phase"
    table.loc[table["steps"] > 20_000, "set"] = "single-phase"
    # One run of another size at 12,000 steps is a parent of later stages, not of these tables.
    table = table[(table["set"] == "single-phase") | (table["n_params"] > 5e5)]
    fitted = dict(_fitted())
    # Which part of the error is the sign of the exponents of scale.
    fitted["generalized, saturating"] = GeneralizedOptLaw(exponents="saturating").fit(
        read_runs(load("pocket"))
    )
    found = _predictions(table, law, fitted)
    return _long(table, found, ["set", *KEYS, "n_seeds"]).rename(columns={"set": "group"})


def by_group(larger: pd.DataFrame) -> pd.DataFrame:
    """Mean relative error by method and group, and of all (Table 3).

    Parameters
    ----------
    larger : DataFrame
        From `larger_runs`.

    Returns
    -------
    DataFrame
        One row a method: percent for each group and ``all``.
    """
    out = larger.pivot_table("error_pct", "method", "group", sort=False)
    out["all"] = larger.groupby("method")["error_pct"].mean()
    return out.reset_index().rename_axis(columns=None)


def families(law: OptLaw | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Linear, cosine and constant + linear: losses and which family is best (Table 13).

    Parameters
    ----------
    law : OptLaw or None
        As for `larger_runs`.

    Returns
    -------
    losses : DataFrame
        One row a configuration and method, as from `larger_runs`.
    choice : DataFrame
        One row a method: over sets of equal size, budget, peak LR and warm-up, ``best_right``,
        the share in which the family predicted best is; ``order_right``, the share of pairs;
        ``regret`` in nats; ``error_pct``; ``n_sets``.
    """
    table = _means(read_runs(load("pocket-families")))
    losses = _long(
        table, _predictions(table, law, _fitted()), [*KEYS, "schedule", "n_seeds"]
    )  # fmt: skip
    rows = []
    for method, mine in losses.groupby("method", sort=False):
        best, right, regret = [], [], []
        for _, one in mine.groupby(["n_params", "tokens", "peak_lr", "warmup_steps"], sort=False):
            y, f = one["actual_loss"].to_numpy(), one["predicted_loss"].to_numpy()
            i, j = np.triu_indices(y.size, k=1)
            # Equal predictions choose by lot.
            chosen = np.isclose(f, f.min(), rtol=1e-12, atol=0)
            best.append(np.mean(y[chosen] == y.min()))
            regret.append(np.mean(y[chosen]) - y.min())
            tie = np.isclose(f[i], f[j], rtol=1e-12, atol=0)
            right.extend(np.where(tie, 0.5, (f[i] < f[j]) == (y[i] < y[j])))
        rows.append(
            {"method": method, "best_right": np.mean(best), "order_right": np.mean(right),
             "regret": np.mean(regret), "error_pct": mine["error_pct"].mean(),
             "n_sets": len(best)}
        )  # fmt: skip
    return losses, pd.DataFrame(rows)


def decay_phase(law: OptLaw | None) -> pd.DataFrame:
    """Errors with the decay phase out of and in the convergence integral (Table 10).

    The grid has no decay phase, so both definitions give one fit; predictions of polygons differ.

    Parameters
    ----------
    law : OptLaw or None
        As for `larger_runs`.

    Returns
    -------
    DataFrame
        One row a polygon and method: ``default_error_pct`` (integral from a2) and
        ``with_decay_error_pct`` (from a1).
    """
    table = _means(read_runs(load("pocket-longer")))
    fitted = _fitted(("generalized",))
    keys = [*KEYS, "schedule", "n_seeds"]
    out = _long(table, _predictions(table, law, fitted), keys)
    changed = _predictions(with_decay(table), law, fitted)
    out["with_decay_error_pct"] = _long(table, changed, keys)["error_pct"]
    out = out.rename(columns={"error_pct": "default_error_pct"}).drop(columns="predicted_loss")
    return out[out["schedule"] == "polygon"].drop(columns="schedule").reset_index(drop=True)


def decay_phase_stages(law: OptLaw | None) -> pd.DataFrame:
    """Spearman correlation of history-aware scores without and with the decay phase (Table 10).

    Parameters
    ----------
    law : OptLaw or None
        As for `larger_runs`.

    Returns
    -------
    DataFrame
        One row a set of continual training and method: ``default_spearman``,
        ``with_decay_spearman``.
    """
    table = read_stages(load("pocket-stages"))
    squares = _fitted(("generalized",))["generalized"]
    rows = []
    for block, runs in table[table["stage"] == 2].groupby("block", sort=False):
        by = runs.groupby(["name", "peak_lr"], sort=False)
        truth = by["final_loss"].mean().to_numpy()
        first = by.head(1)
        before = Earlier(*earlier_of_runs(table)[:2, table.index.get_indexer(first.index)])
        past = history(table, first["parent"].iloc[0])
        found = {"generalized": [], LAW: []}
        for one in (first, with_decay(first)):
            found["generalized"].append(squares.score(one, before))
            if law is not None:
                inputs = one.drop(columns=["final_loss", "diverged"]).reset_index(drop=True)
                inputs = read_candidates(inputs)
                # the paper's form: the shipped prior has seen these sets
                own = replace(law.fitted, stage_prior=StagePrior.paper())
                stage = own.stage(inputs, past, table[table["stage"] == 1])
                draws = own.predict_draws(
                    inputs, "mean", stage=stage, random_seed=0, max_draws=2000
                )
                found[LAW].append(np.median(draws.to_numpy(), axis=0))
        for method, scores in found.items():
            if scores:
                default, more = (float(spearmanr(s, truth).statistic) for s in scores)
                rows.append((block, method, truth.size, default, more))
    columns = ["set", "method", "n", "default_spearman", "with_decay_spearman"]
    return pd.DataFrame(rows, columns=columns)


def stages(law: OptLaw) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ranking of continual training and fine-tuning (Tables 4 and 5).

    Parameters
    ----------
    law : OptLaw
        Fitted to the pocket grid.

    Returns
    -------
    sets : DataFrame
        One row a set and method, see `studies.stages.compare_sets`, with
        ``kind``: ``strong``, ``weak`` or ``tuned``.
    summary : DataFrame
        One row a method and kind (and ``all``), see `summarize_sets`.
    """
    sets, pairs, _ = compare_sets(law, load("pocket-stages"))
    kinds = {name: name.split("_")[0] for name in sets["set"].unique()}
    sets["kind"], pairs["kind"] = sets["set"].map(kinds), pairs["set"].map(kinds)
    parts = [("all", sets, pairs)]
    parts += [
        (kind, sets[sets["kind"] == kind], pairs[pairs["kind"] == kind])
        for kind in dict.fromkeys(kinds.values())
    ]
    summary = [
        summarize_sets(s, p).reset_index().assign(kind=kind, n_sets=s["set"].nunique())
        for kind, s, p in parts
    ]
    return sets, pd.concat(summary, ignore_index=True)


def _long(table: pd.DataFrame, found: dict[str, np.ndarray], keys: list[str]) -> pd.DataFrame:
    """One row a configuration and method, with actual and predicted loss."""
    parts = []
    actual = table["final_loss"].to_numpy()
    for method, predicted in found.items():
        part = table[keys].copy()
        part["method"] = method
        part["actual_loss"], part["predicted_loss"] = actual, predicted
        part["error_pct"] = 100 * np.abs(predicted / actual - 1)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
