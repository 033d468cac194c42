"""Columns in another unit than they say: recognised by their size, and asked about."""

from __future__ import annotations

import numpy as np

from bayes_optlaws.runs.conversion import Work
from bayes_optlaws.text.numbers import count, scale_word, short

__all__ = ["ask_about_magnitudes"]

_SCALES = (1e3, 1e6, 1e9, 1e12)
_USUAL = {1e3: 1e3, 1e6: "M", 1e9: "B", 1e12: "T"}


def ask_about_magnitudes(work: Work) -> None:
    """Ask about a column all of whose values are far too small; the likely unit is applied.

    Parameters
    ----------
    work : Work
        Columns read; tokens, batch and steps are known as far as the table gives them.
    """
    _steps(work)
    _parameters(work)
    _tokens(work)
    batch = _positive(work, "batch_tokens")
    if batch is not None and batch.max() < 1:
        _ask(work, "batch_tokens", batch, 1e6, "below 1")


def _positive(work: Work, role: str) -> np.ndarray | None:
    """Positive finite values of a column in which the user has said no unit."""
    values, column = work.values.get(role), work.column(role)
    if values is None or column is None or column.role != role:
        return None
    if role in work.scaled or work.unit_said(column) is not None:
        return None
    good = values[np.isfinite(values) & (values > 0)]
    return good if good.size else None


def _median(work: Work, role: str) -> float:
    values = work.values.get(role)
    if values is None:
        return np.nan
    good = values[np.isfinite(values) & (values > 0)]
    return float(np.median(good)) if good.size else np.nan


def _parameters(work: Work) -> None:
    sizes = _positive(work, "n_params")
    if sizes is None or sizes.max() >= 1e3:
        return
    middle = float(np.median(sizes))
    tokens = _median(work, "tokens")
    ratios = [tokens / (middle * s) for s in _SCALES]
    if tokens >= 1e7 and any(0.1 <= r <= 1e4 for r in ratios):
        scale = _SCALES[int(np.argmin(np.abs(np.log(np.array(ratios) / 20.0))))]
    else:  # the smallest that makes a model of a million parameters
        scale = next(s for s in _SCALES if middle * s >= 1e6)
    _ask(work, "n_params", sizes, scale, "below 1,000")


def _tokens(work: Work) -> None:
    tokens = _positive(work, "tokens")
    size = _median(work, "n_params")
    if tokens is None or tokens.max() >= 1e6 or not np.median(tokens) / size < 1e-2:
        return
    ratio = np.median(tokens) * np.array(_SCALES) / size
    product = _median(work, "steps") * _median(work, "batch_tokens")
    target = product / size if product > 0 else 20.0
    scale = _SCALES[int(np.argmin(np.abs(np.log(ratio / target))))]
    _ask(work, "tokens", tokens, scale, f"far below n_params (median {short(size)})")


def _steps(work: Work) -> None:
    steps = _positive(work, "steps")
    if steps is None:
        return
    tokens, batch = work.values.get("tokens"), work.values.get("batch_tokens")
    if tokens is not None and batch is not None:
        with np.errstate(all="ignore"):
            factor = tokens / (batch * work.values["steps"])
        known = factor[np.isfinite(factor) & (factor > 0)]
        if not known.size or np.ptp(np.log(known)) > 0.1:
            return
        middle = float(np.median(known))
        column = work.column("batch_tokens")
        if abs(np.log(middle / 1e3)) < 0.01:
            _ask(work, "steps", steps, 1e3, "a thousandth of tokens / batch_tokens")
        elif column is not None and 32 <= middle <= 131072 and np.nanmax(batch) < 65536:
            length = int(round(middle))
            work.ask(
                str(column.name), count(float(np.nanmedian(batch))),
                f"tokens are {length:,} x {column.name} x steps: it looks like sequences a step",
                f"pass sequence_length={length}", sequence_length=length,
            )  # fmt: skip
            work.put("batch_tokens", tokens / work.values["steps"])
        return
    warmup = _median(work, "warmup_steps")
    if steps.max() < 1000 and warmup >= np.median(steps):
        _ask(work, "steps", steps, 1e3, "not longer than the warm-up")


def _ask(work: Work, role: str, values: np.ndarray, scale: float, why: str) -> None:
    column = work.roles[role][0]
    middle = float(np.median(values))
    unit = _USUAL[scale]
    work.ask(
        str(column.name), f"median {middle:.4g}",
        f"all {len(values)} rows are {why}: looks like {scale_word(scale)}",
        f"pass units={{{column.name!r}: {unit!r}}}"
        + (" (or the unit that is meant)" if scale != 1e9 else ""),
        units={column.name: unit},
    )  # fmt: skip
    work.put(role, work.values[role] * scale)
