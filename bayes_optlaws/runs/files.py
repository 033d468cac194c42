"""Reading run tables from files."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import re
import warnings
from os import PathLike, fspath
from pathlib import Path

import pandas as pd

from bayes_optlaws.runs.faults import abbreviate, table_fault

_SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".parquet")


def load(source: str | PathLike | pd.DataFrame) -> pd.DataFrame:
    """Return the table as it is written, without any check of its cells."""
    if isinstance(source, pd.DataFrame):
        return source.copy()
    if not isinstance(source, str | PathLike):
        raise TypeError(
            f"source is a {type(source).__name__}: a run table is a path or a pandas DataFrame; "
            "wrap a dict or a list of dicts in pd.DataFrame"
        )
    path = Path(fspath(source))
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise table_fault(
            "(file)",
            path.name,
            f"a table file ends in {', '.join(_SUFFIXES)}",
            "save it as CSV, or pass a DataFrame",
        )
    if suffix == ".parquet":
        if importlib.util.find_spec("pyarrow") is None:
            raise ImportError("a .parquet file needs pyarrow: install it, or save the table as CSV")
        frame = pd.read_parquet(path)
        return frame if isinstance(frame.index, pd.RangeIndex) else frame.reset_index()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise table_fault(
            "(file)", path.name, "the file must be UTF-8 text", "save it as UTF-8"
        ) from None
    if suffix in (".jsonl", ".ndjson"):
        return _from_json_lines(text, path.name)
    return _from_separated(text, path.name, "\t" if suffix == ".tsv" else None)


def _from_json_lines(text: str, name: str) -> pd.DataFrame:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise table_fault(
                "(file)",
                f"{name}, line {number}",
                "each line must be one JSON object",
                "correct this line",
            )
        rows.append(row)
    return pd.DataFrame(rows)


def _from_separated(text: str, name: str, separator: str | None) -> pd.DataFrame:
    header = next((line for line in text.split("\n") if line.strip()), "")
    if not header:
        return pd.DataFrame()
    if separator is None:
        separator = max(",;\t", key=header.count)
    names = [n.strip() for n in next(csv.reader([header], delimiter=separator))]
    twice = sorted({n for n in names if n and names.count(n) > 1})
    if twice:
        raise table_fault(
            "(columns)", ", ".join(twice), "column names must be unique", "rename one of them"
        )
    try:
        with warnings.catch_warnings():
            # Cells beyond the header would be dropped with no more than this warning.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(
                io.StringIO(text),
                sep=separator,
                decimal="," if _has_decimal_comma(text, separator) else ".",
                dtype={"run_id": str, "group": str},
                low_memory=False,
                index_col=False,
                skipinitialspace=True,
            )
    except (pd.errors.ParserWarning, ValueError) as error:  # ParserError is a ValueError
        raise table_fault(
            "(file)",
            name,
            f"every row must have the {len(names)} cells of the header ({abbreviate(error)})",
            "correct the separators and quotes",
        ) from None


def _has_decimal_comma(text: str, separator: str) -> bool:
    """Whether a comma is the decimal mark: no comma separates cells and no number has a point."""
    if separator == ",":
        return False
    cell = rf'(?:^|(?<=[{separator}"]))\s*[+-]?{{}}(?:[eE][+-]?\d+)?\s*(?=[{separator}"]|$)'
    comma, point = (
        re.search(cell.format(number), text, flags=re.MULTILINE)
        for number in (r"\d+,\d+", r"\d*\.\d+")
    )
    return comma is not None and point is None
