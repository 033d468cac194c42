"""Plots of the fit against runs: predictions, replicated residuals, the loss surface."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayes_optlaws.plots._style import (
    BLUE,
    GREY,
    PALETTE,
    RED,
    SKY,
    axes,
    figure_of,
    legend_below,
    scale_label,
    short,
)
from bayes_optlaws.runs import read_candidates, read_runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bayes_optlaws.law import OptLaw

_DRAWS = 1000
_MARKERS = "osD^vP*"


def predictions(
    law: OptLaw,
    runs: pd.DataFrame | None = None,
    *,
    prob: float = 0.9,
    ax: Axes | None = None,
    random_seed: int = 0,
) -> Figure:
    """Plot predicted against observed final loss, with the intervals of a new run.

    Parameters
    ----------
    law : OptLaw
        Fitted.
    runs : DataFrame, optional
        Finished runs to predict. Default: those of the fit, which the title then says: such a
        plot shows lack of fit and says nothing about runs not yet made.
    prob : float
        Probability inside the central interval.
    ax : matplotlib Axes, optional
    random_seed : int

    Returns
    -------
    matplotlib Figure
    """
    inside = runs is None
    table = law.runs if inside else read_runs(runs, min_runs=1)
    table = table[~table["diverged"]]
    predicted = law.predict(table, prob=prob, random_seed=random_seed, max_draws=_DRAWS)
    observed = table["final_loss"].to_numpy(float)
    lower, upper = predicted["loss_lower"].to_numpy(), predicted["loss_upper"].to_numpy()
    mean = predicted["loss_mean"].to_numpy()
    ax = axes(ax, (5.4, 4.6))
    cells = table[["n_params", "tokens"]].drop_duplicates().sort_values(["n_params", "tokens"])
    named = len(cells) <= len(PALETTE)
    for i, (n, d) in enumerate(cells.itertuples(index=False)):
        mine = ((table["n_params"] == n) & (table["tokens"] == d)).to_numpy()
        colour = PALETTE[i] if named else BLUE
        ax.vlines(observed[mine], lower[mine], upper[mine], color=colour, alpha=0.35, linewidth=1)
        ax.plot(
            observed[mine],
            mean[mine],
            _MARKERS[i % len(_MARKERS)] if named else "o",
            color=colour,
            markersize=4,
            label=scale_label(n, d) if named else None,
        )
    ends = [min(observed.min(), mean.min()), max(observed.max(), mean.max())]
    ax.plot(ends, ends, color=GREY, linewidth=1, zorder=0)
    within = np.mean((observed >= lower) & (observed <= upper))
    where = "in-sample" if inside else "runs given"
    ax.set(
        xlabel="observed final loss, nats per token",
        ylabel="predicted final loss, nats per token",
        title=f"{where}: {100 * within:.0f} % of {len(table):,} runs in {100 * prob:g} % intervals",
    )
    if named:
        ax.legend(fontsize="x-small", frameon=False)
    ax.grid(alpha=0.3)
    return figure_of(ax)


def predictive_check(
    law: OptLaw, *, prob: float = 0.9, ax: Axes | None = None, random_seed: int = 0
) -> Figure:
    """Plot observed residuals of log loss over those of replicated runs, by (N, tokens) cell.

    Residuals are from the posterior mean of log loss, in percent of the loss. Bands hold half and
    ``prob`` of the residuals of replicated tables; points far outside, or a cell on one side of
    zero, show where the model does not fit. In-sample: the runs are those of the fit.

    Parameters
    ----------
    law : OptLaw
        Fitted.
    prob : float
        Probability inside the wide band.
    ax : matplotlib Axes, optional
    random_seed : int

    Returns
    -------
    matplotlib Figure
    """
    table = law.runs[~law.runs["diverged"]]
    given = {"random_seed": random_seed, "max_draws": _DRAWS, "finished": True}
    centre = np.log(law.predict_draws(table, kind="mean", **given).to_numpy()).mean(axis=0)
    replicated = np.log(law.predict_draws(table, kind="new_run", **given).to_numpy()) - centre
    residual = np.log(table["final_loss"].to_numpy(float)) - centre
    groups = table.groupby(["n_params", "tokens"]).indices
    alone, ax = ax is None, axes(ax, (6.4, 1.4 + 0.45 * len(groups)))
    rng = np.random.default_rng(random_seed)
    for place, rows in enumerate(groups.values()):
        for share, colour in ((prob, "#cfe6f5"), (0.5, SKY)):
            low, high = 100 * np.quantile(replicated[:, rows], [(1 - share) / 2, (1 + share) / 2])
            label = f"replicated runs, {100 * share:g} %" if not place else None
            ax.barh(place, high - low, left=low, height=0.7, color=colour, label=label)
        ax.plot(
            100 * residual[rows],
            place + rng.uniform(-0.25, 0.25, len(rows)),
            ".",
            color="black",
            markersize=4,
            label=None if place else "observed runs",
        )
    ax.axvline(0.0, color=GREY, linewidth=1)
    ax.set_yticks(range(len(groups)), [scale_label(*cell) for cell in groups])
    ax.set_ylim(len(groups) - 0.4, -0.6)
    ax.set(xlabel="residual of log loss, % of the loss", title="posterior predictive check")
    legend_below(ax, alone=alone)
    return figure_of(ax)


def loss_surface(
    law: OptLaw,
    *,
    n_params: float,
    tokens: float,
    batch_tokens: float | None = None,
    schedule: str = "linear",
    cooldown: float = 0.2,
    grid: int = 25,
    ax: Axes | None = None,
    random_seed: int = 0,
) -> Figure:
    """Plot the expected loss over peak LR and warm-up, with the runs made at that scale.

    Parameters
    ----------
    law : OptLaw
        Fitted.
    n_params, tokens : float
        Model size and token budget.
    batch_tokens : float, optional
        Tokens a step; default: the median of the fitted runs.
    schedule : {"linear", "cosine", "wsd", "wsd-sqrt"}
    cooldown : float
        Share of the run that the cooldown of the two ``wsd`` takes.
    grid : int
        Points along each axis, over the range of the fitted runs in peak LR and in the warm-up's
        share of the run.
    ax : matplotlib Axes, optional
    random_seed : int

    Returns
    -------
    matplotlib Figure
        Colour: mean of the expected loss, nats per token. Circles: runs at this scale, in the
        same colours; crosses: runs there that diverged; star: lowest point of the surface.

    Raises
    ------
    ValueError
        When the schedule is none of those, or the range of peak LR or warm-up is a point.
    """
    if schedule not in ("linear", "cosine", "wsd", "wsd-sqrt"):
        raise ValueError(
            f"schedule is {schedule!r}: the surface can be drawn for linear, cosine, wsd, wsd-sqrt"
        )
    if not 0 < cooldown < 1:
        raise ValueError(f"cooldown is {cooldown}: it is a share of the run, between 0 and 1")
    runs = law.runs
    if batch_tokens is None:
        batch_tokens = float(runs["batch_tokens"].median())
    steps = tokens / batch_tokens
    share = np.maximum(runs["warmup_steps"], 1.0) / runs["steps"]
    least, most = float(share.min()), float(min(share.max(), 0.95))
    if schedule.startswith("wsd"):
        most = min(most, 1 - cooldown)
    low, high = float(runs["peak_lr"].min()), float(runs["peak_lr"].max())
    if not (low < high and least < most):
        raise ValueError(
            f"peak_lr covers {low:g} to {high:g} and the warm-up's share {least:g} to {most:g}: "
            "a surface needs runs that differ in both"
        )
    lr, warmup = np.geomspace(low, high, grid), np.geomspace(least, most, grid) * steps
    lr_at, warmup_at = (a.ravel() for a in np.meshgrid(lr, warmup))
    candidates = pd.DataFrame(
        {
            "n_params": float(n_params),
            "tokens": float(tokens),
            "batch_tokens": batch_tokens,
            "peak_lr": lr_at,
            "warmup_steps": warmup_at,
            "schedule": schedule,
        }
    )
    if schedule.startswith("wsd"):
        candidates["cooldown_start_step"] = (1 - cooldown) * steps
    loss = law.predict(
        read_candidates(candidates), kind="mean", random_seed=random_seed, max_draws=_DRAWS // 2
    )["loss_mean"].to_numpy()
    alone, ax = ax is None, axes(ax, (6.2, 4.4))
    here = runs[np.isclose(runs["n_params"], n_params) & np.isclose(runs["tokens"], tokens)]
    good = here[~here["diverged"]]
    values = np.concatenate([loss, good["final_loss"].to_numpy(float)])
    # Losses far up the side would leave no colour for the bottom of the bowl.
    bottom, top = values.min(), np.quantile(values, 0.9)
    levels = np.linspace(bottom, max(top, bottom * (1 + 1e-6)), 21)
    colours = ax.contourf(
        lr, warmup, loss.reshape(grid, grid), levels=levels, cmap="viridis_r", extend="max"
    )
    figure = figure_of(ax)
    figure.colorbar(colours, ax=ax, label="expected final loss, nats per token", format="%.3f")
    if len(good):
        ax.scatter(
            good["peak_lr"],
            good["warmup_steps"],
            c=good["final_loss"],
            cmap=colours.cmap,
            norm=colours.norm,
            edgecolor="white",
            s=42,
            label="run",
            zorder=3,
            clip_on=False,
        )
    failed = here[here["diverged"]]
    if len(failed):
        ax.plot(
            failed["peak_lr"],
            failed["warmup_steps"],
            "x",
            color=RED,
            markersize=7,
            label="diverged run",
            clip_on=False,
        )
    best = int(np.argmin(loss))
    ax.plot(
        lr_at[best],
        warmup_at[best],
        "*",
        color="white",
        markeredgecolor="black",
        markersize=14,
        label="lowest expected loss",
        clip_on=False,
        zorder=4,
    )
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="peak LR",
        ylabel="warm-up, steps",
        title=f"{scale_label(n_params, tokens)}, {schedule}, {short(steps)} steps",
    )
    legend_below(ax, alone=alone)
    return figure
