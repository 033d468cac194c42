"""How a figure is shown in a notebook."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["shown_once"]


def shown_once[**P](draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Let a cell of a notebook show the figure that a function returns once.

    Jupyter's inline backend shows all open figures at the end of a cell. The value of the last line
    is shown besides, which would be the same figure again.

    Parameters
    ----------
    draw : callable
        Returns a figure.

    Returns
    -------
    callable
    """

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        figure = draw(*args, **kwargs)
        vars(figure)["_ipython_display_"] = functools.partial(_display, figure)
        return figure

    return drawn


def _display(figure: Figure) -> None:
    """Leave the showing to IPython, and nothing for the backend to show again."""
    import matplotlib
    import matplotlib.pyplot as plt

    if "inline" in matplotlib.get_backend():
        plt.close(figure)
    raise NotImplementedError  # IPython then takes the next way to show an object
