"""``python -m studies``: run the evaluation of the README."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bayes_optlaws.datasets import describe
from studies import held_out as report


def main(argv: Sequence[str] | None = None) -> int:
    """Run studies, write tables, page of plots and README part; returns an exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m studies",
        description="Held-out evaluation of the law and its rivals.",
    )
    parser.add_argument("folder", nargs="?", help="folder of the public tables")
    parser.add_argument("--only", nargs="+", choices=[s.name for s in report.STUDIES])
    parser.add_argument("--without", nargs="+", default=(), help="methods to leave out")
    parser.add_argument("--out", default="studies/results", help="where result tables go")
    parser.add_argument("--work", default="out/evaluation", help="where single results are kept")
    parser.add_argument(
        "--page", default="docs/calibration.png", help="the page of plots; all results go beside it"
    )
    parser.add_argument("--readme", default="README.md", help="file whose table is replaced")
    parser.add_argument("--n-jobs", type=int, default=1)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--tune", type=int, default=500)
    parser.add_argument("--tables-only", action="store_true", help="run nothing, only rewrite")
    args = parser.parse_args(argv)
    for study in () if args.tables_only else report.STUDIES:
        if args.only and study.name not in args.only:
            continue
        if not args.folder and not describe(study.table).shipped:
            print(f"{study.name}: left out, its table is public and no folder is given")
            continue
        start = time.perf_counter()
        table = report.run_study(
            study,
            folder=args.folder,
            work=args.work,
            out=args.out,
            n_jobs=args.n_jobs,
            without=args.without,
            draws=args.draws,
            tune=args.tune,
        )
        pooled = table.xs(report.POOLED, level="block")
        shown = ["relative_error", "regret", "coverage_50", "coverage_95", "log_score",
                 "pair_calibration_error", "converged"]  # fmt: skip
        print(f"{study.name}: {time.perf_counter() - start:.0f} s")
        print(pooled[shown].round(4).to_string(), flush=True)
    tables = report.read_tables(args.out)
    if not tables:
        print(f"no result tables in {args.out}", file=sys.stderr)
        return 1
    report.targets(tables).to_csv(Path(args.out) / "targets.csv", index=False, float_format="%.6g")
    Path(args.page).parent.mkdir(parents=True, exist_ok=True)
    report.plot_page(args.out).savefig(args.page, dpi=110)
    Path(args.page).with_suffix(".md").write_text(report.result_page(tables, args.out))
    text = report.readme_table(tables)
    if not report.write_readme(args.readme, text):
        print(f"{args.readme} has no markers for the table; this is it:\n{text}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
