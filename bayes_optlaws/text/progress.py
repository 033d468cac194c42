"""One progress bar for long loops, silent when not wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from rich.console import Console
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
    # in a notebook rich needs ipywidgets, and warns at every step where they are not installed
    plain = find_spec("ipywidgets") is None
    console = Console(force_jupyter=False) if plain else None
    with Progress(transient=True, console=console) as progress:
        task = progress.add_task(text, total=total)
        yield lambda steps: progress.advance(task, steps)
