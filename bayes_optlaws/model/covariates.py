"""Settings beyond the run table's own: weight decay, betas, optimizer, data mix; and groups.

A covariate is a column of numbers, standardised, after its logarithm where its values call for one,
or a category with levels.  Groups (data sets, tokenizers) are a category of their own kind.  What
they do to the loss is in `bayes_optlaws.model.effects`; here are their units, levels, and the
errors for tables that do not say them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from bayes_optlaws.runs.faults import TEMPLATE_COLUMNS, Report
from bayes_optlaws.schedules import INTEGRAL_COLUMNS

KINDS = ("auto", "linear", "log", "log(1-x)", "category")
"""How a covariate may be read; ``"auto"`` decides by its values (`kind_of`)."""

GROUP = "group"
"""Name of the covariate that groups are."""

POOLING = (None, "pooled")
"""Choices of the option ``groups``."""

LOG_RANGE = 8.0
"""Positive numbers whose largest is this many times the smallest are read as logs."""

APART = np.sqrt(2.0)
"""Coordinate of a level of a category in the local correction: two levels are 2 apart."""

_OWN = {
    *TEMPLATE_COLUMNS,
    *INTEGRAL_COLUMNS,
    GROUP,
    "seed",
    "stage",
    "parent",
    "loss_sd",
    "n_seeds",
}


class CovariateError(ValueError):
    """Settings that a law was not fitted to, or that a table does not say."""


def check_covariates(covariates: Any) -> dict[str, str]:
    """Names and kinds of the option ``covariates``; empty for None.

    Raises
    ------
    TypeError, ValueError
        Naming what cannot be a covariate.

    Examples
    --------
    >>> check_covariates(["weight_decay"]), check_covariates({"beta2": "log(1-x)"})
    ({'weight_decay': 'auto'}, {'beta2': 'log(1-x)'})
    """
    if covariates is None:
        return {}
    if isinstance(covariates, str) or not isinstance(covariates, Iterable):
        raise TypeError(
            f"covariates must be a list of column names, or a mapping from name to one of {KINDS}, "
            f"got {covariates!r}"
        )
    pairs = covariates.items() if isinstance(covariates, Mapping) else [
        (name, "auto") for name in covariates
    ]  # fmt: skip
    out: dict[str, str] = {}
    for name, kind in pairs:
        if not isinstance(name, str) or not name:
            raise TypeError(f"covariates: {name!r} is no name of a column")
        if name in _OWN:
            remedy = "pass groups='pooled'" if name == GROUP else "leave it out"
            raise ValueError(
                f"covariates: {name!r} is a column that the law reads itself; {remedy}"
            )
        if name in out:
            raise ValueError(f"covariates: {name!r} is named twice")
        if kind not in KINDS:
            raise ValueError(f"covariates[{name!r}] must be one of {KINDS}, got {kind!r}")
        out[name] = kind
    return out


def check_pooling(groups: Any) -> None:
    """Raise ValueError where the option ``groups`` is none of `POOLING`."""
    if groups not in POOLING:
        raise ValueError(f"groups must be None or 'pooled', got {groups!r}")


def kind_of(values: pd.Series) -> str:
    """How the values of a column are read.

    Text and truth values are a category; positive numbers over a factor of `LOG_RANGE` or more are
    read as logs; all others as they are.

    Examples
    --------
    >>> kind_of(pd.Series(["adam", "muon"])), kind_of(pd.Series([0.0, 0.1, 0.2]))
    ('category', 'linear')
    >>> kind_of(pd.Series([1e-4, 1e-2])), kind_of(pd.Series([0.9, 0.95, 0.99]))
    ('log', 'linear')
    """
    if values.dtype.kind == "b" or not pd.api.types.is_numeric_dtype(values):
        return "category"
    x = values.to_numpy(float)
    return "log" if x.min() > 0 and x.max() >= LOG_RANGE * x.min() else "linear"


_TRANSFORM: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda x: x,
    "log": np.log,
    "log(1-x)": lambda x: np.log1p(-x),
}
_RULE = {
    "linear": "must be a finite number",
    "log": "must be a positive number, its logarithm is used",
    "log(1-x)": "must be a number below 1, log(1-x) is used",
}


@dataclass(frozen=True)
class Covariate:
    """One covariate, as a table taught it.

    Parameters
    ----------
    name, kind : str
    location, unit : float
        Mean and sd of the transformed numbers.
    lower, upper : float
        Their range, standardised.
    seen : tuple of float
        Least and greatest number, as given.
    levels : tuple of str
        Of a category.
    share : tuple of float
        Share of the runs in each.
    """

    name: str
    kind: str
    location: float = 0.0
    unit: float = 1.0
    lower: float = 0.0
    upper: float = 0.0
    seen: tuple[float, ...] = ()
    levels: tuple[str, ...] = ()
    share: tuple[float, ...] = ()

    @property
    def is_category(self) -> bool:
        """Whether it has levels and not numbers."""
        return self.kind == "category"

    def standard(self, values: np.ndarray) -> np.ndarray:
        """Coordinates, shape (n, 1): standardised numbers; of a category its levels, (n, k)."""
        if self.is_category:
            return (values[:, None] == np.array(self.levels, dtype=object)).astype(float)
        z = (_TRANSFORM[self.kind](values.astype(float)) - self.location) / self.unit
        return z[:, None]

    def described(self) -> str:
        """Name the values that the runs had."""
        if self.is_category:
            return f"{self.name} (one of {', '.join(self.levels)})"
        return f"{self.name} ({self.seen[0]:g} to {self.seen[1]:g})"


@dataclass(frozen=True)
class Covariates:
    """The covariates of a law, learned from its run table; empty for a law without.

    Parameters
    ----------
    items : tuple of Covariate
        Groups, where they are pooled, are the last.
    assumed : mapping
        Values of tables that have no column of that name.

    Examples
    --------
    >>> runs = pd.DataFrame({"decay": [0.0, 0.1, 0.2], "optimizer": ["adam", "adam", "muon"]})
    >>> found = Covariates.fit(runs, {"decay": "auto", "optimizer": "auto"})
    >>> [c.kind for c in found.items], found.coordinates(runs).round(2).tolist()[2]
    (['linear', 'category'], [1.22, 0.0, 1.41])
    """

    items: tuple[Covariate, ...] = ()
    assumed: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def fit(
        cls, runs: pd.DataFrame, kinds: Mapping[str, str], *, pooled: bool = False
    ) -> Covariates:
        """Learn units and levels from a validated run table, divergent runs included.

        Raises
        ------
        CovariateError
            Where a column is absent, blank in a row, no number, or the same in every run.
        """
        kinds = dict(kinds)
        if pooled and GROUP in runs and runs[GROUP].nunique() > 1:
            kinds[GROUP] = "category"
        absent = [name for name in kinds if name not in runs]
        if absent:
            raise CovariateError(
                f"the run table has no column {', '.join(absent)}, named in covariates; its "
                f"columns are {', '.join(str(c) for c in runs.columns)}"
            )
        found = []
        report = Report(runs.index, runs["run_id"].to_numpy(object) if "run_id" in runs else
                        np.full(len(runs), "", dtype=object))  # fmt: skip
        for name, kind in kinds.items():
            kind = kind_of(runs[name]) if kind == "auto" else kind
            found.append((name, kind, _values(runs, name, kind, report)))
        if report.parts:
            raise report.error()
        return cls(tuple(_learned(*f) for f in found))

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.items)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(c.name for c in self.items)

    @property
    def pooled(self) -> bool:
        """Whether there are several groups."""
        return GROUP in self.names

    @property
    def beside_groups(self) -> int:
        """Number of covariates, groups not counted."""
        return len(self.items) - self.pooled

    def described(self) -> str:
        """Name all covariates with the values that the runs had."""
        return ", ".join(c.described() for c in self.items)

    def values(self, table: pd.DataFrame) -> dict[str, np.ndarray]:
        """Values of every covariate in a table, checked.

        Raises
        ------
        CovariateError
            Where a column is absent and nothing is assumed.
        RunTableError
            Listing every cell that is blank, no number, or a level that no run had.
        """
        absent = [c for c in self.items if c.name not in table and c.name not in self.assumed]
        if absent:
            raise CovariateError(
                f"the table has no column {', '.join(c.name for c in absent)}: the law was fitted "
                "with it, so every row must say it; add " + ", ".join(c.described() for c in absent)
            )
        ids = table["run_id"].to_numpy(object) if "run_id" in table else table.index.astype(str)
        report = Report(table.index, ids)
        out = {}
        for c in self.items:
            if c.name not in table:
                whole = pd.DataFrame({c.name: [self.assumed[c.name]] * len(table)})
                out[c.name] = _values(whole, c.name, c.kind, report)
            else:
                out[c.name] = _values(table, c.name, c.kind, report)
            if c.is_category:
                unknown = ~np.isin(out[c.name].astype(str), c.levels) & (out[c.name] != "")
                rule = f"no fitted run had it; they had {', '.join(c.levels)}"
                report.rows(
                    unknown, c.name, out[c.name], rule, "use one of those, or fit runs that have it"
                )
        if report.parts:
            raise report.error()
        return out

    def assuming(self, values: Mapping[str, Any]) -> Covariates:
        """The same, with these values for tables that have no such column.

        Raises
        ------
        CovariateError
            Where a name is none of the covariates.
        """
        unknown = sorted(set(values) - set(self.names))
        if unknown:
            known = self.described() or "none: the law was fitted without covariates"
            raise CovariateError(f"{unknown[0]!r} is no covariate of the law; they are {known}")
        return replace(self, assumed={**self.assumed, **values})

    def require_assumed(self) -> None:
        """Refuse to go on where a covariate has no value for tables that do not say it.

        Raises
        ------
        CovariateError
        """
        absent = [c for c in self.items if c.name not in self.assumed]
        if absent:
            raise CovariateError(
                "the law was fitted with covariates, so the question must say them: pass "
                f"covariates={{...}} with {', '.join(c.described() for c in absent)}"
            )

    def require_one_group(self, table: pd.DataFrame) -> None:
        """Refuse candidates of several groups: their losses differ in level for no merit of theirs.

        Raises
        ------
        CovariateError
        """
        if self.pooled and GROUP in table and table[GROUP].nunique() > 1:
            raise CovariateError(
                f"the candidates are of groups {', '.join(map(str, table[GROUP].unique()))}: "
                "losses of different groups are not comparable; choose among those of one"
            )

    def notes(self, table: pd.DataFrame) -> list[str]:
        """Name numbers of a candidate table beyond those of the runs, one sentence each."""
        out = []
        for c in self.items:
            if c.is_category or c.name not in table:
                continue
            x = pd.to_numeric(table[c.name]).to_numpy(float)
            for side, value, beyond in (
                ("above", x.max(), x.max() > c.seen[1]), ("below", x.min(), x.min() < c.seen[0]),
            ):  # fmt: skip
                if beyond:
                    out.append(
                        f"{c.name} {value:g} lies {side} all runs ({c.seen[0]:g} to {c.seen[1]:g})."
                    )
        return out

    def crossed(self, pool: pd.DataFrame, decide: pd.DataFrame) -> pd.DataFrame:
        """Runs of a pool that says no covariates, with every combination of the candidates.

        Parameters
        ----------
        pool, decide : DataFrame
            Validated candidate tables.
        """
        names = [name for name in self.names if name in decide]
        if not names:
            return pool
        combinations = decide[names].drop_duplicates()
        parts = []
        for row in combinations.to_dict("records"):
            said = "-".join(str(v) for v in row.values())
            more = f"-{said}" if len(combinations) > 1 else ""
            ids = [f"{v}{more}" for v in pool["run_id"]]
            parts.append(pool.assign(**row, run_id=ids).set_axis(ids, axis=0))
        return pd.concat(parts)

    def usual(self, runs: pd.DataFrame) -> dict[str, Any]:
        """The combination of values that most runs have."""
        if not self:
            return {}
        count = runs[list(self.names)].value_counts(sort=True)
        return dict(zip(self.names, count.index[0], strict=True))

    def coordinates(self, table: pd.DataFrame) -> np.ndarray:
        """Coordinates of the local correction, shape (n, k)."""
        values = self.values(table)
        parts = [c.standard(values[c.name]) * (APART if c.is_category else 1.0) for c in self.items]
        return np.hstack([np.zeros((len(table), 0)), *parts])

    def risk_columns(self, table: pd.DataFrame) -> np.ndarray:
        """Columns of the divergence part, zero at the mean of the table, shape (n, k).

        Numbers beyond those seen count as the nearest that was.
        """
        values = self.values(table)
        parts = []
        for c in self.items:
            z = c.standard(values[c.name])
            parts.append(z - c.share if c.is_category else np.clip(z, c.lower, c.upper))
        return np.hstack([np.zeros((len(table), 0)), *parts])

    @property
    def numbers(self) -> tuple[int, ...]:
        """Which `coordinates` are numbers, not levels."""
        width = [len(c.levels) or 1 for c in self.items]
        start = np.cumsum([0, *width])
        return tuple(
            int(s) for s, c in zip(start, self.items, strict=False) if not c.is_category
        )  # fmt: skip

    @property
    def risk_names(self) -> tuple[str, ...]:
        """Labels of those columns."""
        return tuple(
            label
            for c in self.items
            for label in ([f"{c.name}[{v}]" for v in c.levels] if c.is_category else [c.name])
        )


def _values(table: pd.DataFrame, name: str, kind: str, report: Report) -> np.ndarray:
    """Cells of a column as numbers or labels; what is none is reported."""
    code, distinct = pd.factorize(table[name].astype(object), use_na_sentinel=True)
    # the last is that of cells that hold nothing
    label = np.array([*(_label(v) for v in distinct), ""], dtype=object)[code]
    raw, blank = table[name].to_numpy(object), label == ""
    remedy = "fill it in every row, or leave the covariate out"
    report.rows(blank, name, raw, "must not be empty", remedy)
    if kind == "category":
        return label
    x = pd.to_numeric(table[name], errors="coerce").to_numpy(float)
    bad = ~blank & ~np.isfinite(x)
    if kind != "linear":
        bad |= ~blank & ~(x > 0 if kind == "log" else x < 1)
    report.rows(bad, name, raw, _RULE[kind], "correct it, or state another kind in covariates")
    return np.where(blank | bad, 0.5, x)


def _label(value: object) -> str:
    """A level as text; 2 and 2.0 are one level."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _learned(name: str, kind: str, values: np.ndarray) -> Covariate:
    levels, count = np.unique(values.astype(str) if kind == "category" else values,
                              return_counts=True)  # fmt: skip
    if len(levels) < 2:
        raise CovariateError(
            f"covariate {name!r} has one value in all runs ({levels[0]}): nothing is learned of "
            "it; leave it out, or add runs that have another"
        )
    if kind == "category":
        share = tuple(float(c) / len(values) for c in count)
        return Covariate(name, kind, levels=tuple(str(v) for v in levels), share=share)
    x = _TRANSFORM[kind](values)
    location, unit = float(x.mean()), float(x.std())
    z = (x - location) / unit
    seen = (float(values.min()), float(values.max()))
    return Covariate(name, kind, location, unit, float(z.min()), float(z.max()), seen)
