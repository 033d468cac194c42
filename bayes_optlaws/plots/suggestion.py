"""Plot of a suggestion: the settings tried, the tied ones, and the schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bayes_optlaws.plots.results import SuggestionLike
from bayes_optlaws.runs.rows import schedule_of
from bayes_optlaws.schedules import Schedule
from bayes_optlaws.text.figures import shown_once

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RED, _BLUE, _GREY = "#D55E00", "#0072B2", "0.55"
_MARKERS = {"linear": "o", "cosine": "s", "wsd": "^", "wsd-sqrt": "v", "polygon": "D"}


@shown_once
def plot_suggestion(found: SuggestionLike, *, ax: Axes | None) -> Figure:
    """Draw `Suggestion.plot`."""
    import matplotlib.pyplot as plt

    if ax is not None:
        _settings(ax, found)
        return ax.figure.get_figure(root=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
    _settings(left, found)
    _schedules(right, found)
    return figure


def _settings(ax: Axes, found: SuggestionLike) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    table, best = found.table, found.table.iloc[0]
    flat = table["warmup_steps"].nunique() == 1
    y = "excess" if flat else "warmup_steps"
    top = max(8 * found.tie, float(table["excess"].quantile(0.5)))
    for family, rows in table.groupby("schedule", sort=False):
        rows = rows.iloc[::-1]  # the best ones on top
        marks = ax.scatter(
            rows["peak_lr"], rows[y], c=np.minimum(rows["excess"], top), vmin=0, vmax=top,
            cmap="viridis_r", s=20, marker=_MARKERS.get(family, "P"), linewidths=0,
            label=family if table["schedule"].nunique() > 1 else None,
        )  # fmt: skip
    tied = table[table["tied"]]
    ax.scatter(
        tied["peak_lr"], tied[y], s=42, facecolors="none", edgecolors=_RED, linewidths=0.8,
        label=f"tied: within {found.tie:.2g} nats with P >= 0.5",
    )  # fmt: skip
    ax.plot(
        best["peak_lr"], best[y], "*", color=_RED, markersize=15, markeredgecolor="black",
        label="suggestion", linestyle="none",
    )  # fmt: skip
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    if not flat:
        ax.set_yscale("log")
    else:
        ax.set_ylim(-0.05 * top, top)
    ax.set(
        xlabel="peak learning rate",
        ylabel="excess expected loss, nats" if flat else "warm-up, steps",
        title=f"{len(table)} settings, {len(tied)} tied",
    )
    bar = ax.figure.colorbar(marks, ax=ax, extend="max")
    bar.set_label("excess expected loss, nats")
    ax.grid(alpha=0.3)
    ax.legend(fontsize="x-small", loc="best")


def _schedules(ax: Axes, found: SuggestionLike) -> None:
    rows = found.table.loc[found.alternatives.index]
    for place, (_, row) in enumerate(rows.iterrows()):
        _curve(ax, schedule_of(row), row, _GREY, 1.2, ("--", "-.", ":", (0, (1, 1)))[place % 4],
               f"{row['schedule']}, +{1e3 * row['excess']:.1f}e-3 nats")  # fmt: skip
    _curve(ax, found.schedule, found.table.iloc[0], _BLUE, 2.4, "-",
           f"suggestion, {found.loss_mean:.4f} nats")  # fmt: skip
    ax.set(xlabel="tokens", ylabel="learning rate", title="suggestion and tied alternatives")
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.3)
    ax.legend(fontsize="x-small")


def _curve(
    ax: Axes, schedule: Schedule, row: pd.Series, colour: str, width: float, style: Any, label: str
) -> None:
    corners = [schedule.warmup_steps, schedule.decay_end_step, schedule.cooldown_start_step]
    t = np.unique(np.concatenate([np.linspace(0, schedule.steps, 301), corners]))
    ax.plot(
        t * row["batch_tokens"], schedule.lr(t), color=colour, linewidth=width, linestyle=style,
        label=label,
    )  # fmt: skip
