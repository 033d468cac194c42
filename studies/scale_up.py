"""Expected loss from x1 to x1000 in model size, in tokens and in both, with its interval.

Far from every run there is nothing to test against, but not everything may be said there: the
expected loss of larger models or budgets has to be finite, must not rise, and its interval has to
widen with the distance.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from bayes_optlaws import datasets
from bayes_optlaws.evaluation.refits import passed, refit
from bayes_optlaws.law import OptLaw
from bayes_optlaws.runs.readers import read_candidates, read_runs

FACTORS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
TABLES = {"pocket": None, "steplaw": None, "openlm": "c4_original"}
AXES = {"N": ("n_params",), "tokens": ("tokens",), "both": ("n_params", "tokens")}


def candidates(runs: pd.DataFrame, axis: str) -> pd.DataFrame:
    """Best run of the largest (N, D) cell, enlarged by every factor.

    Steps that say where a phase of the schedule lies grow with the tokens; the batch stays.

    Parameters
    ----------
    runs : DataFrame
        Validated run table.
    axis : {"N", "tokens", "both"}

    Returns
    -------
    DataFrame
        Validated candidates, one a factor; ``run_id`` is the factor.
    """
    if axis not in AXES:
        raise ValueError(f"axis = {axis!r}: choose from {', '.join(AXES)}")
    alive = runs[~runs["diverged"]]
    size = alive["n_params"] * alive["tokens"]
    start = alive[size >= 0.98 * size.max()].nsmallest(1, "final_loss")
    table = start.loc[start.index.repeat(len(FACTORS))].reset_index(drop=True)
    table["run_id"] = [f"x{f:g}" for f in FACTORS]
    for column in AXES[axis]:
        table[column] = table[column] * np.array(FACTORS)
    if "tokens" in AXES[axis]:
        phases = ("steps", "warmup_steps", "cooldown_start_step", "decay_end_step")
        for column in phases:
            table[column] = table[column] * np.array(FACTORS)
    return read_candidates(table.drop(columns=["final_loss", "diverged"]), warn=False)


def scale_up(law: Any, runs: pd.DataFrame, axis: str, *, random_seed: int = 0) -> pd.DataFrame:
    """Expected loss and intervals of the enlarged run.

    Parameters
    ----------
    law : OptLaw
        Fitted.
    runs : DataFrame
        Validated run table that it was fitted to.
    axis : {"N", "tokens", "both"}
    random_seed : int

    Returns
    -------
    DataFrame
        Index ``factor``; ``mean`` (nats), ``lower`` and ``upper`` (90 % of the expected loss),
        ``sd_log`` (of log loss), ``rise`` and ``rise_se``: mean log loss above that at the factor
        before, and its Monte-Carlo standard error, from joint draws.
    """
    table = candidates(runs, axis)
    log_loss = law.predictor.mean(table, np.random.default_rng(random_seed))
    step = np.diff(log_loss, axis=1)
    loss = np.exp(np.minimum(log_loss, 700.0))
    lower, upper = np.quantile(loss, [0.05, 0.95], axis=0)
    out = pd.DataFrame(
        {
            "mean": loss.mean(axis=0),
            "lower": lower,
            "upper": upper,
            "sd_log": log_loss.std(axis=0),
            "rise": [0.0, *step.mean(axis=0)],
            "rise_se": [0.0, *(step.std(axis=0) / np.sqrt(len(step)))],
        },
        index=pd.Index(FACTORS, name="factor"),
    )
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Fit tables by importance sampling, print their scale-up tables and what holds of them."""
    parser = argparse.ArgumentParser(prog="python -m studies.scale_up")
    parser.add_argument("--folder", help="public tables; default $BAYES_OPTLAWS_DATA")
    parser.add_argument("--tables", nargs="+", choices=[*TABLES], default=[*TABLES])
    parser.add_argument("--draws", type=int, default=1000)
    args = parser.parse_args(argv)
    for name in args.tables:
        runs = read_runs(datasets.load(name, folder=args.folder), group=TABLES[name])
        law = refit(OptLaw(), runs, method="importance", draws=args.draws, random_seed=0)
        for axis in AXES:
            table = scale_up(law, runs, axis)
            held = ", ".join(f"{k} {'yes' if v else 'NO'}" for k, v in checks(table).items())
            print(f"{name}, {axis}: {held}; gate {'passed' if passed(law) else 'NOT passed'}")
            print(table.to_string(float_format="%.4g"), flush=True)
    return 0


def checks(table: pd.DataFrame, *, ceiling: float = 12.0) -> dict[str, bool]:
    """Say whether a table of `scale_up` is finite, falling and widening.

    Parameters
    ----------
    table : DataFrame
    ceiling : float
        Loss that counts as finite, nats: that of a model that knows nothing (log of a vocabulary
        of 160,000 by default).

    Returns
    -------
    dict
        ``finite``: mean and upper end below the ceiling; ``falling``: no mean rise beyond three
        Monte-Carlo standard errors; ``widening``: the sd of log loss never falls by more than 2 %
        (Monte-Carlo error of 1,000 draws) and is larger at the end.

    Examples
    --------
    >>> t = pd.DataFrame({"mean": [3.0, 2.9], "upper": [3.1, 3.1], "sd_log": [0.01, 0.02],
    ...                   "rise": [0.0, -0.03], "rise_se": [0.0, 0.001]})
    >>> checks(t)
    {'finite': True, 'falling': True, 'widening': True}
    """
    sd = table["sd_log"].to_numpy()
    return {
        "finite": bool((table[["mean", "upper"]].to_numpy() < ceiling).all()),
        "falling": bool((table["rise"] <= 3 * table["rise_se"]).all()),
        "widening": bool((sd[1:] >= 0.98 * sd[:-1]).all() and sd[-1] > sd[0]),
    }


if __name__ == "__main__":
    raise SystemExit(main())
