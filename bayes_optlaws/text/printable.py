"""Text of others, made safe to show."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    r"""Return text with every character that does not print written as its escape.

    Control characters would reach the terminal, marks of direction reorder what stands around
    them, and lone surrogates cannot be encoded at all.

    Examples
    --------
    >>> printable("a\x1b]0;b\x07 \u202ec \ud800 é")
    'a\\x1b]0;b\\x07 \\u202ec \\ud800 é'
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
