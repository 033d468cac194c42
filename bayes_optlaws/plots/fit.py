"""Plots of the fit against runs: predictions, replicated residuals, leave-one-out PIT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import binom

from bayes_optlaws.inference.fitted import FittedLaw, HasFitted, fitted_law
from bayes_optlaws.inference.loo import loo_pit
from bayes_optlaws.plots.style import (
    BLUE,
    GREY,
    PALETTE,
    SKY,
    axes,
    figure_of,
    legend_below,
)
from bayes_optlaws.runs.readers import read_runs
from bayes_optlaws.text.figures import shown_once
from bayes_optlaws.text.numbers import scale_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DRAWS = 1000
_MARKERS = "osD^vP*"


@shown_once
def predictions(
    law: FittedLaw | HasFitted,
    runs: pd.DataFrame | None = None,
    *,
    prob: float = 0.9,
    ax: Axes | None = None,
    random_seed: int = 0,
) -> Figure:
    """Plot predicted against observed final loss, with the intervals of a new run.

    Parameters
    ----------
    law : OptLaw or FittedLaw
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
    law, inside = fitted_law(law), runs is None
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


@shown_once
def predictive_check(
    law: FittedLaw | HasFitted, *, prob: float = 0.9, ax: Axes | None = None, random_seed: int = 0
) -> Figure:
    """Plot observed residuals of log loss over those of replicated runs, by (N, tokens) cell.

    Residuals are from the posterior mean of log loss, in percent of the loss. Bands hold half and
    ``prob`` of the residuals of replicated tables; points far outside, or a cell on one side of
    zero, show where the model does not fit. In-sample: the runs are those of the fit.

    Parameters
    ----------
    law : OptLaw or FittedLaw
    prob : float
        Probability inside the wide band.
    ax : matplotlib Axes, optional
    random_seed : int

    Returns
    -------
    matplotlib Figure
    """
    law = fitted_law(law)
    law.require_converged()
    table = law.encoding.finished
    mean, replicated = law.replicated(np.random.default_rng(random_seed), max_draws=_DRAWS)
    centre = mean.mean(axis=0)
    replicated = replicated - centre
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


@shown_once
def pit(
    law: FittedLaw | HasFitted, *, bins: int = 10, prob: float = 0.9, ax: Axes | None = None
) -> Figure:
    """Plot where each fitted run falls in its predictive distribution, the run itself left out.

    The probability integral transform (PIT) of a calibrated law is uniform: a hill says that its
    intervals are too wide, a valley that they are too narrow, a slope that it is biased.

    Parameters
    ----------
    law : OptLaw or FittedLaw
    bins : int
        Bars of the histogram.
    prob : float
        Of the shaded band: a bar of a calibrated law lies in it with at least this probability.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Figure
        The title says which share of the runs lies in their central 50 % and 90 % intervals.
    """
    values = loo_pit(fitted_law(law))
    n = len(values)
    counts, edges = np.histogram(values, bins=bins, range=(0.0, 1.0))
    alone, ax = ax is None, axes(ax, (5.4, 3.4))
    low, high = binom.ppf([(1 - prob) / 2, (1 + prob) / 2], n, 1 / bins) * bins / n
    ax.axhspan(low, high, color="#cfe6f5", label=f"a calibrated law, {100 * prob:g} % of bars")
    ax.axhline(1.0, color=GREY, linewidth=1)
    ax.stairs(counts * bins / n, edges, color=BLUE, linewidth=1.8, label=f"{n:,} runs, left out")
    inside = [np.mean(np.abs(values - 0.5) <= share / 2) for share in (0.5, 0.9)]
    ax.set(
        xlabel="probability integral transform",
        ylabel="density",
        xlim=(0, 1),
        title=f"in 50 % intervals: {100 * inside[0]:.0f} %, in 90 %: {100 * inside[1]:.0f} %",
    )
    ax.set_ylim(bottom=0)
    legend_below(ax, alone=alone)
    return figure_of(ax)
