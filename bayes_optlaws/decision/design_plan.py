"""DesignPlan: runs to do next, and what they buy, as table and words."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayes_optlaws.decision.design_benefit import Benefit
from bayes_optlaws.inference.caveats import is_unconverged
from bayes_optlaws.plots.plan import plot_plan
from bayes_optlaws.plots.style import mark_unconverged
from bayes_optlaws.text import html
from bayes_optlaws.text.numbers import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class DesignPlan:
    """Runs to do next, in order; made by `design` or ``OptLaw.design``.

    Attributes
    ----------
    table : DataFrame
        One row a run, in the order to do them, with the index and columns of the pool and:

        ``cost``
            Of the run, in the unit of ``cost_label``.
        ``value``
            What it adds, given the runs above it, in ``unit``.
        ``value_se``
            Its Monte-Carlo standard error; 0 where it is computed without simulation.
        ``cost_share``
            Cost as a share of one run to be decided; NaN where the cost is not in FLOP.
        ``value_per_cost``
            Their ratio.
        ``cumulative``, ``cumulative_cost``
            Sums down to this row.
        ``p_diverge``
            Probability that the run diverges and then tells nothing about the loss.
        ``settles``
            In words, the pair of candidates whose order it does most for.
    scores : Series
        Value of each pool run on its own, by the pool's index (NaN for a blind rule).
    costs : Series
        Cost of each pool run.
    objective : str
    unit : str
        Of the values.
    perfect : float
        Value of knowing all candidates exactly; no set of runs is worth more.
    cost_label : str
    budget : float or None
    rule : str
        How value and cost were traded.
    candidates : DataFrame
        The table that is to be decided.
    decide_cost : float or None
        Median cost of one run to be decided, where the cost is in FLOP.
    benefit : Benefit or None
        Probability of the right choice before and after the plan.
    stopped : str or None
        Why no more runs are proposed, in words.
    notes : tuple of str
        What a reader must know before acting.
    of_later_stage : bool
        Whether the runs continue a checkpoint.
    """

    table: pd.DataFrame
    scores: pd.Series
    costs: pd.Series
    objective: str
    unit: str
    perfect: float
    cost_label: str
    budget: float | None
    rule: str
    candidates: pd.DataFrame = field(repr=False)
    decide_cost: float | None = None
    benefit: Benefit | None = None
    stopped: str | None = None
    notes: tuple[str, ...] = ()
    of_later_stage: bool = False

    def answer(self) -> str:
        """Return the plan in plain English."""
        return " ".join(self.sentences())

    def sentences(self, *, notes: bool = True) -> list[str]:
        """Return the plan sentence by sentence.

        Parameters
        ----------
        notes : bool
            With what to know before acting.
        """
        if len(self.table):
            said = [self._what(), *self._what_it_buys(), *self._what_it_settles()]
        else:
            said = ["No run is proposed: none fits the budget or helps."]
        if self.stopped:
            said.append(f"{self.stopped}.")
        if notes and self.notes:
            said.append(f"Before you act: {' '.join(self.notes)}")
        return said

    def _what(self) -> str:
        n, cost = len(self.table), self.table["cost"].sum()
        spent = f"{html.significant(cost, 3)} {self.cost_label}"
        if self.decide_cost:
            share = cost / self.decide_cost
            times = html.percent(share) if share < 0.995 else f"{share:.2g} times the cost"
            spent += f", {times} of one run to be decided"
        if self.lowers_variance_only:
            return (
                f"No single run is expected to change the choice. The {n} proposed, for {spent}, "
                "lower the variance of the candidates' differences most for what they cost."
            )
        total = self.table["value"].sum()
        error = float(np.sqrt(np.nansum(self.table["value_se"] ** 2)))
        worth = f"worth {html.known(total, error, 3)} {self.unit}"
        if np.isfinite(self.perfect) and self.perfect > 0:
            worth += (
                f", {html.percent(total / self.perfect)} of what knowing every candidate exactly "
                "would be"
            )
        return f"{n} run{'s' if n > 1 else ''} for {spent}: {worth}."

    @property
    def lowers_variance_only(self) -> bool:
        """Whether no proposed run is expected to change the choice."""
        return bool(len(self.table)) and not self.table["value"].sum() > 0 and self.perfect > 0

    def _what_it_buys(self) -> list[str]:
        if self.benefit is None:
            return []
        found = self.benefit
        after = max(found.after, found.before)
        return [
            f"The probability of choosing right (within {html.significant(found.tie)} nats of the "
            f"best) is {html.percent(found.before, found.before_se)} now and "
            f"{html.percent(after, found.before_se)} after "
            f"{'it' if len(self.table) == 1 else 'them'}."
        ]

    def _what_it_settles(self) -> list[str]:
        return [f"First {self.table.index[0]}: {self.table['settles'].iloc[0]}."]

    def plot(self, *, ax: Axes | None = None) -> Figure:
        """Plot value against cost: every pool run, and the plan's in order.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Axes to draw on; a new figure is made when absent.

        Returns
        -------
        matplotlib Figure
        """
        figure = plot_plan(self, ax=ax)
        return mark_unconverged(figure) if is_unconverged(self.notes) else figure

    def _title(self) -> str:
        return (
            f"Plan of {len(self.table)} of {len(self.scores):,} possible runs to decide among "
            f"{len(self.candidates):,} candidates, by {self.objective}, {self.rule}"
        )

    def _shown(self) -> pd.DataFrame:
        wanted = [
            "n_params", "tokens", "batch_tokens", "peak_lr", "warmup_steps", "schedule",
            "cost", "value", "value_se", "value_per_cost", "cumulative", "settles",
        ]  # fmt: skip
        return self.table[wanted]

    def __repr__(self) -> str:
        """Return the answer and the table."""
        answer = textwrap.fill(self.answer(), 100, break_on_hyphens=False)
        shown = self._shown().drop(columns="settles")
        body = shown.head(20).to_string(float_format=lambda v: f"{v:.3g}")
        return f"{self._title()}\n{answer}\n\n{body}"

    def _repr_html_(self) -> str:
        shown = self._shown().drop(columns=["batch_tokens", "value_per_cost", "settles"])
        reasons = [f"{run}: {words}." for run, words in self.table["settles"].items()]
        formats: dict[str, html.Format] = {c: short for c in ("n_params", "tokens")}
        formats["warmup_steps"] = "{:g}".format
        formats |= {c: html.significant for c in ("peak_lr", "cost", "value", "cumulative")}
        return html.box(
            html.heading(self._title()),
            html.paragraphs(self.sentences()),
            html.table(shown, formats=formats, max_rows=50),
            html.paragraphs(reasons[1:50]),
        )
