"""Ranking candidates from joint draws of their final loss: best, tie, flip, regret, resolution.

Everything is counted over joint draws, so errors that candidates share cancel in their comparison,
and a diverged run, infinite in its draw, loses against every run that finishes. All definitions
are own choice (the paper ranks by point predictions) save the finite loss of a diverged run, for
which the paper uses 7 nats.
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

from bayes_optlaws.decision.rank_inputs import checked_draws, checked_p_diverge, listed
from bayes_optlaws.kernels import rank_counts
from bayes_optlaws.plots import ranking
from bayes_optlaws.text import html
from bayes_optlaws.text.html import percent, significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DEFAULT_TIE = 0.001
"""Zone of practical equivalence, nats, when neither a zone nor the seed noise is given; own choice,
near the seed sd of 124M language models (median 0.0012 over the public replicates of one recipe).
"""
CLEAR = 0.9
"""A pair is "clear" from this probability, and a "tie" when |difference| <= tie has it."""
LIKELY = 2 / 3
"""A pair is "likely" from this probability, "reversed" below one minus it, else a "coin flip".
CLEAR and LIKELY are the steps "very likely" and "likely" of the IPCC's calibrated language."""
RISKY = 0.05
"""A rival that diverges with at least this probability is named in the answer."""
LEADERS = 10
"""Candidates whose pairs give the resolution."""
FEW_DRAWS = 400
"""With fewer draws the answer says how rough its probabilities are."""
MAX_PAIRWISE = 2000
"""Most candidates for which all pairs are compared."""

LOSS_COLUMNS = ("loss_mean", "loss_lower", "loss_upper")
SCORE_COLUMNS = ("score", "gap_lower", "gap_upper")

_KINDS = {"new_run": "a single new run", "mean": "the average over seeds"}


@dataclass(frozen=True, eq=False, repr=False)
class Ranking:
    """Candidates ranked by joint posterior draws of their final loss; made by `from_draws`.

    Attributes
    ----------
    table : DataFrame
        One row a candidate, best first (by ``expected_regret``, then ``expected_rank``):

        ``loss_mean``, ``loss_lower``, ``loss_upper``
            Mean and central interval of probability ``prob``, nats, over the draws in which the
            candidate does not diverge (NaN when there is none). Not given where the draws are
            scores; then ``score``, ``gap_lower``, ``gap_upper``: mean score, and interval of the
            score less that of the first candidate.
        ``p_best``, ``p_top2``
            Share of draws in which its loss is the lowest, or among the two lowest. Equal losses
            share equally, and so do diverged runs among themselves.
        ``p_best_or_tied``
            Probability that its loss is within ``tie`` of the lowest; in a draw where every
            candidate diverges all are tied.
        ``expected_rank``
            Mean rank, from 1; equal losses share the mean of their places.
        ``expected_regret``
            Mean of its loss less the lowest loss of the same draw, nats. A diverged run counts as
            ``divergence_cost``, or as the highest finite loss of the draw where that is higher.
            Draws in which every candidate diverges count 0.
        ``p_diverge``
            Probability that the run diverges.
        ``tie_group``
            From 1. The best candidate leads group 1; a candidate belongs to it unless the leader
            is better by more than ``tie`` with probability ``prob`` or more. The best of the
            rest leads group 2, and so on.
    draws : DataArray
        Joint draws of final loss, nats, dims (sample, candidate), in the order given.
    prob : float
        Probability of the intervals, and from which a pair counts as decided.
    tie : float
        Zone of practical equivalence, nats.
    divergence_cost : float
        Loss counted for a diverged run in ``expected_regret``, nats.
    kind : {"new_run", "mean"}
        Whether the losses are those of a single new run or averages over the seeds that finish.
    level : {"loss", "score"}
        Whether the draws are losses, or scores: comparable with each other, with no loss.

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
    level: str = "loss"

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
        divergence_loss: float = np.inf,
        kind: str = "new_run",
        level: str = "loss",
        divergence_known: bool = True,
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
            Loss counted for a diverged run in the expected regret, nats; the paper uses 7. The
            default, infinity, counts the highest finite loss of all draws plus 1 nat, so that
            the expectation is finite (own choice).
        kind : {"new_run", "mean"}
            What the draws are draws of; wording only.
        level : {"loss", "score"}
            ``"score"``: the draws have an unknown level in common; the table then gives no loss.
        divergence_known : bool
            False: the draws are of runs that finish and say nothing of the others; ``p_diverge``
            is then nan.

        Returns
        -------
        Ranking

        Raises
        ------
        ValueError
            When draws are missing, NaN or -inf, labels are repeated or of another number,
            ``p_diverge`` contradicts the draws, or a setting is out of range.
        """
        if kind not in _KINDS:
            raise ValueError(f"kind is {kind!r}: it must be one of {', '.join(map(repr, _KINDS))}")
        if level not in ("loss", "score"):
            raise ValueError(f"level is {level!r}: it must be 'loss' or 'score'")
        if not 0.5 <= prob < 1:
            raise ValueError(f"prob is {prob}: it must be at least 0.5 and less than 1")
        if tie is None:
            tie = DEFAULT_TIE if noise_sd is None else noise_sd
            name = "noise_sd"
        else:
            name = "tie"
        if not (np.isfinite(tie) and tie >= 0):
            raise ValueError(f"{name} is {tie}: it must be finite, in nats and not negative")
        if not divergence_loss > 0:
            raise ValueError(
                f"divergence_loss is {divergence_loss}: it must be a loss in nats, or infinity"
            )
        draws = checked_draws(draws, labels)
        index = pd.Index(draws["candidate"].to_numpy(), name="candidate", tupleize_cols=False)
        loss = draws.to_numpy()

        mean, lower, upper, p_infinite = rank_counts.finite_summary(loss, prob)
        summary = rank_counts.summarise_draws(loss, tie=tie, divergence_loss=divergence_loss)
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
                "p_diverge": checked_p_diverge(p_diverge, p_infinite, index, len(loss)),
            },
            index=index,
        )
        if not divergence_known:
            table["p_diverge"] = np.nan
        # Rounded, so that the last bits of a sum never decide.
        order = np.lexsort((summary.expected_rank.round(9), summary.expected_regret.round(12)))
        table = table.iloc[order]
        table["tie_group"] = rank_counts.tie_groups(loss[:, order], tie=tie, prob=prob)
        if level == "score":
            table = _as_scores(table, loss[:, order], prob)
        return cls(
            table=table,
            draws=draws,
            prob=float(prob),
            tie=float(tie),
            divergence_cost=summary.divergence_cost,
            kind=kind,
            level=level,
        )

    @cached_property
    def _ordered(self) -> np.ndarray:
        """Draws with the columns in the order of the table."""
        index = pd.Index(self.draws["candidate"].to_numpy(), tupleize_cols=False)
        return self.draws.to_numpy()[:, index.get_indexer(self.table.index)]

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
        """P(row ends lower than column) of the first n candidates of the table, shape (n, n)."""
        return rank_counts.p_lower_matrix(self._ordered[:, :n])

    @cached_property
    def flips(self) -> pd.DataFrame:
        """Each candidate of the table against the next, and how sure their order is.

        One row a pair, with the columns:

        ``better``, ``worse``
            Their labels.
        ``gap``
            Mean of worse less better, nats, over draws in which neither diverges.
        ``p_lower``, ``p_flip``
            Probability that the better one ends lower, or that the order is the other way; equal
            losses count half to each, so the two sum to 1.
        ``p_tie``, ``p_lower_beyond_tie``, ``p_flip_beyond_tie``
            Probability that they differ by at most ``tie``, or by more in either direction; the
            three sum to 1. Two diverged runs tie.
        ``verdict``
            "tie" (``p_tie`` >= 0.9), "clear" (``p_lower`` >= 0.9), "likely" (>= 2/3), "coin flip"
            (between 1/3 and 2/3), "reversed": the worse one usually ends lower, but costs more
            when it does not, as a fast and risky run does.
        """
        n = len(self.table)
        pairs = rank_counts.pair_summary(
            self._ordered, np.arange(n - 1), np.arange(1, n), tie=self.tie
        )
        verdict = np.select(
            [
                pairs.p_tie >= CLEAR,
                pairs.p_lower >= CLEAR,
                pairs.p_lower >= LIKELY,
                pairs.p_lower > 1 - LIKELY,
            ],
            ["tie", "clear", "likely", "coin flip"],
            "reversed",
        )
        return pd.DataFrame(
            {
                "better": self.table.index[:-1],
                "worse": self.table.index[1:],
                "gap": pairs.gap,
                "p_lower": pairs.p_lower,
                "p_flip": 1.0 - pairs.p_lower,
                "p_tie": pairs.p_tie,
                "p_lower_beyond_tie": pairs.p_lower_beyond,
                "p_flip_beyond_tie": pairs.p_higher_beyond,
                "verdict": verdict,
            }
        )

    @cached_property
    def resolution(self) -> float:
        """Gap of mean losses, nats, at which a pair would be called with probability ``prob``.

        A normal difference with mean g and sd s is positive with probability Phi(g / s), which is
        ``prob`` at g = s * Phi^-1(prob). The result is the median of that over all pairs of the
        first 10 candidates of the table, each s over the draws in which both runs finish. NaN
        when no pair has two such draws, as with one candidate.
        """
        return rank_counts.resolution(self._ordered[:, :LEADERS], self.prob)

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
        return " ".join(self._sentences())

    def _sentences(self) -> list[str]:
        best = self.table.iloc[0]
        scores = self.level == "score"
        if np.isnan(best["score" if scores else "loss_mean"]):
            return ["Every candidate diverges in every draw: none can be recommended."]
        said = self._sentences_on_the_choice() if len(self.table) > 1 else []
        first = f"{self.table.index[0]} is the only candidate; its" if not said else "Its"
        lost = ", so it is more likely to be lost than to finish" if best["p_diverge"] > 0.5 else ""
        level = (
            f"{first} loss is not predicted: scores rank candidates of one stage and are no losses"
            if scores
            else f"{first} loss, if it finishes, is {best['loss_mean']:.4f} nats "
            f"({self._sure} interval {best['loss_lower']:.4f} to {best['loss_upper']:.4f})"
        )
        risk = (
            "the risk that it diverges is not known"
            if np.isnan(best["p_diverge"])
            else f"it diverges with probability {percent(best['p_diverge'])}{lost}"
        )
        said.insert(2, f"{level}; {risk}.")
        said += self._sentences_on_a_risky_rival()
        n_samples = len(self.draws)
        if n_samples < FEW_DRAWS:
            error = 100 / np.sqrt(n_samples)  # two standard errors of a share of one half
            said.append(
                f"With only {n_samples} draw{'s' if n_samples > 1 else ''} a probability is known "
                f"to about ± {error:.0f} %."
            )
        return said

    def _sentences_on_the_choice(self) -> list[str]:
        best = self.table.iloc[0]
        tie = f"{significant(self.tie)} nats"
        outcome = "Its mean loss is" if self.kind == "mean" else "It ends"
        said = [
            f"Choose {self.table.index[0]}.",
            f"{outcome} lowest of {len(self.table):,} with probability {percent(best['p_best'])}, "
            f"within {tie} of the lowest with probability {percent(best['p_best_or_tied'])}, and "
            f"{significant(best['expected_regret'])} nats above the lowest on average.",
        ]
        rivals = self.table.index[1:][self.table["tie_group"].to_numpy()[1:] == 1]
        if len(rivals):
            said.append(
                f"Not shown at {self._sure} to be worse by more than {tie}: {listed(rivals)}."
            )
        else:
            said.append(
                f"Every other candidate is worse by more than {tie} with at least {self._sure} "
                "probability."
            )
        for verdict, words in (("coin flip", "a coin flip"), ("tie", "a tie")):
            pairs = self.flips[self.flips["verdict"] == verdict]
            if len(pairs):
                names = [f"{a} / {b}" for a, b in zip(pairs["better"], pairs["worse"], strict=True)]
                said.append(f"Neighbours whose order is {words}: {listed(names)}.")
        if self.resolution > 0:
            said.append(
                f"To be told apart with {self._sure} probability, leading candidates must differ "
                f"by {significant(self.resolution)} nats."
            )
        return said

    def _sentences_on_a_risky_rival(self) -> list[str]:
        """Name the rival most often best among those that diverge more often than the choice."""
        best = self.table.iloc[0]
        risk = self.table["p_diverge"].to_numpy()
        risky = np.flatnonzero((risk >= RISKY) & (risk > best["p_diverge"]))
        if not risky.size:
            return []
        rival = risky[np.argmax(self.table["p_best"].to_numpy()[risky])]
        a, b = self._ordered[:, 0], self._ordered[:, rival]
        both = np.isfinite(a) & np.isfinite(b)
        if not both.any():
            return []
        wins = np.mean(b[both] < a[both]) + 0.5 * np.mean(b[both] == a[both])
        if wins <= 1 - LIKELY:
            return []
        return [
            f"{self.table.index[rival]} ends lower in {percent(wins)} of the draws in which both "
            f"finish, but diverges with probability {percent(risk[rival])}."
        ]

    @property
    def _sure(self) -> str:
        return f"{100 * self.prob:g} %"

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
        return ranking.plot_ranks(self, ax=ax, top=top)

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
        return ranking.plot_pairs(self, ax=ax, top=top)

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
        probabilities = ["p_best", "p_best_or_tied", "p_top2", "p_diverge"]
        formats = {name: four for name in (*LOSS_COLUMNS, *SCORE_COLUMNS)}
        formats = {name: how for name, how in formats.items() if name in self.table}
        formats |= {name: three for name in probabilities}
        formats |= {"expected_rank": two, "expected_regret": four}
        parts = [
            html.heading(self._title()),
            html.paragraphs(self._sentences()),
            html.table(self.table, formats=formats, shade=probabilities),
        ]
        if len(self.table) > 1:
            columns = ["better", "worse", "gap", "p_lower", "p_flip", "p_tie", "verdict"]
            shares = ("p_lower", "p_flip", "p_tie")
            parts += [
                html.heading("Each candidate against the next"),
                html.table(
                    self.flips[columns],
                    formats={name: three for name in shares} | {"gap": four},
                    shade=["p_flip"],
                    index=False,
                ),
            ]
        return html.box(*parts)


def _as_scores(table: pd.DataFrame, ordered: np.ndarray, prob: float) -> pd.DataFrame:
    """Put the score and its interval beside the first candidate in the place of the loss."""
    with np.errstate(invalid="ignore"):
        gap = ordered - ordered[:, [0]]
    gap = np.where(np.isfinite(gap), gap, np.nan)
    some = np.isfinite(gap).any(axis=0)
    tail = (1 - prob) / 2
    bounds = np.full((2, len(table)), np.nan)
    bounds[:, some] = np.nanquantile(gap[:, some], [tail, 1 - tail], axis=0)
    values = (table["loss_mean"], *bounds)
    rest = table.drop(columns=list(LOSS_COLUMNS))
    for place, (name, value) in enumerate(zip(SCORE_COLUMNS, values, strict=True)):
        rest.insert(place, name, value)
    return rest
