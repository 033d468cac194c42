"""Replay: how much compute each way of choosing runs needs, on tables whose runs are all made.

A cell of large runs is the target: which of its runs ends lowest is to be decided. There are three
targets a table, the cells that cost most a run; finished runs of cells that cost less a run than
the target's are the pool. A replay starts from the five cheapest runs, spends a share of
the pool's total FLOPs by one objective, refitting between batches, and then ranks the target's
runs; their measured losses are the truth.

Run it with ``python -m studies.replay --table pocket``: each (target, objective,
budget, repeat) writes one file, what is there already is not done again.  The refits are by
importance sampling (`bayes_optlaws.evaluation.refits`), seconds instead of the minute of NUTS;
``--posterior nuts`` does without it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from bayes_optlaws import datasets
from bayes_optlaws.decision.design import COMPARISONS, OBJECTIVES, choose
from bayes_optlaws.decision.design_rules import RULES, order_by_rule
from bayes_optlaws.evaluation import metrics
from bayes_optlaws.evaluation.manifest import MANIFEST, open_folder, read_result
from bayes_optlaws.evaluation.refits import METHODS, refit
from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.inference.importance import MAX_PARETO_K
from bayes_optlaws.law import OptLaw
from bayes_optlaws.runs.readers import read_candidates, read_runs
from bayes_optlaws.text import files
from studies.replay_plot import plot_replay

START = 5
"""Runs that are there at the start, the cheapest."""

STAGES, BATCH = 5, 30
"""Refits while a budget is spent, and most runs between two of them."""

SHORTLIST = 150
"""Pool runs scored again after the first choice, those of highest first worth."""

TABLES = ("steplaw", "pocket")

TARGETS = 3
"""Cells that are decided in turn."""

RANDOM = ("random", "cost-weighted random", "space-filling", "mid-size")
"""Rules with chance in them; of the others only the posterior draws differ by repeat."""

NEAR = 0.01
"""A pick is near the best run of the target when it ends within this of it, nats."""

MEASURES = (
    "regret", "r2", "log_score", "coverage", "spent", "n_runs", "ess", "pareto_k", "seconds",
)  # fmt: skip


def problem(
    name: str, folder: str | Path | None = None, *, place: int = 0
) -> tuple[pd.DataFrame, np.ndarray]:
    """Convergent runs of a table that count, and which of them are the target.

    Parameters
    ----------
    name : {"pocket", "steplaw"}
    folder : path, optional
        Of the public tables; by default ``$BAYES_OPTLAWS_DATA``.
    place : int
        Target: the block whose runs cost most (0), second most (1), ...

    Returns
    -------
    runs : DataFrame
        Of the target, and of the blocks that cost less a run.
    target : bool array, shape (n,)

    Examples
    --------
    >>> runs, target = problem("pocket")
    >>> runs.loc[target, "block"].unique().tolist(), int(target.sum())
    (['d96_2400'], 28)
    >>> runs, target = problem("pocket", place=1)
    >>> runs.loc[target, "block"].unique().tolist(), int(target.sum())
    (['d64_3600'], 32)
    """
    runs = read_runs(datasets.load(name, folder=folder))
    runs = runs[~runs["diverged"]].reset_index(drop=True)
    dear = pd.Series(flops(runs)).groupby(runs["block"].to_numpy()).median().sort_values()
    label = dear.index[-1 - place]
    runs = runs[runs["block"].isin(dear.index[dear <= dear[label]])].reset_index(drop=True)
    return runs, (runs["block"] == label).to_numpy()


def flops(runs: pd.DataFrame) -> np.ndarray:
    """Training cost 6 N D of each row."""
    return 6.0 * runs["n_params"].to_numpy(float) * runs["tokens"].to_numpy(float)


def predicted(law: FittedLaw, table: pd.DataFrame, random_seed: int = 0) -> np.ndarray:
    """Joint draws of the final loss of a new run of each row, shape (n_draws, n)."""
    rng = np.random.default_rng(random_seed)
    predictor = law.predictor()
    mean = predictor.mean(table, rng)
    return np.exp(mean + predictor.noise_sd(table) * rng.standard_normal(mean.shape))


def replay(
    runs: pd.DataFrame,
    target: np.ndarray,
    *,
    objective: str,
    share: float,
    repeat: int = 0,
    draws: int = 300,
    tune: int = 300,
    stages: int = STAGES,
    batch: int = BATCH,
    method: str = "importance",
) -> dict[str, float]:
    """Spend a share of the pool's FLOPs by one objective, then decide.

    Parameters
    ----------
    runs : DataFrame
        Convergent runs with their losses.
    target : bool array, shape (n,)
    objective : str
        Of `bayes_optlaws.decision.design`.
    share : float
        Budget as a share of the FLOPs of all pool runs.
    repeat : int
        Seed.
    draws, tune, method
        Of each fit, as for `bayes_optlaws.evaluation.refits.refit`.
    stages, batch : int
        Refits while the budget is spent, each spending an equal part of what is left, and most
        runs between two of them. Rules that do not look at the law spend it all at once.

    Returns
    -------
    dict
        ``regret`` nats of the pick over the best target run; ``r2`` of log loss, ``log_score``,
        ``coverage`` (95 %) of the target's runs; ``spent`` share of the pool's FLOPs;
        ``n_runs`` chosen; ``ess`` and ``pareto_k`` of the last fit (nan after NUTS);
        ``seconds``.
    """
    begin = time.monotonic()
    pool, goal = runs[~target].reset_index(drop=True), runs[target].reset_index(drop=True)
    cost = flops(pool)
    plan = read_candidates(pool.drop(columns=["final_loss", "diverged"]))
    candidates = read_candidates(goal.drop(columns=["final_loss", "diverged"]))
    known = list(np.argsort(cost, kind="stable")[:START])
    start = len(known)
    left = share * cost.sum()

    def fit(k: int) -> FittedLaw:
        return refit(
            OptLaw(divergence=False), pool.iloc[known], draws=draws, tune=tune,
            random_seed=1000 * repeat + k, method=method,
        ).fitted  # fmt: skip

    if objective in RULES:
        rng = np.random.default_rng(repeat)
        for i in order_by_rule(objective, plan, cost, rng):
            if i not in known and cost[i] <= left:
                known.append(int(i))
                left -= cost[i]
    else:
        for k in range(stages):
            open_ = np.setdiff1d(np.arange(len(pool)), known)
            part = left / (stages - k)
            if not np.any(cost[open_] <= part):
                continue
            found = choose(
                fit(k), plan.iloc[open_], candidates, cost[open_], np.ones(open_.size),
                n_runs=batch, objective=objective, budget=part, max_draws=100, random_seed=repeat,
                shortlist=SHORTLIST,
            )[3]  # fmt: skip
            known += [int(i) for i in open_[found]]
            left -= cost[open_[found]].sum()
    law = fit(stages)
    loss = predicted(law, candidates)
    observed = goal["final_loss"].to_numpy(float)
    pick = int(np.argmin(loss.mean(axis=0)))
    sample = law.sample
    return {
        "regret": float(observed[pick] - observed.min()),
        "r2": float(metrics.r2(np.log(observed), np.log(loss).mean(axis=0))),
        "log_score": float(np.mean(metrics.log_score(observed, loss))),
        "coverage": float(metrics.coverage(observed, loss, prob=0.95)),
        "spent": float(cost[known[start:]].sum() / cost.sum()),
        "n_runs": len(known) - start,
        "ess": float(sample.sample_stats.get("effective_draws", np.nan)),
        "pareto_k": float(sample.pareto_k),
        "seconds": time.monotonic() - begin,
    }


def _path(folder: Path, table: str, place: int, objective: str, share: float, repeat: int) -> Path:
    name = f"{objective.replace(' ', '-')}_{100 * share:g}_{repeat}_target{place}.json"
    return folder / table / name


def _read(path: Path) -> dict:
    result = json.loads(path.read_text(encoding="utf-8"))
    missing = {*MEASURES, "objective", "share", "repeat"} - {*result}
    if missing:
        raise KeyError(f"{sorted(missing)} missing")
    return result


def _done(path: Path) -> bool:
    return path.exists() and read_result(path, _read) is not None


def study(
    table: str,
    folder: str | Path,
    *,
    objectives: Sequence[str] = OBJECTIVES + COMPARISONS,
    shares: Sequence[float] = (0.01, 0.05, 0.10),
    repeats: int = 10,
    law_repeats: int = 3,
    targets: int = TARGETS,
    n_jobs: int = 1,
    data: str | Path | None = None,
    **options,
) -> pd.DataFrame:
    """Replay every objective and budget, one result file each; done ones are read.

    Parameters
    ----------
    table : str
        As for `problem`.
    folder : path
        Where results are kept.
    objectives, shares : sequences
    repeats : int
        Of rules that are random.
    law_repeats : int
        Of the others.
    targets : int
        Cells decided in turn, those of most cost first.
    n_jobs : int
        Processes, as in joblib.
    data : path, optional
        Folder of the public tables.
    **options
        Passed on to `replay`.

    Returns
    -------
    DataFrame
        `summary` of the folder.
    """
    problems = [problem(table, data, place=k) for k in range(targets)]
    folder = Path(folder)
    open_folder(
        folder / table, study="replay", script=Path(__file__).read_text(encoding="utf-8"),
        runs=problems[0][0], target=[target.tolist() for _, target in problems], options=options,
    )  # fmt: skip
    todo = [
        (place, objective, share, repeat)
        for repeat in range(max(repeats, law_repeats))
        for share in shares
        for objective in objectives
        for place in range(targets)
        if repeat < (repeats if objective in RANDOM else law_repeats)
        and not _done(_path(folder, table, place, objective, share, repeat))
    ]

    def work(place: int, objective: str, share: float, repeat: int) -> None:
        runs, target = problems[place]
        result = replay(runs, target, objective=objective, share=share, repeat=repeat, **options)
        block = runs.loc[target, "block"].iloc[0]
        result |= {"target": block, "objective": objective, "share": share, "repeat": repeat}
        files.write(_path(folder, table, place, objective, share, repeat), json.dumps(result))
        print(json.dumps(result), flush=True)

    Parallel(n_jobs=n_jobs)(delayed(work)(*task) for task in todo)
    return summary(folder, table)


def summary(folder: str | Path, table: str, *, by_target: bool = False) -> pd.DataFrame:
    """Means and standard errors over repeats and targets of all results in a folder.

    Replays whose last fit has importance weights that are not reliable (Pareto k above 0.7) are
    left out and counted.

    Parameters
    ----------
    folder : path
    table : str
    by_target : bool
        One row a target, too.

    Returns
    -------
    DataFrame
        Index (share, objective), after the target with ``by_target``; for each measure its mean
        and ``_se`` (NaN for one replay), with ``best`` and ``near``, the shares of replays that
        pick the best run of the target and one within `NEAR` of it; ``repeats`` that count, and
        those ``left_out``.
    """
    found = sorted(p for p in (Path(folder) / table).glob("*.json") if p.name != MANIFEST)
    if not found:
        raise FileNotFoundError(f"{Path(folder) / table} has no results: run the study first")
    read = (read_result(path, _read, fate="left out") for path in found)
    results = pd.DataFrame([result for result in read if result is not None])
    results["best"] = (results["regret"] == 0).astype(float)
    results["near"] = (results["regret"] <= NEAR).astype(float)
    bad = results["pareto_k"] > MAX_PARETO_K
    keys = [*(["target"] if by_target else []), "share", "objective"]
    groups = results[~bad].groupby(keys)[[*MEASURES, "best", "near"]]
    left_out = bad.groupby([results[k] for k in keys]).sum()
    out = groups.mean().join(groups.sem().add_suffix("_se")).assign(repeats=groups.size())
    return out.assign(left_out=left_out.reindex(out.index).astype(int))


def main(argv: Sequence[str] | None = None) -> None:
    """Run a study from the command line."""
    parser = argparse.ArgumentParser(description="Replay ways of choosing runs on a finished table")
    parser.add_argument("--table", choices=TABLES, default="pocket")
    parser.add_argument("--out", default="out/replay")
    parser.add_argument("--folder", help="of the public tables (default $BAYES_OPTLAWS_DATA)")
    parser.add_argument("--posterior", choices=METHODS, default="importance")
    parser.add_argument("--csv", help="write the summary here, too")
    parser.add_argument("--figure", help="draw all tables that have results there")
    parser.add_argument("--only-summary", action="store_true", help="replay nothing more")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES + COMPARISONS))
    parser.add_argument("--shares", nargs="+", type=float, default=[0.01, 0.05, 0.10])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--law-repeats", type=int, default=3)
    parser.add_argument("--targets", type=int, default=TARGETS)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--tune", type=int, default=300)
    parser.add_argument("--stages", type=int, default=STAGES)
    parser.add_argument("--jobs", type=int, default=1)
    a = parser.parse_args(argv)
    unknown = set(a.objectives) - set(OBJECTIVES + COMPARISONS)
    if unknown:
        parser.error(f"unknown objectives {sorted(unknown)}")
    if not a.only_summary:
        study(
            a.table, a.out, objectives=a.objectives, shares=a.shares, repeats=a.repeats,
            law_repeats=a.law_repeats, targets=a.targets, n_jobs=a.jobs, draws=a.draws,
            tune=a.tune, stages=a.stages, batch=a.batch, method=a.posterior, data=a.folder,
        )  # fmt: skip
    table = summary(a.out, a.table)
    if a.csv:
        table.round(6).to_csv(a.csv)
        by_target = summary(a.out, a.table, by_target=True)
        by_target.round(6).to_csv(Path(a.csv).with_stem(f"{Path(a.csv).stem}-targets"))
    if a.figure:
        done = [name for name in TABLES if (Path(a.out) / name).is_dir()]
        plot_replay({name: summary(a.out, name) for name in done}).savefig(a.figure, dpi=120)
    print(table.to_string())


if __name__ == "__main__":
    main()
