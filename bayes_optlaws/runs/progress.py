"""The loss curve of a run that is still going: checked, with one error for all that is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

__all__ = ["CurveError", "read_progress"]

WIDEST_GAP, TIMES_MEDIAN = 0.25, 10.0
"""A gap is a fault where it is this part of what was logged and this many usual distances."""

HIGHEST = 20.0
"""No cross-entropy of text starts above it, nats: it is a perplexity."""

SHOWN = 4


class CurveError(ValueError):
    """A loss curve that cannot be used; the message lists every fault with rule and remedy."""


def read_progress(
    curve: pd.DataFrame | str | Path,
    *,
    n_steps: float,
    batch_tokens: float | None = None,
    step: str = "step",
    loss: str = "loss",
) -> pd.DataFrame:
    """Check the loss curve of a run in progress.

    Parameters
    ----------
    curve : DataFrame or path of a CSV file
        Steps done and training or validation losses, nats a token.
    n_steps : float
        Length of the run.
    batch_tokens : float, optional
        To tell tokens from steps.
    step, loss : str
        Names of the columns.

    Returns
    -------
    DataFrame
        Columns ``step`` and ``loss``, numbers.

    Raises
    ------
    CurveError
        Naming every fault: absent columns, what is no number, NaN, order, repeats, gaps, units.

    Examples
    --------
    >>> curve = pd.DataFrame({"step": [100, 200, 300], "loss": [4.0, 3.6, 3.4]})
    >>> read_progress(curve, n_steps=1000)["loss"].tolist()
    [4.0, 3.6, 3.4]
    """
    table = curve if isinstance(curve, pd.DataFrame) else pd.read_csv(curve)
    absent = [c for c in (step, loss) if c not in table.columns]
    if absent:
        raise CurveError(
            f"the curve has no column {' and no column '.join(map(repr, absent))}: it has "
            f"{', '.join(map(str, table.columns)) or 'none'}; name them by step= and loss= "
            "(on the command line --step-column and --loss-column)"
        )
    if not len(table):
        raise CurveError("the curve has no row: give the steps and losses that were logged")
    raw = pd.DataFrame({"step": table[step].to_numpy(), "loss": table[loss].to_numpy()})
    out = raw.apply(pd.to_numeric, errors="coerce").astype(float)
    faults = [*_values(raw, out), *_order(out["step"].to_numpy())]
    if np.isfinite(out["step"]).all():
        faults += _reach(out["step"].to_numpy(), n_steps, batch_tokens)
    if not faults:
        faults += _gaps(out["step"].to_numpy())
    if faults:
        many = f"{len(faults)} problems" if len(faults) > 1 else "1 problem"
        raise CurveError("\n".join([f"the curve has {many}; nothing was read.", *faults]))
    return out


def _values(raw: pd.DataFrame, out: pd.DataFrame) -> list[str]:
    faults = []
    for name in ("step", "loss"):
        text = out[name].isna() & raw[name].notna()
        if text.any():
            faults.append(f"{name} is no number in {_rows(raw, text.to_numpy(), name)}: correct it")
    steps = out["step"].to_numpy()
    bad = ~np.isfinite(steps) & raw["step"].isna().to_numpy()
    if bad.any():
        faults.append(f"step is empty in {_rows(raw, bad, None)}: give it, or leave the row out")
    losses = out["loss"].to_numpy()
    bad = ~np.isfinite(losses) & (raw["loss"].isna() | np.isinf(losses)).to_numpy()
    if bad.any():
        ends = not np.isfinite(losses[-1])
        remedy = (
            "a run whose loss stays NaN has diverged: stop it" if ends
            else "leave out the rows without a loss"
        )  # fmt: skip
        faults.append(f"loss is NaN or infinite in {_rows(raw, bad, None)}: {remedy}")
    known = losses[np.isfinite(losses)]
    if known.size and known.min() <= 0:
        faults.append(
            f"the lowest loss is {known.min():g}: losses are nats a token, above 0; is it a log or "
            "another quantity?"
        )
    if known.size and known[-1] > HIGHEST:
        faults.append(
            f"the last loss is {known[-1]:g}: more than {HIGHEST:g} nats a token is no loss of "
            "text; if it is a perplexity give its logarithm, if a sum divide it by the tokens"
        )
    return faults


def _order(steps: np.ndarray) -> list[str]:
    jump = np.diff(steps)
    out = []
    if (jump < 0).any():
        i = int(np.argmax(jump < 0))
        out.append(
            f"steps are not in order: {steps[i + 1]:g} follows {steps[i]:g} (row {i + 1}); sort "
            "them, and after a restart keep the later entries: "
            "curve.drop_duplicates('step', keep='last').sort_values('step')"
        )
    elif (jump == 0).any():
        i = int(np.argmax(jump == 0))
        out.append(
            f"step {steps[i]:g} is there more than once (row {i + 1}); keep one: "
            "curve.drop_duplicates('step', keep='last')"
        )
    return out


def _reach(steps: np.ndarray, n_steps: float, batch_tokens: float | None) -> list[str]:
    last = float(steps.max())
    if steps.min() < 0:
        return [f"step {steps.min():g} is negative: count the optimizer steps that are done"]
    if last > n_steps * (1 + 1e-9):
        tokens = batch_tokens is not None and last <= n_steps * batch_tokens * 1.01
        remedy = (
            f"if these are tokens divide them by batch_tokens = {batch_tokens:g}" if tokens
            else "give the candidate's own tokens and batch_tokens, or the steps of one run only"
        )  # fmt: skip
        return [f"step {last:g} lies beyond the run, which has {n_steps:g} steps: {remedy}"]
    if last <= 1 < n_steps:
        return [
            f"the last step is {last:g}: if these are epochs or shares of the run multiply them by "
            f"its steps, {n_steps:g} for the whole"
        ]
    return []


def _gaps(steps: np.ndarray) -> list[str]:
    if steps.size < 3:
        return []
    jump = np.diff(steps)
    i = int(jump.argmax())
    limit = max(WIDEST_GAP * (steps[-1] - steps[0]), TIMES_MEDIAN * float(np.median(jump)))
    if jump[i] <= limit:
        return []
    return [
        f"nothing was logged between the steps {steps[i]:g} and {steps[i + 1]:g}: a gap of "
        f"{jump[i] / (steps[-1] - steps[0]):.0%} of the curve; add that part, or leave out what "
        f"lies before it: curve[curve['step'] >= {steps[i + 1]:g}]"
    ]


def _rows(raw: pd.DataFrame, bad: np.ndarray, name: str | None) -> str:
    rows = np.flatnonzero(bad)
    said = [f"row {i}" + (f" ({raw[name].iloc[i]!r})" if name else "") for i in rows[:SHOWN]]
    more = f" and {rows.size - SHOWN} more" if rows.size > SHOWN else ""
    return ", ".join(said) + more
