"""The demonstration: fit the shipped grid, rank schedules at a budget that it does not have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayes_optlaws.cli.output import write_figure

if TYPE_CHECKING:
    from collections.abc import Callable

    from bayes_optlaws.decision.ranking import Ranking
    from bayes_optlaws.law import OptLaw

N_PARAMS = 246_240
BATCH_TOKENS = 1024
STEPS = 14_400
"""Four times the longest run of the pocket grid, at its largest model: no run is near."""

# peak LR, warm-up steps, schedule; chosen near one another, so that the order is a real question.
_PLANS = (
    (0.008, 720, "linear"),
    (0.012, 720, "linear"),
    (0.012, 2880, "linear"),
    (0.02, 720, "linear"),
    (0.02, 2880, "linear"),
    (0.012, 720, "cosine"),
    (0.02, 2880, "cosine"),
    (0.012, 720, "wsd"),
    (0.02, 2880, "wsd"),
)
_COOLDOWN_START = 0.8


def candidates() -> pd.DataFrame:
    """Return the schedules that the demonstration ranks, a candidate table.

    Examples
    --------
    >>> table = candidates()
    >>> table.index[0], int(table["tokens"].iloc[0])
    ('linear-0.008-w720', 14745600)
    """
    rows = []
    for peak_lr, warmup, schedule in _PLANS:
        rows.append(
            {
                "run_id": f"{schedule}-{peak_lr:g}-w{warmup}",
                "n_params": N_PARAMS,
                "tokens": STEPS * BATCH_TOKENS,
                "batch_tokens": BATCH_TOKENS,
                "peak_lr": peak_lr,
                "warmup_steps": warmup,
                "schedule": schedule,
                "cooldown_start_step": _COOLDOWN_START * STEPS if schedule == "wsd" else np.nan,
            }
        )
    table = pd.DataFrame(rows)
    return table.set_index(pd.Index(table["run_id"], name=None))


def write_figures(
    law: OptLaw, ranking: Ranking, folder: Path, done: Callable[[Path], None]
) -> None:
    """Draw the figures of the demonstration into ``folder``; ``done`` is told each path."""
    from matplotlib import pyplot as plt

    from bayes_optlaws import plots

    largest = law.runs.loc[law.runs["n_params"] == law.runs["n_params"].max()]
    drawings = {
        "ranking": lambda: plots.ranks(ranking),
        "pairs": lambda: plots.pairs(ranking),
        "loss_surface": lambda: plots.loss_surface(
            law, n_params=N_PARAMS, tokens=float(largest["tokens"].max())
        ),
        "predictions": lambda: plots.predictions(law),
    }
    for name, draw in drawings.items():
        path = folder / f"{name}.png"
        figure = draw()
        write_figure(figure, path, dpi=110)
        plt.close(figure)
        done(path)
