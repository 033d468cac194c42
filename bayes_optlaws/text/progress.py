"""One progress bar for long loops, silent when not wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import Progress


@contextmanager
def counter(total: int, text: str, show: bool) -> Iterator[Callable[[int], None]]:
    """Yield a function that advances a bar of ``total`` steps.

    Examples
    --------
    >>> with counter(3, "counting", False) as step:
    ...     step(1)
    """
    if not show:
        yield lambda steps: None
        return
    with Progress(transient=True) as progress:
        task = progress.add_task(text, total=total)
        yield lambda steps: progress.advance(task, steps)
