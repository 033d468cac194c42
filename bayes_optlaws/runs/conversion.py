"""A table as it comes turned into the columns of the run table; every conversion is noted.

Where two readings are possible, the likelier is taken and asked about: the reader refuses the
table and says which argument settles it. Nothing is converted without a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from bayes_optlaws.runs.columns import is_blank
from bayes_optlaws.runs.faults import objects, table_fault
from bayes_optlaws.runs.names import nearest, normal
from bayes_optlaws.runs.recognition import COUNTS, Cells, Column, assign, is_number, read_cells
from bayes_optlaws.text.numbers import count, parse, rate, scale_of, scale_word, short
from bayes_optlaws.text.printable import printable

__all__ = ["Interpretation", "Options", "Question", "Taken", "Work"]

LOSS_UNITS = ("nats", "bits", "ppl", "bpb")
DIRECT = (
    "n_params", "tokens", "batch_tokens", "steps", "peak_lr", "warmup_steps", "min_lr",
    "decay_end_step", "plateau_lr", "cooldown_start_step", "loss_sd", "n_seeds",
)  # fmt: skip
"""Roles that are columns of numbers of the run table, in its order."""


@dataclass(frozen=True)
class Options:
    """What the user says about a table; see `bayes_optlaws.read_runs`."""

    columns: Mapping[object, str] | None = None
    units: Mapping[object, object] | None = None
    loss_unit: str | None = None
    sequence_length: float | None = None
    vocab_size: float | None = None
    bytes_per_token: float | None = None
    status: Mapping[str, str] | None = None
    schedules: Mapping[str, str] | None = None
    cooldown: float | None = None
    outcome: bool = True

    def __post_init__(self) -> None:
        if self.loss_unit is not None and self.loss_unit not in LOSS_UNITS:
            raise ValueError(
                f"loss_unit is {self.loss_unit!r}: it must be one of {', '.join(LOSS_UNITS)}"
            )
        for name in ("sequence_length", "vocab_size", "bytes_per_token"):
            value = getattr(self, name)
            if value is not None and not 1 <= parse(value, grouped=True) < np.inf:
                raise ValueError(f"{name} is {value!r}: it must be a number of at least 1")
        if self.cooldown is not None and not 0 < parse(self.cooldown) < 1:
            raise ValueError(
                f"cooldown is {self.cooldown!r}: it is a share of the steps, between 0 and 1"
            )
        for word, meaning in (self.status or {}).items():
            if meaning not in ("diverged", "finished", "drop"):
                raise ValueError(
                    f"status says {word!r}: {meaning!r}: it must be 'diverged', 'finished' or "
                    "'drop'"
                )


@dataclass(frozen=True)
class Taken:
    """One column: what it was taken for, with an example."""

    column: object
    role: str
    conversion: str
    before: str
    after: str
    confidence: float


@dataclass(frozen=True)
class Question:
    """Something with two readings: the one proposed is in `answers`, arguments of `read_runs`."""

    column: str
    value: object
    rule: str
    remedy: str
    answers: dict[str, object]


@dataclass
class Interpretation:
    """A table in the columns of the run table, and how it came to be."""

    frame: pd.DataFrame
    taken: list[Taken] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    unused: list[tuple[object, str | None]] = field(default_factory=list)
    loss_unit: str = "nats per token"

    @property
    def near(self) -> dict[str, object]:
        """Role -> a column that was not used and whose name is like one of the role's."""
        return {role: name for name, role in reversed(self.unused) if role is not None}

    @property
    def answers(self) -> dict[str, Any]:
        """Arguments that settle all questions as proposed."""
        merged: dict[str, Any] = {}
        for question in self.questions:
            for name, value in question.answers.items():
                if isinstance(value, dict):
                    merged[name] = {**merged.get(name, {}), **value}
                else:
                    merged[name] = value
        return merged


class Work:
    """A table under conversion: columns by role, values read so far, what is said about them.

    Parameters
    ----------
    frame : DataFrame
        As the user has it.
    options : Options
    """

    def __init__(self, frame: pd.DataFrame, options: Options) -> None:
        self.options = options
        self.roles, unused = assign(frame, options.columns)
        self.out = Interpretation(frame, unused=unused)
        self.values: dict[str, np.ndarray] = {}
        self.cells: dict[str, Cells] = {}
        self.scaled: set[str] = set()
        self.schedule_names: tuple[str, ...] = ()
        self.settled = False
        self._units = dict(options.units or {})
        self._check_units()

    # what is said

    def note(self, text: str) -> None:
        """Keep a sentence about a conversion."""
        if text not in self.out.notes:
            self.out.notes.append(text)

    def ask(self, column: str, value: object, rule: str, remedy: str, **answers: object) -> None:
        """Keep a question; `answers` are the arguments that settle it as proposed."""
        self.out.questions.append(Question(column, value, rule, remedy, answers))

    def say(self, column: Column, role: str, conversion: str, before: object, after: str) -> None:
        """Record what a column was taken for."""
        shown = printable(str(before))
        self.out.taken.append(Taken(column.name, role, conversion, shown, after, column.confidence))

    # columns and cells

    @property
    def frame(self) -> pd.DataFrame:
        """The table as far as it is converted."""
        return self.out.frame

    def column(self, role: str) -> Column | None:
        """The column that has a role, None where there is none."""
        ways = self.roles.get(role)
        return ways[0] if ways else None

    def read(self, column: Column) -> Cells:
        """Parsed cells of a column, its unit applied."""
        cells = read_cells(self.frame[column.name], grouped=column.role in COUNTS)
        scale = self.scale(column)
        if scale != 1.0:
            plain = _without_suffix(self.frame[column.name], cells)
            cells = Cells(
                np.where(plain, cells.values * scale, cells.values),
                cells.unread, cells.rounded, cells.example,
            )  # fmt: skip
        return cells

    def scale(self, column: Column) -> float:
        """Factor of a column by `units` or by the unit in its name."""
        said = self.unit_said(column)
        if said is not None:
            scale = scale_of(said)
            return 1.0 if scale is None else scale
        return scale_of(column.unit) or 1.0 if column.unit else 1.0

    def unit_said(self, column: Column) -> object | None:
        """What `units` says of a column, by its name or its role."""
        for key in (column.name, column.role):
            if key in self._units:
                return self._units[key]
        return None

    def _check_units(self) -> None:
        known = {c.name for ways in self.roles.values() for c in ways} | set(self.roles)
        for key, unit in self._units.items():
            if key not in known:
                near = nearest(key) if isinstance(key, str) else None
                raise table_fault(
                    "units=", f"{key!r}: {unit!r}", "must name a column that is read",
                    f"did you mean {near}?" if near else "correct the name",
                )  # fmt: skip
            words = ("share", "sequences", "tokens", "steps", *LOSS_UNITS)
            if scale_of(unit) is None and unit not in words:
                raise table_fault(
                    "units=", f"{key!r}: {unit!r}",
                    f"must be a number, K, M, B, T, or one of {', '.join(words)}",
                    "give what one unit of the column is, such as 1e9",
                )  # fmt: skip

    def put(self, role: str, values: object, *, replaces: Column | None = None) -> None:
        """Set a column of the run table; the one it replaces gives its place."""
        frame = self.frame
        if replaces is not None and replaces.name != role:
            names = [role if c == replaces.name else c for c in frame.columns]
            frame = frame.set_axis(names, axis="columns")
        self.out.frame = frame.assign(**{role: values})
        if isinstance(values, np.ndarray) and values.dtype.kind == "f":
            self.values[role] = values

    def restored(self, column: Column, cells: Cells) -> np.ndarray:
        """Values, with the raw cell where it is no number, so that it is named in the report."""
        if not cells.unread.any():
            return cells.values
        raw = objects(self.frame[column.name].to_numpy(dtype=object))
        return np.where(cells.unread, raw, objects(cells.values))

    def direct(self, role: str) -> None:
        """Read a column that is one of the run table."""
        column = self.column(role)
        if column is None:
            return
        series = self.frame[column.name]
        if column.name == role and is_number(series) and self.scale(column) == 1.0:
            self.values[role] = series.to_numpy(dtype=float, na_value=np.nan)
            self.say(column, role, "", _example(series), show(role, _first(self.values[role])))
            return
        cells = self.read(column)
        self.cells[role] = cells
        scale = self.scale(column)
        before = cells.example or _example(series)
        values = self.restored(column, cells)
        words = []
        if scale != 1.0:
            words.append(f"x {count(scale)}")
            self.scaled.add(role)
            self.note(f"{column.name}: read in {scale_word(scale)} as {role}.")
        if cells.example:
            read = parse(cells.example, grouped=role in COUNTS)
            words.append("text read as a number")
            self.note(
                f"{column.name}: text such as {printable(cells.example)!r} was read as "
                f"{show(role, read)}."
            )
        if column.name != role and scale == 1.0 and not cells.example:
            self.note(f"{column.name} was taken as {role}.")
        at = _first_place(self.frame[column.name], before)
        self.put(role, values, replaces=column)
        if isinstance(values, np.ndarray) and values.dtype.kind != "f":
            self.values[role] = np.where(cells.unread, np.nan, cells.values)
        after = show(role, cells.values[at]) if len(cells.values) else ""
        self.say(column, role, ", ".join(words), before, after)

    def sequence_length(self) -> tuple[np.ndarray | None, str]:
        """Tokens in a sequence, shape (n,), and where they are from; None where unknown."""
        n = len(self.frame)
        if self.options.sequence_length is not None:
            length = parse(self.options.sequence_length, grouped=True)
            return np.full(n, length), f"sequence_length={length:g}"
        column = self.column("sequence_length")
        if column is None:
            return None, ""
        return self.read(column).values, str(column.name)

    def steps(self) -> np.ndarray:
        """Steps of each row, given or from tokens and batch; NaN where unknown."""
        blank = np.full(len(self.frame), np.nan)
        steps = self.values.get("steps", blank)
        with np.errstate(all="ignore"):
            ratio = self.values.get("tokens", blank) / self.values.get("batch_tokens", blank)
        return np.where(np.isnan(steps), ratio, steps)


def show(role: str, value: float) -> str:
    """Write a value of a role as a person would."""
    if np.isnan(value):
        return ""
    if role in ("peak_lr", "min_lr", "plateau_lr"):
        return rate(value)
    if role in ("n_params", "tokens", "batch_tokens") and value >= 1e4:
        return short(value)
    return count(value)


def _without_suffix(series: pd.Series, cells: Cells) -> np.ndarray:
    """Where a cell is a plain number, so that a unit of the column applies to it."""
    if not cells.example:
        return np.ones(len(series), dtype=bool)
    return np.array(
        [not isinstance(v, str) or not normal(v)[-1:].isalpha() for v in series], dtype=bool
    )


def _first(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known[0]) if known.size else np.nan


def _example(series: pd.Series) -> str:
    cells = series.head(100).to_numpy(dtype=object)
    blank = is_blank(cells)
    at = int(np.argmin(blank)) if len(cells) else 0
    return "" if not len(cells) or blank[at] else str(cells[at])


def _first_place(series: pd.Series, example: str) -> int:
    """Position of the first cell written as the example."""
    for i, cell in enumerate(series.head(1000)):
        if str(cell) == example:
            return i
    return 0
