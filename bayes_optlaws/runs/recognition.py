"""Which column of a table is what: by its name, by what the user says, by its cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayes_optlaws.runs.columns import is_blank
from bayes_optlaws.runs.faults import TEMPLATE_COLUMNS, objects, table_fault
from bayes_optlaws.runs.names import ROLES, nearest, normal, role_of
from bayes_optlaws.text.numbers import parse, rounding

__all__ = ["Cells", "Column", "assign", "is_number", "read_cells"]

TEXT_ROLES = {"run_id", "schedule", "diverged", "status", "group", "parent", "stage", "seed"}
COUNTS = {
    "n_params", "tokens", "batch_tokens", "batch_sequences", "steps", "warmup_steps", "samples",
    "cooldown_start_step", "decay_end_step", "cooldown_steps", "warmup_tokens", "warmup", "devices",
    "device_batch", "accumulation", "sequence_length", "warmup_samples",
}  # fmt: skip
"""Roles whose cells may have separators of thousands."""
_SAMPLE = 200


@dataclass(frozen=True)
class Column:
    """A column of the user's table and what it was taken for.

    Attributes
    ----------
    name : object
        As in the user's table.
    role : str
    unit : str
        Scale in the name, "" for none.
    confidence : float
        1 where the user or the exact name says so.
    given : bool
        Whether the user says so.
    """

    name: object
    role: str
    unit: str = ""
    confidence: float = 1.0
    given: bool = False

    @property
    def exact(self) -> bool:
        """Whether nothing was inferred."""
        return self.given or self.name == self.role


@dataclass(frozen=True)
class Cells:
    """Parsed cells of a column, shape (n,).

    Attributes
    ----------
    values : ndarray of float
        NaN where blank or no number.
    unread : ndarray of bool
        Where a cell is neither blank nor a number.
    rounded : float
        Largest relative rounding by a suffix, as in 3.81k.
    example : str
        A cell that was text in need of reading, "" where there is none.
    """

    values: np.ndarray
    unread: np.ndarray
    rounded: float = 0.0
    example: str = ""


def is_number(series: pd.Series) -> bool:
    """Whether a column is stored as numbers."""
    return series.dtype.kind in "iuf"


def read_cells(series: pd.Series, *, grouped: bool = False) -> Cells:
    """Read a column of numbers as people write them."""
    n = len(series)
    if is_number(series):
        values = series.to_numpy(dtype=float, na_value=np.nan)
        return Cells(values, np.zeros(n, dtype=bool))
    raw = series.to_numpy(dtype=object)
    if pd.api.types.is_string_dtype(series.dtype) and series.dtype != object:
        codes, unique = pd.factorize(series, use_na_sentinel=True)
        unique = objects(list(unique))
    else:
        codes, unique = np.arange(n), objects(raw)
    blank = is_blank(unique)
    parsed = np.array([parse(v, grouped=grouped) for v in unique], dtype=float)
    bad = ~blank & np.isnan(parsed)
    rough = [rounding(v) for v in unique]
    odd = [
        v for v, b, x in zip(unique, blank, bad, strict=True)
        if isinstance(v, str) and not b and not x and not _plain(v)
    ]  # fmt: skip
    # the last entry is for cells of code -1, which hold nothing
    values = np.append(np.where(blank, np.nan, parsed), np.nan)[codes]
    return Cells(
        values,
        np.append(bad, False)[codes],
        max(rough, default=0.0),
        str(odd[0]) if odd else "",
    )


def _plain(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def assign(
    frame: pd.DataFrame, columns: Mapping[object, str] | None
) -> tuple[dict[str, list[Column]], list[tuple[object, str | None]]]:
    """Give each column its role.

    Parameters
    ----------
    frame : DataFrame
    columns : mapping, optional
        The user's names -> roles.

    Returns
    -------
    by_role : dict of str to list of Column
        The likeliest first.
    unused : list of (column, role or None)
        Columns that are nothing of ours, and what their name is near to.
    """
    given = _given(frame, columns)
    taken = set(given.values())
    found: dict[str, list[Column]] = {
        role: [Column(name, role, given=True)] for name, role in given.items()
    }
    present = {c for c in frame.columns if isinstance(c, str)}
    unused: list[tuple[object, str | None]] = []
    for name in frame.columns:
        if name in given:
            continue
        known = role_of(name) if isinstance(name, str) else None
        if known is None:
            near = nearest(name) if isinstance(name, str) else None
            unused.append((name, None if near in present or near in taken else near))
            continue
        role, unit, confidence = known
        exact = name == role
        if role in taken or (not exact and role in present):
            unused.append((name, None))
        elif exact or _fits(frame[name], role):
            found.setdefault(role, []).append(Column(name, role, unit, confidence))
        else:
            unused.append((name, None))
    for role, ways in found.items():
        ways.sort(key=lambda c: _order(c, role))
    return found, unused


def _given(frame: pd.DataFrame, columns: Mapping[object, str] | None) -> dict[object, str]:
    """Check what the user says of the columns, in either direction."""
    out: dict[object, str] = {}
    known = sorted({*ROLES, *TEMPLATE_COLUMNS})
    for one, other in (columns or {}).items():
        flipped = one not in frame.columns and one in known
        name, role = (other, one) if flipped else (one, other)
        if name not in frame.columns:
            raise table_fault(
                "columns=",
                f"{one!r}: {other!r}",
                "must name a column of the table; it has "
                + ", ".join(str(c) for c in list(frame.columns)[:20]),
                "correct the name",
            )
        if role not in known:
            near = nearest(role) if isinstance(role, str) else None
            raise table_fault(
                "columns=",
                f"{one!r}: {other!r}",
                f"must say one of {', '.join(known)}",
                f"did you mean {near}?" if near else "choose one of them",
            )
        if role in out.values():
            raise table_fault(
                "columns=", role, "two columns cannot be the same thing", "leave one of them out"
            )
        out[name] = role
    return out


def _order(column: Column, role: str) -> tuple:
    names = ROLES.get(role, ())
    key = normal(column.name)
    keys = [i for i, name in enumerate(names) if key == name or key.endswith("_" + name)]
    return (not column.exact, min(keys, default=len(names)), -column.confidence)


def _fits(series: pd.Series, role: str) -> bool:
    """Whether a column whose name is only like a role can be it, by its cells."""
    cells = series.dropna().iloc[:_SAMPLE]
    if role in TEXT_ROLES:
        return role == "run_id" or len(cells) > 0
    if not len(cells) or series.dtype.kind == "b":
        return False
    read = read_cells(cells, grouped=role in COUNTS)
    return bool(np.mean(~np.isnan(read.values)) >= 0.5)
