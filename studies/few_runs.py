"""Few runs: random and sensible subsets of a table, tested on its largest models.

The tested runs are those of the largest sizes (or budgets); of the others 12, 20, 40 or 80 are
fitted. ``random`` takes them at random; ``sensible`` spreads them over the cells, in each first the
learning rates next to its best one, as one who knows a little would have.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bayes_optlaws.evaluation.protocols import held_out_by
from bayes_optlaws.evaluation.splits import block_labels, make_splits
from studies.far import row
from studies.scenarios import FAR, LAW, NEAR, Study, methods

SIZES = (12, 20, 40, 80)
KINDS = ("random", "sensible")
STUDIES = tuple(
    s
    for s in (*NEAR, *FAR)
    if s.name in ("steplaw-n", "pocket-n", "marin-n", "schaipp-n", "openlm-c4-n")
)
COMPARED = (LAW, "gp-linear-settings", "gp-linear-scale", "quadratic", "step-law")


def subset(runs: pd.DataFrame, pool: np.ndarray, n: int, kind: str, seed: int) -> np.ndarray:
    """Row positions of n finished runs of a pool.

    Parameters
    ----------
    runs : DataFrame
        Validated run table.
    pool : ndarray of int
        Row positions that may be taken.
    n : int
    kind : {"random", "sensible"}
    seed : int

    Returns
    -------
    ndarray of int, shape (n,)

    Raises
    ------
    ValueError
        When the pool has fewer finished runs.
    """
    if kind not in KINDS:
        raise ValueError(f"kind = {kind!r}: choose from {', '.join(KINDS)}")
    alive = pool[~runs["diverged"].to_numpy(bool)[pool]]
    if alive.size < n:
        raise ValueError(f"{alive.size} finished runs for a subset of {n}; take a smaller one")
    rng = np.random.default_rng(seed)
    if kind == "random":
        return np.sort(rng.choice(alive, size=n, replace=False))
    part = runs.iloc[alive]
    labels = block_labels(part)
    rate, loss = np.log(part["peak_lr"].to_numpy(float)), part["final_loss"].to_numpy(float)
    turn = np.empty(alive.size, dtype=int)
    for label in pd.unique(labels):
        rows = np.flatnonzero(labels == label)
        best = rate[rows[loss[rows].argmin()]]
        # a jitter of half a factor of two: nobody knows the best rate exactly
        distance = np.abs(rate[rows] - best + rng.normal(0.0, 0.35, rows.size))
        turn[rows[np.argsort(distance, kind="stable")]] = np.arange(rows.size)
    order = np.lexsort((rng.random(alive.size), turn))
    return np.sort(alive[order[:n]])


def curve(
    study: Study,
    directory: str | Path,
    *,
    label: str = "law",
    sizes: Sequence[int] = SIZES,
    kinds: Sequence[str] = KINDS,
    repeats: int = 3,
    names: Sequence[str] = COMPARED,
    folder: str | None = None,
    draws: int = 1000,
) -> pd.DataFrame:
    """Measures of every method at every number of runs.

    Parameters
    ----------
    study : Study
        Its first split says what is tested and what may be fitted.
    directory : path
        Task files go below it.
    label : str
        Names the version of the law's code.
    sizes, kinds : sequences
        Those larger than the table are left out.
    repeats : int
        Subsets of each size and kind.
    names : sequence of str
    folder : str, optional
        Of the public tables.
    draws : int

    Returns
    -------
    DataFrame
        Columns ``study``, ``kind``, ``n``, ``repeat``, and those of `studies.far`.
    """
    runs = study.runs(folder)
    split = make_splits(runs, **study.split(runs))[0]
    tested = np.zeros(len(runs), dtype=bool)
    tested[split.test] = True
    rows = []
    for kind in kinds:
        for n in sizes:
            if n > np.sum(~runs["diverged"].to_numpy(bool)[split.fit]):
                continue
            for repeat in range(repeats):
                fitted = np.zeros(len(runs), dtype=bool)
                fitted[subset(runs, split.fit, n, kind, repeat)] = True
                for name, model in methods(runs, names).items():
                    where = label if name == LAW else "rivals"
                    tasks = Path(directory) / "tasks" / where / f"few-{study.name}"
                    (found,) = held_out_by(
                        {name: model}, runs, folder=tasks, method="importance", draws=draws,
                        random_seed=repeat, test={f"{kind} {n} {repeat}": (fitted, tested)},
                    )  # fmt: skip
                    key = {"study": study.name, "kind": kind, "n": n, "repeat": repeat}
                    rows.append(key | row(found))
    return pd.DataFrame(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the curves, print and write ``few-runs.csv``."""
    by_name = {s.name: s for s in STUDIES}
    parser = argparse.ArgumentParser(prog="python -m studies.few_runs")
    parser.add_argument("directory", type=Path, help="results and task files")
    parser.add_argument("--folder", help="public tables; default $BAYES_OPTLAWS_DATA")
    parser.add_argument("--studies", nargs="+", choices=[*by_name], default=[*by_name])
    parser.add_argument("--sizes", nargs="+", type=int, default=[*SIZES])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--label", default="law", help="name of this version of the law's code")
    args = parser.parse_args(argv)
    parts = []
    for name in args.studies:
        found = curve(
            by_name[name], args.directory, label=args.label, sizes=args.sizes,
            repeats=args.repeats, folder=args.folder,
        )  # fmt: skip
        parts.append(found)
        shown = found.groupby(["kind", "n", "method"])[
            ["relative_error", "log_score", "coverage_50", "coverage_95", "regret", "passed"]
        ].mean()
        print(f"{by_name[name].title}\n{shown.round(3).to_string()}\n", flush=True)
        pd.concat(parts).to_csv(args.directory / "few-runs.csv", index=False, float_format="%.6g")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
