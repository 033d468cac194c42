"""Faults of a run table: collected as arrays, raised as one error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from bayes_optlaws.schedules import INTEGRAL_COLUMNS
from bayes_optlaws.text.printable import printable

TEMPLATE_COLUMNS = (
    "run_id",
    "n_params",
    "tokens",
    "batch_tokens",
    "steps",
    "peak_lr",
    "warmup_steps",
    "schedule",
    "min_lr",
    "decay_end_step",
    "plateau_lr",
    "cooldown_start_step",
    *INTEGRAL_COLUMNS,
    "final_loss",
    "diverged",
    "group",
)
_SHOWN = 50  # lines of a message
_APART = 3  # rows with the same fault that are listed one by one


class RunTableWarning(UserWarning):
    """Something was assumed about a run table; the message says what and how to avoid it."""

    __module__ = "bayes_optlaws.runs.readers"


class RunTableError(ValueError):
    """A run table breaks rules; every broken rule of every row is listed.

    Attributes
    ----------
    problems : DataFrame
        One row a fault: ``row`` (index label in the table read; ``"(table)"`` for a fault of the
        whole table), ``run_id``, ``column``, ``value``, ``rule``, ``remedy``.
    answers : dict
        Arguments of `read_runs` that settle what can be read in two ways, as proposed; empty where
        there is nothing to settle.
    """

    # The public address, for tracebacks and pickles.
    __module__ = "bayes_optlaws.runs.readers"

    def __init__(self, problems: pd.DataFrame, answers: Mapping[str, object] | None = None) -> None:
        self.problems = problems
        self.answers = dict(answers or {})
        text = _message(problems)
        if self.answers:
            text += f"\nTo read it as proposed: bo.read_runs(..., {call_of(self.answers)})"
        super().__init__(text)

    @property
    def listing(self) -> str:
        """The message without the line of code that settles it."""
        return _message(self.problems)

    def __reduce__(self) -> tuple[type, tuple[pd.DataFrame, dict[str, object]]]:
        """Rebuild from the problems, so that the error crosses process boundaries."""
        return type(self), (self.problems, self.answers)


def call_of(answers: Mapping[str, object]) -> str:
    """Return arguments as they are written in a call.

    Examples
    --------
    >>> call_of({"cooldown": 0.2, "status": {"crashed": "diverged"}})
    "cooldown=0.2, status={'crashed': 'diverged'}"
    """
    return ", ".join(f"{name}={value!r}" for name, value in answers.items())


def _message(problems: pd.DataFrame) -> str:
    count = len(problems)
    of_rows = [not _is_table(label) for label in problems["row"]]
    bad = len(problems.loc[of_rows, ["row", "run_id"]].drop_duplicates())
    where = f" in {bad} row{'' if bad == 1 else 's'}" if bad else ""
    lines = [f"the table has {count} problem{'' if count == 1 else 's'}{where}; nothing was read."]
    cells = [list(problems.columns)]
    groups = _alike(problems)
    for rows in groups[:_SHOWN]:
        *short, rule, remedy = problems.iloc[rows[0]].to_list()
        if len(rows) > 1:
            short = _several(problems.iloc[rows])
        cells.append([*(abbreviate(c) for c in short), printable(rule), printable(remedy)])
    widths = [max(len(r[j]) for r in cells) for j in range(len(cells[0]) - 1)] + [0]
    lines += ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in cells]
    left = groups[_SHOWN:]
    if left:
        lines.append(f"... and {len(left)} more lines (every fault is in .problems)")
    return "\n".join(lines)


def _alike(problems: pd.DataFrame) -> list[np.ndarray]:
    """Positions of the faults of each line: equal faults of more than three rows share one."""
    keys = list(zip(*(problems[c] for c in ("column", "rule", "remedy")), strict=True))
    places: dict[tuple, list[int]] = {}
    for i, key in enumerate(keys):
        places.setdefault(key, []).append(i)
    groups = []
    for where in places.values():
        groups += [where] if len(where) > _APART else [[i] for i in where]
    return [np.array(g) for g in sorted(groups, key=lambda g: g[0])]


def _several(faults: pd.DataFrame) -> list[object]:
    """Row, run_id, column and value of a line that stands for several rows."""
    rows = ", ".join(abbreviate(v) for v in faults["row"].head(3))
    ids = ", ".join(abbreviate(v) for v in faults["run_id"].head(2))
    values = faults["value"].map(abbreviate)
    numbers = pd.to_numeric(values, errors="coerce")
    unlike = values[~values.duplicated()]
    if len(unlike) > 3 and numbers.notna().all():
        shown = f"{numbers.min():.6g} to {numbers.max():.6g}"
    else:
        shown = ", ".join(unlike.head(3)) + (", ..." if len(unlike) > 3 else "")
    return [f"{len(faults)} rows: {rows}, ...", f"{ids}, ...", faults["column"].iloc[0], shown]


def _is_table(label: object) -> bool:
    return isinstance(label, str) and label == "(table)"


def text(value: object) -> str:
    """Write a cell as text; 3.0 and 3 are the same label."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return f"{float(value):.0f}"
    try:
        return str(value).strip()
    except ValueError:  # Python refuses to print integers of thousands of digits
        return f"<{type(value).__name__}>"


def abbreviate(value: object) -> str:
    """Write a cell in at most 40 characters on one line."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    words = f"{value:.12g}" if isinstance(value, float) else " ".join(text(value).split())
    words = printable(words[:200])
    return words if len(words) <= 40 else words[:37] + "..."


def objects(values: Iterable) -> np.ndarray:
    """One-dimensional object array, also of cells that are themselves sequences."""
    values = values if isinstance(values, np.ndarray) else list(values)
    return np.fromiter(values, dtype=object, count=len(values))


class Report:
    """Collects faults as arrays, so that many bad rows cost little.

    Parameters
    ----------
    labels, run_ids : iterable, length n
        What each row is called in the report.
    """

    def __init__(self, labels: Iterable = (), run_ids: Iterable = ()) -> None:
        self.labels, self.run_ids = labels, run_ids
        self.parts: list[tuple[np.ndarray, str, np.ndarray, str, str]] = []

    def rows(
        self, bad: np.ndarray, column: str, values: np.ndarray, rule: str, remedy: str
    ) -> None:
        """Add a fault for each row where `bad` (n,) holds; `values` (n,) are the cells."""
        where = np.flatnonzero(bad)
        if where.size:
            self.parts.append((where, column, objects(values[where]), rule, remedy))

    def table(self, column: str, value: object, rule: str, remedy: str) -> None:
        """Add a fault of the whole table."""
        self.parts.append((np.array([-1]), column, objects([value]), rule, remedy))

    def error(self, answers: Mapping[str, object] | None = None) -> RunTableError:
        """Return everything collected as one error, in the order of the rows."""
        sizes = [len(p[0]) for p in self.parts]
        where = np.concatenate([p[0] for p in self.parts])
        order = {c: i for i, c in enumerate(TEMPLATE_COLUMNS)}
        rank = np.repeat([order.get(p[1], len(order)) for p in self.parts], sizes)
        sort = np.lexsort((np.arange(where.size), rank, where))
        columns = {
            "row": objects(["(table)", *self.labels])[where + 1],
            "run_id": objects(["", *self.run_ids])[where + 1],
            "column": np.repeat(objects(p[1] for p in self.parts), sizes),
            "value": np.concatenate([p[2] for p in self.parts]),
            "rule": np.repeat(objects(p[3] for p in self.parts), sizes),
            "remedy": np.repeat(objects(p[4] for p in self.parts), sizes),
        }
        data = {name: pd.Series(cells[sort], dtype=object) for name, cells in columns.items()}
        return RunTableError(pd.DataFrame(data), answers)


def table_fault(column: str, value: object, rule: str, remedy: str) -> RunTableError:
    """Return an error with one fault of the whole table or file."""
    report = Report()
    report.table(column, value, rule, remedy)
    return report.error()
