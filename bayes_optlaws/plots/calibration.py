"""Calibration of held-out predictions: coverage, PIT and pairs, a row a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bayes_optlaws.plots.style import DASHES, GREY, PALETTE
from bayes_optlaws.text.figures import shown_once

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS = {
    "coverage": ("probability of the interval", "share of runs inside", (0.0, 1.0)),
    "pit": ("probability integral transform", "density", None),
    "pairs": ("probability said of the order", "share that came true", (0.5, 1.0)),
}
_SUFFIX = "-curves.csv"
_FEW = 10  # pairs behind a point; fewer are not drawn


@shown_once
def calibration(
    curves: pd.DataFrame | Mapping[str, pd.DataFrame] | str | Path,
    *,
    methods: Sequence[str] | None = None,
) -> Figure:
    """Plot coverage, PIT and pair calibration of held-out predictions.

    On the grey line what was said came true. Left, below the line: intervals too narrow. Middle,
    a hill: intervals too wide; a valley: too narrow; a slope: biased. Right, below the line:
    orders of pairs called with too much confidence.

    Parameters
    ----------
    curves : DataFrame, mapping or path
        Points as `studies.held_out.calibration_curves` gives them (columns
        ``method``, ``curve``, ``x``, ``y``, ``n``); several by their titles; or a folder with
        ``*-curves.csv``, as ``studies/results``.
    methods : sequence of str, optional
        Methods drawn, the first with a thicker line; default: all, in the order of the table.

    Returns
    -------
    matplotlib Figure
        A row a study, three panels.

    Raises
    ------
    FileNotFoundError
        When the folder has no such file.
    ValueError
        When a table lacks columns, or none of its methods is asked for.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> points = pd.DataFrame({"method": "law", "curve": "coverage", "x": [0.5, 0.9],
    ...                        "y": [0.45, 0.92], "n": 40})
    >>> len(calibration(points).axes)
    3
    """
    import matplotlib.pyplot as plt

    studies = _studies(curves)
    figure, rows = plt.subplots(
        len(studies), 3, figsize=(10, 0.5 + 2.6 * len(studies)), squeeze=False, layout="constrained"
    )
    shown: dict[str, None] = {}
    for title, table in studies.items():
        missing = {"method", "curve", "x", "y"} - set(table.columns)
        if missing:
            raise ValueError(
                f"curves of {title or 'the table'} lack {', '.join(sorted(missing))}: give what "
                "evaluation.report.calibration_curves returns"
            )
        shown |= dict.fromkeys(table["method"])
    names = list(shown) if methods is None else [m for m in methods if m in shown]
    if not names:
        raise ValueError(f"none of these methods is there: {methods}; there are {list(shown)}")
    for row, (title, table) in zip(rows, studies.items(), strict=True):
        for ax, curve in zip(row, _PANELS, strict=True):
            _draw(ax, table[table["curve"] == curve], curve, names)
        row[0].set_title(title, loc="left", fontsize="medium")
    handles: dict[str, Any] = {}
    for ax in rows.ravel():
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    figure.legend(
        [handles[n] for n in names if n in handles], [n for n in names if n in handles],
        loc="outside lower center", ncols=4, fontsize="small", frameon=False,
    )  # fmt: skip
    return figure


def _studies(
    curves: pd.DataFrame | Mapping[str, pd.DataFrame] | str | Path,
) -> dict[str, pd.DataFrame]:
    if isinstance(curves, pd.DataFrame):
        return {"": curves}
    if isinstance(curves, Mapping):
        return dict(curves)
    paths = sorted(Path(curves).glob(f"*{_SUFFIX}"))
    if not paths:
        raise FileNotFoundError(f"no *{_SUFFIX} in {curves}: run the evaluation first")
    return {path.name.removesuffix(_SUFFIX): pd.read_csv(path) for path in paths}


def _draw(ax: Axes, points: pd.DataFrame, curve: str, methods: Sequence[str]) -> None:
    across, up, ends = _PANELS[curve]
    if ends is None:
        ax.axhline(1.0, color=GREY, linewidth=1, zorder=0)
        ax.set_xlim(0, 1)
    else:
        ax.plot(ends, ends, color=GREY, linewidth=1, zorder=0)
    for i, method in enumerate(methods):
        one = points[points["method"] == method]
        if curve == "pairs" and "n" in one:
            one = one[one["n"] >= _FEW]
        if one.empty:
            continue
        style: dict[str, Any] = {
            "label": method,
            "color": PALETTE[i % len(PALETTE)],
            "linestyle": DASHES[i % len(DASHES)],
            "linewidth": 1.2 if i else 2.2,
            "zorder": 3 - 0.1 * i,
        }
        if curve == "pit":
            ax.stairs(one["y"], np.linspace(0, 1, len(one) + 1), **style)
        else:
            ax.plot(one["x"], one["y"], marker=".", markersize=4, **style)
    if curve == "pit":
        ax.set_ylim(bottom=0)
    elif len(ax.lines) == 1:
        ax.text(0.5, 0.5, f"fewer than {_FEW} pairs a point" if curve == "pairs" else "no points",
                ha="center", transform=ax.transAxes, fontsize="small", color=GREY)  # fmt: skip
    ax.set_xlabel(across, fontsize="small")
    ax.set_ylabel(up, fontsize="small")
    ax.tick_params(labelsize="small")
    ax.grid(alpha=0.3)
