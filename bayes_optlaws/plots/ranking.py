"""Plots of a ranking: probability of each rank beside the losses, and all pairs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from bayes_optlaws.plots.results import RankingLike
from bayes_optlaws.plots.style import BLUE, RED
from bayes_optlaws.text.figures import shown_once

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LONGEST = 28
_MOST_RANKS = 10


@shown_once
def plot_ranks(ranking: RankingLike, *, ax: Axes | None, top: int) -> Figure:
    """Draw the two panels of `Ranking.plot`."""
    import matplotlib.pyplot as plt

    shown = ranking.table.iloc[:top]
    n = len(shown)
    share = ranking.rank_probability(top=_MOST_RANKS).iloc[:n].to_numpy()
    columns = [str(k) for k in range(1, share.shape[1] + 1)]
    if len(ranking.table) > share.shape[1]:
        share = np.column_stack([share, np.clip(1.0 - share.sum(axis=1), 0.0, 1.0)]).round(12)
        columns.append(f">{share.shape[1] - 1}")
    if ax is None:
        width = 0.42 * max(len(columns), 4)
        figure, (left, right) = plt.subplots(
            1,
            2,
            figsize=(4.6 + width, 1.3 + 0.32 * n),
            sharey=True,
            layout="constrained",
            width_ratios=[width, 3.2],
        )
    else:
        figure = ax.figure.get_figure(root=True)
        ax.set_axis_off()
        left = ax.inset_axes((0.0, 0.0, 0.58, 1.0))
        right = ax.inset_axes((0.62, 0.0, 0.38, 1.0), sharey=left)
    # Ranks that never come up stay empty: the eye should go to those that do.
    _draw_matrix(left, np.where(share > 0, share, np.nan), "Blues")
    left.set_xticks(range(len(columns)), columns)
    left.set_yticks(range(n), _names(shown.index), parse_math=False)
    left.set(xlabel="rank", title=f"P(rank), %{_part(n, ranking)}")
    _draw_losses(right, ranking, n)
    right.tick_params(axis="y", left=False, labelleft=False)
    return figure


def _draw_losses(ax: Axes, ranking: RankingLike, n: int) -> None:
    shown = ranking.table.iloc[:n]
    first = shown["tie_group"].to_numpy() == 1
    y = np.arange(n)
    centre, lower, upper = "loss_mean", "loss_lower", "loss_upper"
    if ranking.level == "score":
        lower, upper = "gap_lower", "gap_upper"
        centre = "gap"
        shown = shown.assign(gap=shown["score"] - shown["score"].iloc[0])
    for group, face in ((first, BLUE), (~first, "white")):
        rows = shown[group]
        error = np.stack([rows[centre] - rows[lower], rows[upper] - rows[centre]]).clip(min=0.0)
        ax.errorbar(rows[centre], y[group], xerr=error, fmt="o", color=BLUE, mfc=face)
    for place, risk in zip(y, shown["p_diverge"], strict=True):
        if risk >= 0.005:
            ax.annotate(
                f"diverges {100 * risk:.0f} %",
                (1.0, place),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize="small",
                color=RED,
            )
    what = (
        ("loss", "final loss, nats") if ranking.level == "loss" else ("score less the first's",) * 2
    )
    ax.set(
        xlabel=f"{what[1]} (filled: tie group 1)",
        title=f"{what[0]}, {100 * ranking.prob:g} % interval",
    )
    ax.set_ylim(n - 0.5, -0.5)
    ax.grid(axis="x", alpha=0.3)
    if shown[centre].notna().any():
        ax.locator_params(axis="x", nbins=4)
    else:
        ax.set_xticks([])


@shown_once
def plot_pairs(ranking: RankingLike, *, ax: Axes | None, top: int) -> Figure:
    """Draw the matrix of `Ranking.plot_pairs`."""
    import matplotlib.pyplot as plt

    values, names = ranking.p_better_of_first(top), _names(ranking.table.index[:top])
    n = len(values)
    if ax is None:
        side = 2.0 + 0.42 * n
        _, ax = plt.subplots(figsize=(side + 0.6, side), layout="constrained")
    np.fill_diagonal(values, np.nan)
    _draw_matrix(ax, values, "PuOr", margin=0.15)
    ax.set_xticks(
        range(n), names, rotation=45, ha="right", rotation_mode="anchor", parse_math=False
    )
    ax.set_yticks(range(n), names, parse_math=False)
    ax.set(title=f"P(row ends lower than column), %{_part(n, ranking)}")
    return ax.figure.get_figure(root=True)


def _draw_matrix(ax: Axes, cells: np.ndarray, colours: str, *, margin: float = 0.0) -> None:
    """Draw probabilities as colours with the percentage in each cell; NaN stays blank.

    The ends of the colour scale lie ``margin`` beyond 0 and 1, so that its darkest are not used.
    """
    image = ax.imshow(cells, cmap=colours, vmin=-margin, vmax=1.0 + margin, aspect="auto")
    for (i, j), value in np.ndenumerate(cells):
        if np.isnan(value):
            continue
        red, green, blue, _ = image.to_rgba(value)
        ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
        ax.text(j, i, _cell(value), ha="center", va="center", fontsize="small", color=ink)
    ax.tick_params(length=0)


def _cell(value: float) -> str:
    """Return a probability in percent, nothing rounded to certain."""
    text = f"{100 * value:.0f}"
    if text == "0" and value > 0.0:
        return "<1"
    return ">99" if text == "100" and value < 1.0 else text


def _part(n: int, ranking: RankingLike) -> str:
    left = len(ranking.table) - n
    return f" (first {n} of {n + left:,})" if left else ""


def _names(index: Iterable[object]) -> list[str]:
    names = [str(label) for label in index]
    return [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in names]
