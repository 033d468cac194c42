"""What several commands need of a law: to fit or load it, to say what it does not know."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bayes_optlaws.cli.output import UsageError, note
from bayes_optlaws.cli.reading import read_plan, reading
from bayes_optlaws.runs.readers import read_runs

if TYPE_CHECKING:
    from bayes_optlaws.law import OptLaw

DONE, BAD_INPUT, WRONG_CALL, NOT_CONVERGED = 0, 1, 2, 3
"""Exit codes."""
TABLES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".parquet")
"""Endings of run tables; any other file is taken for a law."""


def fit_law(arguments: argparse.Namespace, source: Path) -> OptLaw:
    """Fit a law to a run table, with the options of the call."""
    options = law_options(arguments)
    runs = read_runs(
        source, group=arguments.group, mixed_groups=options["groups"] is not None,
        **reading(arguments),
    )  # fmt: skip
    from bayes_optlaws.law import OptLaw

    law = OptLaw(**options)
    say_progress(arguments, f"fitting {len(runs)} runs ...")
    return law.fit(
        runs,
        draws=arguments.draws,
        tune=arguments.tune,
        chains=arguments.chains,
        random_seed=arguments.seed,
        progressbar=show_progress(arguments),
    )


def law_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Options of `bayes_optlaws.OptLaw` that the call names."""
    pairs = [word.partition("=") for word in arguments.covariates or ()]
    return {
        "transfer": not arguments.no_transfer,
        "exponents": arguments.exponents,
        "covariates": {name: kind or "auto" for name, _, kind in pairs} or None,
        "groups": arguments.groups,
    }


def law_of(arguments: argparse.Namespace) -> OptLaw:
    """Load a law, or fit one where a run table is given in its place."""
    source = Path(arguments.law)
    if source.suffix.lower() in TABLES:
        return fit_law(arguments, source)
    from bayes_optlaws.law import OptLaw

    return OptLaw.load(source)


def candidates_of(path: str, arguments: argparse.Namespace) -> pd.DataFrame:
    """Read candidates, named by their ``run_id`` where the table gives it."""
    table = read_plan(path, arguments)
    return table.set_index(pd.Index(table["run_id"], name=None))


def stages_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Tables of earlier and of later stages, where the call names them, as options of the law."""
    given = {"history": arguments.history, "stage_runs": arguments.stage_runs}
    if arguments.history is None and arguments.stage_runs is not None:
        raise UsageError(
            "--stage-runs without --history: name the stages that the candidates continue"
        )
    return {name: Path(path) for name, path in given.items() if path is not None}


def failures_of(law: OptLaw) -> list[str]:
    """Return what of the convergence gate fails, in words."""
    return law.fitted.failures


def warn_unconverged(law: OptLaw) -> None:
    """Say on standard error that the numbers are not to be used, where that is so."""
    failed = failures_of(law)
    if failed:
        note(f"warning: UNCONVERGED, do not decide by these numbers: {'; '.join(failed)}")


def show_progress(arguments: argparse.Namespace) -> bool:
    """Whether somebody watches, and a progress bar is welcome."""
    quiet = getattr(arguments, "quiet", False) or getattr(arguments, "json", False)
    return sys.stderr.isatty() and sys.stdout.isatty() and not quiet


def say_progress(arguments: argparse.Namespace, text: str) -> None:
    """Say on standard error what takes its time, unless ``--quiet``."""
    if not arguments.quiet:
        note(text)


def quoted(path: Path) -> str:
    """Return a path as a shell takes it."""
    return shlex.quote(str(path))
