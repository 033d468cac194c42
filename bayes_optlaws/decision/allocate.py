"""How to split a compute budget between model size and tokens, and how sure the split is.

Training costs 6 N D floating-point operations (Kaplan et al. 2020, arXiv:2001.08361). Along a
budget the settings of each model size are searched under the posterior; all sizes are then judged
on the same joint draws, so that what they share cancels. Every draw has a model size of lowest
expected loss of its own: their spread is the uncertainty of the allocation. (Own choice; the
profile is that of Hoffmann et al. 2022, arXiv:2203.15556, "approach 2", with a posterior in place
of a parabola.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import qmc

from bayes_optlaws.decision.search_space import space
from bayes_optlaws.decision.suggest import Judge
from bayes_optlaws.inference.fitted import FittedLaw, check_prob
from bayes_optlaws.inference.intervals import central_interval
from bayes_optlaws.plots.allocation import frontier as plot_frontier
from bayes_optlaws.plots.allocation import isoflop as plot_isoflop
from bayes_optlaws.runs.readers import read_candidates
from bayes_optlaws.text import html
from bayes_optlaws.text.numbers import short
from bayes_optlaws.text.progress import counter

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZES, BUDGETS = 11, 4
"""Model sizes along a budget, and budgets along the frontier."""

LEAST_STEPS = 10
"""Steps of the shortest run that a budget is split into."""

REACH = 100.0
"""The frontier runs from this fraction of the budget up to it."""

RATIOS = (2.0, 500.0)
"""Tokens a parameter between which sizes are tried, or those of the table where they go further."""

POINTS, LEADERS, AROUND, ROUNDS = 48, 4, 24, 2
"""Search of the settings of one size: Sobol points, leaders refined, points about them, rounds."""

_SETTINGS = (
    "n_params", "tokens", "batch_tokens", "peak_lr", "warmup_steps", "schedule", "min_lr",
    "decay_end_step", "plateau_lr", "cooldown_start_step",
)  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Allocation:
    """Model size and tokens of lowest expected loss under a budget, and all that is tied with it.

    Made by ``OptLaw.allocate``.

    Attributes
    ----------
    flops : float
        Budget; nan where the tokens were fixed instead.
    profile : DataFrame
        One row a model size, a candidate table with its best settings, and ``loss_mean`` with the
        interval ``loss_lower``, ``loss_upper`` of the expected loss, ``excess`` over the best,
        ``p_tied`` and ``p_worse`` (within ``tie`` of the best size, or above it by more),
        ``tied`` (not shown to be worse with probability ``prob``), ``p_optimal`` (share of draws
        whose best size it is nearest to), ``p_diverge``, ``extrapolation``. As a candidate table
        it goes into ``OptLaw.design(decide=...)``: which small runs would settle the split.
    candidate : DataFrame
        The row of lowest expected loss.
    optimum : Series
        ``n_params`` and ``tokens`` of the optimum, each ``_median``, ``_lower``, ``_upper`` over
        the posterior.
    frontier : DataFrame
        The same along budgets, one row each, with ``loss_mean``.
    exponents : DataFrame
        Rows ``n_params`` and ``tokens``: exponent of the compute-optimal frontier in FLOPs, mean
        and interval.
    at_edge : float
        Share of draws whose optimum lies at the smallest or largest size tried.
    tie, prob : float
    notes : tuple of str
    """

    flops: float
    profile: pd.DataFrame
    candidate: pd.DataFrame
    optimum: pd.Series
    frontier: pd.DataFrame
    exponents: pd.DataFrame
    at_edge: float
    tie: float
    prob: float
    notes: tuple[str, ...]

    def answer(self, *, notes: bool = True) -> str:
        """Return the allocation in plain English, with the notes where wanted."""
        best = self.candidate.iloc[0]
        tied = self.profile[self.profile["tied"]]
        o = self.optimum
        said = (
            f"{short(best['n_params'])} parameters and {short(best['tokens'])} tokens "
            f"({best['tokens'] / best['n_params']:.3g} a parameter) reach {best['loss_mean']:.3f} "
            f"nats ({best['loss_lower']:.3f} to {best['loss_upper']:.3f}), with peak_lr "
            f"{html.significant(best['peak_lr'])} and {best['schedule']}. Sizes from "
            f"{short(tied['n_params'].min())} to {short(tied['n_params'].max())} are not shown to "
            "be worse by more than the noise of a run. "
            f"The best size is {short(o['n_params_lower'])} to {short(o['n_params_upper'])} with "
            f"{100 * self.prob:g} %."
        )
        if len(self.exponents):
            e = self.exponents.loc["n_params"]
            said += (
                f" Along the frontier it grows as FLOP^{e['mean']:.2f} ({e['lower']:.2f} to "
                f"{e['upper']:.2f})."
            )
        return " ".join([said, *self.notes] if notes else [said])

    def plot(self, *, ax: Axes | None = None) -> Figure:
        """Plot the expected loss over model size along the budget.

        Parameters
        ----------
        ax : matplotlib Axes, optional

        Returns
        -------
        matplotlib Figure
        """
        return plot_isoflop(self, ax=ax)

    def plot_frontier(self, *, ax: Axes | None = None) -> Figure:
        """Plot the best model size over the compute budget.

        Parameters
        ----------
        ax : matplotlib Axes, optional

        Returns
        -------
        matplotlib Figure
        """
        return plot_frontier(self, ax=ax)

    def __repr__(self) -> str:
        """Return the answer and the profile."""
        return f"{self.answer()}\n\n{self._shown().to_string(float_format=lambda v: f'{v:.4g}')}"

    def _repr_html_(self) -> str:
        formats: dict[str, html.Format] = {"n_params": short, "tokens": short}
        formats["peak_lr"] = html.significant
        formats |= {c: html.number(4) for c in ("loss_mean", "loss_lower", "loss_upper", "excess")}
        formats |= {c: html.percent for c in ("p_tied", "p_worse", "p_optimal", "p_diverge")}
        return html.box(
            html.heading(f"Allocation of {short(self.flops)} FLOP"),
            html.paragraphs([self.answer()]),
            html.table(self._shown(), formats=formats, index=False),
        )

    def _shown(self) -> pd.DataFrame:
        return self.profile[
            [
                "n_params", "tokens", "peak_lr", "schedule", "loss_mean", "loss_lower",
                "loss_upper", "excess", "p_tied", "p_worse", "p_optimal", "p_diverge",
            ]
        ]  # fmt: skip


def budget_in_flops(
    flops: float | None, gpu_hours: float | None, flops_per_second: float | None
) -> float | None:
    """Compute budget in FLOP from one of the ways to state it; None where there is none.

    Parameters
    ----------
    flops, gpu_hours, flops_per_second : float, optional

    Raises
    ------
    ValueError
        Naming the argument, the rule and the remedy.

    Examples
    --------
    >>> budget_in_flops(None, 1000, 4e14)
    1.44e+21
    """
    if flops is not None and gpu_hours is not None:
        raise ValueError("flops and gpu_hours are both given: state the budget once")
    if gpu_hours is not None:
        if flops_per_second is None:
            raise ValueError(
                "gpu_hours needs flops_per_second=, the sustained FLOP/s of one GPU in your "
                "training (model FLOP utilisation x peak), as 4e14"
            )
        flops = gpu_hours * 3600.0 * _positive("flops_per_second", flops_per_second)
    return None if flops is None else _positive("flops", flops)


def _positive(name: str, value: float) -> float:
    if not (isinstance(value, int | float | np.number) and np.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value!r}: it must be a number, positive and finite")
    return float(value)


def allocate(
    law: FittedLaw,
    *,
    flops: float | None = None,
    gpu_hours: float | None = None,
    tokens: float | None = None,
    flops_per_second: float | None = None,
    batch_tokens: float | Sequence[float] | None = None,
    n_params: ArrayLike | None = None,
    families: Sequence[str] | str | None = None,
    bounds: Mapping[str, float | tuple[float, float]] | None = None,
    covariates: Mapping[str, Any] | None = None,
    frontier: bool = True,
    max_p_diverge: float = 0.05,
    tie: float | None = None,
    prob: float = 0.9,
    max_draws: int = 1000,
    random_seed: int = 0,
    progressbar: bool = True,
    allow_unconverged: bool = False,
) -> Allocation:
    """Find the model size and tokens of lowest expected loss under a budget.

    Parameters
    ----------
    law : FittedLaw
    flops, gpu_hours, tokens : float, optional
        The budget, one of the three: floating-point operations (6 N D); hours of one GPU at
        ``flops_per_second``; or a number of tokens that every size is trained on.
    flops_per_second : float, optional
        Sustained FLOP/s of one GPU.
    batch_tokens : float or sequence, optional
        Tokens a step; of several, the best is chosen. Default: the median of the fitted runs.
    n_params : array_like, optional
        Sizes to compare, three or more. Default: eleven, from 2 to 500 tokens a parameter, or as
        far as the ratios of the table go.
    families, bounds, covariates
        As in `OptLaw.suggest`.
    frontier : bool
        Repeat it at smaller budgets, for the exponents of the compute-optimal frontier.
    max_p_diverge : float
        Highest risk of divergence that settings may have.
    tie : float, optional
        Losses this close make no difference, nats. Default: the noise of one run at the best.
    prob : float
        Probability of the intervals.
    max_draws, random_seed : int
    progressbar : bool
    allow_unconverged : bool

    Returns
    -------
    Allocation

    Raises
    ------
    ValueError
        If the budget is stated twice or not at all, or pays for no run of ten steps.
    ConvergenceError
        If the posterior does not pass the gate.
    """
    check_prob(prob)
    law.require_converged(allow_unconverged)
    law = law.assuming(covariates or {})
    law.encoding.covariates.require_assumed()
    compute = budget_in_flops(flops, gpu_hours, flops_per_second)
    tokens = None if tokens is None else _positive("tokens", tokens)
    if (compute is None) == (tokens is None):
        raise ValueError("state one budget: flops=, gpu_hours= with flops_per_second=, or tokens=")
    finished = law.encoding.finished
    if batch_tokens is None:
        batch_tokens = float(finished["batch_tokens"].median())
    sizes = _affordable(_sizes(finished, compute, tokens, n_params), compute, tokens, batch_tokens)
    make = _Profiles(
        law, batch_tokens, families, bounds, max_p_diverge, max_draws, random_seed, prob
    )
    along = compute is not None and frontier
    total = len(sizes) + along * (BUDGETS - 1) * SIZES
    with counter(total, "settings of each size", progressbar) as step:
        table, loss = make(sizes, compute, tokens, step)
        size, edge = best_size(loss, table["n_params"].to_numpy())
        front, exponents = pd.DataFrame(), pd.DataFrame()
        if compute is not None and frontier:
            front, exponents = _frontier(make, compute, finished, prob, (table, size), step)
    best = int(np.argmin(table["loss_mean"]))
    noise = law.predictor(law.draws.thin(max_draws)).noise_sd(table.iloc[[best]])
    tie = float(np.median(noise) * table["loss_mean"].iloc[best]) if tie is None else float(tie)
    gap = loss - loss[:, [best]]
    table["excess"] = table["loss_mean"] - table["loss_mean"].iloc[best]
    table["p_tied"] = np.mean(np.abs(gap) <= tie, axis=0)
    table["p_worse"] = np.mean(gap > tie, axis=0)
    table["tied"] = table["p_worse"] < prob
    nearest = np.abs(np.log(size)[:, None] - np.log(table["n_params"].to_numpy())).argmin(axis=1)
    table["p_optimal"] = np.bincount(nearest, minlength=len(table)) / len(nearest)
    return Allocation(
        flops=np.nan if compute is None else compute,
        profile=table,
        candidate=table.iloc[[best]],
        optimum=_optimum(size, compute, tokens, prob),
        frontier=front,
        exponents=exponents,
        at_edge=float(edge.mean()),
        tie=tie,
        prob=float(prob),
        notes=_notes(law, table, float(edge.mean()), compute),
    )


@dataclass(frozen=True)
class _Profiles:
    """Profiles of expected loss over model size, on the same posterior draws."""

    law: FittedLaw
    batch_tokens: float | Sequence[float]
    families: Sequence[str] | str | None
    bounds: Mapping[str, float | tuple[float, float]] | None
    max_p_diverge: float
    max_draws: int
    random_seed: int
    prob: float

    def __call__(
        self,
        sizes: np.ndarray,
        compute: float | None,
        tokens: float | None,
        step: Callable[[int], None],
    ) -> tuple[pd.DataFrame, np.ndarray]:
        """Best settings of each size with their expected loss, and its draws (n_draws, n)."""
        judge = Judge(self.law, self.max_p_diverge, self.random_seed)
        rows = []
        for n, d in zip(sizes, _tokens_of(sizes, compute, tokens), strict=True):
            rows.append(self._best(judge, float(n), float(d)))
            step(1)
        table = read_candidates(pd.DataFrame(rows), warn=False)
        table.index = pd.Index([f"N={short(n)}" for n in table["n_params"]])
        rng = np.random.default_rng(self.random_seed)
        drawn = self.law.draw_loss(table, "mean", rng, max_draws=self.max_draws)
        tail = (1 - self.prob) / 2
        table["loss_mean"] = drawn.loss.mean(axis=0)
        table["loss_lower"], table["loss_upper"] = central_interval(drawn.loss, tail)
        table["p_diverge"] = np.nan if drawn.risk is None else drawn.risk.mean(axis=0)
        table["extrapolation"] = self.law.extrapolation(table)
        return table, drawn.loss

    def _best(self, judge: Judge, n: float, d: float) -> pd.Series:
        """Settings of lowest expected loss of one size, among those whose risk is allowed."""
        sp = space(
            self.law.runs, n_params=n, tokens=d, batch_tokens=self.batch_tokens,
            families=self.families, bounds=self.bounds, min_lr=None,
        )  # fmt: skip
        rng = np.random.default_rng(self.random_seed)
        tried = []
        for family in sp.families:
            axes = len(sp.axes(family))
            cube = qmc.Sobol(axes, rng=rng).random(64)[:POINTS]
            rated = judge.rate(sp.table(family, cube))
            for k in range(ROUNDS):
                goal = np.where(rated["allowed"], rated["loss_mean"], np.inf)
                leaders = cube[np.argsort(goal, kind="stable")[:LEADERS]]
                around = leaders[rng.integers(len(leaders), size=AROUND)]
                near = np.clip(around + 0.15 / 2**k * rng.standard_normal(around.shape), 0, 1)
                cube = np.vstack([cube, near])
                more = judge.rate(sp.table(family, near))
                rated = pd.concat([rated, more], ignore_index=True)
            tried.append(rated)
        every = pd.concat(tried, ignore_index=True)
        if not every["allowed"].any():
            raise ValueError(
                f"max_p_diverge is {self.max_p_diverge:g}: no setting of {short(n)} parameters "
                f"has so small a risk; the least is {every['p_diverge'].min():.3f}"
            )
        return every[every["allowed"]].nsmallest(1, "loss_mean").iloc[0][list(_SETTINGS)]


def best_size(loss: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Model size of lowest loss of every draw, and whether it is the first or last.

    Parameters
    ----------
    loss : array, shape (n_draws, n_sizes)
    sizes : array, shape (n_sizes,)
        Increasing.

    Returns
    -------
    size, at_edge : array, shape (n_draws,)
        Refined by the parabola in log size through the lowest and its neighbours.

    Examples
    --------
    >>> sizes = np.geomspace(1e8, 1e10, 9)
    >>> loss = (np.log(sizes / 1.5e9) ** 2)[None]
    >>> size, edge = best_size(loss, sizes)
    >>> round(float(size[0]) / 1e9, 6), bool(edge[0])
    (1.5, False)
    """
    x = np.log(sizes)
    best = loss.argmin(axis=1)
    edge = (best == 0) | (best == sizes.size - 1)
    inner = np.clip(best, 1, sizes.size - 2)
    row = np.arange(len(loss))
    y0, y1, y2 = (loss[row, inner + i] for i in (-1, 0, 1))
    x0, x1, x2 = (x[inner + i] for i in (-1, 0, 1))
    rise, fall = (y2 - y1) * (x1 - x0), (y1 - y0) * (x2 - x1)
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = x1 - 0.5 * (rise * (x1 - x0) + fall * (x2 - x1)) / (rise - fall)
    vertex = np.where(edge | ~np.isfinite(vertex), x[best], np.clip(vertex, x0, x2))
    return np.exp(vertex), edge


def _sizes(
    finished: pd.DataFrame,
    compute: float | None,
    tokens: float | None,
    given: ArrayLike | None,
) -> np.ndarray:
    if given is not None:
        sizes = np.unique(np.asarray(given, dtype=float))
        if sizes.size < 3 or not np.all(np.isfinite(sizes) & (sizes > 0)):
            raise ValueError(f"n_params is {given!r}: give three or more different model sizes")
        return sizes
    ratio = (finished["tokens"] / finished["n_params"]).to_numpy(float)
    low, high = min(RATIOS[0], ratio.min()), max(RATIOS[1], ratio.max())
    if compute is not None:
        ends = np.sqrt(compute / 6.0 / np.array([high, low]))
    else:
        ends = np.full(2, tokens) / np.array([high, low])
    return np.geomspace(ends[0], ends[1], SIZES)


def _affordable(
    sizes: np.ndarray,
    compute: float | None,
    tokens: float | None,
    batch_tokens: float | Sequence[float],
) -> np.ndarray:
    """Sizes that the budget pays ten steps of."""
    least = LEAST_STEPS * float(np.min(batch_tokens))
    if tokens is not None:
        if tokens < least:
            raise ValueError(
                f"tokens is {tokens:g}: a run has at least {LEAST_STEPS} steps, of "
                f"{least / LEAST_STEPS:g} tokens; raise the budget or lower batch_tokens"
            )
        return sizes
    some = sizes[compute / (6.0 * sizes) >= least]  # type: ignore[operator]
    if some.size < 3:
        raise ValueError(
            f"flops is {compute:g}: it pays for fewer than {LEAST_STEPS} steps of "
            f"{least / LEAST_STEPS:g} tokens at {short(sizes[min(2, sizes.size - 1)])} parameters; "
            f"give {6.0 * sizes[min(2, sizes.size - 1)] * least:.2g} or more, or lower batch_tokens"
        )
    return some


def _tokens_of(size: np.ndarray, compute: float | None, tokens: float | None) -> np.ndarray:
    """Tokens for each model size: what the compute leaves, or the same for all."""
    return compute / (6.0 * size) if compute is not None else np.full(size.size, tokens)


def _optimum(
    size: np.ndarray, compute: float | None, tokens: float | None, prob: float
) -> pd.Series:
    budget = _tokens_of(size, compute, tokens)
    out: dict[str, float] = {}
    for name, value in (("n_params", size), ("tokens", budget)):
        q = np.quantile(value, [0.5, (1 - prob) / 2, (1 + prob) / 2])
        out |= dict(zip((f"{name}_median", f"{name}_lower", f"{name}_upper"), q, strict=True))
    return pd.Series(out)


def _frontier(
    make: _Profiles,
    compute: float,
    finished: pd.DataFrame,
    prob: float,
    last: tuple[pd.DataFrame, np.ndarray],
    step: Callable[[int], None],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Optima along budgets, and the exponents of the frontier."""
    budgets = np.geomspace(compute / REACH, compute, BUDGETS)
    rows, sizes = [], []
    for c in budgets:
        if c == budgets[-1]:
            table, size = last
        else:
            tried = _affordable(_sizes(finished, c, None, None), c, None, make.batch_tokens)
            table, loss = make(tried, c, None, step)
            size = best_size(loss, table["n_params"].to_numpy())[0]
        sizes.append(np.log(size))
        row = _optimum(size, c, None, prob)
        row["flops"], row["loss_mean"] = c, table["loss_mean"].min()
        rows.append(row)
    x = np.log(budgets) - np.log(budgets).mean()
    slope = x @ np.array(sizes) / (x @ x)
    exponents = {}
    for name, value in (("n_params", slope), ("tokens", 1.0 - slope)):
        lower, upper = np.quantile(value, [(1 - prob) / 2, (1 + prob) / 2])
        exponents[name] = {"mean": value.mean(), "lower": lower, "upper": upper}
    return pd.DataFrame(rows).reset_index(drop=True), pd.DataFrame(exponents).T


def _notes(
    law: FittedLaw, table: pd.DataFrame, edge: float, compute: float | None
) -> tuple[str, ...]:
    out = []
    least = float((6.0 * law.runs["n_params"] * law.runs["tokens"]).min())
    if compute is not None and compute < least:
        out.append(
            f"The budget, {short(compute)} FLOP, is less than any run had ({short(least)} and more)"
            ": is it in FLOP, for one run?"
        )
    best = table.loc[table["loss_mean"].idxmin()]
    if edge > 0.1:
        out.append(
            f"In {html.percent(edge)} of the draws the best size is the smallest or largest tried: "
            "the optimum is not bracketed, give n_params= further out."
        )
    if best["extrapolation"] > 0.5:
        out.append(f"It lies {best['extrapolation']:.1f} decades beyond the nearest fitted scale.")
    if not law.models_divergence:
        out.append("Divergence is not modelled: the risk is not bounded.")
    return tuple(out)
