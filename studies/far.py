"""Near and far in one table: ``python -m studies.far DIR``.

Fits every method to every study of `studies.scenarios`, by importance sampling,
and writes into DIR

- ``far.csv``: a row a study and method, with errors, log score, coverage, pairs, regret, cell-level
  z scores, CPU seconds and whether the fit passed its gate;
- ``nulls.csv``: every measure of the law beside its null (`bayes_optlaws.evaluation.nulls`);
- ``far.md``: both as text, and what holds of the targets.

A task (method, study, split) is a file in ``DIR/tasks``; what is there is read, so a study that was
broken off goes on. Files of the law carry ``--label``: give a new one after a change of its code,
and only the law is fitted again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bayes_optlaws.evaluation.nulls import Judge
from bayes_optlaws.evaluation.protocols import HeldOut, held_out_by
from studies.scenarios import (
    FAR,
    LAW,
    NEAR,
    PLAIN,
    PROCESSES,
    RIVALS,
    Study,
    methods,
)

MEASURES = ("relative_error", "median_error", "bias", "log_score", "coverage_50", "coverage_80",
            "coverage_90", "coverage_95", "width_95", "regret", "pair_accuracy", "pair_gap",
            "pair_calibration_error", "cell_z_rms", "cell_z_max")  # fmt: skip

ERROR_RATIO, SCORE_GAP, LEAST_COVERAGE = 1.1, 0.1, 0.8
"""Target far from the table: error at most this many times the best Gaussian process's, log score
at least its best less this, share of runs inside the 95 % interval."""


def judge(one: HeldOut) -> Judge:
    """Measures of held-out predictions, with runs of a cell as one."""
    return Judge(
        one.draws, one.contests, cells=one.blocks, predicted=one.predicted,
        cond_mean=one.cond_mean, cond_sd=one.cond_sd,
        cond_df=np.inf if one.cond_df is None else one.cond_df,
    )  # fmt: skip


def row(one: HeldOut) -> dict[str, object]:
    """One row of the table: measures, cost and gate of a method in a study."""
    folds = pd.DataFrame(one.folds)
    facts: dict[str, object] = {
        "method": one.method,
        "n_fit": float(folds["n_fit"].mean()),
        "n_test": int(folds["n_test"].sum()),
        "passed": bool(folds["converged"].all()),
        "cpu_seconds": float(folds["cpu_seconds"].sum()),
        "pareto_k": float(folds["pareto_k"].max()) if "pareto_k" in folds else np.nan,
        "error": "".join(folds["error"])[:200],
    }
    if one.draws is None:
        return facts
    measured = judge(one).measure(one.observed)
    low, high = np.quantile(one.draws, [0.025, 0.975], axis=0)
    measured["width_95"] = float(np.mean(high - low))
    return facts | {k: float(measured[k]) for k in MEASURES}


def run_study(
    study: Study,
    directory: str | Path,
    *,
    label: str = "law",
    names: Sequence[str] = (LAW, PLAIN, *RIVALS),
    folder: str | None = None,
    method: str = "importance",
    draws: int = 1000,
    random_seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Run one study.

    Parameters
    ----------
    study : Study
    directory : path
        Task files go below it.
    label : str
        Names the version of the law's code.
    names : sequence of str
        Methods; see `studies.scenarios.methods`.
    folder : str, optional
        Of the public tables.
    method, draws, random_seed
        As for `bayes_optlaws.evaluation.evaluate`.

    Returns
    -------
    rows : DataFrame
        Columns ``study``, ``method``, the measures, ``cpu_seconds``, ``passed``, ``error``.
    nulls : DataFrame
        Columns ``study``, ``method``, ``measure``, ``observed``, the null's quantiles, ``p``: of
        the laws.
    """
    runs = study.runs(folder)
    split = study.split(runs)
    rows, nulls = [], []
    for name, model in methods(runs, names).items():
        ours = name in (LAW, PLAIN)
        tasks = Path(directory) / "tasks" / (label if ours else "rivals") / study.name
        (found,) = held_out_by(
            {name: model}, runs, folder=tasks, method=method, draws=draws,
            random_seed=random_seed, **split,
        )  # fmt: skip
        rows.append({"study": study.name, **row(found)})
        if ours and found.draws is not None:
            against = judge(found).against_null(found.observed).reset_index()
            nulls.append(against.assign(study=study.name, method=name))
    return pd.DataFrame(rows), pd.concat(nulls, ignore_index=True) if nulls else pd.DataFrame()


def verdicts(rows: pd.DataFrame, method: str = LAW) -> pd.DataFrame:
    """Compare a method with the better of the Gaussian processes, study by study.

    Parameters
    ----------
    rows : DataFrame
        From `run_study`.
    method : str

    Returns
    -------
    DataFrame
        Index ``study``; ``error``, ``rival_error`` (least), ``log_score``, ``rival_log_score``
        (largest), ``coverage_95``, ``passed``, and ``holds``: all four targets.

    Examples
    --------
    >>> rows = pd.DataFrame({"study": "s", "method": ["opt-law", "gp-linear-scale"],
    ...     "relative_error": [1.05, 1.0], "log_score": [3.0, 3.05], "coverage_95": [0.9, 0.9],
    ...     "passed": True})
    >>> bool(verdicts(rows).loc["s", "holds"])
    True
    """
    out = {}
    for name, part in rows.groupby("study", sort=False):
        by_method = part.set_index("method")
        rivals = by_method[by_method.index.isin(PROCESSES)]
        if method not in by_method.index or rivals.empty:
            continue
        own = by_method.loc[method]
        error, score = rivals["relative_error"].min(), rivals["log_score"].max()
        out[name] = {
            "error": own["relative_error"],
            "rival_error": error,
            "log_score": own["log_score"],
            "rival_log_score": score,
            "coverage_95": own["coverage_95"],
            "passed": own["passed"],
            "holds": bool(
                own["relative_error"] <= ERROR_RATIO * error
                and own["log_score"] >= score - SCORE_GAP
                and own["coverage_95"] >= LEAST_COVERAGE
                and own["passed"]
            ),
        }
    found = pd.DataFrame.from_dict(out, orient="index")
    found.index.name = "study"
    return found


def text(rows: pd.DataFrame, nulls: pd.DataFrame) -> str:
    """Markdown of the whole: the table, the verdicts, the nulls of the law."""
    shown = ["study", "method", "n_fit", "n_test", "relative_error", "median_error", "log_score",
             "coverage_50", "coverage_95", "regret", "pair_accuracy", "pair_gap", "cell_z_rms",
             "cpu_seconds", "passed"]  # fmt: skip
    parts = ["# Near and far", "", _markdown(rows[shown].round(3)), ""]
    judged = verdicts(rows)
    if len(judged):
        far = judged[judged.index.isin([s.name for s in FAR])]
        parts += [
            "## Against the best Gaussian process",
            "",
            f"Far from the table the law holds on {int(far['holds'].sum())} of {len(far)}.",
            "",
            _markdown(judged.round(3).reset_index()),
            "",
        ]
    if len(nulls):
        own = nulls[(nulls["method"] == LAW) & (nulls["p"] < 0.05)]
        parts += [
            "## Outside the null",
            "",
            "Measures of the law that its own joint predictive gives less than once in twenty.",
            "",
            _markdown(
                own[["study", "measure", "observed", "null_05", "null_50", "null_95", "p"]].round(3)
            ),
            "",
        ]
    return "\n".join(parts)


def _markdown(table: pd.DataFrame) -> str:
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|---" * len(table.columns) + "|"]
    lines += [
        "| " + " | ".join(map(str, values)) + " |" for values in table.itertuples(index=False)
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the studies, write and print the table."""
    by_name = {s.name: s for s in (*FAR, *NEAR)}
    parser = argparse.ArgumentParser(
        prog="python -m studies.far",
        description="The law and its rivals, near and far.",
    )
    parser.add_argument("directory", type=Path, help="results and task files")
    parser.add_argument("--folder", help="public tables; default $BAYES_OPTLAWS_DATA")
    parser.add_argument("--studies", nargs="+", choices=[*by_name, "far", "near"], default=["far"])
    parser.add_argument("--methods", nargs="+", default=[LAW, PLAIN, *RIVALS])
    parser.add_argument("--label", default="law", help="name of this version of the law's code")
    parser.add_argument("--posterior", choices=("importance", "nuts"), default="importance")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    wanted: list[Study] = []
    for name in args.studies:
        wanted += {"far": FAR, "near": NEAR}.get(name) or (by_name[name],)
    all_rows, all_nulls = [], []
    for study in wanted:
        rows, nulls = run_study(
            study, args.directory, label=args.label, names=args.methods, folder=args.folder,
            method=args.posterior, draws=args.draws, random_seed=args.seed,
        )  # fmt: skip
        columns = ["method", "relative_error", "median_error", "log_score", "coverage_50",
                   "coverage_95", "cpu_seconds", "passed", "error"]  # fmt: skip
        print(
            f"{study.title}\n{rows.reindex(columns=columns).round(3).to_string(index=False)}\n",
            flush=True,
        )
        all_rows.append(rows)
        all_nulls.append(nulls)
        # after each study, so that there is a table when it is broken off
        _write(pd.concat(all_rows), pd.concat(all_nulls), args.directory)
    print(verdicts(pd.concat(all_rows)).round(3).to_string())
    return 0


def _write(rows: pd.DataFrame, nulls: pd.DataFrame, directory: Path) -> None:
    rows.to_csv(directory / "far.csv", index=False, float_format="%.6g")
    nulls.to_csv(directory / "nulls.csv", index=False, float_format="%.6g")
    (directory / "far.md").write_text(text(rows, nulls))


if __name__ == "__main__":
    raise SystemExit(main())
