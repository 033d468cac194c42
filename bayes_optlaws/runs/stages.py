"""Run tables of several training stages: reading, earlier stages, sets and configurations."""

from __future__ import annotations

from os import PathLike

import numpy as np
import pandas as pd

from bayes_optlaws.runs.columns import is_blank, tidy_columns
from bayes_optlaws.runs.faults import Report, objects, table_fault, text
from bayes_optlaws.runs.files import load
from bayes_optlaws.runs.readers import read_candidates, read_runs
from bayes_optlaws.schedules import integrals

SETTINGS = (
    "peak_lr",
    "min_lr",
    "warmup_steps",
    "decay_end_step",
    "plateau_lr",
    "cooldown_start_step",
    "schedule",
    "batch_tokens",
)
"""Columns that make two runs of a set the same configuration."""


def read_stages(source: str | PathLike | pd.DataFrame) -> pd.DataFrame:
    """Read and validate a run table with the columns ``stage`` and ``parent``.

    Parameters
    ----------
    source : path or DataFrame
        A run table as for `read_runs`, of one group or several (later stages are mostly trained on
        other data). ``stage`` counts from 1, training from scratch; ``parent`` is the ``run_id`` of
        the run that a later stage continues, which must be in the table.

    Returns
    -------
    DataFrame
        The validated rows, in the order and with the index given.

    Raises
    ------
    RunTableError
        Listing every fault of the rows of a group, or of the stages.
    """
    frame = tidy_columns(load(source))
    if "stage" not in frame.columns:
        raise table_fault("stage", "absent", "the column is required", "1 where from scratch")
    labels = objects([text(v) for v in frame["group"]] if "group" in frame else [""] * len(frame))
    parts, places = [], []
    for label in dict.fromkeys(labels):
        group = label if "group" in frame else None
        parts.append(read_runs(frame, group=group, min_runs=0))
        places.append(np.flatnonzero(labels == label))
    order = np.argsort(np.concatenate(places), kind="stable")
    table = pd.concat(parts).iloc[order]
    _check_stages(table)
    return table


def _check_stages(table: pd.DataFrame) -> None:
    """Refuse stages that are no counts, and parents that are not runs of an earlier stage."""
    ids = table["run_id"].to_numpy(dtype=object)
    report = Report(table.index, ids)
    again = pd.Series(ids).duplicated(keep=False).to_numpy()
    report.rows(again, "run_id", ids, "must be unique in all groups", "rename these rows")
    stage = pd.to_numeric(table["stage"], errors="coerce").to_numpy(float)
    whole = (stage >= 1) & (stage == np.round(stage))
    report.rows(
        ~whole, "stage", table["stage"].to_numpy(object), "must be 1, 2, ...", "count the stages"
    )
    if report.parts:
        raise report.error()
    parent = parents(table)
    report.rows(
        (parent == "") & (stage > 1),
        "parent",
        parent,
        "a later stage needs the run it continues",
        "give the run_id of that run",
    )
    report.rows(
        (parent != "") & (stage == 1),
        "parent",
        parent,
        "a run from scratch continues none",
        "leave it empty, or correct the stage",
    )
    row = dict(zip(ids, range(len(ids)), strict=True))
    found = np.array([row.get(p, -1) for p in parent])
    named = (parent != "") & (stage > 1)
    report.rows(
        named & (found < 0),
        "parent",
        parent,
        "must be the run_id of a run in the table",
        "add the row of that run",
    )
    known = named & (found >= 0)
    report.rows(
        known & (stage[found] >= stage),
        "parent",
        parent,
        "must be of an earlier stage",
        "correct stage or parent",
    )
    size = table["n_params"].to_numpy(float)
    report.rows(
        known & (size[found] != size),
        "parent",
        parent,
        "must have the same n_params: a later stage trains the same model",
        "correct parent or n_params",
    )
    if report.parts:
        raise report.error()


def parents(table: pd.DataFrame) -> np.ndarray:
    """Run ids of the runs continued, "" where there is none, shape (n,)."""
    if "parent" not in table.columns:
        return objects([""] * len(table))
    raw = table["parent"].to_numpy(dtype=object)
    return objects("" if b else text(v) for v, b in zip(raw, is_blank(raw), strict=True))


def chain(table: pd.DataFrame, run_id: str) -> pd.DataFrame:
    """Rows from the run trained from scratch to ``run_id``, which is the last."""
    by_id = dict(zip(table["run_id"], range(len(table)), strict=True))
    if run_id not in by_id:
        raise KeyError(f"run_id {run_id!r} is not in the table of {len(table)} runs")
    parent, rows = parents(table), [by_id[run_id]]
    while before := parent[rows[-1]]:
        rows.append(by_id[before])
    return table.iloc[rows[::-1]]


def earlier_of_runs(table: pd.DataFrame) -> np.ndarray:
    """Convergence integrals (warm-up, cooldown) before each run and stages before, shape (3, n)."""
    area = integrals(table)
    own = np.stack([area.conv_warmup, area.conv_cooldown, np.ones(len(table))])
    row = dict(zip(table["run_id"], range(len(table)), strict=True))
    parent, before = parents(table), np.zeros((3, len(table)))
    for i in np.argsort(table["stage"].to_numpy(float), kind="stable"):
        if parent[i]:
            j = row[parent[i]]
            before[:, i] = before[:, j] + own[:, j]
    return before


def earlier_of_candidates(candidates: pd.DataFrame, history: object) -> np.ndarray:
    """Convergence integrals (warm-up, cooldown) and number of stages before each candidate.

    Parameters
    ----------
    candidates : DataFrame
        Validated candidate table.
    history : path or DataFrame
        Candidate or run table of the earlier stages. With a column ``candidate``, which holds
        labels of ``candidates.index``, each row is a stage of that candidate; else each row is a
        stage of all.

    Returns
    -------
    array, shape (3, n)

    Raises
    ------
    RunTableError
        When a row has faults, is of another model size, or names no candidate.
    """
    frame = tidy_columns(load(history)).drop(columns=["group"], errors="ignore")
    each = "candidate" in frame.columns
    if each:  # several candidates may continue one run
        frame = frame.drop(columns=["run_id"], errors="ignore")
    rows = read_candidates(frame)
    sizes = candidates["n_params"].to_numpy(float)
    labels = rows["candidate"].to_numpy(object) if each else np.full(len(rows), None)
    place = candidates.index.get_indexer(pd.Index(labels)) if each else np.zeros(len(rows), int)
    report = Report(rows.index, rows["run_id"])
    report.rows(
        place < 0, "candidate", labels, "must be the label of a candidate", "use the index labels"
    )
    own = rows["n_params"].to_numpy(float)
    other = own != sizes[place] if each else ~np.isin(own, sizes) | (np.unique(sizes).size > 1)
    report.rows(
        other & (place >= 0),
        "n_params",
        own,
        "an earlier stage has the n_params of the candidate that continues it",
        "correct it, or name the candidate of each row in a column candidate",
    )
    if each:
        bare = ~np.isin(np.arange(len(candidates)), place)
        if bare.any():
            report.table(
                "candidate",
                candidates.index[bare][0],
                "every candidate needs its earlier stages",
                "add a row for it",
            )
    if report.parts:
        raise report.error()
    area = integrals(rows)
    own = np.stack([area.conv_warmup, area.conv_cooldown, np.ones(len(rows))])
    if not each:
        return np.repeat(own.sum(axis=1)[:, None], len(candidates), axis=1)
    before = np.zeros((3, len(candidates)))
    np.add.at(before.T, place, own.T)
    return before


def earlier_of_more(
    more: pd.DataFrame, candidates: pd.DataFrame, before: np.ndarray, history: object
) -> np.ndarray:
    """Convergence integrals and number of stages before runs that could be made.

    Parameters
    ----------
    more : DataFrame
        Validated runs; where the history differs by candidate, with the column ``candidate``.
    candidates : DataFrame
        Validated candidates.
    before : array, shape (3, n_candidates)
        As from `earlier_of_candidates`.
    history : path or DataFrame

    Returns
    -------
    array, shape (3, n)

    Raises
    ------
    RunTableError
        When a run names no candidate or has another model size than it.
    """
    if "candidate" not in tidy_columns(load(history)).columns:
        return earlier_of_candidates(more, history)
    if "candidate" not in more.columns:
        raise table_fault(
            "candidate",
            "absent",
            "the history differs by candidate, so a run of the pool needs the column",
            "name in each row the candidate whose history it has",
        )
    named = more["candidate"].to_numpy(object)
    place = candidates.index.get_indexer(pd.Index(named))
    ids = more["run_id"] if "run_id" in more else pd.Series(more.index.astype(str))
    report = Report(more.index, ids)
    report.rows(
        place < 0, "candidate", named, "must be the label of a candidate", "use the index labels"
    )
    own = more["n_params"].to_numpy(float)
    other = own != candidates["n_params"].to_numpy(float)[place]
    report.rows(
        other & (place >= 0),
        "n_params",
        own,
        "must be that of the candidate whose history it has",
        "correct it, or name another candidate",
    )
    if report.parts:
        raise report.error()
    return before[:, place]


def set_keys(table: pd.DataFrame, n_stages: np.ndarray) -> list[tuple]:
    """What the runs of a set share: group, model size, tokens and number of earlier stages."""
    group = [text(v) for v in table["group"]] if "group" in table else [""] * len(table)
    size, tokens = table["n_params"].to_numpy(float), table["tokens"].to_numpy(float)
    return list(zip(group, size.tolist(), tokens.round().tolist(), n_stages.tolist(), strict=True))


def setting_keys(table: pd.DataFrame, before: np.ndarray) -> list[tuple]:
    """What the replicates of a configuration share beside their set."""
    columns = [table[c].to_numpy(object).tolist() for c in SETTINGS]
    return list(zip(*columns, *before[:2].round(12).tolist(), strict=True))
