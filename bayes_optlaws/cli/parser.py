"""The command line's words: commands, options and the help that explains them."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from bayes_optlaws import __version__
from bayes_optlaws.cli.candidates import SETTINGS
from bayes_optlaws.cli.examples import CALLS, COLUMNS, EXIT_CODES
from bayes_optlaws.cli.reading import add_reading
from bayes_optlaws.evaluation.splits import PROTOCOLS

DRAWS, TUNE, CHAINS = 500, 150, 4
DEMO_CHAINS, DEMO_DRAWS = 2, 1300
"""Of the demonstration: one chain for each of two cores, and draws to make up for the others."""

EVALUATION_DRAWS = 500
OBJECTIVES = ("regret", "information", "variance")
"""As `bayes_optlaws.decision.design.OBJECTIVES`, whose module takes long to import."""


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
            "  bayes-optlaws init                               tables and a notebook for a start\n"
            "  bayes-optlaws check export.csv -o runs.csv       is my table all right?\n"
            "  bayes-optlaws candidates --base runs.csv --peak-lr 1e-3 2e-3 -o candidates.csv\n"
            "  bayes-optlaws fit runs.csv -o law.nc             fit once\n"
            "  bayes-optlaws rank law.nc candidates.csv         ... and ask often\n"
            "  bayes-optlaws design law.nc --decide candidates.csv    which runs to add\n"
            "  bayes-optlaws report law.nc --candidates candidates.csv -o report.html\n"
            "  bayes-optlaws allocate law.nc --flops 1e21       how large a model?\n"
            "  bayes-optlaws explore law.nc                     a page with sliders: what if\n"
            "  bayes-optlaws watch law.nc curve.csv --candidate run.csv   go on, or stop it?\n"
            "  bayes-optlaws evaluate runs.csv                  is it right about my runs?\n\n"
            f"{COLUMNS}\n"
            f"{EXIT_CODES}"
        ),
    )
    whole.add_argument("--version", action="version", version=f"bayes-optlaws {__version__}")
    commands = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, summary: str, more: str = "") -> argparse.ArgumentParser:
        description = f"{summary[0].upper()}{summary[1:]}.\n\n{more}".strip()
        call, example = CALLS[name]
        added = commands.add_parser(
            name,
            help=summary,
            usage=f"bayes-optlaws {name} {call}".strip(),
            description=description,
            epilog=f"example:\n  bayes-optlaws {name} {example}\n\n{EXIT_CODES}",
            formatter_class=raw,
        )
        added.set_defaults(command=name)
        return added

    p = command(
        "demo",
        "fit the shipped grid, rank schedules at a larger budget, plan runs",
        "Prints the answer and writes table, law and figures into a folder of its own.",
    )
    p.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        default="bayes_optlaws_demo",
        help="folder (default: %(default)s); files of an earlier demo are replaced",
    )
    p.add_argument("--report", action="store_true", help="write report.html too (some seconds)")
    _add_sampling(p, seed=2, draws=DEMO_DRAWS)

    p = command(
        "init",
        "write a run table, candidates and a notebook to begin with",
        "The table is the shipped grid; put your own rows in its place.",
    )
    p.add_argument("folder", nargs="?", default="bayes_optlaws_start", metavar="DIR")
    _add_force(p)

    p = command(
        "check",
        "check a run table or a tracker's export and say what can be learned from it",
        "Shows what each column is taken for and lists every fault, with rule and remedy. With -o\n"
        "the clean table is written. It ends with 0 when the table can be fitted as it is, with 1\n"
        f"when something must be mended or answered first.\n\n{COLUMNS}",
    )
    p.add_argument("runs", metavar="RUNS.csv")
    p.add_argument("-o", "--output", metavar="CLEAN.csv", help="write the table as it is read")
    p.add_argument(
        "--fit",
        action="store_true",
        help="also fit a law, and name the runs that the others contradict",
    )
    _add_force(p)
    _add_fit(p)
    _add_json(p)

    _add_candidates(command)

    p = command("fit", "fit a law to a run table and save it", COLUMNS)
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
    _add_question(p, kind="new_run")

    p = command(
        "rank",
        "rank candidates: which is best, how sure, which are a tie",
        "A run table in place of LAW.nc is fitted first.",
    )
    _add_question(p, kind="mean")
    _add_tie(p)
    _add_search(p)
    _add_figure(p, "the ranks and losses", "ranking.png")

    _add_plan_commands(command)
    _add_budget_commands(command)

    p = command("datasets", "list the tables that are shipped or known, or describe one")
    p.add_argument("name", nargs="?")
    p.add_argument("-o", "--output", metavar="FILE.csv", help="write the table to a file")
    _add_force(p)
    _add_json(p)
    return whole


def _add_candidates(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command that crosses settings."""
    p = command(
        "candidates",
        "cross settings to a table of candidates",
        "Every combination of what is given is one candidate, named by what differs. What is not\n"
        "given is that of a run of --base: its largest and best, or the one of --run.",
    )
    for name, (metavar, what) in SETTINGS.items():
        p.add_argument(f"--{name.replace('_', '-')}", nargs="+", metavar=metavar, help=what)
    p.add_argument("--base", metavar="RUNS.csv", help="run table that gives the other settings")
    p.add_argument("--run", metavar="RUN_ID", help="run of --base")
    p.add_argument("-o", "--output", metavar="FILE.csv", help="write the candidates")
    _add_group(p)
    _add_force(p)
    _add_json(p)
    add_reading(p, cooldown=False)


def _add_plan_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands that say what to run next, write the page and test the law."""
    p = command(
        "design",
        "propose the small runs that would help most to choose among candidates",
        "The worth of a run is what its outcome is expected to take off the regret of the choice.\n"
        "Cheap runs at small scale often help as much as expensive ones: the order of\n"
        "candidates is what has to be learned, not their losses. A run table in place of LAW.nc\n"
        "is fitted first.",
    )
    p.add_argument("law", metavar="LAW.nc", help="saved law, or a run table to fit first")
    p.add_argument(
        "--decide", "--candidates", metavar="CANDIDATES.csv", required=True,
        help="planned large runs among which to choose, one row each",
    )  # fmt: skip
    p.add_argument(
        "--pool",
        metavar="POOL.csv",
        help="runs that could be made, one row each, columns as of candidates (default: runs like "
        "those of the table, also with the candidates' schedules; with --history: the candidates, "
        "whole and shorter)",
    )
    p.add_argument(
        "--n-runs", type=_at_least(1), default=5, metavar="N", help="most runs (default: 5)"
    )
    p.add_argument(
        "--budget",
        type=_positive,
        metavar="COST",
        help="most that all proposed runs together may cost, as 3e18 FLOP",
    )
    p.add_argument(
        "--cost",
        default="flops",
        metavar="COLUMN",
        help="`flops` (6 N D, the default), a column of the pool, or `none`: every run costs 1",
    )
    p.add_argument(
        "--objective",
        choices=OBJECTIVES,
        default=OBJECTIVES[0],
        help="what a run is worth (default: regret)",
    )
    p.add_argument(
        "--fill",
        action="store_true",
        help="also propose runs that add next to nothing, up to --n-runs",
    )
    _add_stages(p)
    _add_figure(p, "worth against cost", "plan.png")
    _add_result(p)

    p = command(
        "report",
        "write one HTML page: the answer, next runs, checks, posterior",
        "The page holds its figures, opens offline and prints. Without candidates it ranks a\n"
        "small grid of settings at the largest scale of the table. A run table in place of LAW.nc\n"
        "is fitted first.",
    )
    p.add_argument("law", metavar="LAW.nc", help="saved law, or a run table to fit first")
    p.add_argument("--candidates", metavar="CANDIDATES.csv", help="planned runs, one row each")
    p.add_argument("--pool", metavar="POOL.csv", help="runs that could be made next")
    p.add_argument(
        "--n-runs", type=_at_least(0), default=5, metavar="N",
        help="runs to propose, 0 for none (default: 5)",
    )  # fmt: skip
    p.add_argument(
        "--explore", action="store_true",
        help="also write a page with sliders beside it, as `explore` does (report-explore.html)",
    )  # fmt: skip
    _add_stages(p)
    _add_kind(p, "mean")
    _add_tie(p)
    _add_search(p)
    _add_result(p, output="report.html")

    p = command(
        "evaluate",
        "test the law on runs that are held out of the fit",
        "Refits without a part of the runs and compares what is predicted with what came out.\n"
        "`hold-out-largest-n` and `hold-out-largest-d` ask what extrapolation is worth; fold by\n"
        "fold inside every (size, tokens) block is the easiest. Each refit takes as long as a fit.",
    )
    p.add_argument("runs", metavar="RUNS.csv")
    p.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="hold-out-largest-n",
        help="what is held out (default: %(default)s)",
    )
    p.add_argument(
        "--k", type=_at_least(2), default=5, metavar="N", help="folds of kfold-within-block"
    )
    p.add_argument(
        "--baselines",
        nargs="*",
        metavar="NAME",
        help="rivals (default: chinchilla, and gaussian-process where scikit-learn is installed; "
        "none: --baselines with nothing)",
    )
    p.add_argument("--n-jobs", type=_at_least(1), default=1, metavar="N", help="processes")
    p.add_argument(
        "--folder", metavar="DIR", help="keep each refit there; a run broken off goes on from it"
    )
    p.add_argument("-o", "--output", metavar="FILE.csv", help="write all metrics by block")
    _add_force(p)
    _add_json(p)
    p.add_argument(
        "--method",
        choices=("importance", "nuts"),
        default="importance",
        help="how refits are sampled (default: %(default)s, a tenth of the time)",
    )
    _add_fit(p, draws=EVALUATION_DRAWS)


def _add_budget_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands of a budget, of a run in progress, and of the page with sliders."""
    law = "saved law, or a run table to fit first"
    p = command(
        "allocate",
        "split a compute budget between model size and tokens",
        "Compares model sizes along the budget, each with its best settings, and says which are\n"
        "tied with the best and how the best size grows with compute.",
    )
    p.add_argument("law", metavar="LAW.nc", help=law)
    budget = p.add_mutually_exclusive_group(required=True)
    budget.add_argument("--flops", type=_positive, metavar="C", help="FLOP, counted as 6 N D")
    budget.add_argument(
        "--gpu-hours", type=_positive, metavar="H", help="with --flops-per-second of one GPU"
    )
    budget.add_argument(
        "--tokens", type=_positive, metavar="D", help="tokens that every size is trained on"
    )
    p.add_argument(
        "--flops-per-second", type=_positive, metavar="F", help="sustained, as 4e14"
    )  # fmt: skip
    p.add_argument(
        "--batch-tokens", type=_positive, nargs="+", metavar="B",
        help="tokens a step; of several the best is chosen (default: the table's median)",
    )  # fmt: skip
    p.add_argument("--n-params", type=_positive, nargs="+", metavar="N", help="sizes to compare")
    p.add_argument("--families", nargs="+", metavar="NAME", help="schedules (default: the table's)")
    p.add_argument(
        "--max-risk", type=_positive, default=0.05, metavar="P",
        help="highest risk of divergence that settings may have (default: 0.05)",
    )  # fmt: skip
    _add_prob(p)
    _add_tie(p)
    _add_figure(p, "loss over model size", "isoflop.png")
    p.add_argument("--frontier", metavar="FILE.png", help="draw the best size over compute")
    _add_result(p)

    p = command(
        "watch",
        "a run in progress: where it will end, and whether to stop it",
        "CURVE.csv has the columns step (optimizer steps done) and loss (nats a token), in order.",
    )
    p.add_argument("law", metavar="LAW.nc", help=law)
    p.add_argument("curve", metavar="CURVE.csv")
    p.add_argument(
        "--candidate", metavar="RUN.csv", required=True, help="settings of the run, one row"
    )
    p.add_argument("--run", metavar="ID", help="its run_id, where that table has several rows")
    p.add_argument("--others", metavar="CANDIDATES.csv", help="those it competes with")
    p.add_argument("--target", type=_positive, metavar="LOSS", help="loss that it has to reach")
    p.add_argument(
        "--shift", type=float, nargs="+", default=[0.0], metavar="NATS",
        help="the curve's loss minus the run table's, as training minus validation; then its sd",
    )  # fmt: skip
    p.add_argument("--step-column", default="step", metavar="NAME")
    p.add_argument("--loss-column", default="loss", metavar="NAME")
    p.add_argument(
        "--threshold", type=_positive, default=0.05, metavar="P",
        help="stop where it is worth finishing with less than this probability (default: 0.05)",
    )  # fmt: skip
    p.add_argument("--flops-per-second", type=_positive, metavar="F", help="to say GPU hours")
    _add_prob(p)
    _add_tie(p)
    _add_figure(p, "the curve and its end", "watch.png")
    _add_result(p)

    p = command(
        "explore",
        "write a page with sliders: what if the run were larger, longer, hotter",
        "One HTML file that opens offline and computes from posterior draws inside it. The\n"
        "baseline is the first row of --candidate, by default the best run of the largest scale.",
    )
    p.add_argument("law", metavar="LAW.nc", help=law)
    p.add_argument("--candidate", metavar="RUN.csv", help="baseline: its first row")
    p.add_argument(
        "--page-draws", type=_at_least(50), default=300, metavar="N",
        help="posterior draws in the page (default: 300)",
    )  # fmt: skip
    _add_prob(p)
    _add_result(p, output="explore.html")


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not 0 < value < np.inf:
        raise argparse.ArgumentTypeError(f"{text}: give a positive number")
    return value


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


def _add_sampling(
    p: argparse.ArgumentParser, *, seed: int | None = None, tune: int = TUNE, draws: int = DRAWS
) -> None:
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
        default=draws,
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
    p.add_argument("--quiet", action="store_true", help="say nothing of progress")


def _add_fit(p: argparse.ArgumentParser, *, draws: int = DRAWS) -> None:
    _add_sampling(p, draws=draws)
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
    p.add_argument(
        "--covariates", nargs="+", action="extend", metavar="COLUMN[=KIND]",
        help="further columns that the loss depends on: weight_decay optimizer beta2=log(1-x); "
        "a kind is log, linear, log(1-x) or category (default: by the values)",
    )  # fmt: skip
    p.add_argument(
        "--groups", choices=["pooled"],
        help="fit all groups of the table together: levels apart, slopes as far as they agree",
    )  # fmt: skip
    add_reading(p)


def _add_question(p: argparse.ArgumentParser, *, kind: str) -> None:
    p.add_argument("law", metavar="LAW.nc", help="saved law, or a run table to fit first")
    p.add_argument("candidates", metavar="CANDIDATES.csv", help="planned runs, one row each")
    _add_stages(p)
    _add_kind(p, kind)
    _add_result(p)


def _add_search(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--no-search",
        action="store_true",
        help="do not look for a setting that is better than all candidates: faster",
    )


def _add_stages(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--history",
        metavar="HISTORY.csv",
        help="the candidates are a later stage, on other data or not: the stages before it, one "
        "row each (or rows with a column candidate where they differ)",
    )
    p.add_argument(
        "--stage-runs",
        metavar="STAGES.csv",
        help="runs of later stages that were made, with the columns stage and parent, and the runs "
        "that they continue (of use with --history)",
    )


def _add_kind(p: argparse.ArgumentParser, kind: str) -> None:
    p.add_argument(
        "--kind",
        choices=("new_run", "mean"),
        default=kind,
        help="one new run, seed noise included, or the expected loss over seeds "
        "(default: %(default)s); intervals of a ranking are those of one new run in both",
    )
    _add_prob(p)


def _add_prob(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--prob",
        type=_probability,
        default=0.9,
        metavar="P",
        help="probability of the intervals and of a decided pair (default: 0.9)",
    )


def _add_result(p: argparse.ArgumentParser, *, output: str | None = None) -> None:
    """Add the options of every command that asks a law; ``output``: name of a file it writes."""
    if output is None:
        p.add_argument("-o", "--output", metavar="FILE.csv", help="write the table to a file too")
    else:
        p.add_argument(
            "-o", "--output", metavar="FILE", default=output,
            help="file to write (default: %(default)s)",
        )  # fmt: skip
    p.add_argument(
        "--allow-unconverged",
        action="store_true",
        help="show results of a posterior that did not converge, marked so",
    )
    _add_force(p)
    _add_json(p)
    _add_fit(p)


def _add_tie(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--tie",
        type=float,
        metavar="NATS",
        help="losses this close make no difference (default: the noise of a run)",
    )


def _add_figure(p: argparse.ArgumentParser, what: str, name: str) -> None:
    p.add_argument(
        "--figure",
        metavar="FILE.png",
        nargs="?",
        const=name,
        help=f"draw {what} (png, pdf or svg; default name {name})",
    )


def _add_group(p: argparse.ArgumentParser) -> None:
    p.add_argument("--group", help="use only the rows of this group (data, tokenizer, model)")


def _add_json(p: argparse.ArgumentParser) -> None:
    p.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_force(p: argparse.ArgumentParser) -> None:
    p.add_argument("--force", action="store_true", help="replace output files that exist")
