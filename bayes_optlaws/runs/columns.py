"""Cells, labels and groups of a table under validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType

import numpy as np
import pandas as pd

from bayes_optlaws.runs.faults import TEMPLATE_COLUMNS, Report, objects, table_fault, text
from bayes_optlaws.text.numbers import parse

SMALLEST, LARGEST = 1e-30, 1e30  # the square of either, and a product of both, stay in range
EMPTY: Mapping[str, object] = MappingProxyType({})
POSITIVE = "must be positive and finite (between 1e-30 and 1e30)"


_MISSING = {"", "-", "--", "nan", "na", "n/a", "<na>", "none", "null"}


def is_missing(values: np.ndarray) -> np.ndarray:
    """Cells that hold no value: None, NaN, NaT, pd.NA."""
    return np.asarray(pd.isna(values), dtype=bool)


def is_blank(values: np.ndarray) -> np.ndarray:
    """Cells that hold nothing: no value, white space, or a word for it (as in CSV)."""
    words = [isinstance(v, str) and v.strip().lower() in _MISSING for v in values]
    return is_missing(values) | np.array(words, dtype=bool)


def label_words(series: pd.Series) -> list[str]:
    """Cells as text without white space around, "" where blank, length n."""
    try:
        codes, unique = pd.factorize(series)
    except TypeError:  # cells that cannot be hashed, such as lists
        codes, unique = np.arange(len(series)), series.to_numpy(dtype=object)
    unique = objects(list(unique))
    blank = is_blank(unique)
    words = ["" if b else text(v) for v, b in zip(unique, blank, strict=True)]
    words.append("")  # of code -1: missing
    return [words[c] for c in codes]


class Table:
    """A table under validation: parsed columns, and which of their cells can be relied on.

    Attributes
    ----------
    x : dict of ndarray of float, shape (n,)
        Values by column, NaN where unknown.
    ok : dict of ndarray of bool, shape (n,)
        Where the value is there and keeps the rules of its own column, so that comparisons with
        other columns say something new.
    warmup_assumed : bool
        Whether no row gave ``warmup_steps``.
    no_loss : ndarray of bool, shape (n,)
        Rows without a loss in a table that says of no row whether it diverged.
    """

    def __init__(self, frame: pd.DataFrame, report: Report) -> None:
        self.frame, self.report, self.n = frame, report, len(frame)
        self.empty_cells = np.full(self.n, "", dtype=object)
        self.warmup_assumed = False
        self.no_loss = np.zeros(self.n, dtype=bool)
        self.x: dict[str, np.ndarray] = {}
        self.ok: dict[str, np.ndarray] = {}

    def cells(self, column: str) -> np.ndarray:
        """Raw cells, shape (n,)."""
        return objects(self.frame[column].to_numpy(dtype=object))

    def has(self, column: str) -> bool:
        """Whether the column exists and holds anything."""
        return column in self.frame.columns and not bool(is_blank(self.cells(column)).all())

    def numbers(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Parse a column: values (NaN where blank or unreadable) and where it is blank."""
        if column not in self.frame.columns:
            return np.full(self.n, np.nan), np.ones(self.n, dtype=bool)
        series = self.frame[column]
        if series.dtype.kind in "iuf":
            values = series.to_numpy(dtype=float, na_value=np.nan)
            return values, np.isnan(values)
        raw = self.cells(column)
        blank = is_blank(raw)
        values = np.array([parse(v) for v in raw], dtype=float)
        self.report.rows(
            ~blank & np.isnan(values),
            column,
            raw,
            "must be a number",
            "write a plain number with a decimal point, such as 3e-4",
        )
        return np.where(blank, np.nan, values), blank

    def positive(self, column: str, remedy: str, *, least: float = SMALLEST) -> np.ndarray:
        """Parse a column of positive numbers; return where it is blank."""
        values, blank = self.numbers(column)
        given = ~np.isnan(values)
        good = (values >= SMALLEST) & (values <= LARGEST)
        self.report.rows(given & ~good, column, values, POSITIVE, remedy)
        small = good & (values < least)
        self.report.rows(small, column, values, f"must be at least {least:g}", remedy)
        self.x[column], self.ok[column] = values, good & ~small
        return blank

    def need(
        self, column: str, blank: np.ndarray, remedy: str, *, near: Mapping[str, object] = EMPTY
    ) -> None:
        """Report blank cells of a column that every row must fill; `near`: columns named alike."""
        if column in self.frame.columns:
            self.report.rows(blank, column, self.empty_cells, "must not be empty", remedy)
        else:
            self.absent(column, "the column is required", remedy, near)

    def absent(self, column: str, rule: str, remedy: str, near: Mapping[str, object]) -> None:
        """Report that a column is absent, and which column may be meant."""
        if column in near:
            name = near[column]
            remedy = f"is it {name}? Then pass columns={{{name!r}: {column!r}}}"
        self.report.table(column, "absent", rule, remedy)


def tidy_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """Strip white space around the names of template columns; refuse ambiguous names."""
    if isinstance(frame.columns, pd.MultiIndex):
        raise table_fault(
            "(columns)", "MultiIndex", "column names must have one level", "flatten the columns"
        )
    names = [c.strip() if isinstance(c, str) else c for c in frame.columns]
    new = [n if n in TEMPLATE_COLUMNS else c for n, c in zip(names, frame.columns, strict=True)]
    twice = [c for c in TEMPLATE_COLUMNS if new.count(c) > 1]
    if twice:
        raise table_fault(
            "(columns)", ", ".join(twice), "column names must be unique", "rename one of them"
        )
    return frame if new == list(frame.columns) else frame.set_axis(new, axis="columns")


def refuse_signalling(frame: pd.DataFrame) -> None:
    """Refuse Decimal("sNaN"), at which pandas, Python and NumPy may not even look."""
    report = Report(frame.index, [""] * len(frame))
    for name in frame.columns[[d.kind == "O" for d in frame.dtypes]]:
        cells = frame[name].to_numpy(dtype=object)
        bad = np.array([isinstance(v, Decimal) and v.is_snan() for v in cells], dtype=bool)
        report.rows(bad, name, cells, "must be a number", "leave the cell empty, or give a number")
    if report.parts:
        raise report.error()


def choose_group(frame: pd.DataFrame, group: object) -> pd.DataFrame:
    """Keep the rows of one group; None keeps all."""
    if group is None:
        return frame
    if "group" not in frame.columns:
        raise table_fault(
            "group", group, "group= needs a group column", "leave group= out or add the column"
        )
    labels = [text(v) for v in frame["group"].to_numpy(dtype=object)]
    keep = np.array([v == text(group) for v in labels], dtype=bool)
    if not keep.any():
        raise table_fault(
            "group", group, f"group= must be one of {_listing(labels)}", "choose one of them"
        )
    return frame.loc[keep].copy()


def _listing(labels: Sequence[str]) -> str:
    unique = sorted(set(labels))
    return ", ".join(unique[:8]) + (f", ... ({len(unique)} in all)" if len(unique) > 8 else "")


def check_groups(frame: pd.DataFrame, report: Report, *, mixed: bool = False) -> None:
    """Refuse rows whose group is not said, and several groups in one table unless ``mixed``."""
    if "group" not in frame.columns:
        return
    raw = objects(frame["group"].to_numpy(dtype=object))
    blank = is_blank(raw)
    if blank.all():
        return
    report.rows(
        blank, "group", raw, "must be filled in every row or in none", "name the group of this run"
    )
    labels = [text(v) for v in raw[~blank]]
    if len(set(labels)) > 1 and not mixed:
        report.table(
            "group",
            _listing(labels),
            "mixed groups: losses of different groups are not comparable",
            f"pick one with group={min(labels)!r}, or fit all with OptLaw(groups='pooled')",
        )


def run_ids(frame: pd.DataFrame) -> np.ndarray:
    """Return identifiers as text, shape (n,): those given, or made from the row position."""
    n = len(frame)
    if "run_id" in frame.columns:
        raw = objects(frame["run_id"].to_numpy(dtype=object))
        # a run may be called NA or nan: only a cell that holds nothing has no name
        ids = objects("" if b else text(v) for v, b in zip(raw, is_missing(raw), strict=True))
        if (ids != "").any():
            return ids
    width = max(3, len(str(n - 1)))
    return objects(f"run-{i:0{width}d}" for i in range(n))


def encodable(words: np.ndarray) -> np.ndarray:
    """Whether text can be written as UTF-8, shape (n,): lone surrogates cannot."""

    def can(word: str) -> bool:
        try:
            word.encode()
        except UnicodeEncodeError:
            return False
        return True

    if can("".join(words)):
        return np.ones(len(words), dtype=bool)
    return np.array([can(w) for w in words], dtype=bool)


def check_run_ids(ids: np.ndarray, report: Report) -> None:
    """Refuse blank and repeated identifiers."""
    blank = ids == ""
    again = pd.Series(ids, dtype=object).duplicated(keep=False).to_numpy() & ~blank
    report.rows(
        ~encodable(ids), "run_id", ids, "must be text that can be written", "rename this run"
    )
    report.rows(blank, "run_id", ids, "must be filled in every row or in none", "name this run")
    report.rows(
        again, "run_id", ids, "must be unique", "rename or remove all but one of these rows"
    )
