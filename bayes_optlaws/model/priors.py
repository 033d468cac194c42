"""Priors as plain dataclasses: what is believed before the first run is read.

All of them are our own choice (the paper fits by least squares).  They are stated on scales that
mean the same for every table: log loss in nats for sds, nats of log N and log D for the
length-scale over model sizes and budgets, standardised columns for coefficients.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from functools import wraps
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm, truncnorm

from bayes_optlaws.model.prior_words import prior_table
from bayes_optlaws.model.slopes import SlopePrior
from bayes_optlaws.text import html

SIGNS = {"positive": 1, "negative": -1}
"""Signs that a coefficient may be said to have."""


@dataclass(frozen=True)
class LogNormal:
    """Log-normal prior of a positive quantity.

    Parameters
    ----------
    median : float
        Median, positive.
    log_sd : float
        Standard deviation of the logarithm, positive.

    Examples
    --------
    >>> LogNormal(0.01, 1.0).interval(0.95)
    (0.00141, 0.071)
    """

    median: float
    log_sd: float

    def __post_init__(self) -> None:
        """Refuse values that are not a distribution."""
        for f in fields(self):
            value = getattr(self, f.name)
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"LogNormal.{f.name} must be positive and finite, got {value!r}")

    def interval(self, prob: float) -> tuple[float, float]:
        """Central interval holding ``prob``, to three figures."""
        half = norm.ppf(0.5 + prob / 2) * self.log_sd
        low, high = (float(f"{self.median * np.exp(s * half):.3g}") for s in (-1, 1))
        return low, high


@dataclass(frozen=True)
class CoefficientPrior:
    """Prior of one coefficient: the change of log loss when its feature grows by one sd.

    The sd is that of the feature over the fitted runs, so 0.01 is about one percent of the loss;
    see `bayes_optlaws.OptLaw.summary`.

    Parameters
    ----------
    mean : float
        Of a normal prior.
    sd : float, optional
        Of that prior, positive. None: that of the coefficient's block, which is learned.
    sign : {"positive", "negative"}, optional
        The prior is cut off at zero: what is on the other side has no probability.

    Raises
    ------
    ValueError
        If it is no distribution.

    Examples
    --------
    >>> CoefficientPrior(0.02, 0.01, sign="positive").says
    'normal(0.02, 0.01), positive'
    >>> CoefficientPrior(sign="negative").says
    'that of its block, negative'
    """

    mean: float = 0.0
    sd: float | None = None
    sign: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is no distribution."""
        if not np.isfinite(self.mean):
            raise ValueError(f"CoefficientPrior.mean must be finite, got {self.mean!r}")
        if self.sd is not None and not (np.isfinite(self.sd) and self.sd > 0):
            raise ValueError(f"CoefficientPrior.sd must be positive and finite, got {self.sd!r}")
        if self.sd is None and self.mean:
            raise ValueError(
                f"CoefficientPrior.mean is {self.mean!r} without sd: say how sure it is, as sd="
            )
        if self.sign is not None and self.sign not in SIGNS:
            raise ValueError(
                f"CoefficientPrior.sign must be one of {sorted(SIGNS)} or None, got {self.sign!r}"
            )
        if self.sd is None and self.sign is None:
            raise ValueError("CoefficientPrior says nothing: give sd, or sign, or both")

    def interval(self, prob: float) -> tuple[float, float]:
        """Central interval holding ``prob`` of a prior with an sd, to three figures."""
        if self.sd is None:
            raise ValueError("the prior has no sd of its own: it is that of the block")
        edges = (
            0.0 if self.sign == "positive" else -np.inf, 0.0 if self.sign == "negative" else np.inf
        )  # fmt: skip
        cut = [(edge - self.mean) / self.sd for edge in edges]
        prior = truncnorm(*cut, loc=self.mean, scale=self.sd)
        low, high = (float(f"{prior.ppf(0.5 + s * prob / 2):.3g}") for s in (-1, 1))
        return low, high

    @property
    def says(self) -> str:
        """The distribution in words."""
        what = "that of its block" if self.sd is None else f"normal({self.mean:g}, {self.sd:g})"
        return what + (f", {self.sign}" if self.sign else "")


def check_names(
    what: str,
    given: Collection[str],
    known: Collection[str],
    *,
    error: type[Exception] = ValueError,
) -> None:
    """Raise an error that lists the valid names where some that are given are not among them.

    Examples
    --------
    >>> check_names("priors", ["noise"], ["noise_sd", "slopes"])
    Traceback (most recent call last):
    ...
    ValueError: unknown priors ['noise']; valid ones are ['noise_sd', 'slopes']
    """
    unknown = [name for name in given if name not in known]
    if unknown:
        raise error(f"unknown {what} {unknown}; valid ones are {list(known)}")


def _names_refused[T](kind: type[T]) -> type[T]:
    """Let a dataclass refuse unknown names with a list of the valid ones."""
    init = kind.__init__

    @wraps(init)
    def checked(self: T, *args: Any, **given: Any) -> None:
        known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
        check_names("priors", given, known, error=TypeError)
        init(self, *args, **given)

    setattr(kind, "__init__", checked)  # noqa: B010
    return kind


@_names_refused
@dataclass(frozen=True, repr=False)
class Priors:
    """Priors of the loss part of the model.

    Parameters
    ----------
    intercept_sd : float
        Sd of the intercept around the mean log loss of the table.
    coefficient_sd : LogNormal
        Sd of the standardised coefficients of a block, one draw for each block.
    noise_sd : LogNormal
        Sd of log loss between a run and the law where runs repeat best: the floor of the noise.
    noise_df : float
        Degrees of freedom of the noise, a Student-t scaled to its sd: above 2. By default infinite,
        that is normal noise; 4 is for tables of which some runs may be wrong, see
        `bayes_optlaws.model.student_t`.
    noise_growth : LogNormal
        Sd of the part of the noise that grows with the settings, at average settings.
    noise_slope_sd : float
        Sd of the change of its log per sd of a setting (LR, batch, warm-up).
    scale_length : LogNormal
        Length-scale of the discrepancy over scales, in nats of log N and log tokens.
    cell_sd : LogNormal
        Sd of what each (N, tokens) cell has for itself, relative to the smooth discrepancy.
    level_sd, slope_sd : LogNormal
        Sd of the discrepancy in level, and in each slope per sd of its setting.
    local_sd : LogNormal
        Sd of the local correction over scales and settings, at the mean log LR, with covariates
        at average extremeness (`bayes_optlaws.model.discrepancy.Discrepancy.unusual`).
    drift_sd : LogNormal
        Sd of the change of d log loss / d log scale over one nat of scale, see
        `bayes_optlaws.model.drift`; one draw for model size, one for tokens.
    effect_sd : LogNormal
        Sd of what a covariate does to the log loss, per sd of a number or for a level of a
        category, see `bayes_optlaws.model.effects`; one draw for all numbers, one a category.
    interaction_sd : LogNormal
        Sd of its products with scale (per nat) and with the settings (per sd); one draw for all
        numbers, one for each level of a category.
    group_level_sd : LogNormal
        Sd of the log loss between groups.
    group_slope_sd : LogNormal
        Sd of a group's deviation in slope over scale (per nat) and over settings (per sd), one
        draw for each group.
    slopes : SlopePrior
        Of d log loss / d log N and d log loss / d log tokens, see `bayes_optlaws.model.slopes`.
    unseen_sd : float
        Sd of the effect, per natural unit, of a setting that never varied in the table; over
        scales it changes as the slopes of the others do, with the length of their fields.
    untrained_loss : float
        Nats a token that no finished run ends above: the loss of an untrained model, the log of
        its vocabulary. By default that of 131,072 tokens; a smaller vocabulary has its own.
    coefficients : mapping of str to CoefficientPrior
        Own priors of some coefficients, by feature (`bayes_optlaws.model.features`). A pair
        (mean, sd) stands for a normal prior. Signs hold in all draws; evidence, leave-one-out and
        plans of runs treat the coefficients as if they were free.
    exponents : mapping of str to sequence of float
        Weights of the candidate exponents of some groups, in their order; need not sum to one.
        Other groups have equal weights.

    Raises
    ------
    TypeError
        If there is no prior of a name; the message lists those that there are.
    ValueError
        If a value is no distribution.

    Examples
    --------
    >>> Priors(noise_sd=LogNormal(0.002, 0.5))
    Priors(noise_sd=LogNormal(median=0.002, log_sd=0.5))
    >>> own = Priors(coefficients={"lr": (0.0, 0.01)}, exponents={"escape": (1, 2, 1)})
    >>> own.coefficients["lr"].says, own.exponents["escape"]
    ('normal(0, 0.01)', (0.25, 0.5, 0.25))
    """

    intercept_sd: float = 1.0
    coefficient_sd: LogNormal = field(default_factory=lambda: LogNormal(0.05, 1.0))
    noise_sd: LogNormal = field(default_factory=lambda: LogNormal(0.003, 1.0))
    noise_df: float = float("inf")
    noise_growth: LogNormal = field(default_factory=lambda: LogNormal(0.003, 1.0))
    noise_slope_sd: float = 0.5
    scale_length: LogNormal = field(default_factory=lambda: LogNormal(3.0, 0.5))
    cell_sd: LogNormal = field(default_factory=lambda: LogNormal(0.1, 1.0))
    level_sd: LogNormal = field(default_factory=lambda: LogNormal(0.01, 1.0))
    slope_sd: LogNormal = field(default_factory=lambda: LogNormal(0.005, 1.0))
    local_sd: LogNormal = field(default_factory=lambda: LogNormal(0.01, 1.0))
    drift_sd: LogNormal = field(default_factory=lambda: LogNormal(0.005, 1.0))
    effect_sd: LogNormal = field(default_factory=lambda: LogNormal(0.005, 1.0))
    interaction_sd: LogNormal = field(default_factory=lambda: LogNormal(0.005, 1.0))
    group_level_sd: LogNormal = field(default_factory=lambda: LogNormal(0.1, 1.0))
    group_slope_sd: LogNormal = field(default_factory=lambda: LogNormal(0.01, 1.0))
    slopes: SlopePrior = field(default_factory=SlopePrior)
    unseen_sd: float = 0.02
    untrained_loss: float = float(np.log(2**17))
    coefficients: Mapping[str, CoefficientPrior] = field(default_factory=dict)
    exponents: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Bring coefficients and weights into one form, and refuse what is no distribution."""
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "noise_df":
                if not (isinstance(value, int | float | np.number) and value > 2):
                    raise ValueError(
                        f"Priors.noise_df must be a number above 2 (infinite: normal noise), got "
                        f"{value!r}"
                    )
            elif f.type == "float":
                known = isinstance(value, int | float | np.number) and np.isfinite(value)
                if not (known and (value > 0 or value == 0 and f.name == "unseen_sd")):
                    raise ValueError(f"Priors.{f.name} must be a positive number, got {value!r}")
            elif f.type in _KINDS and not isinstance(value, _KINDS[f.type]):
                raise TypeError(f"Priors.{f.name} must be a {f.type}, got {value!r}")
        own = {str(n): _coefficient(n, v, self.intercept_sd) for n, v in self.coefficients.items()}
        object.__setattr__(self, "coefficients", own)
        weights = {str(g): _weights(g, w) for g, w in self.exponents.items()}
        object.__setattr__(self, "exponents", weights)

    def __hash__(self) -> int:
        """Hash of the values that do not vary in kind."""
        return hash((tuple(self.coefficients.items()), tuple(self.exponents.items())))

    def __repr__(self) -> str:
        """What differs from the defaults, as it would be written; printed, it is the table."""
        mine, default = _values(self), _values(type(self)())
        changed = [f"{name}={value!r}" for name, value in mine.items() if value != default[name]]
        return f"Priors({', '.join(changed)})"

    def __str__(self) -> str:
        """The table as text."""
        table = self.table()
        ends = zip(table["from"], table["to"], strict=True)
        shown = table[["distribution", "unit", "source"]].copy()
        shown.insert(1, "90 %", ["" if pd.isna(a) else f"{a:g} to {b:g}" for a, b in ends])
        return shown.to_string()

    def _repr_html_(self) -> str:
        formats = {"from": html.significant, "to": html.significant}
        return html.box(
            html.heading("Priors of the loss part"),
            html.table(self.table(), formats=formats, max_rows=len(self.table())),
            html.paragraphs(["from, to: the central 90 %. 0.01 of log loss is 1 % of the loss."]),
        )

    def table(self) -> pd.DataFrame:
        """Every prior with what it is of, its distribution, unit and source.

        Returns
        -------
        DataFrame
            Index: names; columns ``of``, ``distribution``, ``from`` and ``to`` (the central 90 %),
            ``unit`` and ``source``.

        Examples
        --------
        >>> table = Priors(coefficients={"lr": (0.0, 0.01)}).table()
        >>> table.loc["coefficients[lr]", ["distribution", "source"]].tolist()
        ['normal(0, 0.01)', 'stated']
        """
        return prior_table(_values(self), _values(type(self)()))

    def check_against(self, features: Collection[str], groups: Mapping[str, int]) -> None:
        """Raise ValueError where a coefficient or exponent group is not one of a law's.

        Parameters
        ----------
        features : collection of str
            Names of the law's features.
        groups : mapping of str to int
            Number of candidate exponents by group.
        """
        check_names("coefficients", self.coefficients, features)
        check_names("exponent groups", self.exponents, groups)
        for group, weights in self.exponents.items():
            if len(weights) != groups[group]:
                raise ValueError(
                    f"Priors.exponents[{group!r}] has {len(weights)} weights, and the group has "
                    f"{groups[group]} candidates: give one for each"
                )


def _values(priors: Priors) -> dict[str, Any]:
    return {f.name: getattr(priors, f.name) for f in fields(priors)}


_KINDS = {"LogNormal": LogNormal, "SlopePrior": SlopePrior}


def _coefficient(name: str, value: Any, widest: float) -> CoefficientPrior:
    if not isinstance(value, CoefficientPrior):
        try:
            mean, sd = value
        except (TypeError, ValueError):
            raise TypeError(
                f"Priors.coefficients[{name!r}] must be a CoefficientPrior or a pair (mean, sd), "
                f"got {value!r}"
            ) from None
        value = CoefficientPrior(float(mean), float(sd))
    if value.sd is not None and value.sd >= widest:
        raise ValueError(
            f"Priors.coefficients[{name!r}] has sd {value.sd:g}: it must be below intercept_sd, "
            f"{widest:g}, which is as good as not known"
        )
    return value


def _weights(group: str, value: Any) -> tuple[float, ...]:
    weights = np.asarray(value, dtype=float)
    if weights.ndim != 1 or not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError(
            f"Priors.exponents[{group!r}] must be finite weights, none below zero, got {value!r}"
        )
    if not weights.sum() > 0:
        raise ValueError(f"Priors.exponents[{group!r}] has no positive weight, got {value!r}")
    return tuple(float(w) for w in weights / weights.sum())
