"""Which runs of a later stage would help most to choose: the value of runs from the checkpoint.

A later stage is trained on other data, so the level of its loss is unknown until a run of its set
was made: what shares data, model size, tokens and number of earlier stages. The first run of a set
alone says nothing of an order; so where no run of a set is known two of them are valued together,
by the outcome that counts, their difference. Else values are those of
`bayes_optlaws.decision.design`: the expected drop of expected regret, in closed form over the
outcome. (Own choice.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bayes_optlaws.decision.design_benefit import benefit
from bayes_optlaws.decision.design_inputs import costs_of, given_risk
from bayes_optlaws.decision.design_plan import DesignPlan
from bayes_optlaws.decision.design_scorers import Regret
from bayes_optlaws.decision.design_value import contrast_reduction
from bayes_optlaws.decision.design_words import settled_pair
from bayes_optlaws.decision.stage_joint import NONE, StageJoint, places
from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.inference.stages import StageScores, Table
from bayes_optlaws.kernels.threads import one_blas_thread
from bayes_optlaws.runs.pools import stage_pool

MOST_RUNS = 400
"""Runs of a pool, and candidates; covariances of all of them are kept."""

MOST_PAIRS = 400
"""Pairs of first runs of a set that are valued, those that lower the variance of contrasts most."""

DRAWS, PARTS = 2000, 4
"""Posterior draws whose covariance the scores have, and parts of them behind a standard error."""

LEAST_SHARE, TRACE = 0.02, 1e-4
"""A plan ends before what is worth less than a share of its first step or of knowing all."""

UNIT, COST = "nats of expected regret", "FLOP from the checkpoint"


def design_stage(
    law: FittedLaw,
    pool: pd.DataFrame | None,
    *,
    decide: pd.DataFrame,
    history: Table,
    stage_runs: Table | None = None,
    n_runs: int | None = 5,
    cost: str | Sequence[float] | None = "flops",
    budget: float | None = None,
    p_diverge: str | Sequence[float] | None = None,
    fill: bool = False,
    tie: float | None = None,
    max_draws: int | None = None,
    random_seed: int = 0,
) -> DesignPlan:
    """Choose the runs of a later stage that help most to choose among ``decide``.

    Parameters
    ----------
    law : FittedLaw
        Fitted to runs from scratch.
    pool : DataFrame or None
        Runs from the checkpoint that could be made, a candidate table of at most 400 rows; without
        a column ``group`` they are on the data of the candidates. None: the candidates, whole and
        shorter, `bayes_optlaws.stage_pool`.
    decide : DataFrame
        Candidates of the stage.
    history, stage_runs : DataFrame or path
        As in `bayes_optlaws.OptLaw.rank`; with a history that differs by candidate, the pool has
        the column ``candidate``, which names the one whose history a run has.
    n_runs, cost, budget, p_diverge, fill, tie, random_seed
        As in `bayes_optlaws.decision.design.design`; tokens, so FLOPs, are those of the stage
        alone, and the risk of divergence is unknown unless it is given.
    max_draws : int, optional
        Posterior draws behind the scores; 2,000 by default.

    Returns
    -------
    DesignPlan
        In ``scores`` a run of a set without any is worth what the best pair with it is.

    Raises
    ------
    ValueError
        If candidates are not comparable or an option is out of range.
    """
    if pool is None:
        pool = stage_pool(decide)
    for name, table in (("the pool", pool), ("decide", decide)):
        if len(table) > MOST_RUNS:
            raise ValueError(
                f"{name} has {len(table):,} rows: a later stage is planned from at most "
                f"{MOST_RUNS}; leave some out"
            )
    if "group" in decide and "group" not in pool and decide["group"].nunique() == 1:
        pool = pool.assign(group=decide["group"].iloc[0])
    costs, label = costs_of(pool, cost)
    risk = given_risk(pool, p_diverge)
    stage = law.stage(decide, history, stage_runs, pool)
    if stage is None:
        raise ValueError("history is None: name the stages that the candidates continue")
    stage.check_comparable(len(decide))
    n = len(decide)
    return plan_runs(
        law, stage, np.arange(n), np.arange(n, n + len(pool)), decide, pool, costs=costs,
        label=COST if label == "FLOP" else label, risk=risk, n_runs=n_runs, budget=budget,
        fill=fill, tie=tie, max_draws=max_draws, random_seed=random_seed,
    )  # fmt: skip


def one_more_run(
    law: FittedLaw, stage: StageScores, decide: pd.DataFrame, *, tie: float, random_seed: int
) -> DesignPlan:
    """Plan one more run of a candidate, or one of two where none of their set was made.

    Parameters
    ----------
    law : FittedLaw
    stage : StageScores
        Of the candidates alone.
    decide : DataFrame
    tie : float
        Nats.
    random_seed : int
    """
    every = np.arange(len(decide))
    costs, _ = costs_of(decide, "flops")
    return plan_runs(
        law, stage, every, every, decide, decide, costs=costs, label=COST, risk=None,
        n_runs=1 if stage.level_learned.any() else 2, budget=None, fill=False, tie=tie,
        max_draws=None, random_seed=random_seed,
    )  # fmt: skip


def plan_runs(
    law: FittedLaw, stage: StageScores, candidates: np.ndarray, at: np.ndarray,
    decide: pd.DataFrame, pool: pd.DataFrame, *, costs: np.ndarray, label: str,
    risk: np.ndarray | None, n_runs: int | None, budget: float | None, fill: bool,
    tie: float | None, max_draws: int | None, random_seed: int,
) -> DesignPlan:  # fmt: skip
    """Plan from checked inputs; candidates and pool runs are at places of the stage's table."""
    draws = DRAWS if max_draws is None else max_draws
    with one_blas_thread():
        joint = StageJoint(law, stage, draws=draws, seed=random_seed)
        scorer = Regret(joint, places(candidates), random_seed)
        steps = _Steps(
            scorer, stage, at, costs, np.ones(at.size) if risk is None else 1 - risk,
            at.size if n_runs is None else n_runs, np.inf if budget is None else budget,
            0.0 if fill else LEAST_SHARE,
        )  # fmt: skip
        first = steps.values([])
        plans = [(*steps.greedy(p), p) for p in ((0.5,) if budget is None else (1.0, 0.5))]
        chosen, worth, power = max(plans, key=lambda plan: sum(plan[1]))
        order = np.array([i for step in chosen for i in step], dtype=int)
        values = steps.follow(order)
        error = _errors(law, stage, candidates, steps, order, draws, random_seed)
        words = _words(scorer, at, chosen, decide.index, pool.index)
        if tie is None:
            tie = float(np.sqrt(np.median(joint.noise)) * np.median(scorer.scale))
        bought = None
        if order.size:
            bought = benefit(
                joint, scorer, scorer.candidates, places(at[order]), tie=tie, seed=random_seed
            )
    table = pool.iloc[order].copy()
    counted = label == COST
    decide_cost = float((6.0 * decide["n_params"] * decide["tokens"]).median()) if counted else None
    table["cost"] = costs[order]
    table["cost_share"] = table["cost"] / (decide_cost or np.nan)
    table["value"], table["value_se"] = values, error
    table["value_per_cost"] = values / costs[order]
    table["cumulative"], table["cumulative_cost"] = np.cumsum(values), np.cumsum(costs[order])
    table["p_diverge"] = np.nan if risk is None else risk[order]
    table["settles"] = words
    limit = len(pool) if n_runs is None else min(n_runs, len(pool))
    ended = None
    if not fill and 0 < order.size < limit and budget is None:
        many = "One run is" if order.size == 1 else f"{order.size} runs are"
        ended = f"{many} enough: any further one would add next to nothing"
    return DesignPlan(
        table=table,
        scores=pd.Series(steps.of_runs(first), index=pool.index, name="value"),
        costs=pd.Series(costs, index=pool.index, name="cost"),
        objective="regret",
        unit=UNIT,
        perfect=scorer.perfect,
        cost_label=label,
        budget=None if budget is None else float(budget),
        rule={1.0: "value per cost", 0.5: "value per square root of cost"}[power],
        candidates=decide,
        decide_cost=decide_cost,
        benefit=bought,
        stopped=ended,
        notes=law.notes(decide, stage),
        of_later_stage=True,
    )


class _Steps:
    """Greedy choice of runs, two at once where nothing of their set is known."""

    def __init__(
        self, scorer: Regret, stage: StageScores, at: np.ndarray, costs: np.ndarray,
        keep: np.ndarray, limit: int, budget: float, least: float,
    ) -> None:  # fmt: skip
        self.scorer, self.at, self.costs, self.keep = scorer, at, costs, keep
        self.limit, self.budget, self.least = limit, budget, least
        m = len(stage.measured)
        self.set = stage.which_set[m:][at]
        configuration = stage.configuration[m:][at]
        self.known = set(stage.set_of[at][stage.set_of[at] >= 0].tolist())
        single = np.flatnonzero(np.isin(self.set, list(self.known)))
        once = np.unique(configuration, return_index=True)[1]
        i, j = np.triu_indices(once.size, k=1)
        i, j = once[i], once[j]
        pair = (self.set[i] == self.set[j]) & ~np.isin(self.set[i], list(self.known))
        i, j = self._best_pairs(i[pair], j[pair])
        closed = np.setdiff1d(np.arange(at.size), single)
        self.first = np.concatenate([single, i, closed]).astype(int)
        self.second = np.concatenate(
            [np.full(single.size, NONE), j, np.full(closed.size, NONE)]
        ).astype(int)
        # a run of a set that is closed now, on its own: open once another of the set is chosen
        self.waits = np.arange(self.first.size) >= single.size + i.size

    def _best_pairs(self, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """At most `MOST_PAIRS`, by how far they lower the variance of the candidates' contrasts."""
        if i.size <= MOST_PAIRS:
            return i, j
        s = self.scorer
        moments = s.joint.block(places(self.at[i], self.at[j]), s.targets)
        cov, var = moments.cov.mean(axis=1) * s.loss, (moments.var + moments.noise).mean(axis=1)
        best = np.argsort(-contrast_reduction(cov, var), kind="stable")[:MOST_PAIRS]
        return i[best], j[best]

    def _rows(self, which: np.ndarray) -> pd.DataFrame:
        second = self.second[which]
        return places(self.at[self.first[which]], np.where(second == NONE, NONE, self.at[second]))

    def _open(self, chosen: list[int]) -> np.ndarray:
        """Steps that can be taken next."""
        taken = np.isin(self.first, chosen) | np.isin(self.second, chosen)
        known = np.isin(self.set[self.first], [*self.known, *self.set[chosen].tolist()])
        pair = self.second != NONE
        return np.flatnonzero(~taken & np.where(pair, ~known, ~self.waits | known))

    def _sizes(self, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number of runs and cost of steps."""
        pair = self.second[which] != NONE
        other = np.where(pair, self.costs[self.second[which]], 0.0)
        return 1 + pair, self.costs[self.first[which]] + other

    def values(self, chosen: list[int]) -> np.ndarray:
        """Value of every step that can be taken next; NaN of the others."""
        out = np.full(self.first.size, np.nan)
        which = self._open(chosen)
        if which.size:
            self.scorer.condition(places(self.at[chosen]))
            keep = self.keep[self.first[which]]
            pair = self.second[which] != NONE
            keep = keep * np.where(pair, self.keep[self.second[which]], 1.0)
            out[which] = self.scorer.score(self._rows(which)) * keep
        self.scorer.condition(places([]))
        return out

    def greedy(self, power: float) -> tuple[list[tuple[int, ...]], list[float]]:
        """Runs of each step in the order chosen, and what each step added."""
        chosen: list[int] = []
        steps: list[tuple[int, ...]] = []
        worth: list[float] = []
        floor = TRACE * self.scorer.perfect
        while len(chosen) < self.limit:
            value = self.values(chosen)
            which = np.flatnonzero(np.isfinite(value))
            runs, cost = self._sizes(which)
            left = self.budget - self.costs[chosen].sum()
            fits = (runs <= self.limit - len(chosen)) & (cost <= left * (1 + 1e-12))
            if not fits.any():
                break
            which, cost = which[fits], cost[fits]
            best = which[np.argmax(value[which] / cost**power)]
            least = self.least * worth[0] if worth else 0.0
            if not value[best] > (max(least, floor) if self.least else 0.0):
                break
            pair = self.second[best] != NONE
            step = (int(self.first[best]), int(self.second[best]))[: 1 + pair]
            chosen += step
            steps.append(step)
            worth.append(float(value[best]))
        return steps, worth

    def follow(self, order: np.ndarray, scorer: Regret | None = None) -> np.ndarray:
        """Value of each run, given those before it."""
        scorer = self.scorer if scorer is None else scorer
        values = np.zeros(order.size)
        for b, i in enumerate(order):
            scorer.condition(places(self.at[order[:b]]))
            values[b] = scorer.score(places([self.at[i]]))[0] * self.keep[i]
        scorer.condition(places([]))
        return values

    def of_runs(self, values: np.ndarray) -> np.ndarray:
        """Value of each pool run: alone, or of the best pair with it."""
        out = np.zeros(self.at.size)
        shown = np.isfinite(values)
        np.maximum.at(out, self.first[shown], values[shown])
        pair = shown & (self.second != NONE)
        np.maximum.at(out, self.second[pair], values[pair])
        return out


def _errors(
    law: FittedLaw, stage: StageScores, candidates: np.ndarray, steps: _Steps, order: np.ndarray,
    draws: int, seed: int,
) -> np.ndarray:  # fmt: skip
    """Monte-Carlo standard error of each value, from independent draws of the scores."""
    if not order.size:
        return np.zeros(0)
    found = []
    for k in range(PARTS):
        part = StageJoint(law, stage, draws=max(draws // PARTS, 100), seed=seed + 1 + k)
        found.append(steps.follow(order, Regret(part, places(candidates), seed + 1 + k)))
    return np.std(found, axis=0, ddof=1) / np.sqrt(PARTS)


def _words(
    scorer: Regret, at: np.ndarray, chosen: list[tuple[int, ...]], candidates: pd.Index,
    pool: pd.Index,
) -> list[str]:  # fmt: skip
    """Say what each run does most for."""
    said: list[str] = []
    before: list[int] = []
    for step in chosen:
        scorer.condition(places(at[before]))
        moments = scorer.contrast_moments(places(at[list(step)]))
        if len(step) == 1:
            said.append(settled_pair(candidates, scorer.loss, *moments))
        else:
            pair = settled_pair(candidates, scorer.loss, *moments, after="the two")
            said.append(f"alone it gives the level of these data; with {pool[step[1]]} {pair}")
            said.append("it goes with the run above, see there")
        before += step
    scorer.condition(places([]))
    return said
