"""What a person looks at in a run table first: sizes, budgets, rates, losses, what never varied."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from bayes_optlaws.text.numbers import count, rate, short

__all__ = ["moved_together", "overview", "parted", "varying"]

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


SETTINGS = {
    "n_params": "model size", "tokens": "token budget", "peak_lr": "peak LR",
    "batch_tokens": "batch",
}  # fmt: skip
"""Settings that are asked whether they moved together, and their words."""

_TOGETHER = 0.99
"""Correlation of logs from which two settings are one (own choice)."""

_PARTED = np.log(1.5)
"""How far off the line of the runs a candidate parts two settings (own choice)."""


def moved_together(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """Pairs of settings whose logs lie on one line among the runs that finished.

    What each of them does alone is not in such a table: runs that change one by itself would tell.

    Examples
    --------
    >>> runs = pd.DataFrame({"n_params": [1e7, 2e7, 4e7], "tokens": [2e8, 4e8, 8e8],
    ...     "peak_lr": [1e-3, 2e-3, 1e-3], "batch_tokens": 1e5, "diverged": False})
    >>> moved_together(runs)
    [('n_params', 'tokens')]
    """
    finished = runs[~runs["diverged"]]
    logs = {name: np.log(finished[name].to_numpy(float)) for name in SETTINGS}
    vary = [name for name, x in logs.items() if len(x) > 2 and np.ptp(x) > np.log(1.05)]
    return [
        (a, b)
        for i, a in enumerate(vary)
        for b in vary[i + 1 :]
        if abs(np.corrcoef(logs[a], logs[b])[0, 1]) > _TOGETHER
    ]


def parted(runs: pd.DataFrame, candidates: pd.DataFrame) -> list[str]:
    """Settings that moved together among the runs and do not in the candidates, in words.

    Parameters
    ----------
    runs : DataFrame
        Validated run table.
    candidates : DataFrame
        Validated candidate table.

    Returns
    -------
    list of str
        In the order of `SETTINGS`; empty where the candidates keep to the line of the runs.
    """
    finished = runs[~runs["diverged"]]
    found: set[str] = set()
    for a, b in moved_together(runs):
        x, y = (np.log(finished[name].to_numpy(float)) for name in (a, b))
        slope = np.cov(x, y)[0, 1] / x.var(ddof=1)
        off = np.log(candidates[b].to_numpy(float)) - y.mean()
        off -= slope * (np.log(candidates[a].to_numpy(float)) - x.mean())
        if np.abs(off).max() > _PARTED:
            found |= {a, b}
    return [words for name, words in SETTINGS.items() if name in found]


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
