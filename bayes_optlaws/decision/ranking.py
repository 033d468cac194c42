"""Ranking candidates from joint draws of their final loss: best, tie, flip, regret, resolution.

Everything is counted over joint draws, so errors that candidates share cancel in their comparison.
A choice of schedule is about the expected loss over seeds, so a ranking of `bayes_optlaws.OptLaw`
counts that, with a diverged run at its price; ties are judged on it in any case, and the interval
shown is that of the one run to be made. All definitions are own choice (the paper ranks by point
predictions) save the finite loss of a diverged run, for which the paper uses 7 nats.
"""

from __future__ import annotations

import textwrap
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from bayes_optlaws.decision import rank_words
from bayes_optlaws.decision.better_setting import BetterSetting
from bayes_optlaws.decision.rank_inputs import (
    LOSS_COLUMNS,
    SCORE_COLUMNS,
    Outcomes,
    as_scores,
    checked_draws,
    checked_p_diverge,
)
from bayes_optlaws.decision.rank_pairs import neighbours
from bayes_optlaws.inference.caveats import is_unconverged
from bayes_optlaws.inference.intervals import holding
from bayes_optlaws.kernels import rank_counts
from bayes_optlaws.plots import ranking
from bayes_optlaws.plots.style import mark_unconverged
from bayes_optlaws.text import html

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bayes_optlaws.decision.design_plan import DesignPlan

DEFAULT_TIE = 0.001
"""Zone of practical equivalence, nats, when neither a zone nor the seed noise is given; own choice,
near the seed sd of 124M language models (median 0.0012 over the public replicates of one recipe).
"""
DIVERGENCE_LOSS = 7.0
"""What a diverged run counts as where draws alone are given, nats: the paper's number."""
LEADERS = 10
"""Candidates whose pairs give the resolution."""
MAX_PAIRWISE = 2000
"""Most candidates for which all pairs are compared."""

_KINDS = {"new_run": "a single new run", "mean": "the expected loss over seeds"}


@dataclass(frozen=True, eq=False, repr=False)
class Ranking:
    """Candidates ranked by joint posterior draws of their final loss; made by `from_draws`.

    Attributes
    ----------
    table : DataFrame
        One row a candidate, best first (by ``expected_regret``, then ``expected_rank``):

        ``loss_mean``, ``loss_lower``, ``loss_upper``
            Mean and central interval of probability ``prob`` of the loss of a single new run,
            nats, over the draws in which it does not diverge (NaN when there is none). Not given
            where the draws are scores; then ``score``, ``gap_lower``, ``gap_upper``: mean score,
            and interval of the score less that of the first candidate.
        ``p_best``, ``p_top2``
            Share of draws in which its loss is the lowest, or among the two lowest. Equal losses
            share equally.
        ``p_best_or_tied``
            Probability that its expected loss is within ``tie`` of the lowest; in a draw where
            every candidate diverges all are tied.
        ``expected_rank``
            Mean rank, from 1; equal losses share the mean of their places.
        ``expected_regret``
            Mean of its loss less the lowest loss of the same draw, nats. A diverged run counts as
            ``divergence_cost``. Draws in which every candidate diverges count 0.
        ``p_best_se``, ``expected_regret_se``
            Monte-Carlo standard errors, from ``n_effective`` draws.
        ``p_diverge``
            Probability that the run diverges; NaN where it is not modelled.
        ``tie_group``
            From 1. The best candidate leads group 1; a candidate belongs to it unless one that
            does is better by more than ``tie`` in expected loss with probability ``prob`` or
            more. The best of the rest leads group 2, and so on.
        ``rank_without_risk``
            Its place by expected loss if no run diverged; only where the risk is modelled by a
            law.
    draws : DataArray
        Joint draws that order, probabilities and regret are counted on, nats, dims (sample,
        candidate), in the order given.
    outcomes : Outcomes
        All joint draws: also those that ties and intervals are judged on.
    prob : float
        Probability of the intervals, and from which a pair counts as decided.
    tie : float
        Zone of practical equivalence, nats.
    divergence_cost : float
        Loss counted for a diverged run, nats.
    kind : {"new_run", "mean"}
        Whether the order is that of single new runs or of expected losses over seeds.
    level : {"loss", "score"}
        Whether the draws are losses, or scores: comparable with each other, with no loss.
    n_effective : float
        Effective number of draws, behind the Monte-Carlo standard errors.
    notes : tuple of str
        What a reader must know before acting: settings that no run had, a failed gate.
    risk_note : str or None
        What the probabilities of divergence rest on, where that is little.
    better : BetterSetting or None
        A setting beside the candidates that is expected to be better, where one was sought.
    noise_sd : float or None
        Seed noise of one run, nats, where it is known.
    next_runs : DesignPlan or None
        Of a later stage: the one more run of a candidate (two, where none of their set was made)
        that would help most to choose.

    Examples
    --------
    B is a little better than A when it finishes, and diverges in one draw of four:

    >>> draws = np.array([[2.0, 1.5], [2.0, 1.5], [2.0, 1.5], [2.0, np.inf]])
    >>> ranking = Ranking.from_draws(draws, labels=["A", "B"], divergence_loss=7)
    >>> ranking.table[["p_best", "expected_regret", "p_diverge"]]
               p_best  expected_regret  p_diverge
    candidate
    A            0.25            0.375       0.00
    B            0.75            1.250       0.25
    """

    table: pd.DataFrame
    draws: xr.DataArray
    prob: float
    tie: float
    divergence_cost: float
    kind: str
    outcomes: Outcomes
    n_effective: float
    level: str = "loss"
    notes: tuple[str, ...] = ()
    risk_note: str | None = None
    better: BetterSetting | None = None
    noise_sd: float | None = None
    next_runs: DesignPlan | None = None

    @classmethod
    def from_draws(
        cls,
        draws: xr.DataArray | np.ndarray,
        *,
        p_diverge: pd.Series | np.ndarray | Sequence[float] | None = None,
        prob: float = 0.9,
        tie: float | None = None,
        noise_sd: float | None = None,
        labels: Sequence[Hashable] | pd.Index | None = None,
        divergence_loss: float = DIVERGENCE_LOSS,
        divergence_modelled: bool = True,
        kind: str = "new_run",
        level: str = "loss",
        n_effective: float | None = None,
    ) -> Ranking:
        """Rank candidates by joint draws of their final loss.

        Parameters
        ----------
        draws : DataArray or array, shape (n_samples, n_candidates)
            Joint draws of final loss, nats, +inf where the run diverged in that draw. A DataArray
            has the dims ``sample`` and ``candidate``.
        p_diverge : array of shape (n_candidates,), optional
            Probability of divergence for the table, where it is known better than by the share of
            infinite draws (the default), with which it must agree. A Series is matched by label.
        prob : float
            Probability of the intervals, and from which a pair counts as decided; 0.5 to 1.
        tie : float, optional
            Losses this close, nats, make no difference in practice. Default: ``noise_sd``, else
            0.001 (own choice).
        noise_sd : float, optional
            Seed noise of the final loss, nats: the sd of the log loss times a typical loss.
        labels : sequence, optional
            Names of the candidates, all different. Default: the ``candidate`` coordinate, else
            0, 1, ...
        divergence_loss : float
            Loss counted for a diverged run in the expected regret, nats; by default the paper's 7.
            It must not be below a loss that finished.
        divergence_modelled : bool
            Whether the draws say how likely a run diverges; False where they are only of runs
            that finish: ``p_diverge`` is then NaN, and nothing is said of it.
        kind : {"new_run", "mean"}
            What the draws are draws of; wording only.
        level : {"loss", "score"}
            ``"score"``: the draws have an unknown level in common; the table then gives no loss.
        n_effective : float, optional
            Effective number of draws. Default: their number, as if they were independent.

        Returns
        -------
        Ranking

        Raises
        ------
        ValueError
            When draws are missing, NaN or -inf, labels are repeated or of another number,
            ``p_diverge`` contradicts the draws, or a setting is out of range.
        """
        if not (np.isfinite(divergence_loss) and divergence_loss > 0):
            raise ValueError(
                f"divergence_loss is {divergence_loss}: it must be a finite loss in nats"
            )
        draws = checked_draws(draws, labels)
        values = draws.to_numpy()
        lost = np.isinf(values)
        if lost.any() and not lost.all():
            highest = float(values[~lost].max())
            if divergence_loss < highest:
                raise ValueError(
                    f"divergence_loss is {divergence_loss:g}, below a loss that finished, "
                    f"{highest:g}: a diverged run must not count as better; give a higher number"
                )
        index = pd.Index(draws["candidate"].to_numpy(), name="candidate", tupleize_cols=False)
        p = checked_p_diverge(p_diverge, lost.mean(axis=0), index, len(values))
        if tie is None:
            tie, name = (DEFAULT_TIE, "tie") if noise_sd is None else (noise_sd, "noise_sd")
        else:
            name = "tie"
        if not (np.isfinite(tie) and tie >= 0):
            raise ValueError(f"{name} is {tie}: it must be finite, in nats and not negative")
        return cls.from_outcomes(
            Outcomes.of(draws, p, divergence_modelled), prob=prob, tie=tie,
            divergence_loss=divergence_loss, kind=kind, level=level, n_effective=n_effective,
            noise_sd=noise_sd,
        )  # fmt: skip

    @classmethod
    def from_outcomes(
        cls,
        outcomes: Outcomes,
        *,
        prob: float,
        tie: float,
        divergence_loss: float,
        kind: str,
        level: str = "loss",
        n_effective: float | None = None,
        notes: Sequence[str] = (),
        risk_note: str | None = None,
        better: BetterSetting | None = None,
        noise_sd: float | None = None,
        next_runs: DesignPlan | None = None,
    ) -> Ranking:
        """Rank candidates by outcomes that are told apart: expected, of one run, if finished.

        Parameters
        ----------
        outcomes : Outcomes
        prob, tie, divergence_loss, kind, level, n_effective
            As in `from_draws`.
        notes, risk_note, better, noise_sd, next_runs
            As the attributes.
        """
        if kind not in _KINDS:
            raise ValueError(f"kind is {kind!r}: it must be one of {', '.join(map(repr, _KINDS))}")
        if level not in ("loss", "score"):
            raise ValueError(f"level is {level!r}: it must be 'loss' or 'score'")
        if not 0.5 <= prob < 1:
            raise ValueError(f"prob is {prob}: it must be at least 0.5 and less than 1")
        draws = outcomes.counted
        index = pd.Index(draws["candidate"].to_numpy(), name="candidate", tupleize_cols=False)
        loss = draws.to_numpy()
        n = float(len(loss) if n_effective is None else n_effective)
        mean, lower, upper, _ = rank_counts.finite_summary(outcomes.one_run, prob)
        lower, upper = holding(mean, lower, upper)
        summary = rank_counts.summarise_draws(
            loss, outcomes.expected, tie=tie, divergence_loss=divergence_loss
        )
        smoothed = (summary.p_best * n + 0.5) / (n + 1.0)  # a share of 0 of the draws is no 0
        table = pd.DataFrame(
            {
                "loss_mean": mean,
                "loss_lower": lower,
                "loss_upper": upper,
                "p_best": summary.p_best,
                "p_best_or_tied": summary.p_best_or_tied,
                "p_top2": summary.p_top2,
                "expected_rank": summary.expected_rank,
                "expected_regret": summary.expected_regret,
                "p_diverge": outcomes.p_diverge,
                "p_best_se": np.sqrt(smoothed * (1.0 - smoothed) / n),
                "expected_regret_se": summary.regret_sd / np.sqrt(n),
            },
            index=index,
        )
        if outcomes.modelled and outcomes.finished is not outcomes.expected:
            finished = outcomes.finished.mean(axis=0).round(12)
            places = np.empty(len(index), dtype=int)
            # equal ones stand in the order of the table
            by = np.lexsort((summary.expected_rank, summary.expected_regret.round(12), finished))
            places[by] = np.arange(1, len(index) + 1)
            table["rank_without_risk"] = places
        # Rounded, so that the last bits of a sum never decide.
        order = np.lexsort((summary.expected_rank.round(9), summary.expected_regret.round(12)))
        table = table.iloc[order]
        groups = rank_counts.tie_groups(outcomes.expected[:, order], tie=tie, prob=prob)
        table.insert(table.columns.get_loc("p_diverge") + 1, "tie_group", groups)
        if level == "score":
            table = as_scores(table, outcomes.one_run[:, order], prob)
        return cls(
            table=table,
            draws=draws,
            prob=float(prob),
            tie=float(tie),
            divergence_cost=float(divergence_loss),
            kind=kind,
            outcomes=outcomes,
            n_effective=n,
            level=level,
            notes=tuple(notes),
            risk_note=risk_note,
            better=better,
            noise_sd=noise_sd,
            next_runs=next_runs,
        )

    @property
    def divergence_modelled(self) -> bool:
        """Whether the risk of divergence is modelled."""
        return self.outcomes.modelled

    @property
    def can_choose(self) -> bool:
        """Whether the runs tell some candidate from the best: not all are in one tie group."""
        return len(self.table) == 1 or bool(self.table["tie_group"].max() > 1)

    @property
    def nothing_finishes(self) -> bool:
        """Whether the first candidate, and so every one, diverges in every draw."""
        first = "score" if self.level == "score" else "loss_mean"
        return bool(np.isnan(self.table[first].iloc[0]))

    @property
    def risk_matters(self) -> bool:
        """Whether the order would be another one if no run diverged."""
        places = self.table.get("rank_without_risk")
        return places is not None and not places.is_monotonic_increasing

    @cached_property
    def loss_decimals(self) -> int:
        """Decimals of losses that Monte-Carlo error leaves meaning to."""
        one = self.outcomes.one_run
        finite = np.where(np.isfinite(one), one, np.nan)
        some = np.isfinite(finite).sum(axis=0) > 1
        sd = np.nanstd(finite[:, some], axis=0) if some.any() else np.zeros(1)
        return min(html.decimals(float(np.median(sd)) / np.sqrt(self.n_effective)), 4)

    @cached_property
    def regret_texts(self) -> list[str]:
        """Expected regret of each row, with the digits that its Monte-Carlo error leaves."""
        columns = self.table[["expected_regret", "expected_regret_se"]].to_numpy(float)
        return [html.known(value, error) for value, error in columns]

    @cached_property
    def _places(self) -> np.ndarray:
        """Columns of the draws in the order of the table."""
        index = pd.Index(self.draws["candidate"].to_numpy(), tupleize_cols=False)
        return index.get_indexer(self.table.index)

    @cached_property
    def _ordered(self) -> np.ndarray:
        """Draws with the columns in the order of the table."""
        return self.draws.to_numpy()[:, self._places]

    @cached_property
    def expected_ordered(self) -> np.ndarray:
        """Draws that ties are judged on, with the columns in the order of the table."""
        return self.outcomes.expected[:, self._places]

    def finished_draws(self, place: int) -> np.ndarray:
        """Draws of the expected loss if it finishes, of the candidate at a place of the table.

        Parameters
        ----------
        place : int
            From 0.
        """
        return self.outcomes.finished[:, self._places[place]]

    @cached_property
    def p_better(self) -> pd.DataFrame:
        """P(row ends lower than column), in the order of the table; equal losses count half.

        The diagonal is one half, and entries across it sum to 1. Computed when first asked for.

        Raises
        ------
        ValueError
            With more than 2,000 candidates.
        """
        n = len(self.table)
        if n > MAX_PAIRWISE:
            raise ValueError(
                f"p_better compares all pairs of at most {MAX_PAIRWISE:,} candidates, here are "
                f"{n:,}: rank the leading ones alone, with "
                "Ranking.from_draws(ranking.draws.sel(candidate=ranking.table.index[:200]))"
            )
        return pd.DataFrame(
            self.p_better_of_first(n), index=self.table.index, columns=self.table.index
        )

    def p_better_of_first(self, n: int) -> np.ndarray:
        """P(row ends lower than column) of the first ``n`` of the table, shape (n, n).

        Parameters
        ----------
        n : int
        """
        return rank_counts.p_lower_matrix(self._ordered[:, :n])

    @cached_property
    def flips(self) -> pd.DataFrame:
        """Each candidate of the table against the next, and how sure their order is.

        One row a pair, with the columns:

        ``first``, ``second``
            Their labels, the higher one of the table first.
        ``gap``
            Mean of second less first, nats, over draws in which neither diverges.
        ``p_lower``, ``p_flip``
            Probability that the first ends lower, or that the order is the other way; equal
            losses count half to each, so the two sum to 1.
        ``p_tie``, ``p_lower_beyond_tie``, ``p_flip_beyond_tie``
            Probability that their expected losses differ by at most ``tie``, or by more in either
            direction; the three sum to 1. Two diverged runs tie.
        ``verdict``
            "tie" (``p_tie`` >= ``prob``), "clear" (``p_lower_beyond_tie`` >= ``prob``: never of
            two in one tie group), "likely" (``p_lower`` >= 2/3), "coin flip" (between 1/3 and
            2/3), "reversed": the second usually ends lower, but costs more when it does not, as
            a fast and risky run does.
        ``seeds``
            Runs of each after which the order of their expected losses, if they finish, is called
            right with probability ``prob``, 0 where it is already and infinite beyond a thousand;
            by `bayes_optlaws.near_ties.seeds_to_decide`. NaN where ``noise_sd`` is not known.
        """
        return neighbours(
            self.table.index, self._ordered, self.expected_ordered,
            self.outcomes.finished[:, self._places], tie=self.tie, prob=self.prob,
            noise_sd=self.noise_sd,
        )  # fmt: skip

    @cached_property
    def resolution(self) -> float:
        """Gap of means, nats, at which a pair would be called with probability ``prob``.

        A normal difference with mean g and sd s is positive with probability Phi(g / s), which is
        ``prob`` at g = s * Phi^-1(prob). The result is the median of that over all pairs of the
        first 10 candidates of the table, each s over the draws in which both runs finish. NaN
        when no pair has two such draws, as with one candidate.
        """
        o = self.outcomes
        draws = o.finished if self.kind == "mean" else o.one_run
        return rank_counts.resolution(draws[:, self._places[:LEADERS]], self.prob)

    def rank_probability(self, *, top: int = 10) -> pd.DataFrame:
        """Return P(rank = 1), ..., P(rank = top) of each candidate, in the order of the table.

        Parameters
        ----------
        top : int
            Last rank; equal losses share their places equally.

        Returns
        -------
        DataFrame
            Index: candidates; columns: 1, ..., top, at most the number of candidates.
        """
        top = min(top, len(self.table))
        return pd.DataFrame(
            rank_counts.rank_probabilities(self._ordered, top),
            index=self.table.index,
            columns=pd.RangeIndex(1, top + 1, name="rank"),
        )

    def answer(self) -> str:
        """Return the answer in plain English: which candidate, how sure, what may go wrong."""
        return " ".join(self.sentences())

    def sentences(self, *, notes: bool = True) -> list[str]:
        """Return the answer sentence by sentence.

        Parameters
        ----------
        notes : bool
            With what to know before acting.
        """
        said = rank_words.sentences(self)
        if notes and self.notes:
            said.append(f"Before you act: {' '.join(self.notes)}")
        return said

    @property
    def headline(self) -> str:
        """What to do, in one line."""
        return rank_words.headline(self)

    def plot(self, *, ax: Axes | None = None, top: int = 20) -> Figure:
        """Plot the probability of each rank as a heat map, with the loss intervals beside it.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Axes whose place the two panels take; a new figure is made when absent.
        top : int
            Most candidates shown, best first.

        Returns
        -------
        matplotlib Figure
        """
        return self._marked(ranking.plot_ranks(self, ax=ax, top=top))

    def plot_pairs(self, *, ax: Axes | None = None, top: int = 15) -> Figure:
        """Plot the matrix of P(row ends lower than column), in percent.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Axes to draw on; a new figure is made when absent.
        top : int
            Most candidates shown, best first.

        Returns
        -------
        matplotlib Figure
        """
        return self._marked(ranking.plot_pairs(self, ax=ax, top=top))

    def _marked(self, figure: Figure) -> Figure:
        return mark_unconverged(figure) if is_unconverged(self.notes) else figure

    def to_dataframe(self) -> pd.DataFrame:
        """Return a copy of ``table``."""
        return self.table.copy()

    def _title(self) -> str:
        n_samples, n = self.draws.shape
        return (
            f"Ranking of {n:,} candidate{'s' if n > 1 else ''} by {_KINDS[self.kind]}, "
            f"{n_samples:,} draw{'s' if n_samples > 1 else ''}"
        )

    def __repr__(self) -> str:
        """Return the answer and the head of the table."""
        head = self.table.head(10).to_string(float_format=lambda value: f"{value:.4f}")
        left = len(self.table) - 10
        more = f"\n... and {left:,} more rows" if left > 0 else ""
        answer = textwrap.fill(self.answer(), 100, break_on_hyphens=False)
        return f"{self._title()}\n{answer}\n\n{head}{more}"

    def _repr_html_(self) -> str:
        four, two, three = html.number(4), html.number(2), html.number(3)
        loss = html.number(self.loss_decimals)
        probabilities = ["p_best", "p_best_or_tied", "p_top2", "p_diverge"]
        formats = {name: loss for name in (*LOSS_COLUMNS, *SCORE_COLUMNS)}
        formats = {name: how for name, how in formats.items() if name in self.table}
        formats |= {name: three for name in probabilities}
        formats |= {"expected_rank": two}
        formats |= {name: html.significant for name in ("p_best_se", "expected_regret_se")}
        parts = [
            html.heading(self._title()),
            html.paragraphs(self.sentences()),
            html.table(
                self.table.assign(expected_regret=self.regret_texts),
                formats=formats,
                shade=probabilities,
            ),
        ]
        if len(self.table) > 1:
            columns = ["first", "second", "gap", "p_lower", "p_flip", "p_tie", "verdict"]
            if self.next_runs is not None:
                columns.append("seeds")
            formats = dict.fromkeys(("p_lower", "p_flip", "p_tie"), three)
            formats |= {"gap": four, "seeds": "{:g}".format}
            parts += [
                html.heading("Each candidate against the next"),
                html.table(
                    self.flips[columns],
                    formats=formats,
                    shade=["p_flip"],
                    index=False,
                ),
            ]
        return html.box(*parts)
