"""Plots for the decision: ranks, pairs, ties, schedule shapes, resolution, plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayes_optlaws.inference.fitted import FittedLaw, HasFitted, fitted_law
from bayes_optlaws.kernels import rank_counts
from bayes_optlaws.plots.results import PlanLike, RankingLike
from bayes_optlaws.plots.style import (
    BLUE,
    DASHES,
    GREY,
    PALETTE,
    RED,
    axes,
    figure_of,
)
from bayes_optlaws.runs.readers import read_candidates
from bayes_optlaws.schedules import Schedule
from bayes_optlaws.text.figures import shown_once
from bayes_optlaws.text.numbers import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_MOST = 12
_INTEGRALS = (
    ("conv_warmup", "C_w", "LR x steps"),
    ("conv_cooldown", "C_c", "LR x steps"),
    ("escape_warmup", "E_w", "LR² / step"),
    ("escape_cooldown", "E_c", "LR² / step"),
)
_PHASES = ("warmup_steps", "decay_end_step", "cooldown_start_step")


@shown_once
def ranks(ranking: RankingLike, *, top: int = 20, ax: Axes | None = None) -> Figure:
    """Plot the probability of each rank beside the losses; the same as `Ranking.plot`.

    Parameters
    ----------
    ranking : Ranking
    top : int
        Most candidates shown, best first.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Figure
    """
    return ranking.plot(ax=ax, top=top)


@shown_once
def pairs(ranking: RankingLike, *, top: int = 15, ax: Axes | None = None) -> Figure:
    """Plot P(row ends lower than column); the same as `Ranking.plot_pairs`.

    Parameters
    ----------
    ranking : Ranking
    top : int
        Most candidates shown, best first.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Figure
    """
    return ranking.plot_pairs(ax=ax, top=top)


@shown_once
def tie_graph(ranking: RankingLike, *, top: int = 15, ax: Axes | None = None) -> Figure:
    """Plot which candidates have not been told apart: an arc joins each such pair.

    Two candidates are told apart when the expected loss of one is lower by more than
    ``ranking.tie`` with probability ``ranking.prob`` or more. Being tied is not transitive: A and
    C may be told apart while B is tied with both. The numbers in the dots are the tie groups, in
    which no two are told apart.

    Parameters
    ----------
    ranking : Ranking
    top : int
        Most candidates shown, best first.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Figure
        Candidates from best to worst; the darker and wider an arc, the likelier it is that the
        lower-ranked of the two ends as low as the other, within ``ranking.tie``.

    Raises
    ------
    ValueError
        With fewer than two candidates.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> import xarray as xr
    >>> from bayes_optlaws.decision.ranking import Ranking
    >>> draws = xr.DataArray([[1.0, 1.0, 2.0]] * 9, dims=("sample", "candidate"))
    >>> (axes,) = tie_graph(Ranking.from_draws(draws)).axes
    >>> len(axes.patches)  # the first two are tied, the third is worse than both
    1
    """
    from matplotlib.patches import Arc

    shown = ranking.table.iloc[:top]
    n = len(shown)
    if n < 2:
        raise ValueError(f"{n} candidate in the ranking: a tie needs at least two")
    i, j = np.triu_indices(n, k=1)
    pairs = rank_counts.pair_summary(ranking.expected_ordered[:, :n], i, j, tie=ranking.tie)
    open_ = np.maximum(pairs.p_lower_beyond, pairs.p_higher_beyond) < ranking.prob
    not_worse = 1.0 - pairs.p_lower_beyond
    ax = axes(ax, (6.4, 1.5 + 0.34 * n))
    for a, b, p in zip(i[open_], j[open_], not_worse[open_], strict=True):
        ax.add_patch(
            Arc(
                (0.0, (a + b) / 2), b - a, b - a, theta1=-90, theta2=90, color=BLUE,
                alpha=0.15 + 0.85 * p, linewidth=0.6 + 3.4 * p, zorder=1 + p,
            )
        )  # fmt: skip
    group = shown["tie_group"].to_numpy()
    for place, number in enumerate(group):
        ax.plot(0, place, "o", markersize=15, color=_group_colour(number), zorder=4)
        ax.text(0, place, str(number), ha="center", va="center", color="white", weight="bold",
                fontsize="small", zorder=5)  # fmt: skip
    reach = max(((j - i)[open_] / 2).max(initial=0.0), 1.0)
    ax.set_xlim(-0.05 * reach, 1.05 * reach)
    ax.set_ylim(n - 0.4, -0.6)
    ax.set_xticks([])
    ax.set_yticks(range(n), [str(label) for label in shown.index], parse_math=False)
    ax.tick_params(axis="y", length=0)
    for side in ("top", "right", "bottom", "left"):
        ax.spines[side].set_visible(False)
    left = len(ranking.table) - n
    ax.set_title(
        f"not told apart at {100 * ranking.prob:g} %, beyond {ranking.tie:.2g} nats: "
        f"{open_.sum()} of {len(i)} pairs" + (f" (first {n} of {n + left:,})" if left else ""),
        fontsize="medium",
        loc="left",
    )
    for p in (0.25, 0.5, 0.75):
        ax.plot([], [], color=BLUE, alpha=0.15 + 0.85 * p, linewidth=0.6 + 3.4 * p,
                label=f"{100 * p:g} %")  # fmt: skip
    ax.legend(
        title="P(lower one as good)", fontsize="small", title_fontsize="small", frameon=False,
        loc="center left", bbox_to_anchor=(1.0, 0.5),
    )  # fmt: skip
    return figure_of(ax)


def _group_colour(number: int) -> str:
    return (BLUE, RED, "0.35")[min(number, 3) - 1]


@shown_once
def plan(design: PlanLike, *, ax: Axes | None = None) -> Figure:
    """Plot value against cost of every run that could be made; the same as `DesignPlan.plot`.

    Parameters
    ----------
    design : DesignPlan
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Figure
    """
    return design.plot(ax=ax)


@shown_once
def schedules(given: pd.DataFrame | Mapping[str, Schedule] | Sequence[Schedule]) -> Figure:
    """Plot schedules over the run, and the four integrals by which the law knows them.

    Parameters
    ----------
    given : DataFrame, mapping or sequence
        Candidate table (rows named by its index), or `Schedule` objects; at most 12.

    Returns
    -------
    matplotlib Figure
        Above, learning rate against step. Below, a bar for each schedule and integral: C, the
        area below the curve (LR x steps), in warm-up and in plateau and cooldown; E, the
        integral of its squared slope (LR² / step), likewise.

    Raises
    ------
    ValueError
        With no or more than 12 schedules, or a row of schedule ``array``, whose curve is not in
        the table.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> figure = schedules([Schedule.linear(peak_lr=1e-3, steps=1000, warmup_steps=100)])
    >>> len(figure.axes)
    5
    """
    import matplotlib.pyplot as plt

    named = _named_schedules(given)
    if not 1 <= len(named) <= _MOST:
        raise ValueError(f"{len(named)} schedules given: choose 1 to {_MOST} to be readable")
    figure = plt.figure(figsize=(8.4, 4.4 + 0.14 * len(named)), layout="constrained")
    rows = figure.add_gridspec(2, 4, height_ratios=[2.2, 0.6 + 0.14 * len(named)])
    ax = figure.add_subplot(rows[0, :])
    colours = [PALETTE[i % len(PALETTE)] for i in range(len(named))]
    for i, (name, schedule) in enumerate(named.items()):
        corners = [schedule.warmup_steps, schedule.decay_end_step, schedule.cooldown_start_step]
        t = np.unique(np.concatenate([np.linspace(0, schedule.steps, 601), corners]))
        style = DASHES[(i % len(PALETTE) + i // len(PALETTE)) % len(DASHES)]
        ax.plot(t, schedule.lr(t), style, color=colours[i], label=name)
    ax.set(xlabel="step", ylabel="learning rate")
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.3)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small", frameon=False)
    found = [schedule.integrals() for schedule in named.values()]
    for k, (attribute, symbol, unit) in enumerate(_INTEGRALS):
        small = figure.add_subplot(rows[1, k])
        small.barh(range(len(named)), [getattr(i, attribute) for i in found], color=colours)
        small.set_ylim(len(named) - 0.4, -0.6)
        small.set_yticks(range(len(named)), list(named) if k == 0 else [""] * len(named))
        small.tick_params(axis="y", length=0, labelsize="small")
        small.tick_params(axis="x", labelsize="small")
        small.ticklabel_format(axis="x", scilimits=(-2, 3))
        small.locator_params(axis="x", nbins=2)
        small.set_title(f"${symbol}$\n{unit}", fontsize="small")
        small.grid(axis="x", alpha=0.3)
    return figure


def _named_schedules(given: pd.DataFrame | Mapping[str, Schedule]) -> dict[str, Schedule]:
    if isinstance(given, Mapping):
        return {str(name): schedule for name, schedule in given.items()}
    if not isinstance(given, pd.DataFrame):
        return {f"{i + 1}: {s.kind}": s for i, s in enumerate(given)}
    table = read_candidates(given, warn=False)
    arrays = table.index[table["schedule"] == "array"]
    if len(arrays):
        raise ValueError(
            f"row {arrays[0]!r} has schedule 'array', whose curve is not in the table: "
            "give the Schedule object"
        )
    fields = ("peak_lr", "steps", "warmup_steps", "min_lr", *_PHASES[1:2], "plateau_lr", _PHASES[2])
    return {
        str(label): Schedule(row["schedule"], *(row[f] for f in fields))
        for label, row in table.iterrows()
    }


@shown_once
def resolution(
    law: FittedLaw | HasFitted,
    candidates: pd.DataFrame,
    *,
    factors: Sequence[float] = (1, 2, 4, 8, 16),
    by: str = "tokens",
    prob: float = 0.9,
    ax: Axes | None = None,
    random_seed: int = 0,
) -> Figure:
    """Plot how far apart two candidates must be to be told apart, as the scale grows.

    Parameters
    ----------
    law : OptLaw or FittedLaw
    candidates : DataFrame
        At least two candidates; they are read again at each scale with their schedules stretched.
    factors : sequence of float
        Multiples of their scale.
    by : {"tokens", "n_params", "both"}
        What is multiplied.
    prob : float
        Confidence at which a pair counts as told apart.
    ax : matplotlib Axes, optional
    random_seed : int

    Returns
    -------
    matplotlib Figure
        Gap of mean losses (nats) that is told apart with probability ``prob``, for a single new
        run and for the average over seeds, against the scale; the spread between the best and the
        worst of the candidates; dotted, the scales beyond the fitted ones.

    Raises
    ------
    ValueError
        With fewer than two candidates or an unknown ``by``.
    """
    if by not in ("tokens", "n_params", "both"):
        raise ValueError(f"by is {by!r}: it must be 'tokens', 'n_params' or 'both'")
    law = fitted_law(law)
    table = law.candidates(candidates)
    if len(table) < 2:
        raise ValueError(f"{len(table)} candidate given: a gap needs at least two")
    multiples = np.sort(np.asarray(factors, dtype=float))
    gaps: dict[str, list[float]] = {"new_run": [], "mean": []}
    spread = []
    for factor in multiples:
        scaled = _scaled(table, factor, by)
        for kind, values in gaps.items():
            loss = law.predict_draws(scaled, kind, random_seed=random_seed).to_numpy()
            values.append(rank_counts.resolution(loss, prob))
        mean = rank_counts.finite_summary(loss, prob)[0]
        spread.append(float(np.ptp(mean)))
    ax = axes(ax, (6.0, 3.8))
    column = "n_params" if by == "n_params" else "tokens"
    x = multiples * float(table[column].median())
    ax.plot(x, gaps["new_run"], "o-", color=BLUE, label="told apart, single new run")
    ax.plot(x, gaps["mean"], "s--", color=RED, label="told apart, average over seeds")
    ax.plot(x, spread, "^:", color=GREY, label="best to worst candidate")
    largest = float(law.runs.loc[~law.runs["diverged"], column].max())
    if x[-1] > largest:
        ax.axvspan(max(largest, x[0] / 1.2), x[-1] * 1.2, color="0.93", zorder=0)
        ax.set_xlim(x[0] / 1.2, x[-1] * 1.2)
    ax.set_xscale("log", base=2)
    ax.set_xticks(x, [short(value) for value in x])
    ax.set_ylim(bottom=0)
    ax.grid(axis="y", alpha=0.3)
    unit = {"tokens": "tokens", "n_params": "parameters", "both": "tokens (N grows alike)"}[by]
    ax.set(
        xlabel=f"{unit}; shaded: beyond the fitted runs",
        ylabel="gap of final loss, nats per token",
        title=f"gap that is told apart with {100 * prob:g} % probability",
    )
    ax.legend(fontsize="small", frameon=False)
    return figure_of(ax)


def _scaled(table: pd.DataFrame, factor: float, by: str) -> pd.DataFrame:
    out = table.copy()
    if by in ("n_params", "both"):
        out["n_params"] *= factor
    if by in ("tokens", "both"):
        for column in ("tokens", "steps", *_PHASES):
            out[column] *= factor
        if "conv_warmup" in out:  # rows of schedule "array" carry their integrals
            for column in ("conv_warmup", "conv_cooldown"):
                out[column] *= factor
            for column in ("escape_warmup", "escape_cooldown"):
                out[column] /= factor
    return out
