"""The command ``candidates``: settings crossed to the table among which to choose."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from bayes_optlaws.cli.law import DONE, quoted
from bayes_optlaws.cli.output import (
    UsageError,
    free,
    print_json,
    print_table,
    records,
    tidy,
    write_csv,
)
from bayes_optlaws.cli.reading import reading
from bayes_optlaws.runs.candidates import candidates as cross
from bayes_optlaws.runs.readers import read_runs
from bayes_optlaws.text.numbers import count, parse, rate, short

SETTINGS = {
    "n_params": ("N", "parameters of the model: 1.5B"),
    "tokens": ("D", "trained tokens: 30B"),
    "batch_tokens": ("B", "tokens a step: 1M"),
    "peak_lr": ("LR", "peak learning rates: 5e-4 1e-3 2e-3"),
    "warmup": ("W", "warm-up: below 1 a share of the steps, else steps: 0.02 2000"),
    "schedule": ("NAME", "linear, cosine, wsd, wsd-sqrt, constant"),
    "cooldown": ("SHARE", "of the steps spent cooling down, for wsd (default: 0.2)"),
    "min_lr_share": ("SHARE", "last learning rate over the peak (default: 0)"),
}
"""Options, as `bayes_optlaws.candidates` has them: letter or word, and what they are."""

_SHOWN: dict[str, tuple[str, Callable[[Any], str]]] = {
    "n_params": ("parameters", short), "tokens": ("tokens", short),
    "batch_tokens": ("batch", short), "steps": ("steps", count), "peak_lr": ("peak LR", rate),
    "warmup_steps": ("warm-up", count), "schedule": ("schedule", str),
}  # fmt: skip


def candidates(arguments: argparse.Namespace) -> int:
    """Cross settings, and write or print the candidates."""
    inputs = [] if arguments.base is None else [arguments.base]
    target = free(arguments.output, arguments.force, inputs=inputs)
    given = {name: getattr(arguments, name) for name in SETTINGS}
    varied: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    plan = cross(_base(arguments), **varied)
    # what follows from the schedule is left out, so that the rows can be edited
    stable = plan["schedule"].str.startswith("wsd")
    start = plan["cooldown_start_step"].where(stable)
    table = tidy(plan.drop(columns=["decay_end_step", "plateau_lr", "cooldown_start_step"]))
    if stable.any():
        table["cooldown_start_step"] = start.round().astype("Int64")
    write_csv(table, target, index=False)
    if arguments.json:
        print_json({"candidates": records(table, index=False)})
        return DONE
    shown = [name for name in _SHOWN if name in plan]
    rows = [
        (str(row["run_id"]), *(_SHOWN[name][1](row[name]) for name in shown))
        for _, row in plan.iterrows()
    ]
    print_table(["candidate", *(_SHOWN[name][0] for name in shown)], rows)
    if target is not None:
        runs = "runs.csv" if arguments.base is None else quoted(Path(arguments.base))
        print(f"next: bayes-optlaws rank {runs} {quoted(target)}")
    return DONE


def _base(arguments: argparse.Namespace) -> pd.Series | dict[str, object]:
    """The run whose settings all candidates share, where one is named."""
    if arguments.base is None:
        if arguments.run is not None:
            raise UsageError("--run without --base: name the run table that it is in")
        needed = ("n_params", "tokens", "batch_tokens", "peak_lr", "warmup", "schedule")
        absent = [n for n in needed if getattr(arguments, n) is None]
        if absent:
            words = ", ".join("--" + n.replace("_", "-") for n in absent)
            raise UsageError(f"give {words}, or --base RUNS.csv for those of a run")
        return {}
    options: dict[str, Any] = reading(arguments)
    if arguments.cooldown is not None:  # here a list of settings; wsd rows of the base have one
        options["cooldown"] = parse(arguments.cooldown[0])
    runs = read_runs(Path(arguments.base), group=arguments.group, **options)
    if arguments.run is None:
        largest = runs[~runs["diverged"]].sort_values(["n_params", "tokens", "final_loss"],
                                                      ascending=[False, False, True])  # fmt: skip
        return largest.iloc[0]
    found = runs[runs["run_id"] == arguments.run]
    if len(found) != 1:
        raise UsageError(f"{arguments.base} has {len(found)} runs named {arguments.run}: give one")
    return found.iloc[0]
