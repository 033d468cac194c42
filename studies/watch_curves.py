"""Loss curves with the schedules of their runs, and the constants of their paths.

``python -m studies.watch_curves`` finds the constants of `bayes_optlaws.inference.path.PathPrior`
from the shipped curves of the pocket grid: those under which the ends of its finished runs, seen at
25, 50 and 75 %, are most likely.  It also prints the counts of `bayes_optlaws.inference.trouble`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path as Folder

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from bayes_optlaws import datasets, read_runs
from bayes_optlaws.inference import trouble
from bayes_optlaws.inference.path import Path, PathPrior, forecast
from bayes_optlaws.schedules import Schedule

SEEN = (0.25, 0.5, 0.75)
"""Shares of a run after which its curve is looked at."""

TRAINED = ("gain", "gain_power", "slope", "slope_sd", "misfit", "annealing_misfit", "floor")
"""Constants that are found; `gain_spread` is given."""

WORST = -3.0
"""Log scores below it count as it: single runs at the edge of divergence are not to decide."""


@dataclass(frozen=True)
class Curve:
    """A finished run with its curve.

    Parameters
    ----------
    run_id : str
    path : Path
    step, loss : arrays, shape (n,)
    final_loss : float
        As the run table has it.
    diverged : bool
    """

    run_id: str
    path: Path
    step: np.ndarray
    loss: np.ndarray
    final_loss: float
    diverged: bool

    @property
    def end(self) -> float:
        """Log of the mean loss over the last 2 % of the points."""
        return float(np.log(self.loss[-max(1, self.loss.size // 50) :].mean()))

    def seen(self, share: float) -> tuple[np.ndarray, np.ndarray]:
        """Steps and losses up to a share of the run.

        Parameters
        ----------
        share : float
        """
        k = self.step <= share * self.path.step[-1]
        return self.step[k], self.loss[k]


def schedule_of(row: pd.Series) -> Schedule:
    """Schedule of a row of a validated run table.

    Parameters
    ----------
    row : Series
    """
    return Schedule(
        row["schedule"], row["peak_lr"], row["steps"], row["warmup_steps"], row["min_lr"],
        row["decay_end_step"], row["plateau_lr"], row["cooldown_start_step"],
    )  # fmt: skip


def pocket() -> list[Curve]:
    """Training curves of the pocket grid and of its replicates."""
    out = []
    for name in ("pocket", "pocket-replicates"):
        runs = read_runs(datasets.load(name)).set_index("run_id")
        for run_id, c in datasets.load_curves(name).groupby("run_id", sort=False):
            row = runs.loc[run_id]
            out.append(
                Curve(
                    str(run_id), Path.of(schedule_of(row)), c["step"].to_numpy(float),
                    c["loss"].to_numpy(float), float(row["final_loss"]), bool(row["diverged"]),
                )
            )  # fmt: skip
    return out


def multi_power_law(folder: str | Folder) -> tuple[pd.DataFrame, list[Curve]]:
    """Run table and curves of the Multi-Power-Law; learning rates as they were logged.

    Parameters
    ----------
    folder : path
        Of the public tables.
    """
    # the source has no batch size; any will do, for it never varies
    runs = read_runs(datasets.load("multi-power-law", folder=folder).assign(batch_tokens=2.0**19))
    rows = runs.set_index("run_id")
    out = []
    for run_id, c in datasets.load_curves("multi-power-law", folder=folder).groupby("run_id"):
        row = rows.loc[run_id]
        steps = np.arange(round(row["steps"]) + 1)
        lr = np.interp(steps, np.append(0, c["step"]), np.append(0.0, c["lr"]))
        path = Path.of(Schedule.from_array(lr, warmup_steps=row["warmup_steps"]))
        out.append(
            Curve(str(run_id), path, c["step"].to_numpy(float), c["loss"].to_numpy(float),
                  float(row["final_loss"]), False)
        )  # fmt: skip
    return runs, out


def schaipp(folder: str | Folder) -> tuple[pd.DataFrame, list[Curve]]:
    """Run table of the SlimPajama runs and their validation curves.

    A cool-down that was branched off a constant run has that run's curve before it.

    Parameters
    ----------
    folder : path
    """
    runs = read_runs(datasets.load("schaipp", folder=folder), group="slimpajama")
    logged = pd.read_parquet(Folder(folder) / "schaipp_lr_scheduling/curves.parquet")
    logged = logged[logged["val_loss"].notna()].sort_values("iter")
    by_run = dict(list(logged.groupby("run_id")))
    trunks = runs[runs["schedule"] == "constant"]
    out = []
    for _, row in runs.iterrows():
        c = by_run[row["run_id"]]
        if row["resumed_from_trunk"]:
            same = trunks["n_params"].eq(row["n_params"]) & np.isclose(
                trunks["peak_lr"], row["peak_lr"]
            )
            if not same.any():
                continue
            trunk = by_run[trunks[same].sort_values("steps")["run_id"].iloc[-1]]
            if trunk["iter"].max() < 0.95 * c["iter"].min():
                continue
            c = pd.concat([trunk[trunk["iter"] < c["iter"].min()], c])
        out.append(
            Curve(row["run_id"], Path.of(schedule_of(row)), c["iter"].to_numpy(float),
                  c["val_loss"].to_numpy(float), float(row["final_loss"]), bool(row["diverged"]))
        )  # fmt: skip
    return runs, out


def constants(curves: Iterable[Curve], *, start: PathPrior, rounds: int = 90) -> PathPrior:
    """Constants under which the ends of finished curves are most likely.

    Parameters
    ----------
    curves : iterable of Curve
    start : PathPrior
        Where the search begins; its ``gain_spread`` is kept.
    rounds : int
        Evaluations of Nelder-Mead.
    """
    data = [(c.path, *c.seen(u), c.end) for c in curves if not c.diverged for u in SEEN]
    zero = np.log([getattr(start, name) for name in TRAINED])

    def prior(x: np.ndarray) -> PathPrior:
        return replace(start, **dict(zip(TRAINED, np.exp(x).tolist(), strict=True)))

    def negative(x: np.ndarray) -> float:
        found = [(forecast(*one[:3], prior(x)), one[3]) for one in data]
        scores = [max(f.log_density(end), WORST) for f, end in found if f is not None]
        return -float(np.mean(scores)) + 0.01 * float(np.sum((x - zero) ** 2))

    simplex = np.vstack([zero, zero + 0.4 * np.eye(zero.size)])
    best = minimize(
        negative, zero, method="Nelder-Mead",
        options={"maxfev": rounds, "initial_simplex": simplex},
    )  # fmt: skip
    return prior(best.x)


def signs(curves: list[Curve]) -> pd.DataFrame:
    """Counts of `bayes_optlaws.inference.trouble`, and what they are worth on a block left out.

    Parameters
    ----------
    curves : list of Curve
        Of the pocket grid.

    Returns
    -------
    DataFrame
        One row a share of the run: runs by class of rise, diverged and finished; log loss of the
        probability of divergence by the share of diverged runs alone, and with the sign, each from
        the other blocks.
    """
    block = np.array([c.run_id.rsplit("-", 1)[0] for c in curves])
    lost = np.array([c.diverged for c in curves])
    rows = []
    for u in SEEN:
        kind = np.searchsorted(
            trouble.CLASSES, [trouble.rise(c.seen(u)[1]) for c in curves], side="right"
        )
        alone, signed = np.empty(lost.size), np.empty(lost.size)
        for b in np.unique(block):
            other = block != b
            counts = [np.bincount(kind[other & (lost == f)], minlength=3) + 0.5 for f in (1, 0)]
            ratio = counts[0] / counts[0].sum() / (counts[1] / counts[1].sum())
            alone[~other] = lost[other].mean()
            signed[~other] = [
                trouble.updated_risk(lost[other].mean(), ratio[k]) for k in kind[~other]
            ]
        row = {"share": u}
        for name, which in (("diverged", lost), ("finished", ~lost)):
            row[name] = np.bincount(kind[which], minlength=3).tolist()
        for name, p in (("log_loss_alone", alone), ("log_loss", signed)):
            row[name] = -np.mean(np.log(np.where(lost, p, 1.0 - p)))
        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    print(signs(pocket()))
    print(constants(pocket()[::8], start=PathPrior()))
