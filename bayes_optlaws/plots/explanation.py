"""Plot of an explanation: what each part of the law says about two candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayes_optlaws.plots.results import ExplanationLike
from bayes_optlaws.plots.style import BLUE, GREY, ORANGE, axes, figure_of
from bayes_optlaws.text.figures import shown_once

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@shown_once
def plot_explanation(explanation: ExplanationLike, *, ax: Axes | None) -> Figure:
    """Draw `Explanation.plot`."""
    ax = axes(ax, (6.4, 3.2))
    table = explanation.table
    at = np.arange(len(table))[::-1]
    colours = [ORANGE if name == "total" else BLUE for name in table.index]
    mean, lower, upper = (100 * table[c].to_numpy() for c in ("mean", "lower", "upper"))
    ax.axvline(0.0, color=GREY, linewidth=1)
    ax.hlines(at, lower, upper, color=colours, linewidth=2)
    ax.scatter(mean, at, color=colours, zorder=3)
    ax.set_yticks(at, list(table.index))
    ax.set(
        xlabel=f"difference of expected loss, % ({explanation.first} less {explanation.second})",
        title=f"left of zero favours {explanation.first}; bars: {100 * explanation.prob:g} %",
    )
    ax.grid(axis="x", alpha=0.3)
    return figure_of(ax)
