"""Reading run tables from files."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path

import pandas as pd

from bayes_optlaws.runs.columns import encodable
from bayes_optlaws.runs.faults import RunTableError, abbreviate, objects, table_fault
from bayes_optlaws.runs.names import role_of

__all__ = ["Source", "load"]

type Source = str | PathLike | pd.DataFrame | Sequence[Mapping] | Mapping[str, Sequence]
"""What a run table is read from."""
_SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".parquet")
_MISSING = [
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
    "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
]  # fmt: skip
# as pandas.read_csv has them by default
_UTF8 = "the file must be UTF-8 text"


def load(source: Source) -> pd.DataFrame:
    """Return the table as it is written, without any check of its cells."""
    if isinstance(source, pd.DataFrame):
        return source.copy()
    if isinstance(source, list | tuple) and all(isinstance(row, Mapping) for row in source):
        return _table([dict(row) for row in source], "row")
    if isinstance(source, Mapping):
        return pd.DataFrame(dict(source))
    if not isinstance(source, str | PathLike):
        raise TypeError(
            f"source is a {type(source).__name__}: a run table is a path, a pandas DataFrame or a "
            "list of dicts, one a row; wrap anything else in pd.DataFrame"
        )
    if isinstance(source, str) and re.match(r"[a-zA-Z][\w+.-]+://", source):
        raise table_fault(
            "(file)", source, "a table is read from a file of this machine",
            "download it first and give the path, or pass a DataFrame",
        )  # fmt: skip
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
        return _from_parquet(path)
    _require_text(path)
    try:
        if suffix in (".jsonl", ".ndjson"):
            return _from_json_lines(path)
        return _from_separated(path, "\t" if suffix == ".tsv" else None)
    except UnicodeDecodeError:
        raise table_fault("(file)", path.name, _UTF8, "save it as UTF-8") from None


def _require_text(path: Path) -> None:
    """Refuse a file with zero bytes: it is binary, or UTF-16."""
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            if b"\0" in chunk:
                raise table_fault(
                    "(file)", path.name, f"{_UTF8}; this looks like UTF-16 or is not text",
                    "save it as CSV in UTF-8",
                )  # fmt: skip


def _from_parquet(path: Path) -> pd.DataFrame:
    if importlib.util.find_spec("pyarrow") is None:
        raise ImportError("a .parquet file needs pyarrow: install it, or save the table as CSV")
    from pyarrow import ArrowException

    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        frame = pd.read_parquet(path)
    except (ArrowException, OSError, ValueError) as error:
        raise table_fault(
            "(file)", path.name, f"must be a readable Parquet file ({abbreviate(error)})",
            "write it again, or save the table as CSV",
        ) from None  # fmt: skip
    return frame if isinstance(frame.index, pd.RangeIndex) else frame.reset_index()


def _from_json_lines(path: Path) -> pd.DataFrame:
    rows = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise table_fault(
                    "(file)",
                    f"{path.name}, line {number}",
                    "each line must be one JSON object",
                    "correct this line",
                )
            rows.append(row)
    return _table(rows, f"{path.name}, row")


def _table(rows: list[dict], place: str) -> pd.DataFrame:
    """Return rows as a table; pandas cannot hold text that cannot be written."""
    try:
        return pd.DataFrame(rows)
    except UnicodeEncodeError:
        for number, row in enumerate(rows, start=1):
            for column, cell in row.items():
                if isinstance(cell, str) and not encodable(objects([cell]))[0]:
                    raise table_fault(
                        "(file)", f"{place} {number}: {abbreviate(cell)}",
                        f"{abbreviate(column)} must be text that can be written, without lone "
                        "surrogates", "write this cell anew",
                    ) from None  # fmt: skip
        raise


def _from_separated(path: Path, separator: str | None) -> pd.DataFrame:
    with path.open(encoding="utf-8-sig") as file:
        header = next((line.rstrip("\n") for line in file if line.strip()), "")
    if not header:
        return pd.DataFrame()
    if separator is None:
        separator = max(",;\t", key=header.count)
    if re.match(rf"\s*#(?!{re.escape(separator)})", header):
        raise _comment(path.name, header)
    names = [n.strip() for n in next(csv.reader([header], delimiter=separator))]
    twice = sorted({n for n in names if n and names.count(n) > 1})
    if twice:
        raise table_fault(
            "(columns)", ", ".join(twice), "column names must be unique", "rename one of them"
        )
    decimal, text = ".", None
    if separator != ",":
        text = path.read_text(encoding="utf-8-sig")
        decimal = "," if _has_decimal_comma(text, separator) else "."
    # names of runs are text, also those that look like numbers or like a missing value
    roles = {n: known[0] for n in names if n and (known := role_of(n))}
    labels = {n for n, role in roles.items() if role in ("run_id", "parent")}
    as_text = {n: str for n, role in roles.items() if role in ("run_id", "parent", "group")}
    try:
        with warnings.catch_warnings():
            # Cells beyond the header would be dropped with no more than this warning.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path if text is None else io.StringIO(text),
                sep=separator,
                decimal=decimal,
                dtype=as_text,
                keep_default_na=False,
                na_values={n: [""] if n in labels else _MISSING for n in names},
                low_memory=False,
                index_col=False,
                skipinitialspace=True,
                encoding="utf-8-sig",
            )
    except UnicodeDecodeError:
        raise
    except (pd.errors.ParserWarning, ValueError) as error:  # ParserError is a ValueError
        raise table_fault(
            "(file)",
            path.name,
            f"every row must have the {len(names)} cells of the header ({abbreviate(error)})",
            "correct the separators and quotes",
        ) from None
    _refuse_comments(frame, path.name)
    return frame


def _refuse_comments(frame: pd.DataFrame, name: str) -> None:
    """Refuse lines that hold a remark in place of a run."""
    if not len(frame) or len(frame.columns) < 2 or frame.iloc[:, 0].dtype.kind in "iufb":
        return
    first = frame.iloc[:, 0]
    marked = first.astype("str").str.lstrip().str.startswith("#").fillna(False).to_numpy(bool)
    if marked.any():
        alone = marked & frame.iloc[:, 1:].isna().all(axis="columns").to_numpy()
        if alone.any():
            raise _comment(name, first[alone].iloc[0])


def _comment(name: str, line: str) -> RunTableError:
    return table_fault(
        "(file)", f"{name}: {abbreviate(line)}", "a table has a header and rows, and no comments",
        "delete the lines that begin with #",
    )  # fmt: skip


def _has_decimal_comma(text: str, separator: str) -> bool:
    """Whether a comma is the decimal mark: no comma separates cells and no number has a point."""
    cell = rf'(?:^|(?<=[{separator}"]))\s*[+-]?{{}}(?:[eE][+-]?\d+)?\s*(?=[{separator}"]|$)'
    comma, point = (
        re.search(cell.format(number), text, flags=re.MULTILINE)
        for number in (r"\d+,\d+", r"\d*\.\d+")
    )
    return comma is not None and point is None
