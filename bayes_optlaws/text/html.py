"""Shared pieces of the ``_repr_html_`` of results: plain HTML, styled inline, no script.

Colours are one blue laid over whatever background the page has, so tables stay readable in light
and dark notebooks; nothing is said by colour alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from html import escape
from typing import Any

import numpy as np
import pandas as pd

# Blue of Okabe and Ito's palette, which colour-blind readers can tell from the other hues.
_BLUE = "0, 114, 178"
_DARKEST = 0.45

_EVERY = "padding: 2px 8px; vertical-align: top;"
_CELL = f"{_EVERY} text-align: right; white-space: nowrap;"
_LABEL = f"{_EVERY} text-align: left; white-space: nowrap;"
_PROSE = f"{_EVERY} text-align: left; white-space: normal; min-width: 18em;"
_NARROW = 10  # characters up to which the name of a column is not broken
_LONG = 50  # characters from which a cell of text is broken into lines
_HEAD = "white-space: normal; vertical-align: bottom; border-bottom: 1px solid currentColor;"
_TABLE = (
    "border-collapse: collapse; font-size: inherit; color: inherit; "
    "font-variant-numeric: tabular-nums; margin: 4px 0;"
)

type Format = Callable[[Any], str]
"""Turns a cell into text."""


def number(digits: int) -> Format:
    """Return a formatter to a fixed number of decimals; a missing value is shown as a dash.

    Examples
    --------
    >>> number(3)(2.41567), number(3)(float("nan"))
    ('2.416', '–')
    """
    return lambda value: "–" if pd.isna(value) else f"{value:.{digits}f}"


def significant(value: float, digits: int = 2) -> str:
    """Return a number to some significant digits, without trailing exponent where that is short.

    Examples
    --------
    >>> significant(0.00123), significant(12.0), significant(0.0), significant(float("nan"))
    ('0.0012', '12', '0', '–')
    """
    if pd.isna(value):
        return "–"
    return f"{value:.{digits}g}"


def decimals(error: float) -> int:
    """Return how many decimals a number of this standard error is known to, at most 6.

    Examples
    --------
    >>> decimals(0.0003), decimals(0.02), decimals(3.0), decimals(0.0)
    (4, 2, 0, 6)
    """
    if not error > 0:
        return 6
    return int(np.clip(-np.floor(np.log10(error)), 0, 6))


def known(value: float, error: float, digits: int = 2) -> str:
    """Return a number without the digits that its standard error makes meaningless.

    Examples
    --------
    >>> known(0.012345, 0.0003), known(0.00002, 0.0003), known(0.0123, 0.0), known(0.0, 0.0)
    ('0.0123', 'under 0.0001', '0.012', '0')
    """
    if pd.isna(value):
        return "–"
    if not error > 0 or value == 0:
        return significant(value, digits)
    places = decimals(error)
    text = f"{value:.{places}f}"
    return f"under {10.0**-places:g}" if 0 < value and float(text) == 0 else text


def percent(value: float, error: float = 0.0) -> str:
    """Return a probability in percent; what draws cannot show to be certain is not called so.

    Parameters
    ----------
    value : float
    error : float
        Its standard error; from 10 % on it is rounded to tens.

    Examples
    --------
    >>> percent(0.62), percent(0.9999), percent(1.0), percent(0.001), percent(0.62, 0.12)
    ('62 %', 'over 99 %', 'over 99 %', 'under 1 %', '60 %')
    """
    if pd.isna(value):
        return "–"
    if error >= 0.1:
        return f"{10 * round(10 * value):.0f} %"
    if value < 0.005:
        return "under 1 %"
    if value > 0.995:
        return "over 99 %"
    return f"{100 * value:.0f} %"


def paragraphs(texts: Iterable[str]) -> str:
    """Return escaped paragraphs."""
    return "".join(f'<p style="margin: 4px 0;">{escape(text)}</p>' for text in texts)


def heading(text: str) -> str:
    """Return an escaped small heading."""
    return f'<p style="margin: 10px 0 2px 0;"><b>{escape(text)}</b></p>'


def box(*parts: str) -> str:
    """Return pieces of HTML in one block of readable width that scrolls when a table is wider."""
    return f'<div style="max-width: 68em; overflow-x: auto;">{"".join(parts)}</div>'


def table(
    frame: pd.DataFrame,
    *,
    formats: Mapping[str, Format] | None = None,
    shade: Collection[str] = (),
    index: bool = True,
    max_rows: int = 20,
) -> str:
    """Return a DataFrame as an HTML table, every label and text escaped.

    Parameters
    ----------
    frame : DataFrame
    formats : mapping, optional
        Column name -> function that turns a cell into text; the default is `str`.
    shade : collection of str
        Columns of probabilities, whose cells are shaded in proportion.
    index : bool
        Whether the index is the first column.
    max_rows : int
        Rows shown; a line below says how many are not.

    Returns
    -------
    str

    Examples
    --------
    >>> html = table(pd.DataFrame({"p": [0.25]}, index=["<a>"]), formats={"p": number(2)})
    >>> "&lt;a&gt;" in html, "0.25" in html, "<a>" in html
    (True, True, False)
    """
    formats = formats or {}
    shown = frame.iloc[:max_rows]
    corner = frame.index.name if frame.index.name is not None else ""
    names = ([(corner, _LABEL)] if index else []) + [
        (column, _LABEL if _is_text(frame[column]) else _CELL) for column in frame.columns
    ]
    head = "".join(
        f'<th style="{style} {_HEAD}">{_heading(str(name))}</th>' for name, style in names
    )
    columns = []
    for column in frame.columns:
        write = formats.get(column, str)
        style = _LABEL if _is_text(frame[column]) else _CELL
        if _is_text(shown[column]) and shown[column].astype(str).str.len().max() > _LONG:
            style = _PROSE
        columns.append(
            [
                f'<td style="{style}{_shading(value) if column in shade else ""}">'
                f"{escape(write(value))}</td>"
                for value in shown[column]
            ]
        )
    if index:
        columns.insert(
            0, [f'<th style="{_LABEL}">{escape(str(label))}</th>' for label in shown.index]
        )
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in zip(*columns, strict=True))
    left = len(frame) - len(shown)
    more = (
        f'<p style="margin: 0;">… and {left:,} more row{"s" if left > 1 else ""}</p>'
        if left
        else ""
    )
    return (
        f'<table style="{_TABLE}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}'
    )


def _heading(name: str) -> str:
    """Escaped name of a column; a long one may break once, after the underscore in its middle."""
    places = [i for i, c in enumerate(name) if c == "_"]
    if len(name) <= _NARROW or not places:
        return escape(name)
    at = min(places, key=lambda i: abs(i - len(name) // 2)) + 1
    return f"{escape(name[:at])}<wbr/>{escape(name[at:])}"


def _is_text(column: pd.Series) -> bool:
    return not pd.api.types.is_numeric_dtype(column)


def _shading(value: float) -> str:
    if pd.isna(value):
        return ""
    strength = _DARKEST * min(max(float(value), 0.0), 1.0)
    return f" background-color: rgba({_BLUE}, {strength:.3f});"
