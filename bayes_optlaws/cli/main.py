"""The command line, ``bayes-optlaws``: from tables in files to the decision.

Exit codes: 0 done, 1 an input that cannot be used, 2 a wrong call, 3 a posterior that did not
converge. Results go to standard output, everything else to standard error, so that ``--json``
can be piped.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bayes_optlaws.cli.budget import allocate, explore, watch
from bayes_optlaws.cli.candidates import candidates
from bayes_optlaws.cli.check import check, init
from bayes_optlaws.cli.law import (
    BAD_INPUT,
    DONE,
    NOT_CONVERGED,
    candidates_of,
    failures_of,
    fit_law,
    law_of,
    quoted,
    say_progress,
    show_progress,
    stages_of,
    warn_unconverged,
)
from bayes_optlaws.cli.output import (
    UsageError,
    free,
    free_figure,
    print_json,
    print_notes,
    print_ranking,
    print_table,
    print_wrapped,
    records,
    save_figure,
    use_file_backend,
    write_csv,
)
from bayes_optlaws.cli.parser import DEMO_CHAINS, parser
from bayes_optlaws.cli.plan import design, evaluate, print_plan, report
from bayes_optlaws.cli.reading import in_options, refusal
from bayes_optlaws.runs.readers import RunTableError, RunTableWarning, read_candidates
from bayes_optlaws.text import files
from bayes_optlaws.text.html import percent
from bayes_optlaws.text.printable import printable


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; default: those of the process.

    Returns
    -------
    int
        0 done, 1 bad input, 2 wrong call, 3 not converged.

    Examples
    --------
    >>> main(["datasets", "paper-table-7"])
    paper-table-7: runs and divergent runs by block of the training grid
    ...
    0
    """
    try:
        arguments = parser().parse_args(argv)
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=RunTableWarning)
        warnings.showwarning = _show_warning
        try:
            return _COMMANDS[arguments.command](arguments)
        except KeyboardInterrupt:
            return _fail("interrupted; nothing was written", code=130)
        except RunTableError as error:
            return _fail(refusal(error))
        except (ImportError, OSError, ValueError) as error:
            # What the package raises names rule and remedy; a traceback would hide them.
            return _fail(error)
        except RuntimeError as error:
            from bayes_optlaws.inference.gate import ConvergenceError

            if isinstance(error, ConvergenceError):
                advice = "on the command line: more --draws and --tune, or --allow-unconverged"
                return _fail(f"{error} ({advice})", code=NOT_CONVERGED)
            raise


def _fail(message: object, *, code: int = BAD_INPUT) -> int:
    lines = (printable(line) for line in str(message).split("\n"))
    print("error: " + "\n".join(lines), file=sys.stderr)
    return code


def _show_warning(message: object, *_: object, **__: object) -> None:
    print(f"warning: {printable(in_options(str(message)))}", file=sys.stderr)


def _fit(arguments: argparse.Namespace) -> int:
    target = free(arguments.output, arguments.force, inputs=[arguments.runs])
    law = fit_law(arguments, Path(arguments.runs))
    law.save(target)
    failed = failures_of(law)
    figures = {name: float(value) for name, value in law.diagnostics.items()}
    if arguments.json:
        print_json(
            {
                "law": str(target),
                "runs": len(law.runs),
                "fitted": len(law.fitted.encoding.finished),
                "converged": not failed,
                "diagnostics": figures,
            }
        )
    else:
        print(f"{law!r}")
        print(f"written to {target}")
        print(f"next: bayes-optlaws rank {quoted(target)} candidates.csv")
    if failed:
        return _fail(
            f"the posterior did not converge ({'; '.join(failed)}). The law was written, but "
            "predict and rank refuse it; fit again with more --draws and --tune",
            code=NOT_CONVERGED,
        )
    return DONE


def _predict(arguments: argparse.Namespace) -> int:
    stages = stages_of(arguments)
    inputs = [arguments.law, arguments.candidates, *stages.values()]
    target = free(arguments.output, arguments.force, inputs=inputs)
    candidates = candidates_of(arguments.candidates, arguments)
    law = law_of(arguments)
    table = law.predict(
        candidates,
        kind=arguments.kind,
        prob=arguments.prob,
        **stages,
        random_seed=arguments.seed or 0,
        allow_unconverged=arguments.allow_unconverged,
    )
    write_csv(table, target)
    if arguments.json:
        print_json(
            {
                "kind": arguments.kind,
                "prob": arguments.prob,
                "divergence_modelled": law.fitted.models_divergence,
                "converged": not failures_of(law),
                "notes": table.attrs["notes"],
                "table": records(table),
            }
        )
        return DONE
    warn_unconverged(law)
    interval = f"{100 * arguments.prob:g} % interval"
    level = "loss"
    if stages and not (table["level"] == "loss").all():
        level = "score"  # no run of this stage was given
    rows = [
        (
            str(label),
            f"{row.score if level == 'score' else row.loss_mean:.4f}",
            "–" if np.isnan(row.loss_lower) else f"{row.loss_lower:.4f} to {row.loss_upper:.4f}",
            percent(row.p_diverge),
            f"{row.extrapolation:.2f}",
        )
        for label, row in zip(table.index, table.itertuples(), strict=True)
    ]
    print_table(["candidate", level, interval, "diverges", "decades beyond the fit"], rows)
    print_notes(table.attrs["notes"])
    return DONE


def _rank(arguments: argparse.Namespace) -> int:
    stages = stages_of(arguments)
    inputs = [arguments.law, arguments.candidates, *stages.values()]
    target = free(arguments.output, arguments.force, inputs=inputs)
    figure = free_figure(arguments.figure, arguments.force, inputs=inputs)
    candidates = candidates_of(arguments.candidates, arguments)
    law = law_of(arguments)
    ranking = law.rank(
        candidates,
        kind=arguments.kind,
        prob=arguments.prob,
        tie=arguments.tie,
        search=not arguments.no_search,
        **stages,
        random_seed=arguments.seed or 0,
        allow_unconverged=arguments.allow_unconverged,
    )
    table = ranking.table
    write_csv(table, target)
    if figure is not None:
        save_figure(ranking, figure)
    if arguments.json:
        print_json(
            {
                "answer": ranking.answer(),
                "headline": ranking.headline,
                "notes": list(ranking.notes),
                "converged": not failures_of(law),
                "divergence_modelled": ranking.divergence_modelled,
                "divergence_cost": ranking.divergence_cost,
                "n_effective": ranking.n_effective,
                "better_setting": None if ranking.better is None else ranking.better.to_dict(),
                "next_runs": None
                if ranking.next_runs is None
                else records(ranking.next_runs.table),
                "kind": ranking.kind,
                "prob": ranking.prob,
                "tie": ranking.tie,
                "resolution": ranking.resolution,
                "table": records(table),
                "flips": records(ranking.flips, index=False),
            }
        )
        return DONE
    warn_unconverged(law)
    print_ranking(ranking)
    return DONE


def _datasets(arguments: argparse.Namespace) -> int:
    from bayes_optlaws import datasets

    if arguments.name is None:
        if arguments.output is not None:
            raise UsageError("-o writes one table: name it, as in `datasets pocket -o runs.csv`")
        known = [datasets.describe(name) for name in datasets.available()]
        if arguments.json:
            print_json(
                [
                    {
                        "name": r.name,
                        "title": r.title,
                        "rows": r.rows,
                        "shipped": r.shipped,
                        "run_table": r.run_table,
                    }
                    for r in known
                ]
            )
            return DONE
        rows = [
            (
                r.name,
                str(r.rows),
                "shipped" if r.shipped else "public",
                "yes" if r.run_table else "no",
                r.title,
            )
            for r in known
        ]
        print_table(["name", "rows", "where", "run table", "what"], rows, left=(0, 2, 3, 4))
        return DONE
    record = datasets.describe(arguments.name)
    target = free(arguments.output, arguments.force, inputs=[])
    if target is not None:
        write_csv(datasets.load(arguments.name), target, index=False)
    if arguments.json:
        fields = ("name", "title", "origin", "licence", "rows", "run_table", "shipped", "caveats")
        print_json({field: getattr(record, field) for field in fields})
    else:
        print(record)
    return DONE


def _demo(arguments: argparse.Namespace) -> int:
    from bayes_optlaws import datasets
    from bayes_optlaws.cli import demo

    folder = Path(arguments.output)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: the demo writes into a folder, give another -o")
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    runs = datasets.load("pocket")
    plan = demo.candidates()
    print(
        textwrap.fill(
            f"The question: a model of {demo.N_PARAMS:,} parameters is to be trained for "
            f"{demo.STEPS:,} steps, four times longer than any run there is. Which of "
            f"{len(plan)} schedules, and how sure are we? Known are {len(runs)} small runs, all "
            "with linear cooldown. (The shipped pocket grid; every loss was measured.)",
            100,
        )
    )
    from bayes_optlaws.law import OptLaw
    from bayes_optlaws.runs.pools import default_pool

    law = OptLaw()
    say_progress(arguments, "fitting ...")
    began = time.perf_counter()
    law.fit(
        runs,
        draws=arguments.draws,
        tune=arguments.tune,
        chains=DEMO_CHAINS,
        random_seed=arguments.seed,
        progressbar=show_progress(arguments),
    )
    fitted = time.perf_counter() - began
    ranking = law.rank(plan, random_seed=arguments.seed)
    print()
    print_ranking(ranking)
    print("\nWhich small runs would help most to decide?\n")
    pool = default_pool(law.runs, read_candidates(plan))
    more = law.design(pool, plan, n_runs=3, random_seed=arguments.seed, progressbar=False)
    print_plan(more, default=True)
    # The demo owns its folder: the same names are written again at each call.
    files.write(folder / "candidates.csv", files.csv_text(plan, index=False))
    files.write(folder / "ranking.csv", files.csv_text(ranking.table))
    files.write(folder / "plan.csv", files.csv_text(more.table, index_label="run"))
    law.save(folder / "law.nc")
    names: list[str] = []
    use_file_backend()
    demo.write_figures(law, ranking, folder, lambda path: names.append(path.name))
    if arguments.report:
        say_progress(arguments, "writing the report ...")
        law.report(plan, path=folder / "report.html", n_runs=3, random_seed=arguments.seed)
        names.append("report.html (the answer on one page: open it in a browser)")
    print()
    print_wrapped(
        f"Written to {folder}: candidates.csv, ranking.csv, plan.csv, law.nc, {', '.join(names)}"
    )
    print(
        f"It took {time.perf_counter() - start:.0f} s, {fitted:.0f} s of them for the fit. "
        "With your own table:"
    )
    print("  bayes-optlaws check runs.csv")
    print("  bayes-optlaws report runs.csv --candidates candidates.csv -o report.html")
    return DONE


_COMMANDS = {
    "demo": _demo,
    "init": init,
    "check": check,
    "candidates": candidates,
    "fit": _fit,
    "predict": _predict,
    "rank": _rank,
    "design": design,
    "report": report,
    "allocate": allocate,
    "watch": watch,
    "explore": explore,
    "evaluate": evaluate,
    "datasets": _datasets,
}


if __name__ == "__main__":
    raise SystemExit(main())
