"""Tables as text that keeps every type: what is read back is what was written."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["from_text", "to_text"]

_PLAIN = (str, bool, int, float, type(None))


def to_text(table: pd.DataFrame) -> str:
    """Return a table as JSON with the dtype of each column, its index and its ``attrs``.

    Raises
    ------
    ValueError
        When a cell is of a kind that cannot be stored; the message names it.

    Examples
    --------
    >>> table = pd.DataFrame({"run_id": ["1.1", "1.10", "#N/A"], "n": [1, 2, 3]})
    >>> from_text(to_text(table)).equals(table)
    True
    """
    if isinstance(table.index, pd.MultiIndex) or isinstance(table.columns, pd.MultiIndex):
        raise ValueError("a table with several levels of labels cannot be stored: reset_index()")
    columns = [
        {"name": _packed(name, "a column's name"), **_column(table.iloc[:, i], f"column {name!r}")}
        for i, name in enumerate(table.columns)
    ]
    index = table.index
    if isinstance(index, pd.RangeIndex):
        labels: dict[str, Any] = {"range": [index.start, index.stop, index.step]}
    else:
        labels = _column(index.to_series(), "the index")
    labels["name"] = _packed(index.name, "the index's name")
    attrs = _packed(dict(table.attrs), "attrs")
    names = str(table.columns.dtype)
    return json.dumps({"columns": columns, "names": names, "index": labels, "attrs": attrs})


def from_text(text: str) -> pd.DataFrame:
    """Return the table that `to_text` wrote.

    Raises
    ------
    ValueError, KeyError, TypeError
        When the text is not from there.
    """
    stored = json.loads(text)
    arrays = [_array(c) for c in stored["columns"]]
    if len({len(a) for a in arrays}) > 1:
        raise ValueError("columns differ in length")
    labels = stored["index"]
    index = pd.RangeIndex(*labels["range"]) if "range" in labels else pd.Index(_array(labels))
    if arrays and len(index) != len(arrays[0]):
        raise ValueError("index and columns differ in length")
    table = pd.DataFrame(dict(enumerate(arrays)), index=index)
    names = [_unpacked(c["name"]) for c in stored["columns"]]
    table.columns = pd.Index(names, dtype=stored["names"])
    table.index.name = _unpacked(labels["name"])
    table.attrs = _unpacked(stored["attrs"])
    return table


def _column(column: pd.Series, place: str) -> dict[str, Any]:
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        kinds = _column(pd.Series(dtype.categories), place)
        codes = column.cat.codes.tolist()
        return {"dtype": "category", "ordered": bool(dtype.ordered), "kinds": kinds, "codes": codes}
    if isinstance(dtype, np.dtype) and dtype.kind in "biuf":
        return {"dtype": dtype.str, "values": column.to_numpy().tolist()}
    if isinstance(dtype, pd.DatetimeTZDtype) or dtype.kind in "mM":
        return {"dtype": str(dtype), "ticks": column.astype("int64").tolist()}
    if isinstance(dtype, pd.StringDtype):
        missing = column.isna().to_numpy()
        cells = [None if m else str(c) for c, m in zip(column, missing, strict=True)]
        return {"dtype": "string", "na": "nan" if dtype.na_value is not pd.NA else "NA",
                "storage": dtype.storage, "values": cells}  # fmt: skip
    if isinstance(dtype, np.dtype) and dtype.kind == "O":
        return {"dtype": "object", "cells": [_packed(c, place) for c in column]}
    if str(dtype) in _NULLABLE:
        cells = [None if pd.isna(c) else c.item() if hasattr(c, "item") else c for c in column]
        return {"dtype": str(dtype), "values": cells}
    raise ValueError(f"{place} has dtype {dtype}, which cannot be stored: convert it with astype")


_NULLABLE = {"boolean", "Float32", "Float64"} | {
    f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)
}


def _array(stored: dict[str, Any]) -> Any:
    dtype = stored["dtype"]
    if dtype == "category":
        kinds = pd.Index(_array(stored["kinds"]))
        return pd.Categorical.from_codes(stored["codes"], kinds, ordered=stored["ordered"])
    if "ticks" in stored:
        return pd.Series(np.array(stored["ticks"], dtype=np.int64)).astype(dtype).array
    if dtype == "string":
        na = pd.NA if stored["na"] == "NA" else np.nan
        try:
            kind = pd.StringDtype(stored["storage"], na_value=na)
        except ImportError:  # written where pyarrow is, read where it is not
            kind = pd.StringDtype("python", na_value=na)
        return pd.array([na if c is None else c for c in stored["values"]], dtype=kind)
    if dtype == "object":
        out = np.empty(len(stored["cells"]), dtype=object)
        for i, cell in enumerate(stored["cells"]):
            out[i] = _unpacked(cell)
        return out
    if dtype in _NULLABLE:
        return pd.array(stored["values"], dtype=dtype)
    kind = np.dtype(dtype)
    if kind.kind not in "biuf":
        raise ValueError(f"dtype {dtype} is not stored")
    return np.array(stored["values"], dtype=kind)


def _packed(cell: Any, place: str) -> Any:
    """Return a cell for JSON: plain ones as they are, others as one pair of kind and content."""
    if type(cell) in _PLAIN:
        return cell
    if cell is pd.NA:
        return {"NA": None}
    if cell is pd.NaT:
        return {"NaT": None}
    if isinstance(cell, np.generic) and cell.dtype.kind in "biuf":
        return {"scalar": [cell.dtype.str, cell.item()]}
    if isinstance(cell, np.ndarray) and cell.dtype.kind in "biuf":
        return {"array": [cell.dtype.str, cell.tolist()]}
    if isinstance(cell, list | tuple):
        return {type(cell).__name__: [_packed(c, place) for c in cell]}
    if isinstance(cell, dict):
        return {"dict": [[_packed(k, place), _packed(v, place)] for k, v in cell.items()]}
    if isinstance(cell, pd.Timestamp):
        return {"timestamp": cell.isoformat()}
    if isinstance(cell, Decimal):
        return {"decimal": str(cell)}
    if isinstance(cell, str):  # a subclass, such as numpy's
        return str(cell)
    raise ValueError(
        f"{place} holds a {type(cell).__name__}, which cannot be stored: make it text or a number"
    )


def _unpacked(cell: Any) -> Any:
    if not isinstance(cell, dict):
        return cell
    ((kind, content),) = cell.items()
    return _MAKE[kind](content)


_MAKE = {
    "NA": lambda _: pd.NA,
    "NaT": lambda _: pd.NaT,
    "scalar": lambda c: np.array(c[1], dtype=_number(c[0]))[()],
    "array": lambda c: np.array(c[1], dtype=_number(c[0])),
    "list": lambda c: [_unpacked(v) for v in c],
    "tuple": lambda c: tuple(_unpacked(v) for v in c),
    "dict": lambda c: {_unpacked(k): _unpacked(v) for k, v in c},
    "timestamp": pd.Timestamp,
    "decimal": Decimal,
}


def _number(name: str) -> np.dtype:
    kind = np.dtype(name)
    if kind.kind not in "biuf":
        raise ValueError(f"dtype {name} is not stored")
    return kind
