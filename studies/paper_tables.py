"""The tables of the Opt-Laws paper, made anew on public and shipped runs.

``python -m studies.paper_tables FOLDER`` writes ``paper-table-*.csv`` and the page
`docs/paper-tables.md`, where they stand beside the figures that the paper prints; FOLDER holds the
public tables, and without it the rows on Step Law stay as they are. The rows of the Bayesian law
and of the Gaussian process come from the evaluation that exists (``python -m
bayes_optlaws.evaluation``); rivals that it lacks are fitted here, on the same folds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayes_optlaws import baselines
from bayes_optlaws.datasets import describe, load
from bayes_optlaws.evaluation.protocols import POOLED, held_out, tabulate
from bayes_optlaws.runs.readers import read_runs
from studies import paper_page, paper_shapes, paper_variants
from studies.held_out import LAW, STUDIES, Study

if TYPE_CHECKING:
    from bayes_optlaws.law import OptLaw

__all__ = ["TABLES", "law_leads", "main", "methods", "side_by_side"]

TABLES = ("1", "2", "3", "4-5", "9", "10", "11", "12", "13")

WITHIN = ("pocket-5fold", "steplaw-5fold")
BEYOND = ("pocket-n", "pocket-d", "steplaw-n", "steplaw-d")

HIGHER_IS_BETTER = {
    "relative_error": False,
    "spearman": True,
    "top2": True,
    "regret": False,
    "log_score": True,
}
"""Metrics for which the lead of the law is given."""

SHOWN = (
    "r2", "relative_error", "spearman", "top2", "regret", "coverage_50", "coverage_95",
    "log_score", "pair_calibration_error",
)  # fmt: skip


def methods(
    study: Study,
    *,
    folder: str | Path | None = None,
    out: str | Path = "studies/results",
    work: str | Path | None = None,
) -> pd.DataFrame:
    """Figures of all methods under one study: those of the evaluation, and the rivals it lacks.

    Parameters
    ----------
    study : Study
        One of `studies.held_out.STUDIES`.
    folder : path, optional
        Of the public tables.
    out : path
        Where ``<study>.csv`` of the evaluation lies.
    work : path, optional
        Where the results of single fits are kept.

    Returns
    -------
    DataFrame
        As from `bayes_optlaws.evaluation.protocols.evaluate`, rows (method, block).

    Raises
    ------
    FileNotFoundError
        When the evaluation has not been run.
    """
    path = Path(out) / f"{study.name}.csv"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: it holds the rows of the law; make it with "
            f"python -m studies FOLDER --only {study.name}"
        )
    known = pd.read_csv(path).set_index(["method", "block"])
    missing = [b for b in baselines.available() if b not in known.index.unique("method")]
    if not missing:
        return known
    runs = read_runs(load(study.table, folder=folder), group=study.group)
    found = held_out(
        baselines.get(missing[0]), runs, baselines=missing[1:], random_seed=0,
        folder=None if work is None else Path(work) / study.name, **study.split(runs),
    )  # fmt: skip
    # Their log score leads are over the first of them, not over the law.
    more = tabulate(found).drop(columns=["log_score_lead", "log_score_lead_se"])
    return pd.concat([known, more])


def law_leads(table: pd.DataFrame, *, law: str = LAW) -> pd.DataFrame:
    """How much better the law is than each method, with standard errors paired over blocks.

    Parameters
    ----------
    table : DataFrame
        Rows (method, block), from `methods`.
    law : str
        Its name there.

    Returns
    -------
    DataFrame
        Index method; ``<metric>_lead`` and ``<metric>_lead_se`` for `HIGHER_IS_BETTER`. A lead is
        positive where the law is better. Both methods are judged on the same runs of a block, so
        the error is that of the mean of their differences over blocks, weighted by contests
        (selection) or runs (others); NaN with fewer than two blocks.

    Examples
    --------
    >>> import pandas as pd
    >>> rows = [("opt-law", "a", 0.9), ("opt-law", "b", 0.8), ("other", "a", 0.7),
    ...         ("other", "b", 0.7)]
    >>> t = pd.DataFrame(rows, columns=["method", "block", "spearman"])
    >>> t = t.assign(n_runs=10, n_blocks=5).set_index(["method", "block"])
    >>> law_leads(t).loc["other"].round(3).tolist()
    [0.15, 0.05]
    """
    blocks = table.drop(index=POOLED, level="block", errors="ignore")
    mine = blocks.xs(law, level="method")
    rows = {}
    for method in table.index.unique("method"):
        row = {}
        other = blocks.xs(method, level="method").reindex(mine.index)
        for metric, higher in HIGHER_IS_BETTER.items():
            if metric not in blocks:
                continue
            lead = mine[metric] - other[metric]
            lead = (lead if higher else -lead).to_numpy(float)
            selects = metric in ("spearman", "top2", "regret")
            weight = mine["n_blocks" if selects else "n_runs"].to_numpy(float)
            used = np.isfinite(lead) & (weight > 0)
            row[f"{metric}_lead"], row[f"{metric}_lead_se"] = _weighted(lead[used], weight[used])
        rows[method] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def _weighted(values: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Weighted mean and its standard error."""
    n = values.size
    if n == 0:
        return float("nan"), float("nan")
    share = weight / weight.sum()
    mean = float(share @ values)
    if n < 2:
        return mean, float("nan")
    return mean, float(np.sqrt(n / (n - 1) * np.sum(share**2 * (values - mean) ** 2)))


def side_by_side(
    names: Sequence[str],
    *,
    folder: str | Path | None = None,
    out: str | Path = "studies/results",
    work: str | Path | None = None,
) -> pd.DataFrame:
    """Pooled figures of all methods under several studies, with the lead of the law (Tables 1, 3).

    Parameters
    ----------
    names : sequence of str
        Of studies. Those of public tables are left out where there is no folder.
    folder, out, work
        As for `methods`.

    Returns
    -------
    DataFrame
        One row a study and method: ``n_runs``, ``converged`` (whether all refits passed the
        sampler's gate), `SHOWN` with ``_se``, and `law_leads`.
    """
    by_name = {s.name: s for s in STUDIES}
    parts = []
    for name in names:
        study = by_name[name]
        if folder is None and not describe(study.table).shipped:
            continue
        table = methods(study, folder=folder, out=out, work=work)
        pooled = table.xs(POOLED, level="block")
        columns = ["n_runs", "converged", *(c for m in SHOWN for c in (m, f"{m}_se"))]
        part = pooled[columns].join(law_leads(table)).reset_index()
        part.insert(0, "study", name)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _per_table(
    make: Callable[[pd.DataFrame], pd.DataFrame], folder: str | Path | None
) -> pd.DataFrame:
    """One result for the pocket grid, and one for Step Law where there is a folder."""
    parts = []
    for name in ("pocket", "steplaw"):
        if name == "pocket" or folder is not None:
            part = make(read_runs(load(name, folder=folder)))
            part.insert(0, "study", name)
            parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _divergence(out: Path) -> pd.DataFrame:
    """Precision, recall, F1 and balanced accuracy, from the evaluation that exists (Table 12)."""
    path = out / "divergence.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: make it with python -m studies.divergence")
    found = pd.read_csv(path)
    names = ["precision", "recall", "f1", "balanced_accuracy", "log_loss"]
    columns = [c for n in names for c in (n, f"{n}_se")]
    return found[["study", "method", "n_runs", "n_diverged", "repeats", *columns]]


def _fitted_law(path: str | None) -> OptLaw:
    from bayes_optlaws.law import OptLaw  # here, so that other tables do not load PyMC
    from studies.stored_law import law_of

    if path is not None:
        return law_of(path, "pocket")
    return OptLaw().fit(load("pocket"), random_seed=0, progressbar=False)


def _make(
    number: str, law: OptLaw | None, folder: str | None, out: Path, work: str
) -> dict[str, pd.DataFrame]:
    """Return the results of one table of the paper, by the end of their file name."""
    where = {"folder": folder, "out": out, "work": work}
    if number == "1":
        return {"1": side_by_side(WITHIN, **where)}
    if number == "2":
        return {"2": paper_shapes.larger_runs(law)}
    if number == "3":
        return {
            "3": paper_shapes.by_group(paper_shapes.larger_runs(law)),
            "3-held-out": side_by_side(BEYOND, **where),
        }
    if number == "4-5":
        sets, summary = paper_shapes.stages(law)
        return {"4-5": summary, "4-5-sets": sets}
    if number == "9":
        return {"9": _per_table(paper_variants.blocks_added, folder)}
    if number == "10":
        return {
            "10": paper_shapes.decay_phase(law),
            "10-stages": paper_shapes.decay_phase_stages(law),
        }
    if number == "11":
        return {"11": _per_table(paper_variants.exponents_changed, folder)}
    if number == "12":
        return {"12": _divergence(out)}
    losses, choice = paper_shapes.families(law)
    return {"13": losses, "13-choice": choice}


def _with_other_studies(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Add the stored rows of studies that were not made again, having no folder."""
    if "study" not in table or not path.is_file():
        return table
    stored = pd.read_csv(path)
    return pd.concat([table, stored[~stored["study"].isin(table["study"])]], ignore_index=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the tables, print them, write them and the page; returns an exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.paper_tables",
        description="The tables of the Opt-Laws paper on public and shipped runs.",
    )
    parser.add_argument("folder", nargs="?", help="folder of the public tables")
    parser.add_argument("--only", nargs="+", choices=TABLES, help="numbers of tables")
    parser.add_argument("--law", help="fitted law of the pocket grid; fitted anew where absent")
    parser.add_argument("--out", default="studies/results", help="where result tables are")
    parser.add_argument("--work", default="out/evaluation", help="where single results are kept")
    parser.add_argument("--page", default="docs/paper-tables.md", help="page to write")
    args = parser.parse_args(argv)
    out = Path(args.out)
    wanted = [t for t in TABLES if args.only is None or t in args.only]
    needs_law = {"2", "3", "4-5", "10", "13"}
    law = _fitted_law(args.law) if needs_law.intersection(wanted) else None
    for number in wanted:
        try:
            found = _make(number, law, args.folder, out, args.work)
        except FileNotFoundError as error:
            print(f"table {number}: {error}", file=sys.stderr)
            return 1
        for name, table in found.items():
            path = out / f"paper-table-{name}.csv"
            _with_other_studies(table, path).to_csv(path, index=False, float_format="%.6g")
        for line in paper_page.section(number, out):
            print(line)
        print(flush=True)
    Path(args.page).parent.mkdir(parents=True, exist_ok=True)
    Path(args.page).write_text(paper_page.page(out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
