"""A run in progress: what its loss curve says of its end, its rank and its risk; to stop it or not.

Two sources are put together.  The law's joint draws say where all candidates will end; the curve
says where this run will (`bayes_optlaws.inference.path`).  Each draw of the run is moved towards
the curve by its share of the variance, and the draws of the others move with it as far as the law
correlates them (Matheron's rule, as in the ensemble Kalman filter): exact where the draws are
normal, and never left with a few heavy draws where the curve surprises the law.

The advice: stop where the run is, with a probability of at least ``1 - threshold``, not among those
worth having: it diverges or ends above the target, or above the best of the others, by more than a
tie.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bayes_optlaws import plots
from bayes_optlaws.inference import trouble
from bayes_optlaws.inference.fitted import FittedLaw, check_prob
from bayes_optlaws.inference.loss_draws import MOST_LOG
from bayes_optlaws.inference.path import EndForecast, Path, forecast
from bayes_optlaws.runs.progress import read_progress
from bayes_optlaws.schedules import Schedule
from bayes_optlaws.text import html
from bayes_optlaws.text.numbers import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BOTH, CURVE, LAW = "law and curve", "curve alone", "law alone"

SURPRISE = 3.0
"""Sds by which curve and law may differ before it is said."""


@dataclass(frozen=True, eq=False, repr=False)
class Watch:
    """What is to be expected of a run in progress.

    Made by ``OptLaw.watch``.

    Attributes
    ----------
    label : str
        Name of the run.
    curve : DataFrame
        ``step`` and ``loss`` so far, in the quantity of the run table (the shift taken off).
    n_steps : float
        Length of the run.
    progress : float
        Share of the steps that is done.
    table : DataFrame
        Rows "law and curve", "curve alone", "law alone"; the final loss, given that the run
        finishes, as ``loss_mean``, ``loss_sd``, ``loss_lower``, ``loss_upper``, and ``p_diverge``.
    ranking : DataFrame
        One row a candidate, the run among them, best first: ``loss_mean`` with its interval,
        ``p_best``, ``expected_rank``, ``p_diverge``, and ``p_best_before``, ``rank_before`` without
        the curve. Of the run alone where there are no others.
    p_stop : float
        Probability that the run is not worth finishing; nan where there is nothing to compare it
        with and divergence is not modelled.
    stop : bool
    saved : dict
        What stopping now saves: ``share``, ``steps``, ``tokens``, ``flops`` and, where the speed
        is given, ``gpu_hours``.
    goal : str
        What the run is held against.
    prob, threshold : float
    notes : tuple of str
    """

    label: str
    curve: pd.DataFrame
    n_steps: float
    progress: float
    table: pd.DataFrame
    ranking: pd.DataFrame
    p_stop: float
    stop: bool
    saved: Mapping[str, float]
    goal: str
    prob: float
    threshold: float
    notes: tuple[str, ...]

    def answer(self, *, notes: bool = True) -> str:
        """Return the advice in plain English, with the notes where wanted."""
        now, before = self.table.loc[BOTH], self.table.loc[LAW]
        said = [
            f"After {self.progress:.0%} of its steps {self.label} is expected to end at "
            f"{now['loss_mean']:.3f} nats ({now['loss_lower']:.3f} to {now['loss_upper']:.3f} with "
            f"{100 * self.prob:g} %); the law alone said {before['loss_mean']:.3f} "
            f"({before['loss_lower']:.3f} to {before['loss_upper']:.3f})."
        ]
        if np.isfinite(now["p_diverge"]):
            said.append(
                f"The risk that it diverges is {html.percent(now['p_diverge'])} "
                f"({html.percent(before['p_diverge'])} before)."
            )
        if len(self.ranking) > 1:
            row = self.ranking.loc[self.label]
            said.append(
                f"The probability that it ends best of {len(self.ranking)} is "
                f"{html.percent(row['p_best'])} ({html.percent(row['p_best_before'])} before)."
            )
        if np.isfinite(self.p_stop):
            saves = f"{self.saved['share']:.0%} of the run, {short(self.saved['flops'])} FLOP"
            if "gpu_hours" in self.saved:
                saves += f", {short(self.saved['gpu_hours'])} GPU hours"
            verb = "Stop it" if self.stop else "Let it run"
            said.append(
                f"{verb}: the probability that it {self.goal} is {html.percent(self.p_stop)}; "
                f"stopping now saves {saves}."
            )
        return " ".join([*said, *self.notes] if notes else said)

    def plot(self, *, ax: Axes | None = None) -> Figure:
        """Plot the curve so far and the intervals of its end.

        Parameters
        ----------
        ax : matplotlib Axes, optional

        Returns
        -------
        matplotlib Figure
        """
        return plots.watch(self, ax=ax)

    def __repr__(self) -> str:
        """Return the advice and the tables."""
        tables = [self.table] + [self.ranking] * (len(self.ranking) > 1)
        return "\n\n".join(
            [self.answer(), *(t.to_string(float_format=lambda v: f"{v:.4g}") for t in tables)]
        )

    def _repr_html_(self) -> str:
        names = ("loss_mean", "loss_sd", "loss_lower", "loss_upper")
        formats = {n: html.number(4) for n in names}
        formats["p_diverge"] = html.percent
        more: dict[str, html.Format] = {n: html.percent for n in ("p_best", "p_best_before")}
        more |= {n: html.number(1) for n in ("expected_rank", "rank_before")}
        ranked = [html.table(self.ranking, formats=formats | more)] * (len(self.ranking) > 1)
        return html.box(
            html.heading("Stop it" if self.stop else "A run in progress"),
            html.paragraphs([self.answer()]),
            html.table(self.table, formats=formats),
            *ranked,
        )


def watch(
    law: FittedLaw,
    curve: pd.DataFrame | str | File,
    candidate: pd.DataFrame,
    *,
    others: pd.DataFrame | None = None,
    target: float | None = None,
    schedule: Schedule | None = None,
    shift: float | tuple[float, float] = 0.0,
    step: str = "step",
    loss: str = "loss",
    prob: float = 0.9,
    tie: float | None = None,
    threshold: float = 0.05,
    flops_per_second: float | None = None,
    max_draws: int = 4000,
    random_seed: int = 0,
    allow_unconverged: bool = False,
) -> Watch:
    """Update what is expected of a run by its loss curve so far.

    Parameters
    ----------
    law : FittedLaw
    curve : DataFrame or path
        Columns ``step`` (optimizer steps done) and ``loss`` (nats a token), in order.
    candidate : DataFrame
        Validated candidate table of one row: the settings of the run.
    others : DataFrame, optional
        Candidates that it competes with.
    target : float, optional
        Loss that it has to reach.
    schedule : Schedule, optional
        Learning rate by step, needed where the candidate's schedule is ``array``.
    shift : float or tuple
        The curve's loss minus the run table's for the same model, as training minus validation
        loss; with its sd where it is not known exactly.
    step, loss : str
        Names of the curve's columns.
    prob : float
        Probability of the intervals.
    tie : float, optional
        Losses this close make no difference, nats. Default: the noise of one run.
    threshold : float
        The run is to be stopped where the probability that it is worth finishing falls below.
    flops_per_second : float, optional
        Sustained speed, to say what stopping saves in GPU hours.
    max_draws, random_seed : int
    allow_unconverged : bool

    Returns
    -------
    Watch

    Raises
    ------
    CurveError
        Naming every fault of the curve.
    ValueError
        If the candidate is not one row, has no schedule that can be evaluated, or an option is out
        of its range.
    ConvergenceError
        If the posterior does not pass the gate.
    """
    check_prob(prob)
    law.require_converged(allow_unconverged)
    nats, shift_sd = _options(candidate, target, shift, threshold, flops_per_second)
    row = candidate.iloc[0]
    path = Path.of(_schedule(row, schedule))
    seen = read_progress(
        curve, n_steps=float(row["steps"]), batch_tokens=float(row["batch_tokens"]),
        step=step, loss=loss,
    )  # fmt: skip
    t, value = seen["step"].to_numpy(), seen["loss"].to_numpy()
    if nats >= value.min():
        raise ValueError(f"shift is {nats:g}: it is larger than the lowest loss, {value.min():g}")
    rng = np.random.default_rng(random_seed)
    everyone = candidate if others is None else pd.concat([candidate, _named(others, candidate)])
    draws = law.draws.thin(max_draws)
    predictor = law.predictor(draws)
    expected, noise = predictor.mean_and_noise_sd(everyone, rng)
    ends = predictor.capped(expected + predictor.noise_draws(noise, rng))
    found = forecast(path, t, value)
    seen_end = None if found is None else found.shifted(nats, shift_sd)
    updated = ends if seen_end is None else _updated(ends, expected, seen_end, rng)
    progress = float(t[-1] / row["steps"])
    risk = law.risk(everyone, draws)
    ratio = trouble.likelihood_ratio(value, progress)
    later = None
    if risk is not None:
        later = risk.copy()
        later[:, 0] = trouble.updated_risk(risk[:, 0], ratio)
    run = _Summary(prob)
    rows = {BOTH: run(updated[:, 0], later), LAW: run(ends[:, 0], risk)}
    if seen_end is not None:
        rows[CURVE] = run(seen_end.draw(len(ends), rng), None)
    tie = float(np.median(noise[:, 0]) * np.exp(np.median(updated[:, 0]))) if tie is None else tie
    lost = rng.random(ends.shape)
    now, before = (
        np.where(lost < (0.0 if p is None else p), np.inf, np.exp(np.minimum(y, MOST_LOG)))
        for y, p in ((updated, later), (ends, risk))
    )
    p_stop, goal = _hopeless(now, target, float(tie), divergence=risk is not None)
    left = 1.0 - progress
    saved = {"share": left, "steps": left * float(row["steps"]), "tokens": left * row["tokens"]}
    saved["flops"] = 6.0 * float(row["n_params"]) * saved["tokens"]
    if flops_per_second is not None:
        saved["gpu_hours"] = saved["flops"] / flops_per_second / 3600.0
    return Watch(
        label=str(candidate.index[0]),
        curve=pd.DataFrame({"step": t, "loss": value - nats}),
        n_steps=float(row["steps"]),
        progress=progress,
        table=pd.DataFrame(rows).T.reindex([k for k in (BOTH, CURVE, LAW) if k in rows]),
        ranking=_ranking(everyone.index, updated, later, now, before, run),
        p_stop=p_stop,
        stop=bool(p_stop >= 1.0 - threshold),
        saved=saved,
        goal=goal,
        prob=float(prob),
        threshold=float(threshold),
        notes=_notes(law, candidate, ends[:, 0], seen_end, path),
    )


def _options(
    candidate: pd.DataFrame,
    target: float | None,
    shift: float | tuple[float, float],
    threshold: float,
    flops_per_second: float | None,
) -> tuple[float, float]:
    """Check the options; return the shift and its sd."""
    if len(candidate) != 1:
        raise ValueError(
            f"the candidate has {len(candidate)} rows: give the one that is running, and those it "
            "competes with as others="
        )
    if not 0 < threshold < 0.5:
        raise ValueError(f"threshold is {threshold!r}: it must lie between 0 and 0.5")
    for name, value in (("target", target), ("flops_per_second", flops_per_second)):
        if value is not None and not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value!r}: it must be positive and finite")
    nats, sd = shift if isinstance(shift, tuple | list) else (shift, 0.0)
    if not (np.isfinite(nats) and np.isfinite(sd) and sd >= 0):
        raise ValueError(f"shift is {shift!r}: give nats, or nats and their sd")
    return float(nats), float(sd)


def _schedule(row: pd.Series, given: Schedule | None) -> Schedule:
    if given is not None:
        if abs(given.steps - row["steps"]) > 1:
            raise ValueError(
                f"schedule has {given.steps:g} steps and the candidate {row['steps']:g}: give that "
                "of the run"
            )
        return given
    if row["schedule"] == "array":
        raise ValueError(
            "the candidate's schedule is array, whose row has no learning rates: give them as "
            "schedule=Schedule.from_array(...)"
        )
    names = ("peak_lr", "steps", "warmup_steps", "min_lr", "decay_end_step", "plateau_lr",
             "cooldown_start_step")  # fmt: skip
    settings: dict[str, Any] = {n: float(row[n]) for n in names}
    return Schedule(row["schedule"], **settings)


def _named(others: pd.DataFrame, candidate: pd.DataFrame) -> pd.DataFrame:
    twice = others.index.isin(candidate.index)
    if twice.any():
        raise ValueError(
            f"others has {others.index[twice][0]!r} too, the name of the run itself: leave it out, "
            "or rename it"
        )
    return others


def _updated(
    ends: np.ndarray, expected: np.ndarray, seen: EndForecast, rng: np.random.Generator
) -> np.ndarray:
    """Draws of all log losses given the curve of the first, shape (n_draws, n)."""
    mine = ends[:, 0]
    mean, variance = float(mine.mean()), float(mine.var())
    total = seen.variance + variance
    log = np.log(seen.weight) - 0.5 * np.log(total) - 0.5 * (seen.mean - mean) ** 2 / total
    weight = np.exp(log - log.max())
    k = rng.choice(weight.size, size=mine.size, p=weight / weight.sum())
    noisy = mine + np.sqrt(seen.variance[k]) * rng.standard_normal(mine.size)
    move = (seen.mean[k] - noisy) / total[k]
    # what the others share with the run is the law's, never its seed noise
    off = expected - expected.mean(axis=0)
    shared = (mine - mean) @ off / mine.size
    shared[0] = variance
    return ends + move[:, None] * shared


@dataclass(frozen=True)
class _Summary:
    """Moments and interval of a loss."""

    prob: float

    def __call__(self, log_loss: np.ndarray, risk: np.ndarray | None) -> dict[str, float]:
        loss = np.exp(np.minimum(log_loss, MOST_LOG))
        lower, upper = np.quantile(loss, [(1 - self.prob) / 2, (1 + self.prob) / 2])
        return {
            "loss_mean": float(loss.mean()),
            "loss_sd": float(loss.std()),
            "loss_lower": float(lower),
            "loss_upper": float(upper),
            "p_diverge": np.nan if risk is None else float(risk[:, 0].mean()),
        }


def _ranking(
    labels: pd.Index,
    updated: np.ndarray,
    risk: np.ndarray | None,
    now: np.ndarray,
    before: np.ndarray,
    summary: _Summary,
) -> pd.DataFrame:
    rows = [
        summary(updated[:, j], None if risk is None else risk[:, [j]]) for j in range(len(labels))
    ]
    out = pd.DataFrame(rows, index=labels.map(str))
    for suffix, y in (("", now), ("_before", before)):
        best = y.argmin(axis=1)
        out[f"p_best{suffix}"] = np.bincount(best, minlength=len(labels)) / len(y)
        out["rank_before" if suffix else "expected_rank"] = 1.0 + np.argsort(
            np.argsort(y, axis=1), axis=1
        ).mean(axis=0)
    return out.sort_values("expected_rank", kind="stable")


def _hopeless(
    now: np.ndarray, target: float | None, tie: float, *, divergence: bool
) -> tuple[float, str]:
    """Probability that the run is not worth finishing, and what that means."""
    mine = now[:, 0]
    goals = []
    worse = np.isinf(mine)
    if target is not None:
        worse = worse | (mine > target + tie)
        goals.append(f"ends above {target:g}")
    if now.shape[1] > 1:
        worse = worse | (mine > now[:, 1:].min(axis=1) + tie)
        goals.append("ends worse than the best of the others by more than a tie")
    if not goals and not divergence:
        return np.nan, ""
    if divergence:
        goals.append("diverges")
    return float(worse.mean()), " or ".join(goals)


def _notes(
    law: FittedLaw,
    candidate: pd.DataFrame,
    before: np.ndarray,
    seen: EndForecast | None,
    path: Path,
) -> tuple[str, ...]:
    out = []
    if seen is None:
        out.append(
            f"The curve has too few points after step {path.start:.0f}, where the warm-up ends: so "
            "far this is what the law says."
        )
    else:
        mean, variance = seen.moments
        gap = (mean - before.mean()) / np.sqrt(variance + before.var())
        if abs(gap) > SURPRISE:
            out.append(
                f"Curve and law disagree: the curve points {abs(gap):.1f} sd "
                f"{'above' if gap > 0 else 'below'} what the law says. Is it the same loss as in "
                "the run table (validation or training, nats a token)? shift= takes off a known "
                "difference."
            )
    return (*out, *law.notes(candidate))


def shift_between(curves: pd.DataFrame, runs: pd.DataFrame) -> tuple[float, float]:
    """Difference between what curves show at their ends and the final losses of a run table.

    Parameters
    ----------
    curves : DataFrame
        Columns ``run_id``, ``step``, ``loss``: of finished runs.
    runs : DataFrame
        Run table with ``run_id`` and ``final_loss``.

    Returns
    -------
    tuple of float
        Median and robust sd, nats: what `watch` takes as ``shift``.

    Raises
    ------
    ValueError
        If fewer than two finished runs have a curve.

    Examples
    --------
    >>> runs = pd.DataFrame({"run_id": ["a", "b"], "final_loss": [3.0, 2.9]})
    >>> curves = pd.DataFrame({"run_id": ["a", "b"], "step": 100, "loss": [3.1, 3.0]})
    >>> [round(x, 3) for x in shift_between(curves, runs)]
    [0.1, 0.0]
    """
    final = runs.set_index("run_id")["final_loss"].astype(float)
    gaps = []
    for run_id, c in curves.sort_values("step").groupby("run_id"):
        if run_id in final.index and np.isfinite(final[run_id]):
            last = c["loss"].to_numpy(float)[-max(1, len(c) // 50) :]
            gaps.append(float(last.mean() - final[run_id]))
    if len(gaps) < 2:
        raise ValueError(
            f"{len(gaps)} finished runs have a curve: a shift takes two or more, with the run_id "
            "of the run table"
        )
    middle = float(np.median(gaps))
    return middle, float(1.4826 * np.median(np.abs(np.array(gaps) - middle)))


def watch_tables(
    law: FittedLaw,
    curve: pd.DataFrame | str | File,
    candidate: pd.DataFrame | str | File,
    others: pd.DataFrame | str | File | None = None,
    **options: object,
) -> Watch:
    """Read the tables of candidates, then `watch`.

    Parameters
    ----------
    law, curve, candidate, others, **options
        As there; candidates are read by `FittedLaw.candidates`.
    """
    rest = None if others is None else law.candidates(others)
    return watch(law, curve, law.candidates(candidate), others=rest, **options)  # type: ignore[arg-type]
