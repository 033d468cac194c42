"""Plot of a plan: value against cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayes_optlaws.plots.results import PlanLike
from bayes_optlaws.plots.style import BLUE, GREY, axes
from bayes_optlaws.text.figures import shown_once

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@shown_once
def plot_plan(plan: PlanLike, *, ax: Axes | None) -> Figure:
    """Draw `DesignPlan.plot`."""
    ax = axes(ax, (7, 4.2))
    cost, value = plan.costs.to_numpy(), plan.scores.to_numpy()
    seen = np.isfinite(value) & (value > 0)
    if seen.any():
        shown = np.flatnonzero(seen)
        ax.scatter(
            cost[shown], value[shown], s=8, color=GREY, alpha=0.5, linewidths=0,
            label="each possible run alone", rasterized=shown.size > 5000,
        )  # fmt: skip
        floor = value[seen].max() * 1e-4
    else:
        floor = 0.0
    table = plan.table
    if len(table):
        added = table["value"].to_numpy()
        ax.scatter(
            table["cost"], np.maximum(added, floor), s=36, color=BLUE, zorder=3,
            label="planned, given those before",
        )  # fmt: skip
        for k, (x, y) in enumerate(zip(table["cost"], np.maximum(added, floor), strict=True)):
            ax.annotate(
                str(k + 1), (x, y), xytext=(4, 4), textcoords="offset points", color=BLUE
            )  # fmt: skip
    if np.ptp(np.log(cost)) > 0.7:
        ax.set_xscale("log")
    if seen.any():
        ax.set_yscale("log")
        ax.set_ylim(bottom=floor)
    ax.set(xlabel=f"cost, {plan.cost_label}", ylabel=f"value, {plan.unit}")
    ax.set_title("What a run costs and is worth")
    ax.grid(alpha=0.3)
    if seen.any() or len(table):
        ax.legend(loc="best", fontsize="small")
    return ax.figure.get_figure(root=True)
