"""A notebook shows a figure once."""

import pickle

import matplotlib.pyplot as plt
import pytest
from IPython.core.formatters import DisplayFormatter

from bayes_optlaws.schedules import Schedule


@pytest.fixture
def figure():
    drawn = Schedule.cosine(peak_lr=1e-3, steps=100, warmup_steps=10).plot()
    yield drawn
    plt.close(drawn)


@pytest.mark.parametrize(
    ("backend", "left"),
    [("module://matplotlib_inline.backend_inline", 0), ("qtagg", 1), ("agg", 1)],
)
def test_what_is_shown_is_not_left_to_the_inline_backend(figure, backend, left, monkeypatch):
    """The inline backend shows the figures that are open when a cell ends; windows stay open."""
    monkeypatch.setattr("matplotlib.get_backend", lambda: backend)
    for _ in range(2):  # the value of one cell, and then of another
        shown, _ = DisplayFormatter().format(figure)
        assert "text/plain" in shown
        assert plt.get_fignums().count(figure.number) == left


def test_such_a_figure_can_be_pickled(figure):
    assert len(pickle.loads(pickle.dumps(figure)).axes) == 1
