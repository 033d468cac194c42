"""Inputs of the page with sliders: which there are, where they begin, how far they go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import gamma

from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.model.covariates import APART, GROUP, Covariate
from bayes_optlaws.model.effects import CURVATURE
from bayes_optlaws.model.features import TREND_POWER

FAMILIES = ("linear", "cosine", "wsd", "wsd-sqrt", "constant")
"""Schedules that the page offers."""

LABELS = {
    "n_params": "Parameters",
    "tokens": "Tokens",
    "batch_tokens": "Tokens a step",
    "peak_lr": "Peak learning rate",
    "warmup_steps": "Warm-up, steps",
    "cooldown": "Cool-down, share of the run",
    "floor": "Final over peak learning rate",
}

REACH = {"n_params": 16.0, "tokens": 16.0, "batch_tokens": 4.0, "peak_lr": 4.0, "warmup_steps": 4.0}
"""Factors beyond the table, and the baseline, that sliders go."""

TAIL_NODES = 12
"""Normals that stand for Student-t noise."""

BESIDE = 0.25
"""Share of a covariate's range that its slider goes beyond it, on either side."""


def settings_of(row: pd.Series) -> dict[str, float | str]:
    """Positions of the sliders of one row of a validated candidate table.

    Parameters
    ----------
    row : Series

    Raises
    ------
    ValueError
        If the page has no such schedule.
    """
    if row["schedule"] not in FAMILIES:
        raise ValueError(
            f"the baseline's schedule is {row['schedule']}: the page has {', '.join(FAMILIES)}"
        )
    holds = row["schedule"] in ("wsd", "wsd-sqrt")
    cool = 1.0 - row["cooldown_start_step"] / row["steps"] if holds else 0.2
    flat = row["schedule"] == "constant"
    numbers = {n: float(row[n]) for n in ("n_params", "tokens", "batch_tokens", "peak_lr")}
    return {
        **numbers,
        "warmup_steps": max(float(row["warmup_steps"]), 1.0),
        "cooldown": float(cool),
        "floor": 0.0 if flat else float(row["min_lr"] / row["peak_lr"]),
        "schedule": str(row["schedule"]),
    }


def covariates_of(law: FittedLaw, table: pd.DataFrame) -> dict[str, float | str]:
    """Covariates of one row of a validated candidate table, as ``c0``, ``c1``, ...

    Parameters
    ----------
    law : FittedLaw
    table : DataFrame
        Its first row counts.
    """
    known = law.encoding.covariates
    values = known.values(table.iloc[:1])
    return {
        f"c{i}": str(values[c.name][0]) if c.is_category else float(values[c.name][0])
        for i, c in enumerate(known.items)
    }


def covariate_data(law: FittedLaw) -> dict[str, Any]:
    """What the evaluator of the page needs of the covariates."""
    effects = law.encoding.effects
    return {
        "items": [
            {
                "name": c.name, "kind": c.kind, "group": c.name == GROUP,
                "location": c.location, "unit": c.unit, "lower": c.lower, "upper": c.upper,
                "levels": list(c.levels), "share": list(c.share),
            }
            for c in effects.covariates.items
        ],
        "bent": [list(b) for b in effects.bent],
        "curvature": CURVATURE, "apart": float(APART), "trend_power": TREND_POWER,
    }  # fmt: skip


def noise_tails(df: float) -> list[list[float]]:
    """Student-t noise as a sum of normals: variance of each, times that of the noise, and weight.

    Few, because the page evaluates all of them for each draw: no probability is off by more than
    0.0001. (Trapezoid rule over the log of the precision, but for its outermost 0.003 %.)

    Parameters
    ----------
    df : float
        Degrees of freedom; one normal where infinite.

    Examples
    --------
    >>> noise_tails(float("inf"))
    [[1.0, 1.0]]
    >>> len(noise_tails(3.0))
    12
    """
    if np.isinf(df):
        return [[1.0, 1.0]]
    shape = 0.5 * df
    lower, upper = np.log(gamma.ppf([3e-5, 1 - 1e-6], shape))
    log = np.linspace(lower, upper, TAIL_NODES)
    weight = np.exp(shape * log - np.exp(log))
    return np.column_stack([(shape - 1.0) * np.exp(-log), weight / weight.sum()]).tolist()


def page_data(law: FittedLaw, start: Mapping[str, float | str]) -> dict[str, Any]:
    """Baseline, labels and ranges of the inputs, and what the table has seen.

    Parameters
    ----------
    law : FittedLaw
    start : mapping
        From `settings_of` and `covariates_of`.
    """
    runs, covariates = law.runs, law.encoding.covariates
    seen = {k: [float(runs[k].min()), float(runs[k].max())] for k in REACH}
    ranges = {}
    for k, reach in REACH.items():
        at = float(start[k])
        low, high = min(seen[k][0], at), max(seen[k][1], at)
        ranges[k] = [max(low / 4.0, 1.0) if k != "peak_lr" else low / 4.0, high * reach]
    ranges["cooldown"] = [0.02, 0.95]
    ranges["floor"] = [0.0, max(0.5, float(start["floor"]))]
    labels, levels = dict(LABELS), {}
    for i, c in enumerate(covariates.items):
        labels[f"c{i}"] = c.name
        if c.is_category:
            levels[f"c{i}"] = list(c.levels)
        else:
            ranges[f"c{i}"] = _range(c, float(start[f"c{i}"]))
            seen[f"c{i}"] = list(c.seen)
    return {
        "baseline": dict(start),
        "ranges": ranges,
        "seen": seen | {"schedule": sorted(set(runs["schedule"]))},
        "labels": labels,
        "levels": levels,
    }


def _range(c: Covariate, at: float) -> list[float]:
    """Numbers that the slider of a covariate goes through, some beyond what was tried."""
    scales: dict[str, tuple[Callable, Callable]] = {
        "linear": (lambda x: x, lambda x: x),
        "log": (np.log, np.exp),
        "log(1-x)": (lambda x: -np.log1p(-x), lambda x: -np.expm1(-x)),
    }
    there, back = scales[c.kind]
    low, high = there(min(c.seen[0], at)), there(max(c.seen[1], at))
    more = BESIDE * (high - low)
    bottom = float(back(low - more))
    return [max(bottom, 0.0) if min(c.seen[0], at) >= 0 else bottom, float(back(high + more))]


def slider(key: str, label: str) -> str:
    """Return the markup of a slider, with a field to type the number in."""
    label = escape(label)
    return (
        f'<div class="control"><label for="s-{key}">{label}</label>'
        f'<input type="range" id="s-{key}" min="0" max="400" step="1" />'
        f'<input type="text" id="v-{key}" aria-label="{label}, typed" '
        'inputmode="decimal" autocomplete="off" /></div>'
    )


def choice(key: str, label: str, levels: Sequence[str]) -> str:
    """Return the markup of a selector."""
    options = "".join(f"<option>{escape(v)}</option>" for v in levels)
    return (
        f'<div class="control"><label for="s-{key}">{escape(label)}</label>'
        f'<select id="s-{key}">{options}</select></div>'
    )
