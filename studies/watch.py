"""Runs in progress, judged on public curves: ``python -m studies.watch FOLDER -o DIR``.

Each run is watched by a law that was fitted without it: the Multi-Power-Law's (27 runs) by one that
saw the other two model sizes, Schaipp's (SlimPajama) by one that saw three quarters of the runs.
After 25, 50 and 75 % of its steps the final loss is predicted by

- ``both``: law and curve, as `bayes_optlaws.decision.watch`;
- ``curve``: the curve with the constants of the pocket grid's;
- ``law``: the law without the curve;
- ``tail``: a power law in the steps, ``L0 + A t**-a``, least squares on the last half of the curve;
- ``last``: the last loss (mean of the last 2 % of the points).

All but the law are of the curve's own loss; a shift to the loss of the table, with its sd, is
learned from the curves of the fitted runs.  The last two say no uncertainty of their own: they
get the sd of their errors on the pocket grid's curves at the same share, in log loss.

Writes ``watch.csv`` (a row a data set, share and method) and ``watch.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path as Folder

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from bayes_optlaws.inference.path import EndForecast, forecast
from bayes_optlaws.law import OptLaw
from studies.watch_curves import SEEN, Curve, multi_power_law, pocket, schaipp

METHODS = ("both", "curve", "law", "tail", "last")
NAMES = {
    "both": "law and curve", "curve": "curve alone", "law": "law alone",
    "tail": "power law of the tail", "last": "last value",
}  # fmt: skip
FOLDS = 4


def tail_fit(step: np.ndarray, loss: np.ndarray, end: float) -> float:
    """Loss at the end by a power law in the steps, fitted to the last half of a curve.

    Parameters
    ----------
    step, loss : arrays, shape (n,)
    end : float
        Last step of the run.
    """
    late = step >= 0.5 * step[-1]
    t, y = step[late] / end, loss[late]

    def parts(a: float) -> tuple[np.ndarray, np.ndarray]:
        x = np.column_stack([np.ones(t.size), t**-a])
        return x, np.linalg.lstsq(x, y, rcond=None)[0]

    def off(q: np.ndarray) -> np.ndarray:
        x, c = parts(float(q[0]))
        return x @ c - y

    a = float(least_squares(off, [0.4], bounds=([0.05], [2.0])).x[0])
    return float(parts(a)[1].sum())


def last_value(loss: np.ndarray) -> float:
    """Mean of the last 2 % of the losses."""
    return float(loss[-max(1, loss.size // 50) :].mean())


def rival_sds() -> dict[tuple[str, float], float]:
    """Root mean square error, in log loss, of the rivals on finished pocket curves."""
    found: dict[tuple[str, float], list[float]] = {}
    for c in pocket()[::4]:
        for u in SEEN:
            step, loss = c.seen(u)
            if c.diverged or step[-1] < 1.5 * c.path.start:
                continue
            found.setdefault(("last", u), []).append(np.log(last_value(loss)) - c.end)
            tail = tail_fit(step, loss, c.path.step[-1])
            found.setdefault(("tail", u), []).append(np.log(max(tail, 0.1)) - c.end)
    return {k: float(np.sqrt(np.mean(np.square(v)))) for k, v in found.items()}


def folds(name: str, runs: pd.DataFrame) -> Iterator[np.ndarray]:
    """Masks of the runs that are held out together."""
    if name == "Multi-Power-Law":
        for size in sorted(runs["n_params"].unique()):
            yield runs["n_params"].eq(size).to_numpy()
        return
    order = np.random.default_rng(0).permutation(len(runs)) % FOLDS
    for k in range(FOLDS):
        yield order == k


def watched(
    name: str, runs: pd.DataFrame, curves: Sequence[Curve], sds: dict[tuple[str, float], float]
) -> pd.DataFrame:
    """One row a run, share and method: error and score of the log final loss.

    Parameters
    ----------
    name : str
    runs : DataFrame
        Validated run table.
    curves : sequence of Curve
    sds : dict
        From `rival_sds`.
    """
    by_run = {c.run_id: c for c in curves}
    rows = []
    for held in folds(name, runs):
        law = OptLaw(divergence=False).fit(
            runs[~held], random_seed=1, progressbar=False, method="importance"
        )
        mine = runs[held & ~runs["diverged"].to_numpy(bool)]
        prior = np.log(law.predict_draws(mine, allow_unconverged=True).to_numpy())
        known = [by_run[r] for r in runs["run_id"][~held] if r in by_run]
        gaps = [last_value(c.loss) - c.final_loss for c in known if not c.diverged]
        shift, shift_sd = float(np.median(gaps)), float(np.std(gaps))
        for j, run_id in enumerate(mine["run_id"]):
            if run_id not in by_run:
                continue
            c = by_run[run_id]
            truth = np.log(c.final_loss)
            alone = _normal(prior[:, j].mean(), prior[:, j].var())
            for u in SEEN:
                step, loss = c.seen(u)
                seen = forecast(c.path, step, loss)
                if seen is None:
                    continue
                seen = seen.shifted(shift, shift_sd)
                tail = max(tail_fit(step, loss, c.path.step[-1]) - shift, 0.1)
                last = last_value(loss) - shift
                found = {
                    "both": seen.given(*alone.moments), "curve": seen, "law": alone,
                    "tail": _normal(np.log(tail), sds["tail", u] ** 2),
                    "last": _normal(np.log(last), sds["last", u] ** 2),
                }  # fmt: skip
                rows += [
                    {"data": name, "run_id": run_id, "share": u, "method": m, **_judged(f, truth)}
                    for m, f in found.items()
                ]
        print(f"{name}: {len(mine)} watched, k-hat {law.diagnostics.get('pareto_k', np.nan):.2f}")
    return pd.DataFrame(rows)


def _normal(mean: float, variance: float) -> EndForecast:
    one = np.ones(1)
    return EndForecast(one, mean * one, variance * one, np.nan, np.nan)


def _judged(found: EndForecast, truth: float) -> dict[str, float]:
    mean, _ = found.moments
    draws = found.draw(4000, np.random.default_rng(0))
    inside = {}
    for p in (50, 90, 95):
        low, high = np.quantile(draws, [0.5 - p / 200, 0.5 + p / 200])
        inside[f"inside_{p}"] = float(low <= truth <= high)
    return {"error": abs(np.expm1(mean - truth)), "log_score": found.log_density(truth), **inside}


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Means over runs, one row a data set, share and method.

    Parameters
    ----------
    table : DataFrame
        As `watched` makes it.
    """
    groups = table.groupby(["data", "share", "method"])
    return groups.mean(numeric_only=True).assign(runs=groups.size()).reset_index()


def page(table: pd.DataFrame) -> str:
    """Text of docs/watch.md.

    Parameters
    ----------
    table : DataFrame
        From `summary`.
    """
    means = table.set_index(["data", "share", "method"])
    lines = [_HEAD]
    for name in table["data"].unique():
        n = table.loc[table["data"] == name, "runs"].max()
        lines += [f"## {name}: {n} runs", "", _COLUMNS]
        for u in SEEN:
            some = means.loc[name, u]
            for m in METHODS:
                r = some.loc[m]
                error, score = (
                    f"{x:.2f}" if m != best else f"**{x:.2f}**"
                    for x, best in (
                        (100 * r["error"], some["error"].idxmin()),
                        (r["log_score"], some["log_score"].idxmax()),
                    )
                )
                inside = ", ".join(f"{100 * r[f'inside_{p}']:.0f}" for p in (50, 90, 95))
                lines.append(f"| {u:.0%} | {NAMES[m]} | {error} | {score} | {inside} |")
        lines.append("")
    return "\n".join([*lines, _FOOT])


_COLUMNS = """\
| done | by | error % | log score | inside 50, 90, 95 % |
|---:|---|---:|---:|---:|"""

_HEAD = """\
# Runs in progress

`law.watch(curve, candidate)` puts the loss curve so far and the law together: where will the run
end, is it still worth finishing, will it diverge? How good is that? Public runs that are finished
were looked at after 25, 50 and 75 % of their steps, each by a law that was fitted without it
(Multi-Power-Law: without its model size; Schaipp's SlimPajama runs: without its quarter of the
runs). *Error* is the mean relative error of the final loss, *log score* the mean log predictive
density of its logarithm, higher is better; the last column has the share of runs inside central
intervals.

The path of the curve has constants that were found on the shipped curves of the pocket grid, models
of 10,000 to 250,000 parameters with one schedule family. No curve below entered them. The *form* of
the path was chosen with some of the curves below in sight, so the figures flatter it somewhat: that
its misfit lasts until the loss has settled after a fall of the learning rate was added because the
two-stage runs, whose rate falls at once, were missed without it.
*Power law of the tail* and *last value* say no uncertainty; they were given the sd of their errors
on the pocket grid, which is too large here and costs them log score.
"""

_FOOT = """\
Runs of one table are not independent: Schaipp's cool-downs branch off shared constant runs, and the
Multi-Power-Law's schedules share their first 8,000 or 20,000 steps. Schaipp's table is dense, a law
that saw three quarters of it is hard to better before the last quarter of a run; the
Multi-Power-Law's law knows two other model sizes, one peak learning rate and 18 runs. Before a
cool-down begins, as in most WSD runs at 75 %, a curve says little of what the cool-down will gain.

The risk of divergence is updated by how far the loss has ever risen again. Counted on the pocket
grid's runs, on blocks left out of the counts, this lowers the log loss of the probability of
divergence from 0.354 to 0.316, 0.243 and 0.186 at 25, 50 and 75 %. Of the public curves one
diverged; its rise is seen at 25 %. No other public curve rises by 0.02 in log loss.

Made by `python -m studies.watch FOLDER -o docs`, with the public tables in FOLDER.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study; returns an exit status."""
    parser = argparse.ArgumentParser(prog="python -m studies.watch", description=__doc__)
    parser.add_argument("folder", help="folder of the public tables")
    parser.add_argument("-o", "--out", default="docs")
    parser.add_argument("--results", default="studies/results/watch.csv")
    args = parser.parse_args(argv)
    sds = rival_sds()
    tables = []
    for name, load in (("Multi-Power-Law", multi_power_law), ("Schaipp", schaipp)):
        runs, curves = load(args.folder)
        tables.append(watched(name, runs, curves, sds))
    table = summary(pd.concat(tables))
    table.round(6).to_csv(args.results, index=False)
    (Folder(args.out) / "watch.md").write_text(page(table))
    print(page(table))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
