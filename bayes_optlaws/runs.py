"""The run table: one row a finished (or planned) run, validated with one report of all faults.

Units: ``n_params`` parameters, ``tokens`` tokens, ``batch_tokens`` tokens per optimizer step,
``peak_lr``, ``min_lr``, ``plateau_lr`` learning rate of one step, ``warmup_steps``,
``decay_end_step``, ``cooldown_start_step`` optimizer steps, ``final_loss`` nats per token.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import warnings
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path

import numpy as np
import pandas as pd

SCHEDULES = ("linear", "cosine", "wsd", "wsd-sqrt", "polygon", "constant", "array")
INTEGRAL_COLUMNS = ("conv_warmup", "conv_cooldown", "escape_warmup", "escape_cooldown")
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
_SHOWN = 50
_SMALLEST, _LARGEST = 1e-30, 1e30
_NUMBER = "must be a number"
_POSITIVE = "must be positive and finite (between 1e-30 and 1e30)"
_ORDER = "phase points must be in order: warm-up <= decay end <= cooldown start < steps"


class RunTableWarning(UserWarning):
    """Something was assumed about a run table; the message says what and how to avoid it."""


class RunTableError(ValueError):
    """A run table breaks rules; every broken rule of every row is listed.

    Attributes
    ----------
    problems : DataFrame
        One row a fault: ``row`` (index label in the table read; ``"(table)"`` for a fault of the
        whole table), ``run_id``, ``column``, ``value``, ``rule``, ``remedy``.
    """

    def __init__(self, problems: pd.DataFrame) -> None:
        self.problems = problems
        super().__init__(_message(problems))

    def __reduce__(self) -> tuple[type, tuple[pd.DataFrame]]:
        """Rebuild from the problems, so that the error crosses process boundaries."""
        return type(self), (self.problems,)


def _message(problems: pd.DataFrame) -> str:
    rows = problems.loc[problems["row"].map(lambda r: not _is_table(r)), "row"]
    count = len(problems)
    lines = [
        f"the table has {count} problem{'s' if count != 1 else ''} in {rows.nunique()} "
        f"row{'s' if rows.nunique() != 1 else ''}; nothing was read."
    ]
    head = problems.head(_SHOWN)
    cells = [["row", "run_id", "column", "value", "rule", "remedy"]]
    cells += [[_short(c) for c in r[:4]] + [str(c) for c in r[4:]] for r in head.to_numpy(object)]
    widths = [max(len(r[j]) for r in cells) for j in range(5)]
    lines += [
        "  ".join([*(c.ljust(w) for c, w in zip(r, widths, strict=False)), r[5]]) for r in cells
    ]
    if count > _SHOWN:
        lines.append(f"... and {count - _SHOWN} more (all in .problems). Counts by rule:")
        counts = problems.groupby(["column", "rule"], sort=False).size()
        counts = counts.sort_values(ascending=False, kind="stable")
        lines += [f"  {k:>7}  {column}: {rule}" for (column, rule), k in counts.items()]
    return "\n".join(lines)


def _is_table(label: object) -> bool:
    return isinstance(label, str) and label == "(table)"


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else text[:37] + "..."


class _Report:
    """Collects faults as arrays, so that many bad rows cost little."""

    def __init__(self, labels: np.ndarray, run_ids: np.ndarray) -> None:
        self.labels, self.run_ids = labels, run_ids
        self.parts: list[tuple[np.ndarray, str, np.ndarray, str, str]] = []

    def rows(self, bad: np.ndarray, column: str, values: object, rule: str, remedy: str) -> None:
        where = np.flatnonzero(bad)
        if where.size:
            array = values if isinstance(values, np.ndarray) else _objects(values)
            self.parts.append((where, column, _objects(array[where]), rule, remedy))

    def table(self, column: str, value: object, rule: str, remedy: str) -> None:
        self.parts.append((np.array([-1]), column, _objects([value]), rule, remedy))

    def raise_if_any(self) -> None:
        if not self.parts:
            return
        sizes = [len(p[0]) for p in self.parts]
        where = np.concatenate([p[0] for p in self.parts])
        order = {c: i for i, c in enumerate(TEMPLATE_COLUMNS)}
        rank = np.repeat([order.get(p[1], len(order)) for p in self.parts], sizes)
        sort = np.lexsort((np.arange(where.size), rank, where))
        labels = _objects(["(table)", *self.labels])
        run_ids = _objects(["", *self.run_ids])
        columns = {
            "row": labels[where + 1],
            "run_id": run_ids[where + 1],
            "column": np.repeat(_objects([p[1] for p in self.parts]), sizes),
            "value": np.concatenate([p[2] for p in self.parts]),
            "rule": np.repeat(_objects([p[3] for p in self.parts]), sizes),
            "remedy": np.repeat(_objects([p[4] for p in self.parts]), sizes),
        }
        data = {k: pd.Series(v[sort], dtype=object) for k, v in columns.items()}
        raise RunTableError(pd.DataFrame(data))


def _objects(values: Sequence | np.ndarray) -> np.ndarray:
    """One-dimensional object array, also of cells that are themselves sequences."""
    out = np.empty(len(values), dtype=object)
    out[:] = values if isinstance(values, np.ndarray) else list(values)
    return out


def read_runs(
    source: str | PathLike | pd.DataFrame, *, group: object = None, min_runs: int = 5
) -> pd.DataFrame:
    """Read and validate a table of finished runs.

    Parameters
    ----------
    source : path or DataFrame
        A ``.csv``, ``.tsv``, ``.parquet`` (needs pyarrow), ``.jsonl`` / ``.ndjson`` (one JSON
        object a line) file, or a DataFrame, which is copied and never changed. Semicolon-separated
        CSV and decimal commas are recognised.
    group : object, optional
        Keep only the rows whose ``group`` is this. Needed when the table holds several groups:
        losses of different groups (data, tokenizer, architecture) are not comparable.
    min_runs : int
        Least number of runs that did not diverge.

    Returns
    -------
    DataFrame
        The same rows and index (files: 0, 1, ...), all columns kept, the template columns filled:
        ``run_id`` (str), ``n_params``, ``tokens``, ``batch_tokens``, ``steps``, ``peak_lr``,
        ``warmup_steps``, ``min_lr``, ``decay_end_step``, ``plateau_lr``, ``cooldown_start_step``,
        ``final_loss`` (float; NaN where diverged and unknown), ``schedule`` (str), ``diverged``
        (bool).

    Raises
    ------
    RunTableError
        Once, listing every fault of every row; see its ``problems``.
    FileNotFoundError
        When the path does not exist.
    TypeError
        When `source` is neither a path nor a DataFrame.

    Warns
    -----
    RunTableWarning
        When no row gives ``warmup_steps``: min(2000, steps / 2) is assumed (own choice).

    Notes
    -----
    Accepted without comment: any two of ``tokens``, ``batch_tokens``, ``steps`` (all three must
    agree within 1 %, and are kept as given); schedule names in any case, with ``_`` for ``-``, and
    ``wsd-linear`` for ``wsd``; ``diverged`` as bool, 0/1, true/false, yes/no; no ``diverged``
    column when every loss is finite; infinite loss where diverged (stored as NaN); no ``min_lr``
    (0); no ``run_id`` (made from the row position); numbers written as text. A warm-up of 0 steps
    stays 0 in the table and counts as one step in the integrals.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"n_params": 1e6, "batch_tokens": 1e4, "steps": 1000,
    ...     "peak_lr": [1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3], "warmup_steps": 100,
    ...     "schedule": "cosine", "final_loss": [3.4, 3.3, 3.2, 3.25, 3.3]})
    >>> runs = read_runs(table)
    >>> runs[["run_id", "tokens", "cooldown_start_step", "diverged"]].head(1)
        run_id      tokens  cooldown_start_step  diverged
    0  run-000  10000000.0                100.0     False
    >>> table.loc[3, "peak_lr"] = -1
    >>> read_runs(table)
    Traceback (most recent call last):
    ...
    bayes_optlaws.runs.RunTableError: the table has 1 problem in 1 row; nothing was read.
    row  run_id   column   value  rule                                                  remedy
    3    run-003  peak_lr  -1.0   must be positive and finite (between 1e-30 and 1e30)  give ...
    """
    return _validate(_load(source), group=group, outcome=True, min_runs=min_runs)


def read_candidates(source: str | PathLike | pd.DataFrame, *, group: object = None) -> pd.DataFrame:
    """Read and validate a table of planned runs: a run table without the outcome columns.

    ``final_loss`` and ``diverged`` are neither needed nor checked, and kept as they are if
    present. Everything else is as in `read_runs`.

    Parameters
    ----------
    source : path or DataFrame
        As for `read_runs`.
    group : object, optional
        As for `read_runs`.

    Returns
    -------
    DataFrame
        The candidates, in the order and with the index given.

    Raises
    ------
    RunTableError
        Once, listing every fault of every row.

    Examples
    --------
    >>> import pandas as pd
    >>> plan = pd.DataFrame({"n_params": 1e8, "tokens": 2e9, "batch_tokens": 5e5, "peak_lr": 3e-4,
    ...     "warmup_steps": 200, "schedule": ["cosine", "WSD-linear"],
    ...     "cooldown_start_step": [None, 3200]}, index=["a", "b"])
    >>> read_candidates(plan)[["schedule", "steps", "cooldown_start_step"]]
      schedule   steps  cooldown_start_step
    a   cosine  4000.0                200.0
    b      wsd  4000.0               3200.0
    """
    return _validate(_load(source), group=group, outcome=False, min_runs=0)


# --- reading -------------------------------------------------------------------------------------


def _file_fault(value: object, rule: str, remedy: str) -> RunTableError:
    report = _Report(_objects([]), _objects([]))
    report.table("(file)", value, rule, remedy)
    try:
        report.raise_if_any()
    except RunTableError as error:
        return error
    raise AssertionError("unreachable")


def _load(source: str | PathLike | pd.DataFrame) -> pd.DataFrame:
    if isinstance(source, pd.DataFrame):
        return source.copy()
    if not isinstance(source, str | PathLike):
        raise TypeError(
            f"source is a {type(source).__name__}: a run table is a path or a pandas DataFrame; "
            "wrap a dict or a list of dicts in pd.DataFrame"
        )
    path = Path(fspath(source))
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        if importlib.util.find_spec("pyarrow") is None:
            raise ImportError(
                "reading .parquet needs pyarrow: install it, or save the table as CSV"
            )
        frame = pd.read_parquet(path)
        return frame if isinstance(frame.index, pd.RangeIndex) else frame.reset_index()
    if suffix not in (".csv", ".tsv", ".txt", ".jsonl", ".ndjson"):
        raise _file_fault(
            path.name,
            "a table file ends in .csv, .tsv, .txt, .parquet, .jsonl or .ndjson",
            "save it as CSV, or pass a DataFrame",
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise _file_fault(path.name, "the file must be UTF-8 text", "save it as UTF-8") from None
    if suffix in (".jsonl", ".ndjson"):
        return _from_json_lines(text, path.name)
    return _from_separated(text, path, "\t" if suffix == ".tsv" else None)


def _from_json_lines(text: str, name: str) -> pd.DataFrame:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise _file_fault(
                f"{name}, line {number}", "each line must be one JSON object", "correct this line"
            )
        rows.append(row)
    return pd.DataFrame(rows)


def _from_separated(text: str, path: Path, separator: str | None) -> pd.DataFrame:
    header = next((line for line in text.splitlines() if line.strip()), "")
    if not header:
        return pd.DataFrame()
    if separator is None:
        separator = max(",;\t", key=header.count)
    names = [name.strip() for name in next(csv.reader([header], delimiter=separator))]
    twice = sorted({n for n in names if n and names.count(n) > 1})
    if twice:
        raise _file_fault(", ".join(twice), "column names must be unique", "rename one of them")
    # A comma can only be the decimal mark where it does not separate columns and no point does.
    body = text[text.find(header) + len(header) :]
    comma = separator != "," and re.search(r"(?:^|[;\t\"\s])[+-]?\d+,\d+(?:[eE]|[;\t\"\s]|$)", body)
    point = re.search(r"(?:^|[;\t\"\s])[+-]?\d*\.\d+(?:[eE]|[;\t\"\s]|$)", body)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path,
                sep=separator,
                decimal="," if comma and not point else ".",
                encoding="utf-8-sig",
                dtype={"run_id": str, "group": str},
                float_precision="round_trip",
                low_memory=False,
                index_col=False,
                skipinitialspace=True,
            )
    except (pd.errors.ParserError, pd.errors.ParserWarning, ValueError) as error:
        raise _file_fault(
            path.name,
            f"every row must have the {len(names)} cells of the header ({_short(error)})",
            "correct the separators and quotes",
        ) from None
    return frame


# --- validating ----------------------------------------------------------------------------------


def _is_blank(values: np.ndarray) -> np.ndarray:
    """Cells that hold nothing: None, NaN, NaT, pd.NA or white space."""
    blank = np.asarray(pd.isna(values), dtype=bool)
    text = [isinstance(v, str) and not v.strip() for v in values] if len(values) else []
    return blank | np.array(text, dtype=bool)


def _float(value: object) -> float:
    """Return the number in a cell, NaN where it holds none."""
    if isinstance(value, bool | np.bool_ | complex | np.complexfloating | pd.Timedelta):
        return np.nan
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return np.nan


class _Table:
    """A table under validation: parsed columns, and which of their cells can be relied on."""

    def __init__(self, frame: pd.DataFrame, report: _Report) -> None:
        self.frame, self.report, self.n = frame, report, len(frame)
        self.x: dict[str, np.ndarray] = {}
        self.ok: dict[str, np.ndarray] = {}

    def cells(self, column: str) -> np.ndarray:
        """Raw cells, shape (n,)."""
        return _objects(self.frame[column].to_numpy(dtype=object))

    def has(self, column: str) -> bool:
        """Whether the column exists and holds anything."""
        return column in self.frame.columns and not bool(_is_blank(self.cells(column)).all())

    def numbers(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Parse a column: values (NaN where blank or unreadable) and where it is blank."""
        if column not in self.frame.columns:
            return np.full(self.n, np.nan), np.ones(self.n, dtype=bool)
        series = self.frame[column]
        if series.dtype.kind in "iuf":
            values = series.to_numpy(dtype=float, na_value=np.nan)
            return values, np.isnan(values)
        raw = self.cells(column)
        blank = _is_blank(raw)
        values = np.array([_float(v) for v in raw], dtype=float)
        blank |= np.array([isinstance(v, float) and v != v for v in raw], dtype=bool)
        bad = ~blank & np.isnan(values)
        self.report.rows(
            bad, column, raw, _NUMBER, "write a plain number with a decimal point, such as 3e-4"
        )
        return values, blank

    def positive(self, column: str, remedy: str, *, least: float = _SMALLEST) -> np.ndarray:
        """Parse a column of positive numbers; return where it is blank."""
        values, blank = self.numbers(column)
        given = ~blank & ~np.isnan(values)
        good = given & (values >= _SMALLEST) & (values <= _LARGEST)
        self.report.rows(given & ~good, column, values, _POSITIVE, remedy)
        small = good & (values < least)
        self.report.rows(small, column, values, f"must be a count, at least {least:g}", remedy)
        self.x[column], self.ok[column] = values, good & ~small
        return blank

    def need(self, column: str, blank: np.ndarray, remedy: str) -> None:
        """Report blank cells of a column that every row must fill."""
        if column in self.frame.columns:
            self.report.rows(
                blank, column, np.full(self.n, "", dtype=object), "must not be empty", remedy
            )
        else:
            self.report.table(column, "absent", "the column is required", remedy)


def _validate(frame: pd.DataFrame, *, group: object, outcome: bool, min_runs: int) -> pd.DataFrame:
    frame = _tidy_columns(frame)
    frame = _choose_group(frame, group)
    run_ids, faults = _run_ids(frame)
    report = _Report(_objects(list(frame.index)), run_ids)
    for fault in faults:
        report.rows(*fault)
    if not len(frame):
        report.table("(rows)", 0, "the table must have at least one row", "add the runs")
        report.raise_if_any()
    _check_groups(frame, report)
    t = _Table(frame, report)
    filled: dict[str, object] = {"run_id": pd.Series(run_ids, index=frame.index, dtype="str")}

    remedy = "give the number of parameters as a count, such as 124e6"
    t.need("n_params", t.positive("n_params", remedy, least=1.0), remedy)
    _budget(t)
    remedy = "give the highest learning rate of the run, such as 3e-4"
    t.need("peak_lr", t.positive("peak_lr", remedy), remedy)
    assumed = _warmup(t)
    kind = _schedule(t)
    _min_lr(t, kind)
    _phases(t, kind)
    _array_integrals(t, kind)
    if outcome:
        filled["final_loss"], filled["diverged"] = _outcome(t, min_runs)
    report.raise_if_any()

    filled |= t.x
    filled["schedule"] = pd.Series(kind, index=frame.index, dtype="str")
    for column in TEMPLATE_COLUMNS:
        if column in filled:
            frame[column] = filled[column]
    if assumed:
        warnings.warn(
            "warmup_steps is not given: min(2000, steps / 2) steps are assumed for every row; "
            "add a warmup_steps column (0 for no warm-up) to say otherwise",
            RunTableWarning,
            stacklevel=3,
        )
    return frame


def _tidy_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """Strip white space around the names of template columns; refuse ambiguous names."""
    if isinstance(frame.columns, pd.MultiIndex):
        raise _file_fault(
            "MultiIndex", "column names must have one level", "flatten the column index"
        )
    names = [c.strip() if isinstance(c, str) else c for c in frame.columns]
    new = [n if n in TEMPLATE_COLUMNS else c for n, c in zip(names, frame.columns, strict=True)]
    twice = [c for c in TEMPLATE_COLUMNS if new.count(c) > 1]
    if twice:
        raise _file_fault(", ".join(twice), "column names must be unique", "rename one of them")
    if new != list(frame.columns):
        frame.columns = new
    return frame


def _text(value: object) -> str:
    """Write a label as text; 3.0 and 3 are the same label."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def _choose_group(frame: pd.DataFrame, group: object) -> pd.DataFrame:
    if group is None:
        return frame
    if "group" not in frame.columns:
        raise _file_fault(
            _short(group), "group= needs a group column", "leave group= out or add the column"
        )
    labels = [_text(v) for v in frame["group"].to_numpy(dtype=object)]
    keep = np.array([v == _text(group) for v in labels], dtype=bool)
    if not keep.any():
        raise _file_fault(
            _short(group),
            f"group= must be one of the table's groups: {_listing(labels)}",
            "choose one of them",
        )
    return frame.loc[keep].copy()


def _listing(labels: Sequence[str]) -> str:
    unique = sorted(set(labels))
    return ", ".join(unique[:8]) + (f", ... ({len(unique)} in all)" if len(unique) > 8 else "")


def _check_groups(frame: pd.DataFrame, report: _Report) -> None:
    if "group" not in frame.columns:
        return
    raw = _objects(frame["group"].to_numpy(dtype=object))
    blank = _is_blank(raw)
    if blank.all():
        return
    report.rows(
        blank, "group", raw, "must be filled in every row or in none", "name the group of this run"
    )
    labels = [_text(v) for v in raw[~blank]]
    if len(set(labels)) > 1:
        report.table(
            "group",
            _listing(labels),
            "mixed groups: losses of different groups are not comparable",
            f"pick one with group={sorted(set(labels))[0]!r}",
        )


def _run_ids(frame: pd.DataFrame) -> tuple[np.ndarray, list[tuple]]:
    """Return identifiers as text and the faults found in them."""
    n = len(frame)
    width = max(3, len(str(max(n - 1, 0))))
    made = _objects([f"run-{i:0{width}d}" for i in range(n)])
    if "run_id" not in frame.columns:
        return made, []
    raw = _objects(frame["run_id"].to_numpy(dtype=object))
    blank = _is_blank(raw)
    if blank.all():
        return made, []
    ids = _objects(["" if b else _text(v) for v, b in zip(raw, blank, strict=True)])
    again = pd.Series(ids).duplicated(keep=False).to_numpy() & ~blank
    return ids, [
        (blank, "run_id", raw, "must be filled in every row or in none", "name this run"),
        (again, "run_id", ids, "must be unique", "rename or remove all but one of these rows"),
    ]


def _budget(t: _Table) -> None:
    """Fill the third of tokens, batch_tokens, steps from the other two."""
    names = ("tokens", "batch_tokens", "steps")
    blank = {
        name: t.positive(name, f"give {unit}", least=1.0)
        for name, unit in zip(
            names,
            ("the training tokens of the whole run", "tokens per step", "the number of steps"),
            strict=True,
        )
    }
    remedy = "give two of tokens, batch_tokens, steps"
    present = [c for c in names if c in t.frame.columns]
    if len(present) < 2:
        for name in [c for c in names if c not in present][: 2 - len(present)]:
            t.report.table(
                name, "absent", "two of tokens, batch_tokens, steps are required", remedy
            )
        for name in names:
            t.ok[name] &= False
        return
    few = sum(b.astype(int) for b in blank.values()) >= 2
    first = np.select([blank[c] for c in present], present, present[0])
    for name in present:
        t.report.rows(
            few & (first == name),
            name,
            np.full(t.n, "", dtype=object),
            "two of tokens, batch_tokens, steps must be given",
            remedy,
        )
    tokens, batch, steps = (t.x[c] for c in names)
    with np.errstate(all="ignore"):
        product, ratio, per_step = batch * steps, tokens / batch, tokens / steps
        all_three = t.ok["tokens"] & t.ok["batch_tokens"] & t.ok["steps"]
        off = all_three & ~(np.abs(product / tokens - 1.0) <= 0.01)
    t.report.rows(
        off,
        "steps",
        steps,
        "tokens, batch_tokens and steps must agree: tokens = batch_tokens x steps within 1 %",
        "correct one of the three or leave one out",
    )
    for name, others, value in (
        ("tokens", ("batch_tokens", "steps"), product),
        ("batch_tokens", ("tokens", "steps"), per_step),
        ("steps", ("tokens", "batch_tokens"), ratio),
    ):
        fill = blank[name] & t.ok[others[0]] & t.ok[others[1]]
        t.x[name] = np.where(fill, value, t.x[name])
        small = fill & ~((value >= 1.0) & (value <= _LARGEST))
        t.report.rows(
            small, name, value, f"must be at least 1, from {others[0]} and {others[1]}", remedy
        )
        t.ok[name] = t.ok[name] | (fill & ~small)


def _warmup(t: _Table) -> bool:
    """Check or assume the warm-up; return whether it was assumed."""
    if not t.has("warmup_steps"):
        t.x["warmup_steps"] = np.minimum(2000.0, t.x["steps"] / 2.0)
        t.ok["warmup_steps"] = t.ok["steps"].copy()
        # Two steps leave a warm-up of one step and a cooldown of one step.
        short = t.ok["steps"] & (t.x["steps"] < 2.0)
        t.report.rows(short, "steps", t.x["steps"], "a run has at least 2 steps", "lengthen it")
        t.ok["warmup_steps"] &= ~short
        return True
    values, blank = t.numbers("warmup_steps")
    t.need("warmup_steps", blank, "give the steps of the warm-up, 0 for none")
    good = ~np.isnan(values)
    negative = good & ~((values >= 0) & (values <= _LARGEST))
    t.report.rows(
        negative,
        "warmup_steps",
        values,
        "must be finite and not negative",
        "give the steps of the warm-up, 0 for none",
    )
    good &= ~negative
    long = good & t.ok["steps"] & (np.maximum(values, 1.0) >= t.x["steps"])
    t.report.rows(
        long,
        "warmup_steps",
        values,
        "the warm-up (at least one step) must end before the run: warmup_steps < steps",
        "shorten the warm-up, or check tokens and batch_tokens",
    )
    t.x["warmup_steps"], t.ok["warmup_steps"] = values, good & ~long
    return False


def _schedule(t: _Table) -> np.ndarray:
    """Normalised schedule names, shape (n,); "" where unknown."""
    remedy = f"use one of {', '.join(SCHEDULES)}"
    if "schedule" not in t.frame.columns:
        t.report.table("schedule", "absent", "the column is required", remedy)
        return np.full(t.n, "", dtype=object)
    raw = t.cells("schedule")
    blank = _is_blank(raw)
    t.need("schedule", blank, remedy)
    names = _objects(
        [v.strip().lower().replace("_", "-") if isinstance(v, str) else "" for v in raw]
    )
    names[names == "wsd-linear"] = "wsd"
    known = np.isin(names, _objects(SCHEDULES))
    t.report.rows(~known & ~blank, "schedule", raw, "unknown schedule", remedy)
    names[~known] = ""
    return names


def _min_lr(t: _Table, kind: np.ndarray) -> None:
    values, blank = t.numbers("min_lr")
    values = np.where(blank, 0.0, values)
    good = ~np.isnan(values)
    out = good & ~((values >= 0) & (values <= _LARGEST))
    remedy = "give the learning rate at the last step, 0 for none"
    t.report.rows(out, "min_lr", values, "must be finite and not negative", remedy)
    t.x["min_lr"], t.ok["min_lr"] = values, good & ~out
    both = t.ok["min_lr"] & t.ok["peak_lr"]
    flat = (kind == "constant") | (kind == "array")
    high = both & np.where(flat, values > t.x["peak_lr"], values >= t.x["peak_lr"])
    t.report.rows(
        high & (kind != ""),
        "min_lr",
        values,
        "must be below peak_lr (for a constant or array schedule: at most peak_lr)",
        "lower min_lr, or use schedule constant for a run that never cools down",
    )


def _phases(t: _Table, kind: np.ndarray) -> None:
    """Check and fill decay_end_step, plateau_lr, cooldown_start_step."""
    a1, steps, peak = t.x["warmup_steps"], t.x["steps"], t.x["peak_lr"]
    known = t.ok["warmup_steps"] & t.ok["steps"]
    polygon, array, flat = kind == "polygon", kind == "array", kind == "constant"
    wsd = (kind == "wsd") | (kind == "wsd-sqrt")
    fixed = (kind != "") & ~polygon & ~array

    def point(name: str, default: np.ndarray, required: np.ndarray, tied: np.ndarray) -> np.ndarray:
        """Fill a phase point; return where it is usable."""
        values, blank = t.numbers(name)
        t.report.rows(
            blank & required,
            name,
            np.full(t.n, "", dtype=object),
            f"schedule {'polygon' if name != 'cooldown_start_step' else 'wsd or polygon'} needs it",
            f"give {name}, or choose a schedule without it",
        )
        usable = ~np.isnan(values) & ~(blank & required)
        slack = np.where(flat & (name == "cooldown_start_step"), 0.01, 1e-6) * np.abs(default)
        with np.errstate(invalid="ignore"):
            clash = usable & ~blank & tied & ~(np.abs(values - default) <= slack)
        base = known if name != "plateau_lr" else t.ok["peak_lr"]
        t.report.rows(
            clash & base,
            name,
            values,
            "contradicts the schedule, which has no such phase",
            f"leave {name} empty, or use schedule wsd or polygon",
        )
        t.x[name] = np.where(blank | tied, default, values)
        return (usable | (blank & ~required)) & ~clash & (kind != "")

    ok2 = point("decay_end_step", a1, polygon, fixed)
    ok_plateau = point("plateau_lr", peak, polygon, fixed)
    a2 = t.x["decay_end_step"]
    default3 = np.where(flat, steps, np.where(array, a2, a1))
    ok3 = point("cooldown_start_step", default3, polygon | wsd, fixed & ~wsd)
    a3, plateau = t.x["cooldown_start_step"], t.x["plateau_lr"]

    with np.errstate(invalid="ignore"):
        late2 = known & ok2 & ~((a2 >= a1) & (a2 < steps))
        late3 = known & ok3 & ~flat & ~((a3 >= a1) & (a3 < steps))
        late3 |= known & ok2 & ok3 & ~late2 & ~flat & (a3 < a2)
    for name, bad, values in (
        ("decay_end_step", late2, a2),
        ("cooldown_start_step", late3, a3),
    ):
        t.report.rows(bad, name, values, _ORDER, "correct the phase point or the length of the run")
    with np.errstate(invalid="ignore"):
        high = t.ok["peak_lr"] & ok_plateau & ~((plateau >= _SMALLEST) & (plateau <= peak))
        low = t.ok["min_lr"] & ok_plateau & ~high & polygon & (t.x["min_lr"] >= plateau)
        low &= ~(t.ok["peak_lr"] & (t.x["min_lr"] >= peak))
    t.report.rows(
        high,
        "plateau_lr",
        plateau,
        "must be positive and at most peak_lr",
        "give the learning rate of the plateau",
    )
    t.report.rows(
        low, "plateau_lr", plateau, "must be above min_lr", "lower min_lr or raise plateau_lr"
    )


def _array_integrals(t: _Table, kind: np.ndarray) -> None:
    """Check the integrals that rows with schedule "array" carry."""
    array = kind == "array"
    if not array.any():
        return
    for name in INTEGRAL_COLUMNS:
        values, blank = t.numbers(name)
        least = 0.0 if name == "escape_cooldown" else _SMALLEST
        with np.errstate(invalid="ignore"):
            good = (values >= least) & (values <= _LARGEST)
        t.report.rows(
            array & (blank | ~np.isnan(values)) & ~good,
            name,
            np.where(blank, "", _objects(values)),
            "a schedule given as array needs its integral, positive and finite",
            "fill the row from Schedule.from_array(...).to_row()",
        )
        t.x[name] = values


def _outcome(t: _Table, min_runs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return loss (NaN where diverged and unknown) and the divergence flag."""
    loss, blank = t.numbers("final_loss")
    remedy = "give the final loss in nats per token"
    if "final_loss" not in t.frame.columns:
        t.report.table("final_loss", "absent", "the column is required", remedy)
        loss, blank = np.ones(t.n), np.zeros(t.n, dtype=bool)
    diverged = np.zeros(t.n, dtype=bool)
    unknown = np.zeros(t.n, dtype=bool)
    if t.has("diverged"):
        raw = t.cells("diverged")
        empty = _is_blank(raw)
        words = [str(v).strip().lower() if isinstance(v, _FLAGS) else "?" for v in raw]
        diverged = np.isin(words, ["true", "yes", "1", "1.0"])
        unknown = ~diverged & ~np.isin(words, ["false", "no", "0", "0.0"])
        ways = "use true or false (or 1 or 0, yes or no)"
        t.report.rows(unknown & ~empty, "diverged", raw, "must be true or false", ways)
        t.report.rows(empty, "diverged", raw, "must be filled in every row or in none", ways)
    infinite = np.isposinf(loss)
    absent = (blank | infinite) & ~diverged & ~unknown
    shown = np.where(blank, "", _objects(loss))
    t.report.rows(
        absent,
        "final_loss",
        shown,
        "must be finite where the run did not diverge",
        "give the final loss, or mark the run as diverged",
    )
    low = ~blank & ~infinite & (loss <= 0)
    t.report.rows(low, "final_loss", loss, "must be positive", remedy)
    huge = ~infinite & ((loss > _LARGEST) | ((loss > 0) & (loss < _SMALLEST)))
    t.report.rows(huge, "final_loss", loss, _POSITIVE, remedy)
    count = int(np.sum(~diverged))
    if count < min_runs:
        t.report.table(
            "final_loss",
            count,
            f"at least {min_runs} runs must not have diverged",
            "add runs, or lower min_runs",
        )
    return np.where(infinite, np.nan, loss), diverged


_FLAGS = (bool, np.bool_, int, float, np.integer, np.floating, str)
