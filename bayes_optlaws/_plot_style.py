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


def short(value: float) -> str:
    """Write a count with a metric suffix.

    Examples
    --------
    >>> short(246240), short(3.6864e6), short(8e9), short(64)
    ('246k', '3.69M', '8B', '64')
    """
    for unit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{suffix}"
    return f"{value:.3g}"


def scale_label(n_params: float, tokens: float) -> str:
    """Name a cell of the table by its model size and budget.

    Examples
    --------
    >>> scale_label(246240, 2457600)
    'N = 246k, 2.46M tokens'
    """
    return f"N = {short(n_params)}, {short(tokens)} tokens"
