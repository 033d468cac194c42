"""Plots of what was learned: coefficients by block, exponents by group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayes_optlaws.inference.fitted import FittedLaw, HasFitted, fitted_law
from bayes_optlaws.plots.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    axes,
    figure_of,
)
from bayes_optlaws.text.figures import shown_once

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLOCK_COLOUR = {"scale": BLUE, "convergence": GREEN, "escape": ORANGE, "mixed": PURPLE}


@shown_once
def coefficients(
    law: FittedLaw | HasFitted, *, prob: float = 0.9, ax: Axes | None = None
) -> Figure:
    """Plot the posterior of every coefficient, grouped in the blocks of the law.

    A coefficient is the change of log loss when its feature grows by one standard deviation over
    the fitted runs, so 0.01 is about one percent of the loss. Features are strongly correlated;
    a wide interval means that the runs do not tell its features apart, not that they are
    irrelevant together.

    Parameters
    ----------
    law : OptLaw or FittedLaw
    prob : float
        Probability inside the central interval.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Figure
    """
    table = fitted_law(law).summary(prob)
    table = table[table["block"].isin(_BLOCK_COLOUR)]
    table = table.sort_values(
        "block", key=lambda b: b.map(list(_BLOCK_COLOUR).index), kind="stable"
    )
    ax = axes(ax, (6.4, 1.2 + 0.26 * len(table)))
    places, place = [], 0.0
    for i, block in enumerate(table["block"]):
        place += 1.0 if i and block == table["block"].iloc[i - 1] else 1.0 + 0.6 * (i > 0)
        places.append(place)
    y = np.array(places)
    for block, colour in _BLOCK_COLOUR.items():
        mine = (table["block"] == block).to_numpy()
        rows = table[mine]
        if rows.empty:
            continue
        ax.hlines(y[mine], rows["lower"], rows["upper"], color=colour, linewidth=2)
        ax.plot(rows["mean"], y[mine], "o", color=colour, markersize=5)
        ax.annotate(
            block,
            (1.0, y[mine].mean()),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            rotation=-90,
            va="center",
            color=colour,
        )
    ax.axvline(0.0, color=GREY, linewidth=1, zorder=0)
    ax.set_yticks(y, table.index, parse_math=False)
    ax.set_ylim(y[-1] + 0.8, y[0] - 0.8)
    ax.grid(axis="x", alpha=0.3)
    ax.set(
        xlabel="change of log loss per sd of the feature",
        title=f"coefficients, mean and {100 * prob:g} % interval",
    )
    return figure_of(ax)


@shown_once
def exponents(law: FittedLaw | HasFitted) -> Figure:
    """Plot the posterior probability of every candidate exponent, one panel a group.

    The dashed lines show the prior, equal for all candidates of a group unless weights are stated.

    Parameters
    ----------
    law : OptLaw or FittedLaw

    Returns
    -------
    matplotlib Figure
    """
    import matplotlib.pyplot as plt

    law = fitted_law(law)
    drawn = law.draw_tree["posterior"]["exponent"]
    groups = [str(g) for g in drawn["exponent_group"].to_numpy()]
    figure, panels = plt.subplots(
        1,
        len(groups),
        figsize=(1.0 + 1.7 * len(groups), 2.6),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for g, (ax, name) in enumerate(zip(panels[0], groups, strict=True)):
        candidates = sorted(law.encoding.features.exponents[name])
        value = drawn.to_numpy()[:, :, g].ravel()
        share = [float(np.isclose(value, p).mean()) for p in candidates]
        ax.bar(range(len(candidates)), share, color=BLUE)
        prior = _prior_weights(law, name)
        if np.ptp(prior) == 0:
            ax.axhline(prior[0], color=BLUE, alpha=0.5, linestyle="--", linewidth=1)
        else:
            at = np.arange(len(prior))
            ax.hlines(prior, at - 0.45, at + 0.45, color=BLUE, linestyle="--", linewidth=1)
        ax.set_xticks(
            range(len(candidates)), [f"{p:g}" for p in candidates], rotation=60, fontsize="small"
        )
        ax.set_title(name.replace("_", " "), fontsize="medium")
        ax.set_ylim(0.0, 1.0)
        ax.grid(axis="y", alpha=0.3)
    panels[0, 0].set_ylabel("posterior probability")
    figure.supxlabel("exponent (dashed: prior)", fontsize="medium")
    return figure


def _prior_weights(law: FittedLaw, group: str) -> np.ndarray:
    """Prior weight of each candidate exponent of a group, the candidates in ascending order."""
    features, own = law.encoding.features, law.encoding.data.exponent_weights
    candidates = features.exponents[group]
    if not own:
        return np.full(len(candidates), 1.0 / len(candidates))
    return own[features.groups.index(group)][np.argsort(candidates)]
