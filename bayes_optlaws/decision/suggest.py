"""The best schedule at a scale: a search of settings under the posterior of a law.

The expected loss of a run that finishes is a smooth function of the settings once the posterior
draws are fixed, so each family is searched by a Sobol sequence over its settings and by points
ever closer to the best ones, all on the same draws.  Settings whose probability of divergence is
above the limit are left out.  What is returned is a region, not a point: the settings that
cannot be told from the best one by more than the tie zone. (Own choice.)
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import qmc

from bayes_optlaws.decision.better_setting import edge_sentence
from bayes_optlaws.decision.rank_inputs import priced
from bayes_optlaws.decision.search_space import Space, at_edge, run_beyond, space
from bayes_optlaws.inference.caveats import is_unconverged
from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.plots.style import mark_unconverged
from bayes_optlaws.plots.suggestion import plot_suggestion
from bayes_optlaws.runs.rows import schedule_of
from bayes_optlaws.schedules import Schedule
from bayes_optlaws.text import html
from bayes_optlaws.text.numbers import as_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


__all__ = ["Suggestion", "suggest"]

START, LEADERS, AROUND, ROUNDS = 256, 6, 48, 4
"""Sobol points of a family; leaders that are refined, points about them a round, rounds."""

SEARCH_DRAWS = 400
"""Posterior draws of the search; the table is computed anew from all of them."""

KEPT = 400
"""Rows of the table: the best ones, and every third of the others."""

SHOWN = (
    "schedule", "peak_lr", "warmup_steps", "decay_end_step", "plateau_lr", "cooldown_start_step",
    "min_lr", "batch_tokens",
)  # fmt: skip
_OWN = {
    "linear": ("peak_lr", "warmup_steps"),
    "cosine": ("peak_lr", "warmup_steps"),
    "constant": ("peak_lr", "warmup_steps"),
    "wsd": ("peak_lr", "warmup_steps", "cooldown_start_step"),
    "wsd-sqrt": ("peak_lr", "warmup_steps", "cooldown_start_step"),
    "polygon": ("peak_lr", "warmup_steps", "decay_end_step", "plateau_lr", "cooldown_start_step"),
}


@dataclass(frozen=True, eq=False, repr=False)
class Suggestion:
    """The schedule of lowest expected loss, and all that cannot be told from it.

    Made by ``OptLaw.suggest``.

    Attributes
    ----------
    schedule : Schedule
    candidate : DataFrame
        It as a candidate table of one row.
    loss_mean, loss_lower, loss_upper : float
        Of one new run with it that finishes, nats; the central interval of probability ``prob``.
    p_diverge : float
        Posterior mean probability of divergence; NaN where the law does not model it.
    table : DataFrame
        Settings tried, best first; a candidate table with:

        ``loss_mean``
            Expected loss over seeds, nats.
        ``excess``
            Less that of the suggestion.
        ``p_tied``
            Probability that the two expected losses differ by at most ``tie``.
        ``tied``
            ``p_tied`` >= 0.5.
        ``p_diverge``
            As above; settings above ``max_p_diverge`` are not in the table.
    region : DataFrame
        Row (family, setting): least and greatest value among the tied settings, and the bounds.
    alternatives : DataFrame
        Tied settings as unlike the suggestion and each other as there are, with the loss and
        interval of a new run.
    tie : float
        Nats.
    prob, max_p_diverge : float
    extrapolation : float
        Decades from the nearest fitted scale.
    bounds : DataFrame
        ``low``, ``high`` and ``source`` of every setting searched.
    notes : tuple of str
        What a reader must know.
    edge : {"lower", "higher"} or None
        Where the peak LR lies at the end of those that were run: the side to go on.
    next_run : DataFrame or None
        Then, a run beyond that end that would tell, a candidate table of one row.
    """

    schedule: Schedule
    candidate: pd.DataFrame
    loss_mean: float
    loss_lower: float
    loss_upper: float
    p_diverge: float
    table: pd.DataFrame = field(repr=False)
    region: pd.DataFrame = field(repr=False)
    alternatives: pd.DataFrame = field(repr=False)
    tie: float
    prob: float
    max_p_diverge: float
    extrapolation: float
    bounds: pd.DataFrame = field(repr=False)
    notes: tuple[str, ...] = ()
    edge: str | None = None
    next_run: pd.DataFrame | None = field(default=None, repr=False)

    def answer(self) -> str:
        """Return the suggestion in plain English."""
        return " ".join(self._sentences())

    def _sentences(self) -> list[str]:
        three = html.significant
        row = self.candidate.iloc[0]
        said = [
            f"{self.schedule!r} at {row['batch_tokens']:,.0f} tokens a step. A run that finishes "
            f"ends at {self.loss_mean:.4f} nats ({100 * self.prob:g} % interval "
            f"{self.loss_lower:.4f} to {self.loss_upper:.4f})"
        ]
        risk = "" if np.isnan(self.p_diverge) else f", diverging: {html.percent(self.p_diverge)}"
        said[0] += f"{risk}."
        tied = self.table["tied"]
        rates = self.table.loc[tied, "peak_lr"]
        families = self.table.loc[tied, "schedule"].unique()
        said.append(
            f"As good to within {three(self.tie)} nats, for all these runs show: peak LR "
            f"{three(rates.min(), 3)} to {three(rates.max(), 3)}, "
            f"{'families' if len(families) > 1 else 'family'} {', '.join(families)}."
        )
        if self.edge is not None and self.next_run is not None:
            said.append(edge_sentence(self.edge, self.next_run))
        if self.notes:
            said.append(f"Before you act: {' '.join(self.notes)}")
        return said

    def plot(self, *, ax: Axes | None = None) -> Figure:
        """Plot the settings tried with the tied ones marked, and beside them the schedules.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Axes for the first panel, which is then alone; a new figure is made when absent.

        Returns
        -------
        matplotlib Figure
        """
        figure = plot_suggestion(self, ax=ax)
        return mark_unconverged(figure) if is_unconverged(self.notes) else figure

    def _title(self) -> str:
        row = self.candidate.iloc[0]
        return f"Suggestion for {row['n_params']:.4g} parameters and {row['tokens']:.4g} tokens"

    def __repr__(self) -> str:
        """Return the answer and the region."""
        answer = textwrap.fill(self.answer(), 100, break_on_hyphens=False)
        region = self.region.to_string(float_format=lambda v: f"{v:.3g}")
        return f"{self._title()}\n{answer}\n\n{region}"

    def _repr_html_(self) -> str:
        three = lambda v: html.significant(v, 3)  # noqa: E731
        four = html.number(4)
        region = self.region.reset_index()
        other = self.alternatives
        formats = {c: three for c in other.columns if pd.api.types.is_numeric_dtype(other[c])}
        formats |= {name: four for name in ("loss_mean", "loss_lower", "loss_upper")}
        return html.box(
            html.heading(self._title()),
            html.paragraphs(self._sentences()),
            html.heading("The tied region"),
            html.table(
                region,
                formats={c: three for c in ("low", "high", "bound_low", "bound_high")},
                index=False,
            ),
            html.heading("Other settings that are as good"),
            html.table(other, formats=formats, index=False),
        )


def suggest(
    law: FittedLaw,
    n_params: float | str,
    tokens: float | str,
    batch_tokens: float | str | Sequence[float | str],
    *,
    families: Sequence[str] | str | None = None,
    bounds: Mapping[str, float | tuple[float, float]] | None = None,
    min_lr: float | None = None,
    covariates: Mapping[str, Any] | None = None,
    max_p_diverge: float = 0.05,
    tie: float | None = None,
    prob: float = 0.9,
    n_alternatives: int = 4,
    max_draws: int = 2000,
    random_seed: int = 0,
    allow_unconverged: bool = False,
) -> Suggestion:
    """Search the schedule of lowest expected loss whose risk of divergence is bounded.

    Parameters
    ----------
    law : FittedLaw
    n_params, tokens : float or str
        Model size and budget of the run to plan; "1.5B" is read, too.
    batch_tokens : float or sequence
        Tokens a step; of several, the best is chosen too.
    families : str or sequence, optional
        Of ``linear, cosine, wsd, wsd-sqrt, polygon, constant``. Default: those of the fitted
        runs, because the law knows no others.
    bounds : mapping, optional
        A number or (low, high) for ``peak_lr``, ``warmup_steps``, ``cooldown`` (share of the
        steps), ``decay`` (share of the time between warm-up and cooldown), ``plateau`` (share of
        the peak). Default: their ranges among the fitted runs that finished.
    min_lr : float, optional
        Final learning rate. Default: that of the fitted runs (their median share of the peak
        where it differs).
    covariates : mapping, optional
        Value of every covariate that the law was fitted with (and of ``group``, where groups are
        pooled).
    max_p_diverge : float
        Highest posterior mean probability of divergence that is accepted.
    tie : float, optional
        Losses this close make no difference, nats. Default: the seed noise at the suggestion.
    prob : float
        Probability of the interval.
    n_alternatives : int
        Loss-equivalent settings to return.
    max_draws : int
    random_seed : int
    allow_unconverged : bool

    Returns
    -------
    Suggestion

    Raises
    ------
    ValueError
        When an argument is out of range, or no setting has so small a risk of divergence.
    ConvergenceError
        When the posterior does not pass the gate.

    Examples
    --------
    >>> found = law.suggest(246_240, 1.5e7, 1024)  # doctest: +SKIP
    >>> found.schedule, found.region  # doctest: +SKIP
    """
    for name, value, low, high in (("prob", prob, 0, 1), ("max_p_diverge", max_p_diverge, 0, 1)):
        if not low < value <= high or (name == "prob" and value == high):
            raise ValueError(f"{name} is {value!r}: it is a probability above {low} and to {high}")
    if tie is not None and not (np.isfinite(tie) and tie > 0):
        raise ValueError(f"tie is {tie!r}: it must be positive, in nats")
    if n_alternatives < 0:
        raise ValueError(f"n_alternatives is {n_alternatives!r}: it must not be negative")
    law.require_converged(allow_unconverged)
    law = law.assuming(covariates or {})
    law.encoding.covariates.require_assumed()
    sp = space(
        law.runs, n_params=as_numbers(n_params), tokens=as_numbers(tokens),
        batch_tokens=as_numbers(batch_tokens), families=families, bounds=bounds, min_lr=min_lr,
    )  # fmt: skip
    judge = Judge(law, max_p_diverge, random_seed)
    tried = [search(judge, sp, family, random_seed) for family in sp.families]
    every = pd.concat(tried, ignore_index=True).assign(**law.encoding.covariates.assumed)
    if not every["allowed"].any():
        at = every.loc[every["p_diverge"].idxmin()]
        raise ValueError(
            f"max_p_diverge is {max_p_diverge:g}: no setting within the bounds has so small a "
            f"risk; the safest has {at['p_diverge']:.3f} at peak_lr {at['peak_lr']:.3g} and "
            f"warmup_steps {at['warmup_steps']:.0f}. Raise the limit, or widen bounds towards "
            "lower learning rates and longer warm-up"
        )
    table = _thin(every[every["allowed"]].drop(columns="allowed"))
    loss, table["p_diverge"] = judge(table, max_draws)
    # All draws may move a setting over the limit that fewer draws had allowed.
    keep = ~(table["p_diverge"].to_numpy() > max_p_diverge)
    if keep.any():
        table, loss = table[keep], loss[:, keep]
    table["loss_mean"] = loss.mean(axis=0)
    order = np.argsort(table["loss_mean"].to_numpy(), kind="stable")
    table, loss = table.iloc[order], loss[:, order]
    best = table.iloc[[0]]
    noise = law.predictor(law.draws.thin(max_draws)).noise_sd(best)
    tie = float(np.median(noise) * best["loss_mean"].iloc[0]) if tie is None else float(tie)
    table["excess"] = table["loss_mean"] - best["loss_mean"].iloc[0]
    table["p_tied"] = np.mean(np.abs(loss - loss[:, :1]) <= tie, axis=0)
    table["tied"] = table["p_tied"] >= 0.5
    table["run_id"] = [f"setting-{i:03d}" for i in range(len(table))]
    table.index = pd.Index(table["run_id"].to_numpy(), name=None)
    chosen = table.iloc[unlike(table, n_alternatives)]
    shown = law.predict(
        chosen, prob=prob, random_seed=random_seed, max_draws=max_draws,
        allow_unconverged=allow_unconverged,
    )  # fmt: skip
    first = shown.iloc[0]
    edge, next_run = _edge(law, sp, best)
    other = chosen[[*SHOWN, "excess", "p_tied"]].join(
        shown[["loss_mean", "loss_lower", "loss_upper", "p_diverge"]]
    )
    return Suggestion(
        schedule=schedule_of(table.iloc[0]),
        candidate=table.iloc[[0]].drop(columns=["loss_mean", "excess", "p_tied", "tied"]),
        loss_mean=float(first["loss_mean"]),
        loss_lower=float(first["loss_lower"]),
        loss_upper=float(first["loss_upper"]),
        p_diverge=float(table["p_diverge"].iloc[0]),
        table=table,
        region=_region(table, every),
        alternatives=other.iloc[1:],
        tie=tie,
        prob=float(prob),
        max_p_diverge=float(max_p_diverge),
        extrapolation=float(first["extrapolation"]),
        bounds=pd.DataFrame(
            [(name, *sp.bounds[name], sp.source[name]) for name in sp.bounds],
            columns=["setting", "low", "high", "source"],
        ).set_index("setting"),
        notes=_notes(law, sp, table),
        edge=edge,
        next_run=next_run,
    )


class Judge:
    """Losses of settings on fixed posterior draws, and their risk.

    Parameters
    ----------
    law : FittedLaw
    limit : float
        Highest risk that is allowed.
    random_seed : int
    n_draws : int
        Posterior draws of the search.
    price : float, optional
        What a diverged run counts as in the expected loss, nats; by default losses are those of
        runs that finish.
    """

    def __init__(
        self, law: FittedLaw, limit: float, random_seed: int, *, n_draws: int = SEARCH_DRAWS,
        price: float | None = None,
    ) -> None:  # fmt: skip
        self.law, self.limit, self.seed = law, limit, random_seed
        self.n_draws, self.price = n_draws, price

    def __call__(self, table: pd.DataFrame, n_draws: int) -> tuple[np.ndarray, np.ndarray]:
        """Expected loss, shape (draws, n), and posterior mean risk, shape (n,)."""
        rng = np.random.default_rng(self.seed)
        drawn = self.law.draw_loss(table, "mean", rng, max_draws=n_draws)
        risk, loss = drawn.risk, drawn.loss
        if self.price is not None:
            loss = priced(loss, risk, self.price)
        return loss, np.full(len(table), np.nan) if risk is None else risk.mean(axis=0)

    def rate(self, table: pd.DataFrame) -> pd.DataFrame:
        """Table with expected loss, risk, and whether the risk is allowed."""
        loss, risk = self(table, self.n_draws)
        return table.assign(
            loss_mean=loss.mean(axis=0), p_diverge=risk, allowed=~(risk > self.limit)
        )


def search(
    judge: Judge, sp: Space, family: str, random_seed: int, *, start: int = START,
    around: int = AROUND, rounds: int = ROUNDS,
) -> pd.DataFrame:  # fmt: skip
    """All settings of a family that were tried, rated.

    Parameters
    ----------
    judge : Judge
    sp : Space
    family : str
    random_seed : int
    start, around, rounds : int
        Sobol points; points about the leaders in each round; rounds.
    """
    rng = np.random.default_rng(random_seed)
    d = len(sp.axes(family))
    cube = qmc.Sobol(d, rng=rng).random(start)
    rated = judge.rate(sp.table(family, cube))
    for k in range(rounds):
        # Where nothing is allowed yet, go for what is safest.
        allowed = rated["allowed"].to_numpy()
        goal = rated["loss_mean"] if allowed.any() else rated["p_diverge"]
        goal = np.where(allowed | ~allowed.any(), goal, np.inf)
        centres = cube[np.argsort(goal, kind="stable")[:LEADERS]]
        step = 0.15 / 2**k
        centre = centres[rng.integers(len(centres), size=around)]
        near = np.clip(centre + step * rng.standard_normal((around, d)), 0.0, 1.0)
        cube = np.vstack([cube, near])
        rated = pd.concat([rated, judge.rate(sp.table(family, near))], ignore_index=True)
    return rated


def _thin(table: pd.DataFrame) -> pd.DataFrame:
    """Rows that differ, the best ones and a part of the others."""
    table = table.sort_values("loss_mean", kind="stable")
    table = table.drop_duplicates(list(SHOWN))
    return pd.concat([table.iloc[:KEPT], table.iloc[KEPT::3]]).copy()


def unlike(table: pd.DataFrame, n: int) -> list[int]:
    """The first row, and tied rows far from it and from one another."""
    tied = np.flatnonzero(table["tied"].to_numpy())
    z = np.log(np.maximum(table[["peak_lr", "warmup_steps", "batch_tokens", "plateau_lr"]], 1e-12))
    z["cool"] = table["cooldown_start_step"] * table["batch_tokens"] / table["tokens"]
    z = z.to_numpy(float)
    z = z / np.maximum(z[tied].std(axis=0), 1e-9)
    kind = pd.get_dummies(table["schedule"]).to_numpy(float)
    z = np.hstack([z, 3.0 * kind])  # another family counts as far
    picked = [0]
    gap = np.full(len(table), np.inf)
    for _ in range(n):
        gap = np.minimum(gap, np.linalg.norm(z - z[picked[-1]], axis=1))
        far = tied[np.argmax(gap[tied])]
        if gap[far] < 0.5:
            break
        picked.append(int(far))
    return picked


def _region(table: pd.DataFrame, every: pd.DataFrame) -> pd.DataFrame:
    """Range of every setting among the tied rows, family by family."""
    rows = []
    for family, tied in table[table["tied"]].groupby("schedule", sort=False):
        tried = every[every["schedule"] == family]
        names = [*_OWN[family], *(["batch_tokens"] if tried["batch_tokens"].nunique() > 1 else [])]
        for name in names:
            rows.append(
                (family, name, tied[name].min(), tied[name].max(), tried[name].min(),
                 tried[name].max(), len(tied))
            )  # fmt: skip
    columns = ["schedule", "setting", "low", "high", "bound_low", "bound_high", "n_tied"]
    return pd.DataFrame(rows, columns=columns).set_index(["schedule", "setting"])


def _edge(law: FittedLaw, sp: Space, best: pd.DataFrame) -> tuple[str | None, pd.DataFrame | None]:
    """Side on which the peak LR lies at the end of what was run, and a run beyond it."""
    if sp.source["peak_lr"] == "given":
        return None, None
    side = at_edge(sp.bounds["peak_lr"], float(best["peak_lr"].iloc[0]))
    return side, None if side is None else run_beyond(law.runs, best, side)


def _notes(law: FittedLaw, sp: Space, table: pd.DataFrame) -> tuple[str, ...]:
    """What a reader must know of the suggestion."""
    best, out = table.iloc[[0]], []
    for name in ("peak_lr", "warmup_steps"):
        if name == "peak_lr" and sp.source[name] != "given":
            continue  # said with the run that would tell
        side = at_edge(sp.bounds[name], float(best[name].iloc[0]))
        if side is not None:
            end = "lower" if side == "lower" else "upper"
            out.append(
                f"Its {name} lies at the {end} bound ({sp.source[name]}): the best may lie "
                "beyond, where there are no runs."
            )
    fitted = set(law.runs.loc[~law.runs["diverged"], "schedule"])
    new = [f for f in sp.families if f not in fitted and f != best["schedule"].iloc[0]]
    if new:
        out.append(
            f"No fitted run is {' or '.join(new)}: what is said of that rests on the law's form."
        )
    return (*law.notes(best), *out)
