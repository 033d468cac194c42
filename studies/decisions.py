"""Decisions judged on cells that were not fitted: suggested schedules, and rules for the best LR.

``python -m studies.decisions FOLDER`` fits Step Law (in FOLDER, the public
tables) and the pocket grid without their largest cells, asks for the best setting of every cell
held out, looks up the measured run next to it and writes its regret to ``suggestions.csv``. It
then predicts Step Law's longer budgets with and without the scaling rules as prior and writes
``scaling-rule-prior.csv``. Fitted laws are kept in the folder ``--work`` and used again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bayes_optlaws import datasets
from bayes_optlaws.evaluation.manifest import open_folder, read_result
from bayes_optlaws.evaluation.scores import crps
from bayes_optlaws.evaluation.splits import block_labels
from bayes_optlaws.law import OptLaw
from bayes_optlaws.runs.readers import read_candidates, read_runs
from bayes_optlaws.theory import scaling_rules

STUDIES: dict[str, tuple[str, Callable[[pd.DataFrame], pd.Series]]] = {
    "pocket-n": ("pocket", lambda r: r["n_params"] == r["n_params"].max()),
    "pocket-d": ("pocket", lambda r: r["tokens"] > 0.98 * r["tokens"].max()),
    "steplaw-n": ("steplaw", lambda r: r["n_params"] > 0.45e9),
    "steplaw-d": ("steplaw", lambda r: r["tokens"] >= 29e9),
}
"""Table of each study, and what is held out of it."""

SINGLE_RUNS = (
    "neighbour_lr", "best_lr", "best_batch", "neighbour_loss", "best_loss", "measured_best_lr",
)  # fmt: skip
"""Columns that tell of single measured runs; they are printed and not kept."""

LIMIT = 0.003
"""Highest regret of a suggestion that is accepted, nats."""

PRIORS: tuple[tuple[str | None, float], ...] = (
    (None, np.nan), ("A", 0.2), ("A", 0.1), ("B", 0.2), ("C", 0.2), ("C", 0.1), ("D", 0.2),
)  # fmt: skip
"""Regimes and sds of the prior on the exponent that are compared."""


def neighbour(runs: pd.DataFrame, setting: pd.Series) -> int:
    """Position of the measured run nearest to a setting, in log peak LR, warm-up and batch.

    Parameters
    ----------
    runs : DataFrame
    setting : Series
        With ``peak_lr``, ``warmup_steps`` and ``batch_tokens``.

    Returns
    -------
    int
        Each distance is in units of the median step of the measured grid.

    Examples
    --------
    >>> runs = pd.DataFrame({"peak_lr": [1e-3, 2e-3, 4e-3], "warmup_steps": 100,
    ...                      "batch_tokens": 1e5})
    >>> neighbour(runs, pd.Series({"peak_lr": 2.5e-3, "warmup_steps": 90, "batch_tokens": 1e5}))
    1
    """
    square = np.zeros(len(runs))
    for name in ("peak_lr", "warmup_steps", "batch_tokens"):
        x = np.log(np.maximum(runs[name].to_numpy(float), 1.0 if name != "peak_lr" else 1e-30))
        steps = np.diff(np.unique(x.round(6)))
        unit = float(np.median(steps)) if steps.size else 1.0
        square += ((x - np.log(setting[name])) / unit) ** 2
    return int(np.argmin(square))


def suggestions(law: OptLaw, held_out: pd.DataFrame, **options) -> pd.DataFrame:
    """Regret of the measured run next to the suggestion, in every cell held out.

    Parameters
    ----------
    law : OptLaw
        Fitted without these cells.
    held_out : DataFrame
        Validated runs.
    **options
        Of ``OptLaw.suggest``.

    Returns
    -------
    DataFrame
        One row a question: a cell with its batches to choose from (``batch`` is "any"), and a
        cell with each batch of at least five runs. ``regret``: loss of the neighbour less the
        lowest measured of the same question, inf where it diverged; ``pick_regret``: that of the
        measured setting which the law itself would pick among those measured; ``grid_step``: the
        second lowest less the lowest; ``tied_has_best``: whether the best measured LR is within the
        tied region; ``covered``: whether the neighbour's loss is in the 90 % interval.
    """
    rows = []
    for block, batch, cell in _questions(held_out):
        finished = cell[~cell["diverged"]]
        batches = np.unique(finished["batch_tokens"])
        found = law.suggest(
            float(cell["n_params"].iloc[0]), float(cell["tokens"].median()), batches, **options
        )
        at = found.candidate.iloc[0]
        near = cell.iloc[neighbour(cell, at)]
        loss = np.inf if near["diverged"] else float(near["final_loss"])
        ordered = np.sort(finished["final_loss"].to_numpy(float))
        best = finished.loc[finished["final_loss"].idxmin()]
        plain = {k: v for k, v in options.items() if k == "allow_unconverged"}
        shown = law.predict(cell, kind="mean", **plain)
        goal = shown["loss_mean"].where(~(shown["p_diverge"] > found.max_p_diverge), np.inf)
        pick = cell.loc[goal.idxmin()]
        pick_loss = np.inf if pick["diverged"] else float(pick["final_loss"])
        tied = found.table.loc[found.table["tied"], "peak_lr"]
        rows.append(
            {
                "block": block,
                "batch": batch,
                "n_runs": len(cell),
                "suggested_lr": at["peak_lr"],
                "suggested_warmup": at["warmup_steps"],
                "suggested_batch": at["batch_tokens"],
                "tied_lr_low": tied.min(),
                "tied_lr_high": tied.max(),
                "neighbour_lr": near["peak_lr"],
                "best_lr": best["peak_lr"],
                "best_batch": best["batch_tokens"],
                "predicted": found.loss_mean,
                "neighbour_loss": loss,
                "best_loss": ordered[0],
                "regret": loss - ordered[0],
                "pick_regret": pick_loss - ordered[0],
                "grid_step": ordered[1] - ordered[0],
                "tied_has_best": bool(tied.min() <= best["peak_lr"] <= tied.max()),
                "covered": bool(found.loss_lower <= loss <= found.loss_upper),
                "p_diverge": found.p_diverge,
            }
        )
    return pd.DataFrame(rows)


def _questions(held_out: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    labels = block_labels(held_out)
    for block in pd.unique(labels):
        cell = held_out[labels == block]
        yield block, "any", cell
        sizes = cell["batch_tokens"].unique()
        for size in sorted(sizes) if len(sizes) > 1 else ():
            mine = cell[cell["batch_tokens"] == size]
            if (~mine["diverged"]).sum() >= 5:
                yield block, f"{size:.0f}", mine


def rule_prior(
    law: OptLaw,
    held_out: pd.DataFrame,
    *,
    priors: Sequence[tuple[str | None, float]] = PRIORS,
    **options,
) -> pd.DataFrame:
    """Effect of a scaling rule as prior on the predictions of longer budgets.

    Parameters
    ----------
    law : OptLaw
        Fitted to the shorter budgets.
    held_out : DataFrame
        Validated runs of longer ones.
    priors : sequence of (regime, sd)
        Regime None: no prior.
    **options
        Of `bayes_optlaws.theory.scaling_rules.weigh`.

    Returns
    -------
    DataFrame
        One row a cell and prior: exponents and effective sample size as from
        ``WeighedDraws.summary``; ``relative_error`` and ``crps`` of the cell's runs (nats);
        ``regret`` of the setting of lowest predicted loss; ``best_lr`` predicted (that setting's)
        and measured; ``refused``, why a prior was not applied.
    """
    rows = []
    finished = held_out[~held_out["diverged"]]
    labels = block_labels(finished)
    for block in pd.unique(labels):
        cell = finished[labels == block]
        observed = cell["final_loss"].to_numpy(float)
        table = read_candidates(cell.drop(columns=["final_loss", "diverged"]))
        for regime, sd in priors:
            row = {"block": block, "regime": regime or "none", "sd": sd, "refused": ""}
            how = {"regime": regime or "C", "sd": 1.0 if regime is None else sd}
            try:
                found = scaling_rules.weigh(
                    law, table, enabled=regime is not None, **how, **options
                )
            except ValueError as error:
                rows.append({**row, "refused": str(error)})
                continue
            draws = found.draws.to_numpy()
            draws = np.where(np.isfinite(draws), draws, np.nan)
            mean = np.nanmean(draws, axis=0)
            draws = np.where(np.isfinite(draws), draws, mean)
            pick = int(np.argmin(mean))
            rows.append(
                {
                    **row,
                    **found.summary().drop(["rule", "prior_sd"]),
                    "relative_error": float(np.mean(np.abs(mean / observed - 1))),
                    "crps": float(np.mean(crps(observed, draws))),
                    "regret": float(observed[pick] - observed.min()),
                    "predicted_best_lr": float(cell["peak_lr"].iloc[pick]),
                    "measured_best_lr": float(cell["peak_lr"].iloc[int(observed.argmin())]),
                }
            )
    return pd.DataFrame(rows)


def measured_exponents(runs: pd.DataFrame) -> pd.DataFrame:
    """Slope of log best LR and batch in log tokens among the measured runs, by model size.

    Parameters
    ----------
    runs : DataFrame
        Validated.

    Returns
    -------
    DataFrame
        One row a model size with at least two budgets: ``n_params``, ``n_budgets``, ``lr`` and
        ``batch`` (slopes of the best setting of each cell), ``lr_at_fixed_batch`` (mean over
        the batches that are measured at every budget).
    """
    finished = runs[~runs["diverged"]].assign(block=lambda r: block_labels(r))
    rows = []
    for size, mine in finished.groupby("n_params"):
        cells = [c for _, c in mine.groupby("block")]
        if len(cells) < 2:
            continue
        x = np.log([c["tokens"].median() for c in cells])
        best = [c.loc[c["final_loss"].idxmin()] for c in cells]
        common = set.intersection(
            *({round(np.log2(b), 2) for b in c["batch_tokens"]} for c in cells)
        )
        slopes = []
        for batch in common:
            at = [c[np.log2(c["batch_tokens"]).round(2) == batch] for c in cells]
            lr = [np.log(a.loc[a["final_loss"].idxmin(), "peak_lr"]) for a in at]
            slopes.append(np.polyfit(x, lr, 1)[0])
        rows.append(
            {
                "n_params": size,
                "n_budgets": len(cells),
                "lr": np.polyfit(x, [np.log(b["peak_lr"]) for b in best], 1)[0],
                "batch": np.polyfit(x, [np.log(b["batch_tokens"]) for b in best], 1)[0],
                "lr_at_fixed_batch": float(np.mean(slopes)) if slopes else np.nan,
            }
        )
    return pd.DataFrame(rows)


def fitted(
    name: str, folder: str | Path | None, work: Path, **sampling: int
) -> tuple[OptLaw, pd.DataFrame]:
    """Law of a study, read from ``work`` or fitted and kept there, and the runs held out.

    Raises
    ------
    FolderError
        When the law there was fitted to other runs, with other options or by other code.
    """
    table, mask = STUDIES[name]
    runs = read_runs(datasets.load(table, folder=folder))
    out = mask(runs)
    path = open_folder(work / name, study="decisions", runs=runs[~out], options=sampling) / "law.nc"
    law = read_result(path, OptLaw.load) if path.exists() else None
    if law is None:
        law = OptLaw().fit(runs[~out], progressbar=False, **sampling)
        law.save(path)
    return law, runs[out]


def _write(results: pd.DataFrame, path: Path) -> None:
    """Write results without the settings and losses of single runs: those tables are not ours."""
    results.drop(columns=list(SINGLE_RUNS), errors="ignore").to_csv(
        path, index=False, float_format="%.6g"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the checks from the command line."""
    parser = argparse.ArgumentParser(description="Judge suggestions and scaling rules")
    parser.add_argument("folder", nargs="?", help="folder of the public tables")
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=None)
    parser.add_argument("--work", type=Path, default=Path("out/decisions"))
    parser.add_argument("--out", type=Path, default=Path("studies/results"))
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--tune", type=int, default=600)
    a = parser.parse_args(argv)
    names = a.studies or [n for n in STUDIES if a.folder or STUDIES[n][0] == "pocket"]
    a.out.mkdir(parents=True, exist_ok=True)
    tables = []
    for name in names:
        law, held_out = fitted(
            name, a.folder if STUDIES[name][0] == "steplaw" else None, a.work,
            draws=a.draws, tune=a.tune, random_seed=10,
        )  # fmt: skip
        found = suggestions(law, held_out, allow_unconverged=True)
        found.insert(0, "study", name)
        found["rhat"] = law.diagnostics["rhat"]
        tables.append(found)
        print(found.to_string(float_format=lambda v: f"{v:.4g}"), flush=True)
        if name == "steplaw-d":
            effect = rule_prior(law, held_out, allow_unconverged=True)
            _write(effect, a.out / "scaling-rule-prior.csv")
            print(effect.drop(columns="refused").to_string(float_format=lambda v: f"{v:.4g}"))
            runs = read_runs(datasets.load("steplaw", folder=a.folder))
            print(measured_exponents(runs).to_string(float_format=lambda v: f"{v:.4g}"))
    if tables:
        every = pd.concat(tables, ignore_index=True)
        _write(every, a.out / "suggestions.csv")
        within = every["regret"] <= LIMIT
        print(every.assign(within=within).groupby(["study", every["batch"] == "any"])[
            ["regret", "pick_regret", "grid_step", "within", "covered"]
        ].mean())  # fmt: skip


if __name__ == "__main__":
    main()
