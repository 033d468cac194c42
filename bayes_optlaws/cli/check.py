"""The commands ``check`` and ``init``: what a table is read as, and a table to begin with."""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from bayes_optlaws.cli.law import BAD_INPUT, DONE, fit_law, quoted
from bayes_optlaws.cli.output import (
    UsageError,
    free,
    print_json,
    print_notes,
    print_table,
    print_wrapped,
    records,
    tidy,
    write_csv,
)
from bayes_optlaws.cli.reading import reading
from bayes_optlaws.inference.odd_runs import odd_sentence
from bayes_optlaws.runs.mapping import ColumnMapping, assumptions, suggest_mapping
from bayes_optlaws.runs.overview import moved_together, overview, varying
from bayes_optlaws.runs.readers import RunTableError, read_runs
from bayes_optlaws.text import files
from bayes_optlaws.text.numbers import short

_CELLS_SHOWN = 12


def check(arguments: argparse.Namespace) -> int:
    """Say what each column is taken for, what is in the table, and what it cannot teach."""
    target = free(arguments.output, arguments.force, inputs=[arguments.runs])
    options = reading(arguments)
    mapping = suggest_mapping(
        arguments.runs, **{k: v for k, v in options.items() if k != "vocab_size"}
    )
    if not arguments.json:
        _print_mapping(mapping)
    try:
        mixed = arguments.groups is not None
        runs = read_runs(arguments.runs, group=arguments.group, mixed_groups=mixed, **options)
    except RunTableError as error:
        if not arguments.json:
            raise
        problems = error.problems.astype(object)
        print_json(
            {
                "ok": False,
                "problems": records(problems),
                "answers": error.answers,
                "columns": records(mapping.table, index=False),
            }
        )
        return BAD_INPUT
    if target is not None:
        write_csv(tidy(runs), target, index=False)
    finished = runs[~runs["diverged"]]
    cells = finished.groupby(["n_params", "tokens"]).size()
    varies = varying(runs)
    odd = _odd(arguments) if arguments.fit else None
    if arguments.json:
        print_json(
            {
                "ok": True,
                "runs": len(runs),
                "diverged": int(runs["diverged"].sum()),
                "cells": len(cells),
                "varies": varies,
                "moved_together": moved_together(runs),
                "notes": runs.attrs["notes"],
                "columns": records(mapping.table, index=False),
                "unused": mapping.unused["column"].tolist(),
            }
            | ({} if odd is None else {"odd_runs": records(odd, index=False)})
        )
        return DONE
    print(f"{len(runs)} runs, {int(runs['diverged'].sum())} diverged: the table is valid.\n")
    lines = overview(runs)
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        print(f"  {name:<{width}}  {text}")
    _print_cells(cells)
    print(f"Varies among finished runs: {', '.join(varies) or 'nothing'}.")
    missing = [name for name in ("peak_lr", "warmup_steps") if name not in varies]
    if missing:
        print(f"Nothing can be learned about {' and '.join(missing)}: every run has the same.")
    for a, b in moved_together(runs):
        print_wrapped(
            f"{a} and {b} change only together: what each does alone cannot be learned; runs that "
            "change one of them by itself would tell."
        )
    unused = [str(c) for c in mapping.unused["column"]]
    if unused:
        shown = ", ".join(unused[:12]) + (f" and {len(unused) - 12} more" * (len(unused) > 12))
        print_wrapped(f"Columns that play no part: {shown}.")
    print_notes(assumptions(runs), title="As the table was read:")
    if odd is not None:
        named = odd_sentence(odd.set_index("run_id")) if len(odd) else None
        print_wrapped(named or "No run is contradicted by the others.")
    if target is not None:
        print(f"next: bayes-optlaws rank {quoted(target)} candidates.csv")
    return DONE


def _odd(arguments: argparse.Namespace) -> pd.DataFrame:
    """Runs that the others contradict, after a fit."""
    with warnings.catch_warnings():  # said in the answer
        warnings.simplefilter("ignore", UserWarning)
        return fit_law(arguments, Path(arguments.runs)).odd_runs().reset_index()


def _print_mapping(mapping: ColumnMapping) -> None:
    """Show the columns, unless all are as the run table has them."""
    table = mapping.table
    plain = (table["column"] == table["taken_as"]) & (table["conversion"] == "")
    if plain.all():
        return
    rows = [
        (str(r.column), r.taken_as, r.conversion, r.example, r.read_as,
         f"{100 * r.confidence:.0f} %")
        for r in table.itertuples()
    ]  # fmt: skip
    heads = ["your column", "read as", "how", "for example", "becomes", "sure"]
    print_table(heads, rows, left=(0, 1, 2))
    print()


def _print_cells(cells: pd.Series) -> None:
    print(f"\n{len(cells)} (n_params, tokens) cells" + (":" if len(cells) <= _CELLS_SHOWN else "."))
    if len(cells) <= _CELLS_SHOWN:
        for (n_params, tokens), k in cells.items():
            print(f"  N = {short(n_params):<6} tokens = {short(tokens):<6} {k} finished runs")


def init(arguments: argparse.Namespace) -> int:
    """Write a run table, candidates and a notebook that runs on them."""
    from bayes_optlaws import datasets
    from bayes_optlaws.cli import demo

    folder = Path(arguments.folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: give the name of a folder")
    names = ("runs.csv", "candidates.csv", "first-ranking.ipynb")
    runs_at, plan_at, book_at = (free(str(folder / n), arguments.force, inputs=[]) for n in names)
    columns = ["run_id", "n_params", "tokens", "batch_tokens", "peak_lr", "warmup_steps",
               "schedule", "final_loss", "diverged"]  # fmt: skip
    runs = datasets.load("pocket")[columns]
    whole = {name: runs[name].astype(np.int64) for name in columns[1:4] + columns[5:6]}
    files.write(runs_at, files.csv_text(runs.assign(**whole), index=False))
    files.write(plan_at, files.csv_text(demo.candidates(), index=False))
    files.write(book_at, json.dumps(notebook(), indent=1) + "\n")
    print(f"written to {folder}: {', '.join(names)}")
    print_wrapped(
        "runs.csv is the shipped grid, 260 small runs that were really trained: put your own rows "
        "in their place, or take your tracker's export as it is. candidates.csv holds the runs "
        "among which to choose."
    )
    print("next:")
    print(f"  bayes-optlaws check {quoted(runs_at)}")
    print(f"  bayes-optlaws rank {quoted(runs_at)} {quoted(plan_at)}")
    print(f"  jupyter lab {quoted(book_at)}")
    return DONE


def notebook() -> dict[str, object]:
    """Return a notebook from a run table to a decision, in the format of Jupyter."""
    cells = [
        (
            "markdown",
            "# First ranking\n\nFrom a table of small runs to the schedule of a large one. "
            "`runs.csv` may be your tracker's export: the next cell shows what each of its columns "
            "is taken for.",
        ),
        ("code", 'import bayes_optlaws as bo\n\nbo.suggest_mapping("runs.csv")'),
        ("code", 'runs = bo.read_runs("runs.csv")\nruns.attrs["notes"]'),
        ("markdown", "The fit takes some seconds; a law can be saved and loaded again."),
        (
            "code",
            "law = bo.OptLaw()\nlaw.fit(runs, random_seed=1)",
        ),
        ("code", 'ranking = law.rank("candidates.csv")\nranking'),
        ("code", "ranking.plot()"),
        ("markdown", "Which small runs would help most to choose?"),
        ("code", 'law.design(decide="candidates.csv", n_runs=3)'),
    ]
    return {
        "cells": [
            {"cell_type": kind, "id": f"cell-{i}", "metadata": {}, "source": source}
            | ({"outputs": [], "execution_count": None} if kind == "code" else {})
            for i, (kind, source) in enumerate(cells)
        ],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
