"""Which extra small runs would help most to decide: the value of runs not yet made.

The value of a run is what its outcome is expected to do for the choice among the candidates:
lower its expected regret (a knowledge gradient), tell which candidate is best (mutual
information), or shrink the variance of their differences.  Given hyper-parameters and exponents
everything is Gaussian, so an outcome's effect is a rank-one update in closed form; over draws the
posterior is a mixture, which the outcome re-weights.  Batches are greedy: each run is valued
given those already chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import pandas as pd

from bayes_optlaws.decision.design_benefit import Benefit, benefit
from bayes_optlaws.decision.design_inputs import costs_of, given_risk
from bayes_optlaws.decision.design_joint import Joint
from bayes_optlaws.decision.design_plan import DesignPlan
from bayes_optlaws.decision.design_rules import RULES, order_by_rule
from bayes_optlaws.decision.design_scorers import Information, Pooled, Regret, Scorer
from bayes_optlaws.decision.design_words import settled_pair
from bayes_optlaws.decision.stage_design import design_stage
from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.inference.stages import Table
from bayes_optlaws.kernels.threads import one_blas_thread
from bayes_optlaws.runs.pools import default_pool
from bayes_optlaws.schedules import INTEGRAL_COLUMNS
from bayes_optlaws.text.progress import counter

__all__ = ["COMPARISONS", "OBJECTIVES", "DesignPlan", "design"]

OBJECTIVES = ("regret", "information", "variance")
"""Objectives that are meant for use."""

COMPARISONS = ("v-optimal", "d-optimal", *RULES)
"""Rules to compare with: variances at the target, knowledge of the law, and blind ones."""

UNITS = {
    "regret": "nats of expected regret",
    "information": "nats of information",
    "variance": "nats^2 of contrast variance",
    "v-optimal": "nats^2 of variance",
    "d-optimal": "nats of information on the law",
}

LEAST_SHARE = 0.02
"""A plan ends before a run worth less than this share of the first (own choice)."""

PARTS, LEAST_PART = 4, 32
"""Parts of the posterior draws from which the Monte-Carlo error of a value is taken, and the
fewest draws in one."""

POWERS = (1.0, 0.5)
"""Greedy rules tried under a budget: value per cost, and per square root of cost."""

SHORTLIST = 10_000
"""Pool runs that are scored again after the first choice, those of highest first score."""

TRACE, NOTHING = 1e-4, 1e-6
"""A run worth no more than this share of perfect information helps not on its own; nor is there
anything to learn where perfect information is worth less than this (nats)."""

MOST_DRAWS, LEAST_DRAWS, ROWS_TIMES_DRAWS = 400, 128, 1.28e7
"""Posterior draws in use, fewer for a large pool."""

RISK_DRAWS = 200
"""Posterior draws that a pool's probabilities of divergence are means over."""

_NEEDED = (
    "n_params", "tokens", "batch_tokens", "steps", "peak_lr", "warmup_steps", "schedule",
    "min_lr", "decay_end_step", "plateau_lr", "cooldown_start_step",
)  # fmt: skip


def design(
    law: FittedLaw,
    pool: pd.DataFrame | None,
    *,
    decide: pd.DataFrame,
    n_runs: int | None = 5,
    objective: str = "regret",
    cost: str | Sequence[float] | None = "flops",
    budget: float | None = None,
    fill: bool = False,
    tie: float | None = None,
    p_diverge: str | Sequence[float] | None = None,
    history: Table | None = None,
    stage_runs: Table | None = None,
    max_draws: int | None = None,
    random_seed: int = 0,
    progressbar: bool = True,
    allow_unconverged: bool = False,
) -> DesignPlan:
    """Choose the runs of ``pool`` that help most to choose among ``decide``.

    Parameters
    ----------
    law : FittedLaw
    pool : DataFrame or None
        Runs that could be made, a candidate table (see `bayes_optlaws.pool`); a row is one run.
        None: runs like those of the table, `bayes_optlaws.default_pool`; of a later stage the
        candidates whole and shorter, `bayes_optlaws.stage_pool`.
    decide : DataFrame
        Candidate table of the large runs among which the choice is.
    n_runs : int, optional
        Most runs to propose. None, with a budget: as many as it pays for.
    objective : str
        ``"regret"`` expected drop of the expected regret of the choice (nats); ``"information"``
        mutual information of the outcome and which candidate is best (nats); ``"variance"``
        drop of the sum over pairs of the variance of their difference (nats^2). To compare with:
        ``"v-optimal"``, ``"d-optimal"``, ``"random"``, ``"cost-weighted random"``,
        ``"cheapest"``, ``"space-filling"``, ``"mid-size"``; the blind ones show the regret value of
        their runs.
    cost : str, array or None
        ``"flops"`` is 6 N D; another string names a column of the pool; an array has one cost a
        row; None counts every run as 1.
    budget : float, optional
        Most that all runs together may cost. Then two greedy plans are made, by value per cost
        and per square root of cost, and the more valuable one is returned. Without a budget,
        value per square root of cost decides (own choice: on a trial it beat value per cost).
    fill : bool
        Also propose runs that are worth next to nothing. By default a plan stops before a run
        whose value is below its Monte-Carlo error or below 2 % of the first one's.
    tie : float, optional
        A choice this close to the best is right, nats. Default: the noise sd of one run.
    p_diverge : str or array, optional
        Probability that a pool run diverges, in [0, 1], one a row or the name of a column; by
        default the column ``p_diverge`` of the pool where there is one, else what the law says,
        0 where it does not model divergence. A diverged run says nothing about the loss, so the
        value is multiplied by ``1 - p_diverge``. That of a later stage is unknown unless given.
    history, stage_runs : DataFrame or path, optional
        The candidates are a later stage, as in `bayes_optlaws.OptLaw.rank`: pool and proposed runs
        start from the same checkpoint, see `bayes_optlaws.decision.stage_design.design_stage`. The
        objective is then ``"regret"``.
    max_draws : int, optional
        Posterior draws in use; by default 400, and down to 128 for a large pool; of a later stage
        2,000.
    random_seed : int
    progressbar : bool
    allow_unconverged : bool
        Plan from a posterior that did not pass the gate.

    Returns
    -------
    DesignPlan

    Raises
    ------
    ConvergenceError
        If the posterior does not pass the gate.
    ValueError
        If an option is out of range.

    Notes
    -----
    Values are those of knowing the losses better, as if every candidate finished: what a run says
    about divergence, its own or a candidate's, is not valued. So they are below the
    ``expected_regret`` of a ranking, in which a divergence counts, and no plan can buy that part
    off. Later runs of a plan are valued as if the earlier ones finish.

    Losses of the candidates are linearised about their posterior means; the outcome of a pool
    run is on the log scale with its own noise. For ``"regret"`` and ``"information"`` an outcome
    updates each posterior draw in closed form and re-weights the draws; values of later runs are
    means over 16 simulated outcomes of the earlier ones, whose weights are flattened when fewer
    than 20 draws would count. For ``"variance"``, ``"v-optimal"`` and ``"d-optimal"`` the
    posterior is one Gaussian with the total covariance, within draws and between them (best
    linear updates; no simulation). After the first choice only the 10,000 runs of highest first
    score are scored again.

    Examples
    --------
    >>> plan = law.design(pool, decide=candidates, n_runs=3)  # doctest: +SKIP
    >>> plan.table[["cost", "value", "settles"]]  # doctest: +SKIP
    """
    if objective not in OBJECTIVES + COMPARISONS:
        raise ValueError(
            f"objective is {objective!r}: it must be one of {', '.join(OBJECTIVES + COMPARISONS)}"
        )
    if budget is None and n_runs is None:
        raise ValueError("n_runs is None and there is no budget: give one of them")
    if n_runs is not None and not (isinstance(n_runs, int | np.integer) and n_runs >= 1):
        raise ValueError(f"n_runs is {n_runs!r}: it must be an integer of at least 1, or None")
    if budget is not None and not budget > 0:
        raise ValueError(f"budget is {budget!r}: it must be positive")
    law.require_converged(allow_unconverged)
    candidates = decide
    law.encoding.covariates.require_one_group(candidates)
    if len(candidates) < 2 and objective in OBJECTIVES:
        raise ValueError(
            f"decide has {len(candidates)} row: there is nothing to choose; give two or more"
        )
    if history is not None:
        if objective != "regret":
            raise ValueError(
                f"objective is {objective!r}: runs of a later stage are valued by 'regret' alone"
            )
        return design_stage(
            law, pool, decide=candidates, history=history, stage_runs=stage_runs, n_runs=n_runs,
            cost=cost, budget=budget, p_diverge=p_diverge, fill=fill, tie=tie,
            max_draws=max_draws, random_seed=random_seed,
        )  # fmt: skip
    if stage_runs is not None:
        raise ValueError(
            "stage_runs is given without history: name the stages that the candidates continue"
        )
    if pool is None:
        pool = law.encoding.covariates.crossed(default_pool(law.runs, candidates), candidates)
    costs, label = costs_of(pool, cost)
    keep = 1.0 - _probabilities(law, pool, p_diverge)
    with one_blas_thread():
        return _plan(
            law, pool, candidates, costs, label, keep, n_runs=n_runs, objective=objective,
            budget=budget, max_draws=max_draws, random_seed=random_seed, progressbar=progressbar,
            fill=fill, tie=tie,
        )  # fmt: skip


def _plan(
    law: FittedLaw,
    pool: pd.DataFrame,
    candidates: pd.DataFrame,
    costs: np.ndarray,
    label: str,
    keep: np.ndarray,
    *,
    n_runs: int | None,
    objective: str,
    budget: float | None,
    max_draws: int | None,
    random_seed: int,
    progressbar: bool,
    fill: bool,
    tie: float | None,
) -> DesignPlan:
    """Make the plan from checked inputs."""
    scorer, rows, first, chosen, values, rule = choose(
        law, pool, candidates, costs, keep, n_runs=n_runs, objective=objective, budget=budget,
        max_draws=max_draws, random_seed=random_seed, progressbar=progressbar,
        least_share=0.0 if fill else LEAST_SHARE,
    )  # fmt: skip
    wanted = len(pool) if n_runs is None else min(int(n_runs), len(pool))
    error = _value_errors(scorer, rows, chosen, values, keep, objective, random_seed)
    if not fill and objective in ("regret", "information") and (values > 0).any():
        worth = np.flatnonzero(~(values > np.nan_to_num(error)))
        last = int(worth[0]) if worth.size else len(values)
        chosen, values, error = chosen[:last], values[:last], error[:last]
    table = pool.iloc[chosen].copy()
    table["cost"] = costs[chosen]
    decide_cost = None
    if label == "FLOP":
        flops = 6.0 * candidates["n_params"] * candidates["tokens"]
        decide_cost = float(flops.median())
    table["cost_share"] = costs[chosen] / (decide_cost or np.nan)
    table["value"] = values
    table["value_se"] = error
    table["value_per_cost"] = values / costs[chosen]
    table["cumulative"] = np.cumsum(values)
    table["cumulative_cost"] = np.cumsum(costs[chosen])
    table["p_diverge"] = 1.0 - keep[chosen]
    table["settles"] = _settles(scorer, rows, chosen, candidates.index)
    return DesignPlan(
        table=table,
        scores=pd.Series(first, index=pool.index, name="value"),
        costs=pd.Series(costs, index=pool.index, name="cost"),
        objective=objective,
        unit=UNITS.get(objective, UNITS["regret"]),
        perfect=scorer.perfect,
        cost_label=label,
        budget=None if budget is None else float(budget),
        rule=rule,
        candidates=candidates,
        decide_cost=decide_cost,
        benefit=_benefit(law, scorer, rows.iloc[chosen], candidates, tie, random_seed),
        stopped=_why_stopped(scorer, values, wanted, fill, objective),
        notes=law.notes(candidates),
    )


def _value_errors(
    scorer: Scorer, rows: pd.DataFrame, chosen: np.ndarray, values: np.ndarray, keep: np.ndarray,
    objective: str, seed: int,
) -> np.ndarray:  # fmt: skip
    """Monte-Carlo standard error of each value, from parts of the posterior draws."""
    joint = cast("Joint", scorer.joint)
    if objective not in ("regret", "information") or not (values > 0).any():
        return np.zeros(len(values))
    if joint.n < PARTS * LEAST_PART:
        return np.full(len(values), np.nan)
    found = []
    for k in range(PARTS):
        part = Joint(joint.law, joint.draws.take(np.arange(k, joint.n, PARTS)))
        own = _scorer(objective, part, scorer.candidates, seed + k)
        search = _Search(own, rows, np.ones(len(rows)), keep, len(chosen), np.inf, SHORTLIST)
        found.append(search.follow(chosen)[1])
    return np.where(values > 0, np.std(found, axis=0, ddof=1) / np.sqrt(PARTS), 0.0)


def _benefit(
    law: FittedLaw, scorer: Scorer, chosen: pd.DataFrame, candidates: pd.DataFrame,
    tie: float | None, seed: int,
) -> Benefit | None:  # fmt: skip
    """What the plan does for the probability of the right choice."""
    if not len(chosen) or len(candidates) < 2:
        return None
    if tie is None:
        noise = law.predictor(cast("Joint", scorer.joint).draws).noise_sd(candidates)
        tie = float(np.median(noise) * np.median(scorer.loss))
    return benefit(scorer.joint, scorer, scorer.candidates, chosen, tie=tie, seed=seed)


def _why_stopped(
    scorer: Scorer, values: np.ndarray, wanted: int, fill: bool, objective: str
) -> str | None:
    """Say why fewer runs are proposed than were allowed."""
    if fill or objective not in OBJECTIVES or len(values) >= wanted or not len(values):
        return None
    if len(values) == 1:
        return "One run is enough: any further one would add next to nothing"
    return f"{len(values)} runs are enough: any further one would add next to nothing"


def choose(
    law: FittedLaw,
    pool: pd.DataFrame,
    candidates: pd.DataFrame,
    costs: np.ndarray,
    keep: np.ndarray,
    *,
    n_runs: int | None,
    objective: str,
    budget: float | None,
    max_draws: int | None = None,
    random_seed: int = 0,
    progressbar: bool = False,
    shortlist: int = SHORTLIST,
    least_share: float = 0.0,
) -> tuple[Scorer, pd.DataFrame, np.ndarray, np.ndarray, np.ndarray, str]:
    """Choose rows of a validated pool: scorer, rows as it sees them, first values, choice, rule.

    ``keep`` is the probability that each row does not diverge; the ``shortlist`` of highest
    first worth is scored again after the first choice; the choice ends before a run that adds
    less than ``least_share`` of what the first did. Nothing is checked.
    """
    if max_draws is None:
        max_draws = int(np.clip(ROWS_TIMES_DRAWS / len(pool), LEAST_DRAWS, MOST_DRAWS))
    joint = Joint(law, law.draws.thin(max_draws))
    names = [n for n in law.encoding.covariates.names if n in candidates and n in pool]
    slim = _slim(candidates, names)
    scorer = _scorer(objective, joint, slim, random_seed)
    rows = _slim(pool, names)
    limit = len(pool) if n_runs is None else min(int(n_runs), len(pool))
    search = _Search(
        scorer,
        rows,
        costs,
        keep,
        limit,
        np.inf if budget is None else budget,
        shortlist,
        least_share,
    )

    if objective in RULES:
        first = np.full(len(pool), np.nan)
        rng = np.random.default_rng(random_seed)
        order = order_by_rule(objective, pool, costs, rng)
        chosen, values = search.follow(order)
        return scorer, rows, first, chosen, values, "a rule that does not look at the law"
    with counter(len(pool), "scoring the pool", progressbar) as step:
        first = scorer.score(rows, step) * keep
    spare = None
    if objective in ("regret", "information") and scorer.perfect > NOTHING:
        spare = Pooled(joint, slim, random_seed)
    plans = [
        (*search.greedy(first, power, progressbar, spare), power)
        for power in ((0.5,) if budget is None else POWERS)
    ]
    chosen, values, spared, power = max(plans, key=lambda p: p[1].sum())
    rule = {1.0: "value per cost", 0.5: "value per square root of cost"}[power]
    if spared:
        rule += f" (the last {spared} by the variance of contrasts, as none helps on its own)"
    return scorer, rows, first, chosen, values, rule


class _Search:
    """Greedy choice under a number of runs and a budget."""

    def __init__(
        self, scorer: Scorer, rows: pd.DataFrame, costs: np.ndarray, keep: np.ndarray,
        limit: int, budget: float, shortlist: int, least_share: float = 0.0,
    ) -> None:  # fmt: skip
        self.scorer, self.rows, self.costs, self.keep = scorer, rows, costs, keep
        self.least_share = least_share
        self.limit, self.budget, self.shortlist = limit, budget, shortlist

    def greedy(
        self, first: np.ndarray, power: float, progressbar: bool, spare: Scorer | None = None
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Rows in the order chosen, what each added, and how many of them ``spare`` chose.

        ``first`` are the values alone.  ``spare`` takes over when no single run is worth more
        than a trace of perfect information: a run may be worth nothing alone and much together
        with others, which a greedy choice does not see.
        """
        worth = first / self.costs**power
        every = np.argsort(-worth, kind="stable")
        least = 0.0 if spare is None else TRACE * self.scorer.perfect
        scorer, value = self.scorer, first
        open_ = every
        left = self.budget
        chosen: list[int] = []
        values: list[float] = []
        spared = 0
        with counter(self.limit, f"choosing runs (cost^{power:g})", progressbar) as step:
            while len(chosen) < self.limit:
                open_ = open_[self.costs[open_] <= left * (1 + 1e-12)]
                if chosen and scorer is self.scorer:
                    open_ = open_[~np.isin(open_, chosen)][: self.shortlist]
                if not open_.size:
                    break
                if chosen or scorer is spare:
                    value = np.zeros(len(first))
                    value[open_] = scorer.given(self.rows, chosen, open_) * self.keep[open_]
                best = open_[np.argmax(value[open_] / self.costs[open_] ** power)]
                if (
                    values
                    and self.least_share
                    and not value[best] > max(least, self.least_share * values[0])
                    and values[0] > 0
                ):
                    break
                if scorer is self.scorer and spare is not None and not value[best] > least:
                    scorer, open_ = spare, np.setdiff1d(every, chosen)
                    continue
                if not value[best] > 0:
                    break
                values.append(float(value[best]) if scorer is self.scorer else 0.0)
                spared += scorer is not self.scorer
                chosen.append(int(best))
                open_ = open_[open_ != best]
                left -= self.costs[best]
                step(1)
        self.scorer.condition(self.rows.iloc[:0])
        return np.array(chosen, dtype=int), np.array(values), spared

    def follow(self, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take runs in a given order while they fit; value each given those before."""
        left = self.budget
        chosen: list[int] = []
        for i in order:
            if len(chosen) == self.limit:
                break
            if self.costs[i] <= left * (1 + 1e-12):
                chosen.append(int(i))
                left -= self.costs[i]
        values = np.zeros(len(chosen))
        for b, i in enumerate(chosen):
            self.scorer.condition(self.rows.iloc[chosen[:b]])
            values[b] = self.scorer.score(self.rows.iloc[[i]])[0] * self.keep[i]
        self.scorer.condition(self.rows.iloc[:0])
        return np.array(chosen, dtype=int), values


def _scorer(objective: str, joint: Joint, candidates: pd.DataFrame, seed: int) -> Scorer:
    if objective == "information":
        return Information(joint, candidates, seed)
    if objective in ("variance", "v-optimal", "d-optimal"):
        return Pooled(joint, candidates, seed, objective=objective)
    return Regret(joint, candidates, seed)


def _slim(table: pd.DataFrame, covariates: Sequence[str] = ()) -> pd.DataFrame:
    """Only what the law looks at, so that tables of any origin can be put together."""
    out = table[[*_NEEDED, *covariates]].copy()
    for column in INTEGRAL_COLUMNS:
        out[column] = table[column].astype(float) if column in table else np.nan
    return out


def _probabilities(
    law: FittedLaw, pool: pd.DataFrame, p_diverge: str | Sequence[float] | None
) -> np.ndarray:
    """Probability that each pool run diverges: as given, else by the law, else 0."""
    given = given_risk(pool, p_diverge)
    if given is not None:
        return given
    risk = law.risk(pool, law.draws.thin(RISK_DRAWS))
    return np.zeros(len(pool)) if risk is None else risk.mean(axis=0)


def _settles(scorer: Scorer, rows: pd.DataFrame, chosen: np.ndarray, labels: pd.Index) -> list[str]:
    """Say for each run which pair of candidates it does most for."""
    words = []
    for b, i in enumerate(chosen):
        scorer.condition(rows.iloc[chosen[:b]])
        words.append(settled_pair(labels, scorer.loss, *scorer.contrast_moments(rows.iloc[[i]])))
    scorer.condition(rows.iloc[:0])
    return words
