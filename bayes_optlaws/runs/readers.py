"""The run table: one row a finished (or planned) run, validated with one report of all faults.

Units: ``n_params`` parameters, ``tokens`` tokens, ``batch_tokens`` tokens per optimizer step,
``peak_lr``, ``min_lr``, ``plateau_lr`` learning rate of one step, ``warmup_steps``,
``decay_end_step``, ``cooldown_start_step`` optimizer steps, ``final_loss`` nats per token.
"""

from __future__ import annotations

import warnings
from os import PathLike

import pandas as pd

from bayes_optlaws.runs import rules as checks
from bayes_optlaws.runs.columns import (
    Table,
    check_groups,
    check_run_ids,
    choose_group,
    run_ids,
    tidy_columns,
)
from bayes_optlaws.runs.faults import (
    TEMPLATE_COLUMNS,
    Report,
    RunTableError,
    RunTableWarning,
    table_fault,
)
from bayes_optlaws.runs.files import load

__all__ = ["RunTableError", "RunTableWarning", "read_candidates", "read_runs"]


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
    bayes_optlaws.runs.readers.RunTableError: the table has 1 problem in 1 row; nothing was read.
    row  run_id   column   value  rule                                                  remedy
    3    run-003  peak_lr  -1     must be positive and finite (between 1e-30 and 1e30)  give ...
    """
    return _validate(load(source), group=group, outcome=True, min_runs=min_runs)


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
    return _validate(load(source), group=group, outcome=False, min_runs=0)


def _validate(frame: pd.DataFrame, *, group: object, outcome: bool, min_runs: int) -> pd.DataFrame:
    frame = choose_group(tidy_columns(frame), group)
    if not len(frame):
        raise table_fault("(rows)", 0, "the table must have at least one row", "add the runs")
    ids = run_ids(frame)
    report = Report(frame.index, ids)
    check_run_ids(ids, report)
    check_groups(frame, report)
    t = Table(frame, report)
    remedy = "give the number of parameters as a count, such as 124e6"
    t.need("n_params", t.positive("n_params", remedy, least=1.0), remedy)
    checks.budget(t)
    remedy = "give the highest learning rate of the run, such as 3e-4"
    t.need("peak_lr", t.positive("peak_lr", remedy), remedy)
    checks.warmup(t)
    kind = checks.schedule(t)
    checks.min_lr(t, kind)
    checks.phases(t, kind)
    checks.array_integrals(t, kind)
    filled: dict[str, object] = {"run_id": pd.Series(ids, index=frame.index, dtype="str")}
    filled |= t.x
    filled["schedule"] = pd.Series(kind, index=frame.index, dtype="str")
    if outcome:
        filled["final_loss"], filled["diverged"] = checks.outcome(t, min_runs)
    if report.parts:
        raise report.error()

    for column in TEMPLATE_COLUMNS:
        if column in filled:
            frame[column] = filled[column]
    if t.warmup_assumed:
        warnings.warn(
            "warmup_steps is not given: min(2000, steps / 2) steps are assumed for every row; "
            "add a warmup_steps column (0 for no warm-up) to say otherwise",
            RunTableWarning,
            stacklevel=3,
        )
    return frame
