"""The look of a report: one HTML page that opens offline and prints; no script, no link out.

The page is well-formed XML too, so that a strict parser can check it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING

from bayes_optlaws.text.html import paragraphs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CSS = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  color: #1a1a1a; background: #fff; max-width: 62rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .5rem; padding-top: .6rem; border-top: 2px solid #0072B2; }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .25rem; }
p { margin: .5rem 0 !important; max-width: 46rem; }
a { color: #00558a; }
nav a { margin-right: 1.2rem; }
.made { color: #555; font-size: .9rem; }
.answer { background: #eaf4fb; border-left: 6px solid #0072B2; padding: .8rem 1.1rem;
  margin: 1rem 0; }
.answer .choice { font-size: 1.35rem; font-weight: 600; overflow-wrap: anywhere; }
.tiles { display: flex; flex-wrap: wrap; gap: .6rem 2.2rem; margin: .6rem 0 0; padding: 0; }
.tiles div { min-width: 7rem; }
.tiles dt { color: #444; font-size: .85rem; }
.tiles dd { margin: 0; font-size: 1.15rem; font-weight: 600; }
.care { background: #fff4e5; border-left: 6px solid #D55E00; padding: .5rem 1.1rem;
  margin: 1rem 0; }
.care ul { margin: .2rem 0; padding-left: 1.2rem; }
.table { overflow-x: auto; font-size: .9rem; }
.words td, .words th { vertical-align: top; }
.words td:last-child { white-space: normal !important; min-width: 17rem; }
.pair { display: grid; gap: 0 1.5rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(27rem, 100%), 1fr)); }
figure { margin: 1.2rem 0; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: #444; font-size: .9rem; max-width: 46rem; margin-top: .3rem; }
pre { background: #f4f4f4; padding: .6rem .8rem; overflow-x: auto; font-size: .85rem; }
@page { margin: 16mm 14mm; }
@media print {
  body { font-size: 10.5pt; padding: 0; max-width: none; }
  nav { display: none; }
  h2, h3 { break-after: avoid; }
  figure, tr, .answer, .care, pre { break-inside: avoid; }
  thead { display: table-header-group; }
  .pair { grid-template-columns: 1fr 1fr; }
  .table { overflow: visible; font-size: 8pt; }
  .table td, .table th { padding: 1px 4px !important; }
  pre { white-space: pre-wrap; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

# Nothing may be fetched, whatever a label in a table says.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, made: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """Return the whole page.

    Parameters
    ----------
    title, made : str
        Heading, and the line below it.
    sections : sequence of (anchor, heading, html)
        In order.

    Examples
    --------
    >>> text = page("a < b", "today", [("one", "First", "<p>x</p>")])
    >>> "<h1>a &lt; b</h1>" in text, text.count("<section")
    (True, 1)
    """
    links = "".join(f'<a href="#{a}">{escape(h)}</a>' for a, h, _ in sections)
    body = "".join(
        f'<section id="{a}"><h2>{escape(h)}</h2>{content}</section>' for a, h, content in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8" />'
        '<meta name="viewport" content="width=device-width, initial-scale=1" />'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}" />'
        f"<title>{escape(title)}</title><style>{_CSS}</style></head>"
        f'<body><header><h1>{escape(title)}</h1><p class="made">{escape(made)}</p>'
        f"<nav>{links}</nav></header><main>{body}</main></body></html>\n"
    )


def drawing(draw: Callable[[], Figure], *, alt: str, caption: str) -> str:
    """Draw a figure into the page; where it cannot be drawn, say why.

    Parameters
    ----------
    draw : callable
        Returns the figure, or raises ValueError with a reason that a reader understands.
    alt : str
        What the figure shows, for those who cannot see it.
    caption : str
        How to read it.
    """
    from matplotlib import pyplot as plt

    try:
        figure = draw()
    except ValueError as error:
        return paragraphs([f"Not drawn ({alt}): {error}."])
    stream = io.BytesIO()
    # a salt of its own keeps two pages of one law the same, byte for byte
    with plt.rc_context({"svg.hashsalt": alt}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    plt.close(figure)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return (
        f'<figure><img alt="{escape(alt)}" src="data:image/svg+xml;base64,{data}" />'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def choice(label: str, headline: str, tiles: Sequence[tuple[str, str]]) -> str:
    """Return the box with the answer: what to choose, and its figures."""
    shown = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in tiles
    )
    return (
        f'<div class="answer"><div>{escape(headline)}</div>'
        f'<div class="choice">{escape(label)}</div><dl class="tiles">{shown}</dl></div>'
    )


def care(points: Sequence[str]) -> str:
    """Return the box of what to know before acting; nothing when there is nothing."""
    if not points:
        return ""
    items = "".join(f"<li>{escape(point)}</li>" for point in points)
    return f'<div class="care"><b>Before you act</b><ul>{items}</ul></div>'


def subheading(text: str) -> str:
    """Return an escaped heading of the third rank."""
    return f"<h3>{escape(text)}</h3>"


def wide(html: str, *, words: bool = False) -> str:
    """Return a table that scrolls on a narrow screen; ``words``: its last column is prose."""
    return f'<div class="table{" words" if words else ""}">{html}</div>'


def pair(*drawings: str) -> str:
    """Return drawings side by side, where there is room."""
    return f'<div class="pair">{"".join(drawings)}</div>'


def code(text: str) -> str:
    """Return a block of commands."""
    return f"<pre>{escape(text)}</pre>"
