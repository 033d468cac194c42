"""Plot of a replay: regret of the pick and R2 against the share of the pool's FLOPs spent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayes_optlaws.decision.design import OBJECTIVES
from bayes_optlaws.plots.style import DASHES, GREY, PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST_REGRET, LEAST_R2 = 1e-4, -1.0
"""Smaller figures are drawn here, without their error."""

COLOURS = (*PALETTE, GREY, "#8B5A2B")

MARKERS = "osDv^<>Pp"


def plot_replay(summaries: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw one row of axes a table, from `studies.replay.summary`.

    The objectives of the package are thick, those it is compared with thin; bars are standard
    errors over repeats.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(summaries), 2, figsize=(9, 3.3 * len(summaries)), layout="constrained", squeeze=False
    )
    names = sorted(
        {o for table in summaries.values() for o in table.index.get_level_values("objective")},
        key=lambda name: (name not in OBJECTIVES, name),
    )
    handles = {}
    for row, (title, table) in zip(axes, summaries.items(), strict=True):
        for i, name in enumerate(names):
            if name not in table.index.get_level_values("objective"):
                continue
            lines = table.xs(name, level="objective")
            ours = name in OBJECTIVES
            style = {
                "color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)],
                "lw": 2.2 if ours else 1.0, "ms": 6 if ours else 4, "capsize": 2,
                "ls": "-" if ours else DASHES[1 + i % 3], "label": name,
            }  # fmt: skip
            # side by side, so that lines that fall together can be told apart
            share = 100 * lines.index * np.exp(0.02 * (i - len(names) / 2))
            for ax, column, least in ((row[0], "regret", LEAST_REGRET), (row[1], "r2", LEAST_R2)):
                value = lines[column].to_numpy()
                error = np.where(value > least, lines[f"{column}_se"], np.nan)
                handles[name] = ax.errorbar(share, np.maximum(value, least), yerr=error, **style)
        row[0].set(ylabel="regret of the pick, nats", yscale="log", title=title)
        row[0].set_ylim(bottom=0.8 * LEAST_REGRET)
        row[1].set(ylabel="R2 of log loss at the target", title=title, ylim=(LEAST_R2 - 0.1, 1.05))
        for ax in row:
            ax.set(xscale="log", xlabel="budget, % of the pool's FLOPs")
            shares = 100 * table.index.get_level_values("share").unique()
            ax.set_xticks(shares, [f"{s:g}" for s in shares], minor=False)
            ax.set_xticks([], minor=True)
    handles = {name: handles[name] for name in names}
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=5, fontsize="small",
        frameon=False,
    )  # fmt: skip
    return figure
