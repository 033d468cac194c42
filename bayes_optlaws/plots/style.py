"""What all plots share: colours, axes, labels of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE, RED, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE, BLACK = "#56B4E9", "#CC79A7", "#000000"
PALETTE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK)
DASHES = ("-", "--", "-.", ":")
GREY = "0.55"


def axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return the axes given, or those of a new figure of ``size`` inches."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=size, layout="constrained")[1]


def figure_of(ax: Axes) -> Figure:
    """Return the figure of some axes, also where they lie in a subfigure."""
    return ax.figure.get_figure(root=True)


def legend_below(ax: Axes, *, alone: bool) -> None:
    """Put the legend below a figure of its own, or into axes that were given."""
    if alone:
        handles, labels = ax.get_legend_handles_labels()
        figure_of(ax).legend(
            handles, labels, loc="outside lower center", ncols=3, fontsize="small", frameon=False
        )
    else:
        ax.legend(fontsize="x-small")


def mark_unconverged(figure: Figure) -> Figure:
    """Write over a figure that its numbers come from a posterior that did not converge."""
    figure.suptitle("UNCONVERGED: do not decide by this", color=RED, weight="bold")
    return figure
