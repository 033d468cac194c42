"""The Opt-Law features: fifteen columns built from model size, steps and the schedule's integrals.

The generalized Opt-Law (paper, Eqs. 5-8) is linear in its coefficients once the exponents are
chosen,

    log L = beta_0 + sum_j beta_j * phi_j ** p[group of j],

with one exponent for each *exponent group*, taken from a small candidate set.  A `FeatureSet`
holds the features, the candidate exponents and nothing else; evaluated on a run table it gives
the *dictionary*: every feature at every candidate exponent.  A combination of exponents then is
a choice of columns, so nothing has to be evaluated again when exponents change.

Which parts are whose: the integrals, the three fixed convergence terms, the four groups and the
count of fifteen follow from the paper's text; the forms of features 10 to 15 are inferred from
it; the batch columns and negative scale exponents are our own choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd

from bayes_optlaws.kernels.marginal import Tree
from bayes_optlaws.schedules import integrals

BLOCKS = ("scale", "convergence", "escape", "mixed")
"""Feature blocks of the paper; the prior sd of the coefficients is shared within a block."""

PAPER_EXPONENTS = (0.10, 0.15, 0.20, 0.30, 0.50)
"""Candidate exponents, the values that the paper's Table 11 shows."""

SIGNED_EXPONENTS = (-0.50, -0.30, -0.15, 0.15, 0.30, 0.50)
"""Candidates of both signs for scale features."""

SATURATING_EXPONENTS = (-0.50, -0.30, -0.15)
"""Negative candidates: the feature tends to a constant as N or the data grow (Chinchilla)."""

TREND_EXPONENTS = (-0.40, -0.20, 0.0)
"""Saturating candidates and the log-linear trend: exponent zero stands for the logarithm."""

COARSE_EXPONENTS = (0.15, 0.30, 0.50)
"""Positive candidates, fewer: neighbouring ones cannot be told apart on real tables."""

N_UNIT, TOKEN_UNIT, LR_UNIT = 1e9, 1e9, 1.5e-2
"""The paper's normalisation: N and tokens in billions, LR over the grid's maximum."""

PAPER_BATCH = 2048 * 2048
"""Tokens a step in the paper's grid."""


@dataclass(frozen=True)
class Feature:
    """One feature: a positive quantity raised to the exponent of its group.

    Parameters
    ----------
    name : str
        Label in tables and posteriors.
    block : str
        One of `BLOCKS`.
    fixed : bool
        The exponent is one: the three closed-form convergence terms of the paper's bounds.
    free : bool
        Its coefficient has the wide prior of the intercept, not that of its block: what is said
        of slopes (`bayes_optlaws.model.slopes`) is then all that is known of it.
    """

    name: str
    block: str
    fixed: bool = False
    free: bool = False


FEATURES = (
    Feature("N", "scale"),
    Feature("S", "scale"),
    Feature("lr", "scale"),
    Feature("1/Cw", "convergence", fixed=True),
    Feature("1/Cc", "convergence", fixed=True),
    Feature("N/C", "convergence", fixed=True),
    Feature("1/(Cw Cc)", "convergence"),
    Feature("Ew", "escape"),
    Feature("Ec", "escape"),
    Feature("E/N", "escape"),
    Feature("Ew Ec", "escape"),
    Feature("Ew/Cw", "mixed"),
    Feature("Ec/Cc", "mixed"),
    Feature("N Ew/Cw", "mixed"),
    Feature("N Ec/Cc", "mixed"),
)
"""The fifteen features of the generalized Opt-Law, in the order of the paper's blocks."""

BATCH_FEATURES = (
    Feature("tokens", "scale"),
    Feature("batch", "scale"),
    Feature("lr/batch", "scale"),
    Feature("lr/sqrt(batch)", "scale"),
)
"""Scale columns added when the batch size varies (own choice; the paper's batch is fixed)."""

SCALE_FEATURES = (
    Feature("N trend", "scale", fixed=True, free=True),
    Feature("tokens trend", "scale", fixed=True, free=True),
    Feature("N S", "scale"),
)
"""Scale columns that `OptLaw` adds but in the paper's form (own choice).

Trends in N and tokens, of the shape that published laws have on average (`TREND_POWER`), carry
what is said of slopes.  The product: the logarithm of a sum of a term in N and a term in the data
is not a sum of terms in each, and without it both together are predicted too high."""

TREND_POWER = 0.244
"""Slopes of ``x**-0.244`` keep 57 % of themselves a decade further, see `model.slopes`."""

_GROUP_OF = {"convergence": "cross", "escape": "escape", "mixed": "mixed"}

EXPONENT_PRESETS: dict[str, dict[str, tuple[float, ...]]] = {
    "paper": {
        "scale": PAPER_EXPONENTS,
        "mixed": PAPER_EXPONENTS,
        "escape": PAPER_EXPONENTS,
        "cross": PAPER_EXPONENTS,
    },
    "signed": {
        "scale": SIGNED_EXPONENTS,
        "mixed": PAPER_EXPONENTS,
        "escape": PAPER_EXPONENTS,
        "cross": PAPER_EXPONENTS,
    },
    "saturating": {
        "model_size": SATURATING_EXPONENTS,
        "data": SATURATING_EXPONENTS,
        "settings": COARSE_EXPONENTS,
        "mixed": COARSE_EXPONENTS,
        "escape": COARSE_EXPONENTS,
        "cross": COARSE_EXPONENTS,
    },
    "trend": {
        "model_size": TREND_EXPONENTS,
        "data": TREND_EXPONENTS,
        "settings": COARSE_EXPONENTS,
        "mixed": COARSE_EXPONENTS,
        "escape": COARSE_EXPONENTS,
        "cross": COARSE_EXPONENTS,
    },
    "both": {
        "model_size": SIGNED_EXPONENTS,
        "data": SIGNED_EXPONENTS,
        "settings": COARSE_EXPONENTS,
        "mixed": COARSE_EXPONENTS,
        "escape": COARSE_EXPONENTS,
        "cross": COARSE_EXPONENTS,
    },
}
"""Candidate exponents by group.

``paper`` has the paper's groups and values.  In the others but ``signed`` model size (N), data
(steps, tokens) and settings (LR, batch) have exponents of their own.  An exponent of zero stands
for the logarithm, the limit of ``(x**p - 1) / p``: a straight line in log-log.
"""

DEFAULT_EXPONENTS = "trend"
"""Own choice, by held-out scales: positive exponents of data are unbounded beyond the table."""

TAPER = np.log(2.0)
"""Beyond the largest value it had in the table, a feature that is not one of plain scale levels
off within this many nats (own choice)."""


@dataclass(frozen=True)
class Earlier:
    """What earlier training stages leave to the features of the current one.

    Parameters
    ----------
    conv_warmup, conv_cooldown : array, shape (n_runs,)
        Convergence integrals of all earlier stages, summed by segment, LR x steps.
    reference_lr : float
        Peak LR that normalised escape terms are put at.
    """

    conv_warmup: np.ndarray
    conv_cooldown: np.ndarray
    reference_lr: float = LR_UNIT


def feature_bases(
    table: pd.DataFrame,
    *,
    reference_batch: float = PAPER_BATCH,
    earlier: Earlier | None = None,
    data_is_tokens: bool = False,
) -> dict[str, np.ndarray]:
    """Every feature before its exponent is applied, in the paper's units.

    Parameters
    ----------
    table : DataFrame
        Validated run or candidate table.
    reference_batch : float
        Tokens that one step stands for.  Time is measured in steps; with the run table's own
        (constant) batch here it comes out in billions of tokens, the paper's unit.
    earlier : Earlier, optional
        Stages before the run.  Their convergence integrals are added by segment (the sum is the
        paper's, Section 5.3; by segment is inferred), and escape terms are those of the current
        stage over the square of its peak LR (the paper's), at the reference LR (own choice).
    data_is_tokens : bool
        S counts tokens, not steps: where the batch never varied the two are the same in the
        table, and of a larger batch it is the tokens that set the loss (own choice).

    Returns
    -------
    dict of str to array, shape (n_runs,)
        Keys are feature names; N in billions of parameters, S and the integrals' time in steps
        of ``reference_batch`` tokens, in billions, LR over 1.5e-2.
    """
    area = integrals(table)
    step = reference_batch / TOKEN_UNIT
    n = table["n_params"].to_numpy(float) / N_UNIT
    lr = table["peak_lr"].to_numpy(float) / LR_UNIT
    tokens = table["tokens"].to_numpy(float) / TOKEN_UNIT
    batch = table["batch_tokens"].to_numpy(float) / TOKEN_UNIT
    steps = table["steps"].to_numpy(float)
    cw, cc = area.conv_warmup / LR_UNIT * step, area.conv_cooldown / LR_UNIT * step
    ew, ec = area.escape_warmup / LR_UNIT**2 / step, area.escape_cooldown / LR_UNIT**2 / step
    if earlier is not None:
        cw = cw + earlier.conv_warmup / LR_UNIT * step
        cc = cc + earlier.conv_cooldown / LR_UNIT * step
        ratio = (earlier.reference_lr / LR_UNIT / lr) ** 2
        ew, ec = ew * ratio, ec * ratio
    return {
        "N": n,
        "S": tokens if data_is_tokens else steps * step,
        "lr": lr,
        "1/Cw": 1 / cw,
        "1/Cc": 1 / cc,
        "N/C": n / (cw + cc),
        "1/(Cw Cc)": 1 / (cw * cc),
        "Ew": ew,
        "Ec": ec,
        "E/N": (ew + ec) / n,
        "Ew Ec": ew * ec,
        "Ew/Cw": ew / cw,
        "Ec/Cc": ec / cc,
        "N Ew/Cw": n * ew / cw,
        "N Ec/Cc": n * ec / cc,
        "N trend": n**-TREND_POWER,
        "tokens trend": tokens**-TREND_POWER,
        "N S": n * (tokens if data_is_tokens else steps * step),
        "tokens": tokens,
        "batch": batch,
        "lr/batch": lr / batch,
        "lr/sqrt(batch)": lr / np.sqrt(batch),
    }


def tapered(base: np.ndarray, top: float) -> np.ndarray:
    r"""Level a feature off beyond ``top``, the largest value it had in the table.

    .. math:: \log x' = \log x_\text{top} + w\,(1 - e^{-(\log x - \log x_\text{top})/w}),
       \qquad x > x_\text{top},

    with w = `TAPER`: once differentiable, and bounded by :math:`x_\text{top} e^w`.

    Examples
    --------
    >>> tapered(np.array([0.1, 1.0, 1000.0]), 1.0).round(3)
    array([0.1, 1. , 2. ])
    """
    out = np.array(base, dtype=float)
    beyond = out > top
    if beyond.any() and top > 0:
        out[beyond] = top * np.exp(-TAPER * np.expm1(-np.log(out[beyond] / top) / TAPER))
    return out


@dataclass(frozen=True)
class FeatureSet:
    """Features with candidate exponents: the law's form, before any data.

    Parameters
    ----------
    exponents : mapping of str to tuple of float
        Candidate exponents of each group; see `EXPONENT_PRESETS`.
    batch : bool
        Add `BATCH_FEATURES`.
    reference_batch : float
        Tokens that one step stands for, see `feature_bases`.
    trends : bool
        Add `SCALE_FEATURES`, and count S in tokens where the batch does not vary. Of no effect
        with the paper's exponent groups.
    top : mapping of str to float
        Largest value of each feature in the fitted table, beyond which it levels off, see
        `tapered`; features that are not named do not.

    Examples
    --------
    >>> law = FeatureSet.from_options("paper", batch=False)
    >>> law.tree.n_combinations, len(law.features), law.n_columns
    (625, 15, 64)
    """

    exponents: Mapping[str, tuple[float, ...]]
    batch: bool = False
    reference_batch: float = PAPER_BATCH
    trends: bool = False
    top: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_options(
        cls,
        exponents: str | Mapping[str, tuple[float, ...]] | None,
        *,
        batch: bool = False,
        reference_batch: float = PAPER_BATCH,
        trends: bool = False,
    ) -> FeatureSet:
        """Resolve a preset's name, a mapping, or None for the default preset."""
        if exponents is None:
            exponents = DEFAULT_EXPONENTS
        if isinstance(exponents, str):
            if exponents not in EXPONENT_PRESETS:
                raise ValueError(
                    f"exponents must be one of {sorted(EXPONENT_PRESETS)} or a mapping from "
                    f"group to candidates, got {exponents!r}"
                )
            return cls._of(EXPONENT_PRESETS[exponents], batch, reference_batch, trends)
        groups = {str(g): tuple(float(p) for p in c) for g, c in exponents.items()}
        known = [set(p) for p in EXPONENT_PRESETS.values()]
        if set(groups) not in known:
            raise ValueError(
                f"exponent groups must be {sorted(known[0])} or {sorted(known[-1])}, "
                f"got {sorted(groups)}"
            )
        for g, c in groups.items():
            if not c or not all(np.isfinite(p) for p in c):
                raise ValueError(f"candidates of exponent group {g!r} must be finite, got {c}")
            if 0 in c and g not in ("model_size", "data"):
                raise ValueError(
                    f"candidates of exponent group {g!r} must not be zero, got {c}: only "
                    "'model_size' and 'data' have a log-linear trend"
                )
            if g in ("escape", "mixed") and min(c) < 0:
                raise ValueError(
                    f"candidates of exponent group {g!r} must be positive (its features are zero "
                    f"for a schedule that never cools down), got {c}"
                )
        return cls._of(groups, batch, reference_batch, trends)

    @classmethod
    def _of(
        cls,
        exponents: Mapping[str, tuple[float, ...]],
        batch: bool,
        reference_batch: float,
        trends: bool,
    ) -> FeatureSet:
        return cls(exponents, batch, reference_batch, trends and "scale" not in exponents)

    @cached_property
    def features(self) -> tuple[Feature, ...]:
        """Features in use, in table order."""
        own = SCALE_FEATURES if self.trends else ()
        return FEATURES + (BATCH_FEATURES if self.batch else ()) + own

    @property
    def papers(self) -> bool:
        """The exponent groups are the paper's."""
        return "scale" in self.exponents

    def group_of(self, feature: Feature) -> str | None:
        """Exponent group of a feature; None when its exponent is fixed at one."""
        if feature.fixed:
            return None
        if feature.block != "scale":
            return _GROUP_OF[feature.block]
        if "scale" in self.exponents:
            return "scale"
        return {"N": "model_size", "S": "data", "tokens": "data", "N S": "data"}.get(
            feature.name, "settings"
        )

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Exponent groups, the one with fewest columns last (the walk over them is cheapest)."""
        count = {g: sum(self.group_of(f) == g for f in self.features) for g in self.exponents}
        return tuple(sorted(self.exponents, key=lambda g: -count[g]))

    @cached_property
    def _layout(self) -> tuple[np.ndarray, np.ndarray, Tree]:
        """Feature index and exponent of each column (-1 for the intercept), and the tree."""
        index, power = [-1], [1.0]
        for j, f in enumerate(self.features):
            if f.fixed:
                index.append(j)
                power.append(1.0)
        common = np.arange(len(index))
        members = {
            g: [j for j, f in enumerate(self.features) if self.group_of(f) == g]
            for g in self.groups
        }
        n_cand = np.array([len(self.exponents[g]) for g in self.groups])
        n_cols = np.array([len(members[g]) for g in self.groups])
        columns = np.zeros((len(self.groups), n_cand.max(), n_cols.max()), dtype=np.int64)
        for g, name in enumerate(self.groups):
            for c, p in enumerate(self.exponents[name]):
                for i, j in enumerate(members[name]):
                    columns[g, c, i] = len(index)
                    index.append(j)
                    power.append(p)
        return np.array(index), np.array(power), Tree(common, columns, n_cand, n_cols)

    @property
    def column_feature(self) -> np.ndarray:
        """Index into `features` of each dictionary column, -1 for the intercept."""
        return self._layout[0]

    @property
    def column_exponent(self) -> np.ndarray:
        """Exponent of each dictionary column."""
        return self._layout[1]

    @property
    def tree(self) -> Tree:
        """Exponent combinations as choices of dictionary columns."""
        return self._layout[2]

    @property
    def n_columns(self) -> int:
        """Number of dictionary columns, intercept included."""
        return self.column_feature.size

    @cached_property
    def column_block(self) -> np.ndarray:
        """Index into `BLOCKS` of each column's prior, -1 for the intercept and free features."""
        block = [-1 if f.free else BLOCKS.index(f.block) for f in self.features]
        return np.array([-1 if j < 0 else block[j] for j in self.column_feature])

    def bases(self, table: pd.DataFrame, earlier: Earlier | None = None) -> dict[str, np.ndarray]:
        """Every feature in use before its exponent is applied, see `feature_bases`."""
        found = feature_bases(
            table,
            reference_batch=self.reference_batch,
            earlier=earlier,
            data_is_tokens=self.trends and not self.batch,
        )
        return {f.name: tapered(found[f.name], self.top.get(f.name, np.inf)) for f in self.features}

    def levelled(self, table: pd.DataFrame) -> FeatureSet:
        """These features, levelling off beyond their largest values in a table.

        Those of plain scale never do, and none does with the paper's groups. One that is zero in
        the whole table levels off beyond what it were if the runs had cooled down, see `cooled`.
        """
        if self.papers:
            return self
        bases = self.bases(table)
        names = [f.name for f in self.features if f.block != "scale"]
        if any(bases[name].max() == 0 for name in names):
            other = self.bases(cooled(table))
            bases = {n: x if x.max() > 0 else other[n] for n, x in bases.items()}
        return replace(self, top={name: float(bases[name].max()) for name in names})

    def dictionary(self, table: pd.DataFrame, earlier: Earlier | None = None) -> np.ndarray:
        """Raw dictionary, shape (n_runs, n_columns); the first column is one."""
        bases = self.bases(table, earlier)
        out = np.ones((len(table), self.n_columns))
        for column, (j, p) in enumerate(
            zip(self.column_feature, self.column_exponent, strict=True)
        ):
            if j >= 0:
                base = bases[self.features[j].name]
                out[:, column] = base**p if p else np.log(base)
        return out


def cooled(table: pd.DataFrame) -> pd.DataFrame:
    """The same runs, with a linear cool-down to zero from the end of their warm-up.

    Parameters
    ----------
    table : DataFrame
        Validated run table.
    """
    warmup = table["warmup_steps"]
    return table.assign(
        schedule="linear", min_lr=0.0, decay_end_step=warmup, plateau_lr=table["peak_lr"],
        cooldown_start_step=warmup,
    )  # fmt: skip


LEAST_SPREAD = 0.3
"""Least sd, in nats, that a quantity is taken to have when its powers are standardised."""


@dataclass(frozen=True)
class Standardizer:
    """Column means and sds of the training dictionary; makes units of pure powers irrelevant."""

    mean: np.ndarray
    sd: np.ndarray

    @classmethod
    def fit(
        cls, raw: np.ndarray, exponent: np.ndarray, unit: np.ndarray | None = None
    ) -> Standardizer:
        """Learn from a raw dictionary.

        Parameters
        ----------
        raw : array, shape (n_runs, n_columns)
        exponent : array, shape (n_columns,)
            Exponent of each column.  To the sd is added, in quadrature, that of a quantity with
            sd `LEAST_SPREAD` in its log: a column that barely varies in the table keeps a
            sensible unit for candidates at which it does.
        unit : array, shape (n_columns,), optional
            Of columns that are zero in the whole table, for candidates at which they are not; 1
            by default.
        """
        mean, sd = raw.mean(axis=0), raw.std(axis=0)
        change = np.where(exponent == 0, 1.0, np.abs(exponent * mean))  # per nat, to first order
        sd = np.hypot(sd, LEAST_SPREAD * change)
        mean[0], sd[0] = 0.0, 1.0
        zero = ~raw.any(axis=0)
        sd[zero] = 1.0 if unit is None else np.where(unit > 0, unit, 1.0)[zero]
        return cls(mean, np.maximum(sd, 1e-12))

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        """Standardise a raw dictionary."""
        return (raw - self.mean) / self.sd
