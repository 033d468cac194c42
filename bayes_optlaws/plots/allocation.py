"""Plots of an allocation: loss over model size along a budget, and the frontier over budgets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayes_optlaws.plots.results import AllocationLike
from bayes_optlaws.plots.style import BLUE, GREY, ORANGE, axes, figure_of
from bayes_optlaws.text.figures import shown_once
from bayes_optlaws.text.numbers import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@shown_once
def isoflop(allocation: AllocationLike, *, ax: Axes | None = None) -> Figure:
    """Expected loss over model size along a budget, with its band.

    Parameters
    ----------
    allocation : Allocation
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Figure
    """
    ax = axes(ax, (6.4, 4.0))
    table, o = allocation.profile, allocation.optimum
    x = table["n_params"]
    ax.axvspan(
        o["n_params_lower"], o["n_params_upper"], color=ORANGE, alpha=0.15,
        label=f"best size, {100 * allocation.prob:g} % interval",
    )  # fmt: skip
    ax.fill_between(x, table["loss_lower"], table["loss_upper"], color=BLUE, alpha=0.2)
    ax.plot(x, table["loss_mean"], "o-", color=BLUE, label="expected loss, best settings")
    tied = table[table["tied"]]
    ax.plot(tied["n_params"], tied["loss_mean"], "o", color=ORANGE, label="not shown to be worse")
    ax.set_xscale("log")
    ax.set(
        xlabel="parameters",
        ylabel="expected final loss, nats per token",
        title=f"{short(allocation.flops)} FLOP; band: {100 * allocation.prob:g} %",
    )
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small", frameon=False)
    return figure_of(ax)


@shown_once
def frontier(allocation: AllocationLike, *, ax: Axes | None = None) -> Figure:
    """Best model size over compute, with its band.

    Parameters
    ----------
    allocation : Allocation
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Figure
    """
    ax = axes(ax, (6.4, 4.0))
    front = allocation.frontier
    if not len(front):
        raise ValueError("there is no frontier: allocate with flops= and frontier=True")
    ax.fill_between(
        front["flops"], front["n_params_lower"], front["n_params_upper"], color=BLUE, alpha=0.2
    )
    ax.plot(front["flops"], front["n_params_median"], "o-", color=BLUE)
    e = allocation.exponents.loc["n_params"]
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set(
        xlabel="compute, FLOP (6 N D)",
        ylabel="best number of parameters",
        title=f"N grows as FLOP^{e['mean']:.2f} ({e['lower']:.2f} to {e['upper']:.2f})",
    )
    ax.grid(alpha=0.3, which="both", color=GREY, linewidth=0.5)
    return figure_of(ax)
