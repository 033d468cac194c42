"""Why the law prefers one run to another: the difference of two expected losses, part by part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayes_optlaws.inference.fitted import FittedLaw, check_prob
from bayes_optlaws.model.features import BLOCKS
from bayes_optlaws.plots.explanation import plot_explanation
from bayes_optlaws.text import html

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARTS = (*BLOCKS, "discrepancy")
"""Parts of a difference: the blocks of the law, then what the discrepancy adds; before it, where
the law has them, ``"covariates"``."""


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """Difference of the expected log loss of two candidates, split into parts that add up to it.

    Made by ``OptLaw.explain``.

    Attributes
    ----------
    first, second : str
        Names of the candidates; negative differences speak for the first.
    table : DataFrame
        One row a part and one for their sum, ``total``: ``mean``, ``sd``, ``lower``, ``upper`` of
        log loss of the first less that of the second (0.01 is one percent of the loss), and
        ``p_for_first``, the probability that the part favours the first.
    draws : DataFrame
        Joint posterior draws, one column a part.
    prob : float
        Probability of the intervals.
    """

    first: str
    second: str
    table: pd.DataFrame
    draws: pd.DataFrame
    prob: float

    def answer(self) -> str:
        """Return the explanation in plain English."""
        total = self.table.loc["total"]
        parts = self.table.drop(index="total")
        lower = self.first if total["mean"] < 0 else self.second
        p = total["p_for_first"] if total["mean"] < 0 else 1 - total["p_for_first"]
        largest = parts["mean"].abs().idxmax()
        share = parts.loc[largest]
        sure = max(share["p_for_first"], 1 - share["p_for_first"])
        favoured = self.first if share["mean"] < 0 else self.second
        said = (
            f"{lower} is expected to end lower, by {abs(100 * total['mean']):.2g} % of the loss "
            f"({html.percent(p)} sure). "
        )
        if not abs(share["mean"]) > 0:
            return said + "No part of the law tells them apart."
        return said + (
            f"Most of it comes from the {largest} part, which favours {favoured} by "
            f"{abs(100 * share['mean']):.2g} % ({html.percent(sure)} sure)."
        )

    def plot(self, *, ax: Axes | None = None) -> Figure:
        """Plot the parts with their intervals.

        Parameters
        ----------
        ax : matplotlib Axes, optional

        Returns
        -------
        matplotlib Figure
        """
        return plot_explanation(self, ax=ax)

    def __repr__(self) -> str:
        """Return the answer and the table."""
        shown = self.table.to_string(float_format=lambda v: f"{v:.4f}")
        return f"{self.answer()}\n\n{shown}"

    def _repr_html_(self) -> str:
        formats = {c: html.number(4) for c in ("mean", "sd", "lower", "upper")}
        formats["p_for_first"] = html.percent
        return html.box(
            html.heading(f"log loss of {self.first} less that of {self.second}"),
            html.paragraphs([self.answer()]),
            html.table(self.table, formats=formats),
        )


def explain(
    law: FittedLaw,
    pair: pd.DataFrame,
    *,
    prob: float = 0.9,
    random_seed: int = 0,
    max_draws: int = 4000,
    allow_unconverged: bool = False,
) -> Explanation:
    """Split the difference in expected log loss of two candidates into the parts of the law.

    Parameters
    ----------
    law : FittedLaw
    pair : DataFrame
        Validated candidate table of two rows.
    prob : float
        Probability of the intervals.
    random_seed, max_draws : int
    allow_unconverged : bool

    Returns
    -------
    Explanation

    Raises
    ------
    ValueError
        Unless there are two rows.
    ConvergenceError
        If the posterior does not pass the gate.
    """
    check_prob(prob)
    law.require_converged(allow_unconverged)
    if len(pair) != 2:
        raise ValueError(f"{len(pair)} candidates given: two are compared, give one and another")
    e, draws = law.encoding, law.draws.thin(max_draws)
    predictor = law.predictor(draws)
    x = e.standardizer(e.features.dictionary(pair))
    step = draws.beta * (x[0] - x[1])
    block = np.array(
        ["" if j < 0 else e.features.features[j].block for j in e.features.column_feature]
    )
    columns = {name: step[:, block == name].sum(axis=1) for name in BLOCKS}
    if e.covariates:
        z = e.effects.columns(pair)
        own = draws.local[:, draws.local.shape[1] - z.shape[1] :]
        columns["covariates"] = own @ (z[0] - z[1])
    mean = predictor.mean(pair, np.random.default_rng(random_seed))
    total = mean[:, 0] - mean[:, 1]
    columns["discrepancy"] = total - sum(columns.values())
    drawn = pd.DataFrame(columns)
    every = drawn.assign(total=total)
    tail = (1 - prob) / 2
    table = pd.DataFrame(
        {
            "mean": every.mean(),
            "sd": every.std(ddof=0),
            "lower": every.quantile(tail),
            "upper": every.quantile(1 - tail),
            "p_for_first": (every < 0).mean() + 0.5 * (every == 0).mean(),
        }
    )
    first, second = map(str, pair.index)
    return Explanation(first, second, table, drawn, float(prob))
