"""Allocation of a budget, judged on IsoFLOP sweeps: ``python -m studies.allocate FOLDER -o docs``.

Loss-to-loss sweeps (three data sets, eight levels of compute): a level and all above it are held
out, the law is fitted to the levels below and splits the level's budget.  Its optimum is held
against the one measured there: the vertex of the parabola in log N through the runs of the level
(Hoffmann et al. 2022, arXiv:2203.15556, approach 2), whose own error is a jackknife over runs, and
the run of lowest loss.  Chinchilla's points (as Epoch AI read them off the figure) have their
published exponents and, for the optimum, Epoch's refit (Besiroglu et al. 2024, arXiv:2404.10102).

Writes ``allocate-sweeps.csv``, ``allocate-chinchilla.csv`` and ``allocate.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bayes_optlaws import datasets, read_runs
from bayes_optlaws.decision.allocate import Allocation
from bayes_optlaws.law import OptLaw
from bayes_optlaws.text.numbers import short

HELD_OUT = 3
"""Highest levels of each sweep that are held out, each in its turn with those above it."""

EPOCH = {"A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
"""Epoch's refit of ``E + A N**-alpha + B D**-beta``, arXiv:2404.10102."""

BUDGETS = (1e21, 1e22)


def measured(level: pd.DataFrame) -> tuple[float, float]:
    """Log of the model size of lowest loss of one level, and its jackknife standard error.

    Parameters
    ----------
    level : DataFrame
        Runs of one budget: ``n_params``, ``final_loss``.

    Examples
    --------
    >>> n = np.geomspace(1e8, 1e9, 7)
    >>> level = pd.DataFrame({"n_params": n, "final_loss": 3 + np.log(n / 4e8) ** 2})
    >>> vertex, error = measured(level)
    >>> round(float(np.exp(vertex)) / 1e8, 3), round(error, 3)
    (4.0, 0.0)
    """
    x = np.log(level["n_params"].to_numpy(float))
    y = level["final_loss"].to_numpy(float)
    # the parabola holds near the minimum only
    near = np.abs(x - x[y.argmin()]) < np.log(8.0)
    x, y = x[near], y[near]

    def vertex(use: np.ndarray) -> float:
        a, b, _ = np.polyfit(x[use] - x.mean(), y[use], 2)
        return float(np.clip(-b / (2 * a), -3.0, 3.0) if a > 0 else np.nan) + float(x.mean())

    every = np.ones(x.size, dtype=bool)
    out = [vertex(every & (np.arange(x.size) != i)) for i in range(x.size)]
    spread = np.sqrt((x.size - 1) / x.size * np.nansum((out - np.nanmean(out)) ** 2))
    return vertex(every), float(spread)


def split(law: OptLaw, runs: pd.DataFrame, flops: float, *, frontier: bool) -> Allocation:
    """Allocation with the settings that all runs of a table share.

    Parameters
    ----------
    law : OptLaw
    runs : DataFrame
    flops : float
    frontier : bool
    """
    return law.allocate(
        flops=flops, families=["cosine"], bounds={"peak_lr": float(runs["peak_lr"].iloc[0])},
        frontier=frontier, max_draws=1000, progressbar=False, allow_unconverged=True,
    )  # fmt: skip


def sweeps(folder: str | Path) -> pd.DataFrame:
    """One row a data set and held-out level.

    Parameters
    ----------
    folder : path
    """
    raw = datasets.load("loss-to-loss", folder=folder)
    rows = []
    for group in sorted(raw["group"].unique()):
        runs = read_runs(raw, group=group)
        flops = 6.0 * runs["n_params"] * runs["tokens"]
        level = np.exp(np.round(np.log(flops) * 5) / 5)  # levels are half a nat or more apart
        held = [v for v, n in level.value_counts().items() if n >= 5]
        for value in sorted(held)[-HELD_OUT:]:
            mine, below = runs[level == value], runs[level < value]
            law = OptLaw(divergence=False).fit(
                below, random_seed=1, progressbar=False, method="importance"
            )
            budget = float(flops[level == value].median())
            found = split(law, runs, budget, frontier=False)
            log_n, error = measured(mine)
            o, tied = found.optimum, found.profile[found.profile["tied"]]
            step = np.diff(np.log(found.profile["n_params"])).mean() / 2
            low = np.log(tied["n_params"].min()) - step
            high = np.log(tied["n_params"].max()) + step
            best = mine.loc[mine["final_loss"].idxmin()]
            rows.append({
                "data": group, "flops": budget, "n_fit": len(below), "n_test": len(mine),
                "measured": np.exp(log_n), "measured_error": error, "best_run": best["n_params"],
                "median": o["n_params_median"], "lower": o["n_params_lower"],
                "upper": o["n_params_upper"], "tied_from": np.exp(low), "tied_to": np.exp(high),
                "covered": o["n_params_lower"] <= np.exp(log_n) <= o["n_params_upper"],
                "in_tied": low <= log_n <= high,
                "best_in_tied": low <= np.log(best["n_params"]) <= high,
                "loss": best["final_loss"], "loss_mean": found.profile["loss_mean"].min(),
            })  # fmt: skip
            print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def chinchilla(folder: str | Path) -> pd.DataFrame:
    """Optimum and exponent of Chinchilla's points beside Epoch's refit, one row a budget.

    Parameters
    ----------
    folder : path
    """
    raw = datasets.load("chinchilla-epoch", folder=folder)
    runs = read_runs(raw[raw["tokens"] > 0.5 * raw["n_params"]])  # without the known outliers
    law = OptLaw(divergence=False).fit(runs, random_seed=1, progressbar=False, method="importance")
    ratio = EPOCH["alpha"] * EPOCH["A"] / (EPOCH["beta"] * EPOCH["B"])
    total = EPOCH["alpha"] + EPOCH["beta"]
    rows = []
    for budget in BUDGETS:
        found = split(law, runs, budget, frontier=True)
        o, e = found.optimum, found.exponents.loc["n_params"]
        rows.append({
            "flops": budget, "median": o["n_params_median"], "lower": o["n_params_lower"],
            "upper": o["n_params_upper"],
            "epoch": ratio ** (1 / total) * (budget / 6) ** (EPOCH["beta"] / total),
            "exponent": e["mean"], "exponent_lower": e["lower"], "exponent_upper": e["upper"],
        })  # fmt: skip
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def page(levels: pd.DataFrame, points: pd.DataFrame) -> str:
    """Text of docs/allocate.md.

    Parameters
    ----------
    levels, points : DataFrame
        From `sweeps` and `chinchilla`.
    """
    n = len(levels)
    lines = [_HEAD, _COLUMNS]
    for r in levels.itertuples():
        mark = "" if r.covered else " (missed)"
        lines.append(
            f"| {r.data} | {r.flops:.2g} | {r.n_fit}, {r.n_test} | {short(r.measured)} "
            f"(± {100 * r.measured_error:.0f} %) | {short(r.median)} | {short(r.lower)} to "
            f"{short(r.upper)}{mark} | {short(r.tied_from)} to {short(r.tied_to)} | {r.loss:.3f}, "
            f"{r.loss_mean:.3f} |"
        )
    off = np.abs(np.log(levels["median"] / levels["measured"])).mean()
    lines += [
        "",
        f"The interval holds the measured optimum in {levels['covered'].sum()} of {n}, the tied\n"
        f"region holds it in {levels['in_tied'].sum()}, and the best single run in "
        f"{levels['best_in_tied'].sum()}.\nThe median is off by {100 * off:.0f} % on average.",
        "",
        "## Chinchilla's points",
        "",
        "| FLOP | by the law | 90 % | Epoch's refit | exponent of N, last two decades |",
        "|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r.flops:.0e} | {short(r.median)} | {short(r.lower)} to {short(r.upper)} | "
        f"{short(r.epoch)} | {r.exponent:.2f} ({r.exponent_lower:.2f} to {r.exponent_upper:.2f}) |"
        for r in points.itertuples()
    ]
    return "\n".join([*lines, "", _FOOT])


_COLUMNS = """\
| data | FLOP | runs fitted, tested | measured optimum | by law | 90 % | tied | best, predicted |
|---|---:|---:|---:|---:|---:|---:|---:|"""

_HEAD = """\
# How to split a budget

`law.allocate(flops=...)` compares model sizes along a budget and says which is best, how sure that
is, and which sizes are tied with it. Two checks on public runs.

## IsoFLOP sweeps

Three data sets of the loss-to-loss runs, each swept at eight levels of compute. A level and all
above it were held out, the law fitted to the levels below, the level's budget split. *Measured*:
the vertex of a parabola in log N through the held-out runs of the level within a factor of eight of
the best, ± its jackknife error. *Best*: the lowest loss of the level, in nats.
"""

_FOOT = """\
Published exponents of N: 0.50, 0.49 and 0.46 by Chinchilla's three approaches (arXiv:2203.15556),
0.51 by Epoch's refit of these same points (arXiv:2404.10102), which read the losses off a figure.
At 1e21 FLOP, inside the table, the intervals hold both; at 1e22, where its last few points lie, the
law's interval ends just below the refit's optimum and its exponent is too low: nothing beyond holds
the law to a power law there, as Epoch's form does. Sizes are compared from 2 to 500 tokens a
parameter: the lower end at 1e22 is the smallest of them, so that interval is cut off below; above,
where it misses, it is not. Which small runs would settle a split:
`law.design(decide=found.profile)`.

The learning rates, batches and warm-ups of both tables are placeholders, so the law knows nothing
of them and neither does the allocation.

Made by `python -m studies.allocate FOLDER -o docs`, with the public tables in FOLDER.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study; returns an exit status."""
    parser = argparse.ArgumentParser(prog="python -m studies.allocate", description=__doc__)
    parser.add_argument("folder", help="folder of the public tables")
    parser.add_argument("-o", "--out", default="docs")
    parser.add_argument("--results", default="studies/results")
    args = parser.parse_args(argv)
    points = chinchilla(args.folder)
    points.to_csv(Path(args.results) / "allocate-chinchilla.csv", index=False)
    levels = sweeps(args.folder)
    levels.to_csv(Path(args.results) / "allocate-sweeps.csv", index=False)
    (Path(args.out) / "allocate.md").write_text(page(levels, points))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
