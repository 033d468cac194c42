"""One row of a run or candidate table as a schedule."""

from __future__ import annotations

from typing import Literal

import pandas as pd

from bayes_optlaws.schedules import Schedule


def schedule_of(row: pd.Series) -> Schedule:
    """Return the schedule of a row of a candidate table."""
    common = {name: float(row[name]) for name in ("peak_lr", "steps", "warmup_steps")}
    kind = row["schedule"]
    if kind == "constant":
        return Schedule.constant(**common)
    common["min_lr"] = float(row["min_lr"])
    if kind in ("linear", "cosine"):
        return getattr(Schedule, kind)(**common)
    start = float(row["cooldown_start_step"])
    if kind == "polygon":
        return Schedule.polygon(
            **common, decay_end_step=float(row["decay_end_step"]),
            plateau_lr=float(row["plateau_lr"]), cooldown_start_step=start,
        )  # fmt: skip
    shape: Literal["linear", "sqrt"] = "sqrt" if kind == "wsd-sqrt" else "linear"
    return Schedule.wsd(**common, cooldown_start_step=start, shape=shape)
