"""The run table: one row a finished (or planned) run, validated with one report of all faults.

Units: ``n_params`` parameters, ``tokens`` tokens, ``batch_tokens`` tokens per optimizer step,
``peak_lr``, ``min_lr``, ``plateau_lr`` learning rate of one step, ``warmup_steps``,
``decay_end_step``, ``cooldown_start_step`` optimizer steps, ``final_loss`` nats per token.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import pandas as pd

from bayes_optlaws.runs import rules as checks
from bayes_optlaws.runs.columns import (
    Table,
    check_groups,
    check_run_ids,
    choose_group,
    refuse_signalling,
    run_ids,
    tidy_columns,
)
from bayes_optlaws.runs.conversion import Options
from bayes_optlaws.runs.faults import (
    TEMPLATE_COLUMNS,
    Report,
    RunTableError,
    RunTableWarning,
    table_fault,
)
from bayes_optlaws.runs.files import Source, load
from bayes_optlaws.runs.meaning import NO_LOSS, interpret
from bayes_optlaws.runs.plausible import doubts

__all__ = ["RunTableError", "RunTableWarning", "read_candidates", "read_runs"]


def read_runs(
    source: Source,
    *,
    columns: Mapping[object, str] | None = None,
    units: Mapping[object, object] | None = None,
    loss_unit: str | None = None,
    sequence_length: float | None = None,
    vocab_size: float | None = None,
    bytes_per_token: float | None = None,
    status: Mapping[str, str] | None = None,
    schedules: Mapping[str, str] | None = None,
    cooldown: float | None = None,
    group: object = None,
    min_runs: int = 5,
    mixed_groups: bool | None = None,
) -> pd.DataFrame:
    """Read and validate a table of finished runs, also one as a trainer or tracker writes it.

    Names, units and schedules that common trainers write are recognised, and numbers as people
    write them ("0.1B", "100,000,000", "3.81k", "5%"). Everything that was converted is a sentence
    in ``attrs["notes"]`` of the result; `suggest_mapping` shows it as a table. Where two readings
    are possible the table is refused, with the argument that settles it.

    Parameters
    ----------
    source : path, DataFrame, list of dict or dict of lists
        A ``.csv``, ``.tsv``, ``.parquet`` (needs pyarrow), ``.jsonl`` / ``.ndjson`` (one JSON
        object a line) file, or a table in memory, which is copied and never changed.
        Semicolon-separated CSV and decimal commas are recognised.
    columns : mapping, optional
        Your column -> what it is, such as ``{"exp/lr": "peak_lr"}``: a column of the run table, or
        ``warmup_share``, ``batch_sequences``, ``perplexity``, ``min_lr_share``, ...
    units : mapping, optional
        Column -> what one unit of it is: a factor (1e9, "B", "M", "k"), or "share" (of the steps),
        "sequences", "tokens", "ppl", "bits".
    loss_unit : {"nats", "bits", "ppl", "bpb"}, optional
        Unit of the loss: nats or bits a token, perplexity, bits a byte. Losses in bits a byte stay
        so (``attrs["loss_unit"]``) unless `bytes_per_token` is given.
    sequence_length : int, optional
        Tokens in one sequence, for a batch that is counted in sequences.
    vocab_size : int, optional
        Losses above its logarithm are warned of.
    bytes_per_token : float, optional
        Of the tokenizer on the data of the loss.
    status : mapping, optional
        Word of a status column -> "diverged", "finished" or "drop", such as ``{"crashed":
        "diverged", "running": "drop"}``; the word "no loss" is for runs without a final loss.
    schedules : mapping, optional
        Your name of a schedule -> one of the run table.
    cooldown : float, optional
        Share of the steps spent cooling down where the schedule is wsd and no column says it.
    group : object, optional
        Keep only the rows whose ``group`` is this. Needed when the table holds several groups:
        losses of different groups (data, tokenizer, architecture) are not comparable.
    min_runs : int
        Least number of runs that did not diverge.
    mixed_groups : bool, optional
        Take a table with several groups, for ``OptLaw(groups="pooled")``. By default a table that
        was read so before.

    Returns
    -------
    DataFrame
        The same rows and index (files: 0, 1, ...), all columns kept, the template columns filled:
        ``run_id`` (str), ``n_params``, ``tokens``, ``batch_tokens``, ``steps``, ``peak_lr``,
        ``warmup_steps``, ``min_lr``, ``decay_end_step``, ``plateau_lr``, ``cooldown_start_step``,
        ``final_loss`` (float; NaN where diverged and unknown), ``schedule`` (str), ``diverged``
        (bool). Where given also ``loss_sd``, the standard error of the loss as measured, and
        ``n_seeds``, the runs that it is the mean of; see `bayes_optlaws.model.measurement`.

    Raises
    ------
    RunTableError
        Once, listing every fault of every row and everything with two readings; see its
        ``problems`` and ``answers``.
    FileNotFoundError
        When the path does not exist.
    TypeError
        When `source` is neither a path nor a table.
    ValueError
        When an option has a value that it cannot have.

    Warns
    -----
    RunTableWarning
        Once a table: when no row says how long the warm-up was (5 % of the steps are assumed, own
        choice), and for what is possible and yet hardly meant: a batch below 1,000 tokens, a loss
        above that of an untrained model, copies of a run, two units in one column.

    Notes
    -----
    Accepted without comment: any two of ``tokens``, ``batch_tokens``, ``steps`` (all three must
    agree within 1 %, and are kept as given); schedule names in any case, with ``_`` for ``-``, and
    ``wsd-linear`` for ``wsd``; ``diverged`` as bool, 0/1, true/false, yes/no; no ``diverged``
    column when every loss is finite; infinite loss where diverged (stored as NaN); no ``min_lr``
    (0); no ``run_id`` (made from the row position); numbers written as text. A warm-up of 0 steps
    stays 0 in the table and counts as one step in the integrals. Columns that were taken for one
    of the run table are replaced by it; all others are kept.

    Examples
    --------
    >>> import pandas as pd
    >>> export = pd.DataFrame({"params": "350M", "tokens (B)": 7.0, "batch_size": 256,
    ...     "seq_len": 2048, "lr": ["1e-4", "2e-4", "4e-4", "8e-4", "1.6e-3"], "warmup_ratio": 0.01,
    ...     "lr_scheduler_type": "cosine_with_min_lr", "min_lr_ratio": 0.1,
    ...     "eval/loss": [2.94, 2.91, 2.90, 2.92, 2.97]})
    >>> runs = read_runs(export)
    >>> runs[["n_params", "batch_tokens", "warmup_steps", "min_lr", "final_loss"]].head(1)
          n_params  batch_tokens  warmup_steps   min_lr  final_loss
    0  350000000.0      524288.0         134.0  0.00001        2.94
    >>> runs.attrs["notes"][0]
    "params: text such as '350M' was read as 350M."
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
    options = Options(
        columns=columns,
        units=units,
        loss_unit=loss_unit,
        sequence_length=sequence_length,
        vocab_size=vocab_size,
        bytes_per_token=bytes_per_token,
        status=status,
        schedules=schedules,
        cooldown=cooldown,
    )
    return _validate(
        load(source), options, group=group, min_runs=min_runs, mixed_groups=mixed_groups
    )


def read_candidates(
    source: Source,
    *,
    columns: Mapping[object, str] | None = None,
    units: Mapping[object, object] | None = None,
    sequence_length: float | None = None,
    schedules: Mapping[str, str] | None = None,
    cooldown: float | None = None,
    group: object = None,
    warn: bool = True,
    mixed_groups: bool | None = None,
) -> pd.DataFrame:
    """Read and validate a table of planned runs: a run table without the outcome columns.

    ``final_loss`` and ``diverged`` are neither needed nor checked, and kept as they are if
    present. Everything else is as in `read_runs`.

    Parameters
    ----------
    source : path, DataFrame, list of dict or dict of lists
        As for `read_runs`.
    columns, units, sequence_length, schedules, cooldown, group, mixed_groups
        As for `read_runs`.
    warn : bool
        Whether to warn of what is possible and yet hardly meant.

    Returns
    -------
    DataFrame
        The candidates, in the order and with the index given; those of a file or list are named
        by their ``run_id`` where it has one.

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
    options = Options(
        columns=columns,
        units=units,
        sequence_length=sequence_length,
        schedules=schedules,
        cooldown=cooldown,
        outcome=False,
    )
    table = load(source)
    read = _validate(table, options, group=group, min_runs=0, warn=warn, mixed_groups=mixed_groups)
    if isinstance(source, pd.DataFrame) or not isinstance(table.index, pd.RangeIndex):
        return read
    if read["run_id"].iloc[0] == run_ids(read[[]])[0]:
        return read  # made from the position: the table names no rows
    return read.set_index(pd.Index(read["run_id"], name=None))


def _validate(
    frame: pd.DataFrame,
    options: Options,
    *,
    group: object,
    min_runs: int,
    warn: bool = True,
    mixed_groups: bool | None = None,
) -> pd.DataFrame:
    before = frame.attrs | ({"mixed_groups": True} if mixed_groups else {})
    mixed = bool(before.get("mixed_groups")) if mixed_groups is None else mixed_groups
    refuse_signalling(frame)
    read = interpret(choose_group(tidy_columns(frame), group), options)
    frame = read.frame
    if not len(frame):
        raise table_fault("(rows)", 0, "the table must have at least one row", "add the runs")
    ids = run_ids(frame)
    report = Report(frame.index, ids)
    answers = read.answers
    for question in read.questions:
        report.table(question.column, question.value, question.rule, question.remedy)
    check_run_ids(ids, report)
    check_groups(frame, report, mixed=mixed)
    t = Table(frame, report)
    remedy = "give the number of parameters as a count, such as 124e6"
    t.need("n_params", t.positive("n_params", remedy, least=1.0), remedy, near=read.near)
    checks.budget(t, near=read.near)
    remedy = "give the highest learning rate of the run, such as 3e-4"
    t.need("peak_lr", t.positive("peak_lr", remedy), remedy, near=read.near)
    checks.warmup(t)
    kind = checks.schedule(t, near=read.near)
    checks.min_lr(t, kind)
    checks.phases(t, kind)
    checks.array_integrals(t, kind)
    filled, measured = dict(t.x), {}
    if options.outcome:
        filled["final_loss"], filled["diverged"] = checks.outcome(t, min_runs, near=read.near)
        filled |= (measured := checks.measurement(t, filled["final_loss"]))
        if t.no_loss.any():
            answers["status"] = {**answers.get("status", {}), NO_LOSS: "diverged"}
    if report.parts:
        raise report.error(answers)

    filled["run_id"] = pd.Series(ids, index=frame.index, dtype="str")
    filled["schedule"] = pd.Series(kind, index=frame.index, dtype="str")
    columns = {c: filled[c] for c in (*TEMPLATE_COLUMNS, *measured) if c in filled}
    frame = frame.assign(**columns)
    doubtful = doubts(frame, outcome=options.outcome, vocab_size=options.vocab_size) if warn else []
    if t.warmup_assumed:
        doubtful.insert(
            0,
            f"warmup_steps is not given: {100 * checks.ASSUMED_WARMUP:g} % of the steps are "
            "assumed for every row; add a warmup_steps column (0 for no warm-up) to say otherwise",
        )
    said = list(before.get("warned", []))
    frame.attrs = dict(before)
    frame.attrs["notes"] = list(dict.fromkeys([*before.get("notes", []), *read.notes, *doubtful]))
    frame.attrs["warned"] = list(dict.fromkeys([*said, *doubtful]))
    if read.loss_unit != "nats per token":
        frame.attrs["loss_unit"] = read.loss_unit
    for text in doubtful:
        if text not in said:  # once a table, however often it is read again
            warnings.warn(text, RunTableWarning, stacklevel=3)
    return frame
