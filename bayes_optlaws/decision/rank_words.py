"""What a ranking says in plain English: the choice, how sure it is, what may go wrong."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import pandas as pd

from bayes_optlaws.decision.better_setting import BetterSetting
from bayes_optlaws.decision.design_plan import DesignPlan
from bayes_optlaws.decision.rank_inputs import listed
from bayes_optlaws.text.html import known, percent, significant


class Spoken(Protocol):
    """A `bayes_optlaws.Ranking`, as far as words are made of it."""

    @property
    def table(self) -> pd.DataFrame: ...

    @property
    def prob(self) -> float: ...

    @property
    def tie(self) -> float: ...

    @property
    def kind(self) -> str: ...

    @property
    def level(self) -> str: ...

    @property
    def n_effective(self) -> float: ...

    @property
    def risk_note(self) -> str | None: ...

    @property
    def better(self) -> BetterSetting | None: ...

    @property
    def next_runs(self) -> DesignPlan | None: ...

    @property
    def flips(self) -> pd.DataFrame:
        """Each candidate against the next."""
        ...

    @property
    def resolution(self) -> float:
        """Gap that would be called."""
        ...

    @property
    def divergence_modelled(self) -> bool:
        """Whether the risk is modelled."""
        ...

    @property
    def risk_matters(self) -> bool:
        """Whether the risk changes the order."""
        ...

    @property
    def can_choose(self) -> bool:
        """Whether not all are tied."""
        ...

    @property
    def nothing_finishes(self) -> bool:
        """Whether every candidate diverges in every draw."""
        ...

    @property
    def loss_decimals(self) -> int:
        """Decimals with a meaning."""
        ...

    def finished_draws(self, place: int) -> np.ndarray:
        """Draws of the candidate at a place of the table, if it finishes."""
        ...


LIKELY = 2 / 3
"""A pair is "likely" from this probability, "reversed" below one minus it, else a "coin flip";
the step "likely" of the IPCC's calibrated language."""
RISKY = 0.05
"""A rival that diverges with at least this probability is named in the answer."""
FEW_DRAWS = 400
"""With fewer effective draws the answer says how rough its probabilities are."""


def headline(ranking: Spoken) -> str:
    """Return the one line that says what to do.

    Parameters
    ----------
    ranking : Ranking
    """
    table, n = ranking.table, len(ranking.table)
    if n == 1:
        return f"{table.index[0]} is the only candidate."
    if not ranking.can_choose:
        if _all_equal(ranking):
            return (
                f"The {n:,} candidates are a tie: with at least {_sure(ranking)} probability each "
                f"is within {significant(ranking.tie)} nats of the best. Take {_safest(ranking)}."
            )
        return (
            f"These runs cannot choose among the {n:,} candidates: of none do they show with "
            f"{_sure(ranking)} probability that another is better by more than "
            f"{significant(ranking.tie)} nats. Take {_safest(ranking)}."
        )
    return f"Choose {table.index[0]}."


def sentences(ranking: Spoken) -> list[str]:
    """Return the answer, sentence by sentence.

    Parameters
    ----------
    ranking : Ranking
    """
    if ranking.nothing_finishes:
        return ["Every candidate diverges in every draw: none can be recommended."]
    said = [headline(ranking)]
    if len(ranking.table) > 1 and not _all_equal(ranking):
        said.append(_how_sure(ranking))
    said.append(_level_and_risk(ranking))
    if len(ranking.table) > 1:
        said += [*_rivals(ranking), *_neighbours(ranking), *_resolution(ranking)]
        said += [*_without_risk(ranking), *_risky_rival(ranking)]
    if ranking.better is not None:
        said += ranking.better.sentences()
    if ranking.next_runs is not None and not _all_equal(ranking):
        said += _one_more(ranking, ranking.next_runs)
    if len(ranking.table) > 1:
        said += _draws(ranking)
    return said


def _all_equal(ranking: Spoken) -> bool:
    """Whether every candidate is within the tie zone of the lowest, with enough probability."""
    return bool((ranking.table["p_best_or_tied"] >= ranking.prob).all())


def _sure(ranking: Spoken) -> str:
    return f"{100 * ranking.prob:g} %"


def _safest(ranking: Spoken) -> str:
    """The safest candidate by name where the risk is modelled and differs."""
    risk = ranking.table["p_diverge"]
    if ranking.divergence_modelled and risk.max() - risk.min() > 0.01:
        return f"the safest ({risk.idxmin()}) or the cheapest"
    return "the safest or the cheapest"


def _how_sure(ranking: Spoken) -> str:
    best = ranking.table.iloc[0]
    p = percent(best["p_best"], best["p_best_se"])
    p_tied = percent(best["p_best_or_tied"], best["p_best_se"])
    regret = known(best["expected_regret"], best["expected_regret_se"])
    which = "Its" if ranking.can_choose else f"{ranking.table.index[0]} is the likeliest best: its"
    what = f"{which} expected loss is the lowest"
    if ranking.kind == "new_run":
        which = (
            "A run of it" if ranking.can_choose
            else f"{ranking.table.index[0]} is the likeliest best: a run of it"
        )  # fmt: skip
        what = f"{which} ends lowest"
    return (
        f"{what} of {len(ranking.table):,} with probability {p}, its expected loss within "
        f"{significant(ranking.tie)} nats of the lowest with probability {p_tied}; choosing it "
        f"costs {regret} nats on average against knowing the best."
    )


def _level_and_risk(ranking: Spoken) -> str:
    best, label = ranking.table.iloc[0], ranking.table.index[0]
    if ranking.level == "score":
        text = (
            f"The loss of {label} is not predicted: scores rank candidates of one stage and are "
            "no losses"
        )
    else:
        places = ranking.loss_decimals
        text = (
            f"A single run of {label} that finishes ends at {best['loss_mean']:.{places}f} nats "
            f"({_sure(ranking)} interval {best['loss_lower']:.{places}f} to "
            f"{best['loss_upper']:.{places}f})"
        )
    if not ranking.divergence_modelled:
        return f"{text}."
    lost = ", so it is more likely to be lost than to finish" if best["p_diverge"] > 0.5 else ""
    return f"{text}; it diverges with probability {percent(best['p_diverge'])}{lost}."


def _rivals(ranking: Spoken) -> list[str]:
    tie = f"{significant(ranking.tie)} nats"
    if not ranking.can_choose:
        return []
    rivals = ranking.table.index[1:][ranking.table["tie_group"].to_numpy()[1:] == 1]
    if len(rivals):
        return [f"May be as good, to within {tie}, for all these runs show: {listed(rivals)}."]
    return [
        f"Every other candidate is worse by more than {tie} with at least {_sure(ranking)} "
        "probability."
    ]


def _neighbours(ranking: Spoken) -> list[str]:
    said = []
    for verdict, words in (("coin flip", "a coin flip"), ("tie", "a tie")):
        pairs = ranking.flips[ranking.flips["verdict"] == verdict]
        if len(pairs):
            names = [f"{a} / {b}" for a, b in zip(pairs["first"], pairs["second"], strict=True)]
            said.append(f"Neighbours whose order is {words}: {listed(names)}.")
    return said


def _resolution(ranking: Spoken) -> list[str]:
    if not ranking.resolution > 0:
        return []
    what = "expected loss" if ranking.kind == "mean" else "loss"
    return [
        f"These runs tell two leading candidates apart with {_sure(ranking)} probability when "
        f"they differ by {significant(ranking.resolution)} nats of {what}."
    ]


def _without_risk(ranking: Spoken) -> list[str]:
    """Say which candidate would be first if risk did not count, where that is another."""
    if not ranking.risk_matters:
        return []
    table = ranking.table
    first = table["rank_without_risk"].idxmin()
    if first == table.index[0]:
        return []
    a, b = table.iloc[0], table.loc[first]
    basis = f"; {ranking.risk_note}" if ranking.risk_note else ""
    return [
        f"Without the risk of divergence {first} would be first: this order rests on "
        f"{percent(b['p_diverge'])} of divergence for it against {percent(a['p_diverge'])} for "
        f"{table.index[0]}{basis}."
    ]


def _risky_rival(ranking: Spoken) -> list[str]:
    """Name the rival most often lower among those that diverge more often than the choice."""
    if not ranking.divergence_modelled:
        return []
    risk = ranking.table["p_diverge"].to_numpy()
    risky = np.flatnonzero((risk >= RISKY) & (risk > risk[0]))
    if not risky.size:
        return []
    rival = risky[np.argmax(ranking.table["p_best"].to_numpy()[risky])]
    a, b = ranking.finished_draws(0), ranking.finished_draws(rival)
    both = np.isfinite(a) & np.isfinite(b)
    if not both.any():
        return []
    wins = np.mean(b[both] < a[both]) + 0.5 * np.mean(b[both] == a[both])
    if wins <= 1 - LIKELY:
        return []
    return [
        f"{ranking.table.index[rival]} is lower with probability {percent(wins)} if both finish, "
        f"but diverges with probability {percent(risk[rival])}."
    ]


def _one_more(ranking: Spoken, plan: DesignPlan) -> list[str]:
    """Say what one more run from the checkpoint would settle, and what a near tie takes."""
    runs = plan.table
    if not len(runs) or plan.benefit is None:
        said = ["One more run of a candidate is not expected to change the choice."]
    else:
        what = f"One more run, of {runs.index[0]}, is"
        if len(runs) > 1:
            what = (
                f"One run each of {runs.index[0]} and {runs.index[1]} (one alone gives the level "
                "of these data and no order) is"
            )
        error = float(np.sqrt(np.nansum(runs["value_se"] ** 2)))
        bought = plan.benefit
        now, then = (
            percent(p, bought.before_se) for p in (bought.before, max(bought.after, bought.before))
        )
        said = [
            f"{what} worth {known(runs['value'].sum(), error)} nats: the probability of choosing "
            f"within {significant(bought.tie)} nats of the best "
            + (f"stays at {now}." if now == then else f"goes from {now} to {then}.")
        ]
    first = ranking.flips.iloc[0]
    seeds = first["seeds"]
    if first["p_tie"] < ranking.prob and seeds > 0:
        many = "more than 1,000 runs" if np.isinf(seeds) else f"{seeds:,.0f} runs"
        said.append(
            f"Which of {first['first']} and {first['second']} has the lower expected loss is told "
            f"with {_sure(ranking)} probability by {many} of each."
        )
    return said


def _draws(ranking: Spoken) -> list[str]:
    n = ranking.n_effective
    best = ranking.table.iloc[0]
    if n < FEW_DRAWS:
        error = 100 / np.sqrt(n)  # two standard errors of a share of one half
        return [
            f"With only {n:.0f} draw{'s' if n > 1 else ''} a probability is known to about "
            f"± {error:.0f} %."
        ]
    return [
        f"Monte-Carlo standard errors from {n:,.0f} effective draws: "
        f"{significant(100 * best['p_best_se'])} % of the probability of being best, "
        f"{significant(best['expected_regret_se'])} nats of the average cost."
    ]
