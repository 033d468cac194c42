"""What a person looks at in a run table first: sizes, budgets, rates, losses, what never varied."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from bayes_optlaws.text.numbers import count, rate, short

__all__ = ["overview", "varying"]

VARIED = ("n_params", "tokens", "batch_tokens", "peak_lr", "warmup_steps", "schedule")


def varying(runs: pd.DataFrame) -> list[str]:
    """Settings that vary among the runs that finished.

    Examples
    --------
    >>> import bayes_optlaws as bo
    >>> varying(bo.read_runs(bo.datasets.load("pocket")))
    ['n_params', 'tokens', 'peak_lr', 'warmup_steps']
    """
    finished = runs[~runs["diverged"]]
    return [name for name in VARIED if finished[name].nunique() > 1]


def overview(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """Say what is in a validated run table.

    Parameters
    ----------
    runs : DataFrame
        From `bayes_optlaws.read_runs`.

    Returns
    -------
    list of (what, its range or counts)

    Examples
    --------
    >>> import bayes_optlaws as bo
    >>> dict(overview(bo.read_runs(bo.datasets.load("pocket"))))["parameters"]
    '10.3k to 246k (4 sizes)'
    """
    finished = runs[~runs["diverged"]]
    steps = runs["steps"].to_numpy(float)
    warmup = runs["warmup_steps"].to_numpy(float)
    lines = [
        ("parameters", _range(runs["n_params"], short, "sizes")),
        ("tokens", _range(runs["tokens"], short, "budgets")),
        ("tokens per parameter", _range(runs["tokens"] / runs["n_params"], _three)),
        ("batch, tokens", _range(runs["batch_tokens"], short, "batches")),
        ("steps", _range(runs["steps"], count)),
        ("peak learning rate", _range(runs["peak_lr"], rate, "rates")),
        (
            "warm-up, steps",
            f"{_range(runs['warmup_steps'], count)}; "
            f"{_span(100 * warmup / steps, _three)} % of the run",
        ),
        ("schedules", _counts(runs["schedule"])),
    ]
    if len(finished):
        unit = runs.attrs.get("loss_unit", "nats per token")
        low = finished["final_loss"].idxmin() if finished.index.is_unique else None
        best = "" if low is None else f"; lowest: {finished.loc[low, 'run_id']}"
        lines.append(("final loss", f"{_span(finished['final_loss'], _three)} {unit}{best}"))
    diverged = int(runs["diverged"].sum())
    if diverged:
        least = runs.loc[runs["diverged"], "peak_lr"].min()
        lines.append(("diverged", f"{diverged} runs, from peak LR {rate(least)} on"))
    return lines


def _three(value: float) -> str:
    return count(value) if abs(value) >= 100 else f"{value:.3g}"


def _span(values: pd.Series | np.ndarray, write: Callable[[float], str]) -> str:
    low, high = write(float(np.min(values))), write(float(np.max(values)))
    return low if low == high else f"{low} to {high}"


def _range(values: pd.Series, write: Callable[[float], str], many: str = "") -> str:
    unlike = values.nunique()
    tail = f" ({unlike} {many})" if many and unlike > 2 else ""
    if many and unlike == 2:
        return " and ".join(write(float(v)) for v in sorted(values.unique()))
    return _span(values, write) + tail


def _counts(values: pd.Series) -> str:
    return ", ".join(f"{name} {k}" for name, k in values.value_counts().items())
