"""A fitted law from a file, for studies that take one: only if it was fitted to the right runs."""

from __future__ import annotations

from pathlib import Path

from bayes_optlaws import datasets
from bayes_optlaws.evaluation.manifest import FolderError, table_digest
from bayes_optlaws.law import OptLaw
from bayes_optlaws.runs.faults import TEMPLATE_COLUMNS
from bayes_optlaws.runs.readers import read_runs


def law_of(path: str | Path, table: str) -> OptLaw:
    """Load a law that was fitted to a shipped table.

    Parameters
    ----------
    path : path
    table : str
        Name of the table, as `bayes_optlaws.datasets.load` takes it.

    Raises
    ------
    FolderError
        When the law was fitted to other runs.
    LawFileError
        When the file is no law, or damaged.
    """
    law = OptLaw.load(path)
    runs = read_runs(datasets.load(table))
    columns = [c for c in TEMPLATE_COLUMNS if c in runs.columns]
    same = {*columns} <= {*law.runs.columns}
    if not same or table_digest(law.runs[columns]) != table_digest(runs[columns]):
        raise FolderError(
            f"{path} was fitted to {len(law.runs)} runs that are not those of {table!r} "
            f"({len(runs)} runs): make it with `bayes-optlaws datasets {table} -o runs.csv` and "
            "`bayes-optlaws fit runs.csv -o law.nc`"
        )
    return law
