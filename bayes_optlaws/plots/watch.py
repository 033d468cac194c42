"""Plot of a run in progress: the curve so far, and where it is expected to end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayes_optlaws.plots.results import WatchLike
from bayes_optlaws.plots.style import BLACK, BLUE, GREY, ORANGE, axes, figure_of
from bayes_optlaws.text.figures import shown_once

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 200
"""Points of the curve that is drawn; of a longer one, means."""

_LOOK = {"law and curve": (ORANGE, "o", 1.0), "curve alone": (BLUE, "s", 1.03),
         "law alone": (GREY, "D", 1.06)}  # fmt: skip


@shown_once
def watch(run: WatchLike, *, ax: Axes | None = None) -> Figure:
    """The loss curve of a run so far, and the intervals of its end.

    Parameters
    ----------
    run : Watch
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Figure
    """
    ax = axes(ax, (7.0, 4.2))
    step, loss = run.curve["step"].to_numpy(), run.curve["loss"].to_numpy()
    size = max(loss.size // POINTS, 1)
    if size > 1:
        ax.plot(step, loss, color=GREY, linewidth=0.5, alpha=0.5)
    whole = loss.size // size * size
    x, y = (v[-whole:].reshape(-1, size).mean(axis=1) for v in (step, loss))
    ax.plot(x, y, color=BLACK, linewidth=1.2, label="curve so far" + ", smoothed" * (size > 1))
    ends = []
    for name, row in run.table.iterrows():
        color, marker, place = _LOOK[str(name)]
        low, mid, high = row["loss_lower"], row["loss_mean"], row["loss_upper"]
        ax.errorbar(
            run.n_steps * place, mid, [[max(mid - low, 0)], [max(high - mid, 0)]], fmt=marker,
            color=color, capsize=4, label=f"end: {name}",
        )  # fmt: skip
        ends += [low, high]
    ax.axvline(run.n_steps, color=GREY, linewidth=0.8, linestyle=":")
    late = y[x >= step[-1] * 0.15]
    low, high = min(min(ends), late.min()), max(max(ends), late.max())
    room = 0.06 * (high - low)
    ax.set_ylim(low - room, high + room)
    ax.set_xlim(0, 1.1 * run.n_steps)
    ax.set(
        xlabel="optimizer steps",
        ylabel="loss, nats per token",
        title=f"{run.label}: {run.progress:.0%} done; bars: {100 * run.prob:g} %",
    )
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small", frameon=False)
    return figure_of(ax)
