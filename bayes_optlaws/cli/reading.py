"""Options that say how a table is to be read, the same for every command that reads one."""

from __future__ import annotations

import argparse
import re
import shlex
import textwrap
from collections.abc import Mapping
from typing import Any

import pandas as pd

from bayes_optlaws.runs.conversion import LOSS_UNITS
from bayes_optlaws.runs.faults import RunTableError, abbreviate
from bayes_optlaws.runs.files import load
from bayes_optlaws.runs.readers import read_candidates
from bayes_optlaws.text.numbers import parse

_PAIRS = ("columns", "units", "status", "schedules")
_OF_CANDIDATES = ("sequence_length", "schedules", "cooldown")


def add_reading(p: argparse.ArgumentParser, *, cooldown: bool = True) -> None:
    """Add the options of `bayes_optlaws.read_runs`, that of the cool-down on request."""
    group = p.add_argument_group(
        "reading the table", "names and units of common trainers and trackers are known; "
        "`bayes-optlaws check` shows what is taken for what"
    )  # fmt: skip
    for name, metavar, what in (
        ("columns", "YOURS=OURS", "what your columns are: exp/lr=peak_lr"),
        ("units", "COLUMN=UNIT", "what one unit of a column is: tokens=B, warmup_steps=share"),
        ("status", "WORD=FATE", "diverged, finished or drop: crashed=diverged 'no loss=drop'"),
        ("schedules", "YOURS=OURS", "what your schedule names mean: my-cos=cosine"),
    ):
        group.add_argument(
            f"--{name}", nargs="+", action="extend", type=_pair, metavar=metavar, help=what
        )
    group.add_argument("--loss-unit", choices=LOSS_UNITS, help="unit of the loss (default: nats)")
    numbers = [
        ("sequence-length", "TOKENS", "tokens in a sequence, for a batch in sequences"),
        ("vocab-size", "N", "warn of losses above its logarithm"),
        ("bytes-per-token", "B", "turns bits a byte into nats a token"),
    ]
    if cooldown:
        numbers.append(("cooldown", "SHARE", "of the steps, where wsd rows do not say it: 0.2"))
    for name, metavar, what in numbers:
        group.add_argument(f"--{name}", type=_number, metavar=metavar, help=what)


def reading(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `bayes_optlaws.read_runs` that were given."""
    names = (*_PAIRS, "loss_unit", "sequence_length", "vocab_size", "bytes_per_token", "cooldown")
    given = {name: getattr(arguments, name, None) for name in names}
    return {
        name: dict(value) if name in _PAIRS else value
        for name, value in given.items()
        if value is not None
    }


def read_plan(path: str, arguments: argparse.Namespace) -> pd.DataFrame:
    """Read candidates with the options that concern them."""
    given = reading(arguments)
    options = {name: given[name] for name in _OF_CANDIDATES if name in given}
    frame = load(path)
    for name in ("columns", "units"):
        there = {k: v for k, v in given.get(name, {}).items() if k in frame.columns}
        if there:
            options[name] = there
    # whether the law takes several groups is known once it is loaded, and checked there
    return read_candidates(frame, mixed_groups=True, **options)


def options_of(answers: Mapping[str, object]) -> str:
    """Return arguments of `bayes_optlaws.read_runs` as options of the command line.

    Examples
    --------
    >>> options_of({"cooldown": 0.2, "status": {"no loss": "drop"}, "sequence_length": 2048})
    "--cooldown 0.2 --status 'no loss=drop' --sequence-length 2048"
    """
    words = []
    for name, value in answers.items():
        words.append("--" + name.replace("_", "-"))
        if isinstance(value, Mapping):
            words += [shlex.quote(f"{k}={v}") for k, v in value.items()]
        else:
            words.append(shlex.quote(str(value)))
    return " ".join(words)


_DICT = re.compile(r"\b(columns|units|status|schedules)=\{('[^']*'|\S+): ('[^']*'|[^}]*)\}")
_VALUE = re.compile(r"\b(cooldown|sequence_length|loss_unit|group)=('[^']*'|[\d.]*\d)")


def in_options(text: str) -> str:
    """Return a message with the arguments it names written as options.

    Examples
    --------
    >>> in_options("pass units={'tokens': 'B'} or sequence_length=2048 (tokens in one)")
    'pass --units tokens=B or --sequence-length 2048 (tokens in one)'
    """
    text = _DICT.sub(
        lambda m: f"--{m[1]} " + shlex.quote(f"{m[2].strip(_QUOTE)}={m[3].strip(_QUOTE)}"), text
    )
    return _VALUE.sub(
        lambda m: f"--{m[1].replace('_', '-')} {shlex.quote(m[2].strip(_QUOTE))}", text
    )


_QUOTE = "'"


def refusal(error: RunTableError) -> str:
    """Return the message of a refused table, with options in place of arguments of Python."""
    if not error.answers:
        return in_options(str(error))
    problems = error.problems
    if (problems["row"] == "(table)").all():  # nothing but questions
        lines = ["the table was not read, because it leaves open:"]
        for q in problems.itertuples():
            text = f"{abbreviate(q.column)} ({abbreviate(q.value)}): {q.rule}; {q.remedy}"
            lines.append(
                textwrap.fill(
                    in_options(text), 98, break_on_hyphens=False, break_long_words=False,
                    initial_indent="  - ", subsequent_indent="    ",
                )
            )  # fmt: skip
    else:
        lines = [in_options(error.listing)]
    return "\n".join([*lines, f"To read it as proposed, add: {options_of(error.answers)}"])


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.rpartition("=")
    if not sign or not name or not value:
        raise argparse.ArgumentTypeError(
            f"{text}: write NAME=VALUE (and name the table before this option)"
        )
    return name, value


def _number(text: str) -> float:
    value = parse(text, grouped=True)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: give a positive number")
    return int(value) if value == int(value) else value
