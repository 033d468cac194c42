"""The command line's words: commands, options and the help that explains them."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from bayes_optlaws import __version__

DRAWS, TUNE, CHAINS = 1000, 500, 4
DEMO_TUNE = 300

_COLUMNS = """\
columns of a run table, one row a finished run:
  run_id                 name, unique (made from the row's position when absent)
  n_params               parameters of the model
  tokens, batch_tokens   trained tokens, tokens per optimizer step (or give steps)
  peak_lr                highest learning rate
  warmup_steps           optimizer steps of linear warm-up, 0 for none
  schedule               linear, cosine, wsd, wsd-sqrt, polygon, constant
  cooldown_start_step    for wsd, wsd-sqrt and polygon: where the cooldown starts
  min_lr                 learning rate at the end, 0 when absent
  final_loss             nats per token
  diverged               true or false; final_loss may be empty where true
A candidate table is the same without final_loss and diverged. Other columns are kept.
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; ``command`` names the one that was called."""
    raw = argparse.RawDescriptionHelpFormatter
    whole = argparse.ArgumentParser(
        prog="bayes-optlaws",
        formatter_class=raw,
        description=(
            "Predict and rank learning-rate schedules from a table of small training runs,\n"
            "with uncertainty that grows where there are no runs."
        ),
        epilog=(
            "a first session:\n"
            "  bayes-optlaws demo                               the whole way on shipped runs\n"
            "  bayes-optlaws datasets pocket -o runs.csv        a table to look at\n"
            "  bayes-optlaws check runs.csv                     is my table all right?\n"
            "  bayes-optlaws fit runs.csv -o law.nc             fit once\n"
            "  bayes-optlaws rank law.nc candidates.csv         ... and ask often\n\n"
            f"{_COLUMNS}\n"
            "exit codes: 0 done, 1 input that cannot be used, 2 wrong call, 3 not converged"
        ),
    )
    whole.add_argument("--version", action="version", version=f"bayes-optlaws {__version__}")
    commands = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, summary: str, more: str = "") -> argparse.ArgumentParser:
        description = f"{summary[0].upper()}{summary[1:]}.\n\n{more}".strip()
        added = commands.add_parser(
            name, help=summary, description=description, formatter_class=raw
        )
        added.set_defaults(command=name)
        return added

    p = command(
        "demo",
        "fit the shipped grid, rank schedules at a larger budget",
        "Prints the answer and writes table, law and figures into a folder of its own.",
    )
    p.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        default="bayes_optlaws_demo",
        help="folder (default: %(default)s); files of an earlier demo are replaced",
    )
    _add_sampling(p, seed=1, tune=DEMO_TUNE)

    p = command(
        "check",
        "check a run table and say what can be learned from it",
        f"Lists every fault of every row, with rule and remedy.\n\n{_COLUMNS}",
    )
    p.add_argument("runs", metavar="RUNS.csv")
    _add_group(p)
    _add_json(p)

    p = command("fit", "fit a law to a run table and save it", _COLUMNS)
    p.add_argument("runs", metavar="RUNS.csv")
    p.add_argument("-o", "--output", metavar="LAW.nc", required=True, help="where to save the law")
    _add_force(p)
    _add_fit(p)
    _add_json(p)

    p = command(
        "predict",
        "predict the final loss of every candidate",
        "A run table in place of LAW.nc is fitted first.",
    )
    _add_question(p)

    p = command(
        "rank",
        "rank candidates: which is best, how sure, which are a tie",
        "A run table in place of LAW.nc is fitted first.",
    )
    _add_question(p)
    p.add_argument(
        "--tie",
        type=float,
        metavar="NATS",
        help="losses this close make no difference (default: the noise of a run)",
    )
    p.add_argument(
        "--figure",
        metavar="FILE.png",
        nargs="?",
        const="ranking.png",
        help="draw the ranks and losses (png, pdf or svg; default name ranking.png)",
    )

    p = command("datasets", "list the tables that are shipped or known, or describe one")
    p.add_argument("name", nargs="?")
    p.add_argument("-o", "--output", metavar="FILE.csv", help="write the table to a file")
    _add_force(p)
    _add_json(p)
    return whole


def _probability(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not 0.5 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a probability from 0.5 to below 1")
    return value


def _at_least(least: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text}: give a whole number of at least {least}")
        return value

    return convert


def _add_sampling(p: argparse.ArgumentParser, *, seed: int | None = None, tune: int = TUNE) -> None:
    p.add_argument(
        "--seed",
        type=_at_least(0),
        default=seed,
        metavar="N",
        help="same seed and tables, same numbers",
    )
    p.add_argument(
        "--draws",
        type=_at_least(100),
        default=DRAWS,
        metavar="N",
        help="posterior draws of each of the chains (default: %(default)s)",
    )
    p.add_argument(
        "--tune",
        type=_at_least(50),
        default=tune,
        metavar="N",
        help="tuning steps before them (default: %(default)s)",
    )
    p.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_fit(p: argparse.ArgumentParser) -> None:
    _add_sampling(p)
    p.add_argument(
        "--chains", type=_at_least(2), default=CHAINS, metavar="N", help="default: %(default)s"
    )
    _add_group(p)
    p.add_argument(
        "--no-transfer",
        action="store_true",
        help="do not let the law be wrong: faster, and too sure beyond the runs",
    )
    p.add_argument(
        "--exponents", metavar="PRESET", help="candidate exponents; `paper` for those of the paper"
    )


def _add_question(p: argparse.ArgumentParser) -> None:
    p.add_argument("law", metavar="LAW.nc", help="saved law, or a run table to fit first")
    p.add_argument("candidates", metavar="CANDIDATES.csv", help="planned runs, one row each")
    p.add_argument(
        "--kind",
        choices=("new_run", "mean"),
        default="new_run",
        help="one new run, seed noise included, or the average over seeds",
    )
    p.add_argument(
        "--prob",
        type=_probability,
        default=0.9,
        metavar="P",
        help="probability of the intervals and of a decided pair (default: 0.9)",
    )
    p.add_argument("-o", "--output", metavar="FILE.csv", help="write the table to a file as well")
    p.add_argument(
        "--allow-unconverged",
        action="store_true",
        help="show results of a posterior that did not converge, marked so",
    )
    _add_force(p)
    _add_json(p)
    _add_fit(p)


def _add_group(p: argparse.ArgumentParser) -> None:
    p.add_argument("--group", help="use only the rows of this group (data, tokenizer, model)")


def _add_json(p: argparse.ArgumentParser) -> None:
    p.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_force(p: argparse.ArgumentParser) -> None:
    p.add_argument("--force", action="store_true", help="replace output files that exist")
