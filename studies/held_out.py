"""The evaluation of the README: its studies, result tables, targets and page of plots.

``python -m studies FOLDER`` (``make evaluate FOLDER=...``) runs all of it on the
public tables in FOLDER; without a folder only the studies of shipped tables are run. A study that
was broken off goes on where it stopped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bayes_optlaws.evaluation.metrics import coverage, pairwise, pit
from bayes_optlaws.evaluation.protocols import POOLED, HeldOut, held_out_by, tabulate
from bayes_optlaws.plots.calibration import calibration
from studies.held_out_notes import noise_lines, pair_lines
from studies.scenarios import LAW, NEAR, PLAIN, RIVALS, Study, methods

RIVAL = "gaussian-process"
CURVES = (LAW, PLAIN, RIVAL)
"""Methods whose calibration curves are kept and drawn."""

LEVELS = np.round(np.arange(0.05, 1.0, 0.05), 2)
PIT_BINS = 10
START, END = "<!-- calibration table -->", "<!-- end calibration table -->"


STUDIES = NEAR


def run_study(
    study: Study,
    *,
    folder: str | Path | None = None,
    work: str | Path | None = None,
    out: str | Path = "studies/results",
    n_jobs: int = 1,
    random_seed: int = 0,
    without: Sequence[str] = (),
    **sampling: Any,
) -> pd.DataFrame:
    """Run one study and write ``<name>.csv`` and ``<name>-curves.csv``.

    Parameters
    ----------
    study : Study
    folder : path, optional
        Of the public tables.
    work : path, optional
        Where the files of single tasks are kept.
    out : path
        Where the tables go.
    n_jobs, random_seed, **sampling
        As for `held_out`.
    without : sequence of str
        Methods that are left out.

    Returns
    -------
    DataFrame
        As from `evaluate`.
    """
    runs = study.runs(folder)
    compared = methods(runs, [m for m in (LAW, PLAIN, *RIVALS) if m not in without])
    found = held_out_by(
        compared, runs, n_jobs=n_jobs, random_seed=random_seed, required=(LAW,),
        folder=None if work is None else Path(work) / study.name, **sampling, **study.split(runs),
    )  # fmt: skip
    table = tabulate(found)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    _write(table.reset_index(), out / f"{study.name}.csv")
    shown = [
        one for one in found if one.method in CURVES and len(one.rows) and one.draws is not None
    ]
    _write(calibration_curves(shown), out / f"{study.name}-curves.csv")
    return table


def calibration_curves(found: Sequence[HeldOut]) -> pd.DataFrame:
    """Points of the calibration plots.

    Parameters
    ----------
    found : sequence of HeldOut

    Returns
    -------
    DataFrame
        Columns ``method``; ``curve``: ``coverage`` (x nominal, y observed), ``pit`` (x middle of
        the bin, y density) or ``pairs`` (equal-count bins: x mean probability said, y share that
        came true); ``x``, ``y``, ``n``, the runs or pairs behind the point.
    """
    rows = []
    for one in found:
        n = one.observed.size
        for level in LEVELS:
            y = coverage(one.observed, one.draws, prob=float(level))
            rows.append((one.method, "coverage", level, y, n))
        counts, edges = np.histogram(pit(one.observed, one.draws), PIT_BINS, (0.0, 1.0))
        for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
            rows.append((one.method, "pit", 0.5 * (left + right), PIT_BINS * count / n, count))
        pairs = pairwise(one.observed, one.draws, one.contests)
        for part in np.array_split(np.argsort(pairs.said, kind="stable"), 10):
            if part.size:
                x, y = pairs.said[part].mean(), pairs.right[part].mean()
                rows.append((one.method, "pairs", x, y, part.size))
    return pd.DataFrame(rows, columns=["method", "curve", "x", "y", "n"])


def read_tables(out: str | Path = "studies/results") -> dict[str, pd.DataFrame]:
    """Read the result tables that are there, in the order of `STUDIES`."""
    found = {}
    for study in STUDIES:
        path = Path(out) / f"{study.name}.csv"
        if path.is_file():
            found[study.name] = pd.read_csv(path).set_index(["method", "block"])
    return found


def plot_page(out: str | Path = "studies/results") -> Figure:
    """Draw coverage, PIT and pair calibration of every study that has results.

    Parameters
    ----------
    out : path
        Where the tables are.

    Returns
    -------
    Figure
    """
    studies = [s for s in STUDIES if (Path(out) / f"{s.name}-curves.csv").is_file()]
    if not studies:
        raise FileNotFoundError(f"no *-curves.csv in {out}: run the evaluation first")
    return calibration(
        {s.title: pd.read_csv(Path(out) / f"{s.name}-curves.csv") for s in studies}, methods=CURVES
    )


def targets(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Compare the law's pooled rows with what was set as target before the evaluation.

    Parameters
    ----------
    tables : mapping
        From `read_tables`.

    Returns
    -------
    DataFrame
        Columns ``study``, ``measure``, ``target``, ``value``, ``se``, ``holds``.
    """
    rows: list[tuple] = []
    by_name = {s.name: s for s in STUDIES}
    for name, table in tables.items():
        pooled = table.xs(POOLED, level="block")
        law = pooled.loc[LAW]

        def between(measure: str, low: float, high: float, *, of=law, name=name) -> None:
            value = of[measure]
            text = f"{low:g} to {high:g}" if low > -np.inf else f"at most {high:g}"
            rows.append(
                (name, measure, text, value, of[f"{measure}_se"], bool(low <= value <= high))
            )

        if by_name[name].extrapolates:
            wide = name.startswith("steplaw")
            between("coverage_95", *((0.92, 0.98) if wide else (0.90, 0.99)))
            if wide:
                between("coverage_50", 0.42, 0.60)
                between("regret", -np.inf, 0.0025)
                for method in pooled.index.drop(LAW):
                    lead, se = pooled.loc[method, ["log_score_lead", "log_score_lead_se"]]
                    if np.isfinite(lead):
                        measure = f"log score above {method}"
                        rows.append((name, measure, "2 se above 0", lead, se, bool(lead > 2 * se)))
            between("pair_calibration_error", -np.inf, 0.04)
        elif RIVAL in pooled.index and np.isfinite(pooled.loc[RIVAL, "log_score"]):
            rival = pooled.loc[RIVAL]
            lead, se = rival["log_score_lead"], rival["log_score_lead_se"]
            text = f"within 1 se of {RIVAL}"
            rows.append((name, "log_score", text, lead, se, bool(lead >= -se)))
            for measure in ("relative_error", "regret"):
                gap = law[measure] - rival[measure]
                se = float(np.hypot(law[f"{measure}_se"], rival[f"{measure}_se"]))
                rows.append((name, measure, text, gap, se, bool(gap <= se)))
    return pd.DataFrame(rows, columns=["study", "measure", "target", "value", "se", "holds"])


def result_page(tables: Mapping[str, pd.DataFrame], out: str | Path = "studies/results") -> str:
    """Markdown of all results: one row a study and method, which targets hold, and two notes.

    Parameters
    ----------
    tables : mapping
        From `read_tables`.
    out : path
        Where the figures of the notes are (`studies.held_out_notes`).
    """
    titles = {s.name: s.title for s in STUDIES}
    return "\n".join(["# Held-out evaluation", "", *_rows(tables, None), "", *_legend(tables), "",
                      *_target_lines(targets(tables), titles), "",
                      *noise_lines(tables, out), *pair_lines(out)])  # fmt: skip


def readme_table(tables: Mapping[str, pd.DataFrame]) -> str:
    """Markdown for the README: the law, the law without transfer, and its strongest rival.

    Parameters
    ----------
    tables : mapping
        From `read_tables`.
    """
    judged = targets(tables)
    return "\n".join(
        [
            *_rows(tables, CURVES),
            "",
            *_legend(tables),
            "",
            f"Of the {len(judged)} targets that were set before, {judged['holds'].sum()} hold. "
            "[docs/calibration.md](docs/calibration.md) lists them, and every rival law.",
        ]
    )


def _rows(tables: Mapping[str, pd.DataFrame], methods: Sequence[str] | None) -> list[str]:
    """Lines of the table, with some methods or all."""
    lines = [
        "| held out | method | runs | error % | Spearman | regret | 50 % | 95 % | log score "
        "| pairs |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    titles = {s.name: s.title for s in STUDIES}
    for name, table in tables.items():
        title = titles[name]
        for method, row in table.xs(POOLED, level="block").iterrows():
            if not np.isfinite(row["log_score"]) or (methods and method not in methods):
                continue
            mark = "" if row["converged"] else " (*)"
            label = f"**{method}**" if method == LAW else method
            lines.append(
                f"| {title} | {label}{mark} | {row['n_runs']:.0f} "
                f"| {_pm(row, 'relative_error', 2)} | {row['spearman']:.2f} "
                f"| {_pm(row, 'regret', 4)} | {100 * row['coverage_50']:.0f} "
                f"| {100 * row['coverage_95']:.1f} | {_pm(row, 'log_score', 2)} "
                f"| {_pm(row, 'pair_calibration_error', 3)} |"
            )
            title = ""
    return lines


def _legend(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """What the columns mean, and what was not measured."""
    titles = {s.name: s.title for s in STUDIES}
    lines = [
        "Measured on the finished runs that were held out. "
        "± is one bootstrap standard error over held-out blocks (runs inside them where there are "
        "fewer than four). *error*: mean relative error of the loss; *regret*: nats lost by taking "
        "the run predicted best, mean over blocks of three runs or more; *50 %, 95 %*: share of "
        "runs inside the central intervals; *log score*: mean log predictive density of log loss, "
        "higher is better; *pairs*: calibration error of the probability that one run of a pair "
        "ends lower. (*): a refit did not pass the convergence gate; its row is to be read with "
        "care."
    ]
    absent = [s.title for s in STUDIES if s.name not in tables]
    every = {m for table in tables.values() for m in table.index.unique("method")}
    for name, table in tables.items():
        missing = sorted(every - set(table.index.get_level_values("method")))
        absent += [f"{titles[name]}, by {', '.join(missing)}"] if missing else []
    if absent:
        lines += ["", "Not measured yet: " + "; ".join(absent) + "."]
    return lines


def _target_lines(judged: pd.DataFrame, titles: Mapping[str, str]) -> list[str]:
    """Sentences on the targets: which do not hold, then where the others do."""
    lines = [f"Of the {len(judged)} targets that were set, {judged['holds'].sum()} hold."]
    missed = judged[~judged["holds"]]
    if len(missed):
        lines += ["Those that do not:", ""]
    for _, t in missed.iterrows():
        se = f" ± {t['se']:.2g}" if np.isfinite(t["se"]) else ""
        what = f"{'gap in ' if 'within' in t['target'] else ''}{t['measure'].replace('_', ' ')}"
        lines.append(f"- {titles[t['study']]}: {what} {t['value']:.3g}{se} (target: {t['target']})")
    kept = judged[judged["holds"]].groupby("study", sort=False)["measure"]
    if len(kept):
        lines += ["", "Those that do:", ""]
    for name, measures in kept:
        lines.append(f"- {titles[name]}: {', '.join(measures).replace('_', ' ')}")
    return lines


def write_readme(path: str | Path, text: str) -> bool:
    """Put `text` between the markers of a file (after the first, where it stands alone).

    False where the file has no marker.
    """
    path = Path(path)
    found = path.read_text()
    end = f".*?{re.escape(END)}" if END in found else ""
    pattern = re.compile(re.escape(START) + end, flags=re.DOTALL)
    if not pattern.search(found):
        return False
    path.write_text(pattern.sub(lambda _: f"{START}\n{text}\n{END}", found, count=1))
    return True


def _pm(row: pd.Series, measure: str, digits: int) -> str:
    se = row[f"{measure}_se"]
    tail = f" ± {se:.{digits}f}" if np.isfinite(se) else ""
    return f"{row[measure]:.{digits}f}{tail}"


def _write(table: pd.DataFrame, path: Path) -> None:
    partial = path.with_name(f".{path.name}")
    table.to_csv(partial, index=False, float_format="%.6g")
    partial.replace(path)
