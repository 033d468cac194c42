"""What each column of an export is taken for, as a table to look at before anything is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from bayes_optlaws.runs.columns import tidy_columns
from bayes_optlaws.runs.conversion import Interpretation, Options
from bayes_optlaws.runs.faults import abbreviate, call_of
from bayes_optlaws.runs.files import Source, load
from bayes_optlaws.runs.meaning import interpret
from bayes_optlaws.text import html
from bayes_optlaws.text.numbers import count
from bayes_optlaws.text.printable import printable

__all__ = ["ColumnMapping", "assumptions", "suggest_mapping"]

_NEEDED = ("n_params", "peak_lr", "schedule", "final_loss")
_ASSUMED = (
    "has two meanings", "does not give", "stays in", "was taken as the last", "marked as diverged",
    "were left out by", "are assumed",
)  # fmt: skip
_BUDGET = ("tokens", "batch_tokens", "steps")


@dataclass(frozen=True)
class ColumnMapping:
    """What the columns of a table are taken for; made by `suggest_mapping`.

    Attributes
    ----------
    table : DataFrame
        One row a column that is used: ``column``, ``taken_as``, ``conversion`` ("" for none),
        ``example`` as written, ``read_as``, ``confidence`` (1: the exact name, or yours).
    questions : DataFrame
        What can be read in two ways: ``column``, ``value``, ``rule``, ``remedy``.
    unused : DataFrame
        Other columns, which are kept: ``column``, ``near`` (what the name is like, or "").
    notes : list of str
        Everything that is converted, a sentence each.
    missing : list of str
        What a run table needs and nothing gives.
    answers : dict
        Arguments of `read_runs` that settle the questions as proposed.
    """

    table: pd.DataFrame
    questions: pd.DataFrame
    unused: pd.DataFrame
    notes: list[str]
    missing: list[str]
    answers: dict[str, object]

    def to_frame(self) -> pd.DataFrame:
        """Return `table`."""
        return self.table.copy()

    @property
    def call(self) -> str:
        """The line of code that reads the table as proposed."""
        arguments = call_of(self.answers)
        return f"bo.read_runs(source{', ' + arguments if arguments else ''})"

    @property
    def remarks(self) -> list[str]:
        """What is open and what is left, a sentence each."""
        out = [f"To settle: {q.column} ({q.value}) {q.rule}; {q.remedy}." for q in
               self.questions.itertuples()]  # fmt: skip
        if self.missing:
            out.append(f"Not found: {', '.join(self.missing)}.")
        near = [f"{abbreviate(u.column)} (did you mean {u.near}?)" for u in
                self.unused.itertuples() if u.near]  # fmt: skip
        rest = [abbreviate(u.column) for u in self.unused.itertuples() if not u.near]
        if near or rest:
            shown = [*near, *rest][:12]
            more = len(near) + len(rest) - len(shown)
            out.append(
                f"Not used: {', '.join(shown)}" + (f" and {count(more)} more." if more else ".")
            )
        return out

    def __repr__(self) -> str:
        shown = self.table.copy()
        for name in shown.columns.drop("confidence"):
            shown[name] = [abbreviate(v) for v in shown[name]]
        lines = [shown.to_string(index=False) if len(shown) else "(no column is known)"]
        return "\n".join([*lines, *self.remarks, f"Read it with: {self.call}"])

    def _repr_html_(self) -> str:
        shown = self.table.assign(**{
            name: [printable(str(v)) for v in self.table[name]]
            for name in ("column", "example", "read_as")
        })  # fmt: skip
        return html.box(
            html.table(shown, index=False, formats={"confidence": html.number(2)}, max_rows=60),
            html.paragraphs([*self.remarks, f"Read it with: {self.call}"]),
        )


def assumptions(table: pd.DataFrame) -> list[str]:
    """Notes on how a table was read that change what follows, not its spelling alone.

    Parameters
    ----------
    table : DataFrame
        From `bayes_optlaws.read_runs` or `bayes_optlaws.read_candidates`.

    Examples
    --------
    >>> table = pd.DataFrame()
    >>> table.attrs["notes"] = ["lr was taken as peak_lr.", "2 runs were marked as diverged by x."]
    >>> assumptions(table)
    ['2 runs were marked as diverged by x.']
    """
    notes = table.attrs.get("notes", [])
    return [text for text in notes if any(words in text for words in _ASSUMED)]


def suggest_mapping(
    source: Source,
    *,
    columns: Mapping[object, str] | None = None,
    units: Mapping[object, object] | None = None,
    loss_unit: str | None = None,
    sequence_length: float | None = None,
    bytes_per_token: float | None = None,
    status: Mapping[str, str] | None = None,
    schedules: Mapping[str, str] | None = None,
    cooldown: float | None = None,
) -> ColumnMapping:
    """Say what `read_runs` takes each column of a table for, with an example of each.

    Nothing is checked beyond that: faults of cells are listed by `read_runs`.

    Parameters
    ----------
    source : path, DataFrame, list of dict or dict of lists
    columns, units, loss_unit, sequence_length, bytes_per_token, status, schedules, cooldown
        As for `read_runs`: what you have settled already.

    Returns
    -------
    ColumnMapping

    Raises
    ------
    RunTableError
        When the file cannot be read, or an option names what is not there.

    Examples
    --------
    >>> import pandas as pd
    >>> export = pd.DataFrame({"Name": ["a", "b"], "params": ["0.1B", "350M"], "lr": [3e-4, 1e-3],
    ...                        "tokens (B)": [2.0, 7.0], "State": ["finished", "crashed"]})
    >>> mapping = suggest_mapping(export)
    >>> mapping.to_frame()[["column", "taken_as", "example", "read_as"]]
           column  taken_as     example   read_as
    0        Name    run_id           a         a
    1      params  n_params        0.1B      100M
    2  tokens (B)    tokens         2.0        2B
    3          lr   peak_lr      0.0003      3e-4
    4       State  diverged  finished    finished
    >>> mapping.call
    "bo.read_runs(source, status={'crashed': 'diverged'})"
    """
    options = Options(
        columns=columns,
        units=units,
        loss_unit=loss_unit,
        sequence_length=sequence_length,
        bytes_per_token=bytes_per_token,
        status=status,
        schedules=schedules,
        cooldown=cooldown,
    )
    return mapping_of(interpret(tidy_columns(load(source)), options))


def mapping_of(read: Interpretation) -> ColumnMapping:
    """Return an interpretation as a mapping to show."""
    have = {t.role for t in read.taken} | set(read.frame.columns)
    missing = [name for name in _NEEDED if name not in have]
    budget = [name for name in _BUDGET if name not in have]
    if len(budget) > 1:
        missing.append(f"{len(budget) - 1} of {', '.join(budget)}")
    return ColumnMapping(
        table=pd.DataFrame(
            [(t.column, t.role, t.conversion, t.before, t.after, t.confidence) for t in read.taken],
            columns=["column", "taken_as", "conversion", "example", "read_as", "confidence"],
        ),
        questions=pd.DataFrame(
            [(q.column, q.value, q.rule, q.remedy) for q in read.questions],
            columns=["column", "value", "rule", "remedy"],
        ),
        unused=pd.DataFrame(
            [(name, near or "") for name, near in read.unused], columns=["column", "near"]
        ),
        notes=list(read.notes),
        missing=missing,
        answers=read.answers,
    )
