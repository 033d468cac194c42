"""What the command line writes: tables, JSON, files that are never replaced unasked."""

from __future__ import annotations

import io
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy as np
import pandas as pd

from bayes_optlaws.cli.reading import in_options
from bayes_optlaws.runs.faults import TEMPLATE_COLUMNS
from bayes_optlaws.text import files
from bayes_optlaws.text.html import percent
from bayes_optlaws.text.printable import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

    from bayes_optlaws.decision.ranking import Ranking

_WIDTH = 120  # of output that is no terminal


class UsageError(ValueError):
    """An input or output that cannot be used; the message says what to do."""


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else _WIDTH)


def note(text: str) -> None:
    """Print a remark to standard error."""
    print(printable(text), file=sys.stderr)


@overload
def free(path: str, force: bool, *, inputs: Sequence[str]) -> Path: ...


@overload
def free(path: None, force: bool, *, inputs: Sequence[str]) -> None: ...


def free(path: str | None, force: bool, *, inputs: Sequence[str]) -> Path | None:
    """Return an output path, refused when something is there and ``--force`` was not given."""
    if path is None:
        return None
    target = Path(path)
    if target.is_dir():
        raise UsageError(f"{target} is a folder: give the name of a file")
    if any(target.resolve() == Path(i).resolve() for i in inputs):
        raise UsageError(f"{target} is also an input: give another name")
    if target.exists() and not target.is_file():
        raise UsageError(f"{target} is no regular file: give another name")
    if target.exists() and not force:
        raise UsageError(f"{target} exists: give another name, or --force to replace it")
    return target


def write_csv(
    table: pd.DataFrame,
    target: Path | None,
    *,
    index: bool = True,
    index_label: str = "candidate",
) -> None:
    """Write a result, where an output was asked for."""
    if target is not None:
        files.write(target, files.csv_text(table, index=index, index_label=index_label))
        note(f"written to {target}")


def tidy(runs: pd.DataFrame) -> pd.DataFrame:
    """Put the columns of the run table first, and write whole numbers as such."""
    first = [c for c in TEMPLATE_COLUMNS if c in runs.columns]
    table = runs[[*first, *(c for c in runs.columns if c not in first)]]
    whole = {
        c: table[c].astype(np.int64)
        for c in first
        if table[c].dtype.kind == "f"
        and bool(((table[c] == table[c].round()) & (table[c].abs() < 1e15)).all())
    }
    return table.assign(**whole)


def print_wrapped(text: str, *, indent: str = "") -> None:
    """Print prose in lines of readable length."""
    print(
        textwrap.fill(
            printable(text),
            100,
            break_on_hyphens=False,
            initial_indent=indent,
            subsequent_indent=indent * 2,
        )
    )


def use_file_backend() -> None:
    """Draw into files, whatever display there is."""
    import matplotlib

    matplotlib.use("Agg")


def free_figure(path: str | None, force: bool, *, inputs: Sequence[str]) -> Path | None:
    """As `free`, for a figure: a name that says no known format is refused as well."""
    target = free(path, force, inputs=inputs) if path is not None else None
    known = (".png", ".pdf", ".svg")
    if target is not None and target.suffix.lower() not in known:
        raise UsageError(f"{target}: a figure ends in {', '.join(known)}")
    return target


class HasPlot(Protocol):
    """A ranking, a plan or another result that draws itself."""

    def plot(self) -> Figure:
        """Draw the result."""
        ...


def save_figure(result: HasPlot, target: Path) -> None:
    """Draw a result into a file."""
    use_file_backend()
    from matplotlib import pyplot as plt

    figure = result.plot()
    write_figure(figure, target, dpi=150)
    plt.close(figure)
    note(f"written to {target}")


def write_figure(figure: Figure, target: Path, *, dpi: int) -> None:
    """Write a figure in the format that its name says."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format=target.suffix.lower().removeprefix("."), dpi=dpi)
    files.write(target, drawn.getvalue())


def print_ranking(ranking: Ranking) -> None:
    """Print the answer, the table and what to know before acting."""
    print_wrapped(" ".join(ranking.sentences(notes=False)))
    print_notes(ranking.notes)
    print()
    loss = ranking.loss_decimals
    scores = ranking.level == "score"
    centre, lower, upper = (
        ("score", "gap_lower", "gap_upper") if scores
        else ("loss_mean", "loss_lower", "loss_upper")
    )  # fmt: skip
    risk = ranking.risk_matters
    rows = []
    for (label, row), regret in zip(ranking.table.iterrows(), ranking.regret_texts, strict=True):
        cells = [
            str(label), f"{row[centre]:.{loss}f}",
            f"{row[lower]:.{loss}f} to {row[upper]:.{loss}f}",
            percent(row["p_best"], row["p_best_se"]),
            percent(row["p_best_or_tied"], row["p_best_se"]), f"{row['expected_rank']:.1f}",
            regret, percent(row["p_diverge"]),
            f"{row['tie_group']:.0f}",
        ]  # fmt: skip
        rows.append([*cells, f"{row['rank_without_risk']:.0f}"] if risk else cells)
    heads = ["candidate", "score" if scores else "loss", f"{100 * ranking.prob:g} % interval",
             "P(best)", "or tied", "rank", "regret", "diverges", "tie group"]  # fmt: skip
    print_table([*heads, "without risk"] if risk else heads, rows)
    counted = "expected loss over seeds" if ranking.kind == "mean" else "loss of one run"
    print_wrapped(
        "Nats per token. loss: of one run that finishes; P(best), rank and regret: by "
        f"{counted}, a diverged run counting as {ranking.divergence_cost:.3g}; or tied: expected "
        f"loss within {ranking.tie:.2g} of the lowest; tie group 1: none is shown to be worse than "
        "another by more than that"
        + ("; without risk: the place if no run diverged." * risk or ".")
    )


def print_notes(notes: Sequence[str], *, title: str = "Before you act:") -> None:
    """Print what to know before acting."""
    if notes:
        print(title)
        for text in notes:
            print_wrapped(f"- {in_options(text)}", indent="  ")


def print_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)
) -> None:
    """Print rows of text as a table; ``left`` columns are flush left."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, head in enumerate(heads):
        table.add_column(Text(head), justify="left" if i in left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    _console().print(table)


def records(table: pd.DataFrame, *, index: bool = True) -> list[dict[str, Any]]:
    """Return the rows of a result for JSON."""
    if index:
        name = "candidate" if "row" not in table else "position"
        table = table.rename_axis(name).reset_index()
    return table.to_dict("records")


def print_json(value: object) -> None:
    """Print a result as JSON on standard output."""
    print(json.dumps(_plain(value), indent=2, ensure_ascii=False))


def _plain(value: Any) -> Any:
    """Make a value fit for JSON, which has no NaN, no infinity and no NumPy."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)
