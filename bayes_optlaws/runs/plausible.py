"""What is possible in a run table and yet hardly meant: said as warnings, each with its remedy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from bayes_optlaws.runs.faults import abbreviate
from bayes_optlaws.text.numbers import count, rate, short

__all__ = ["doubts", "equal_runs"]

UNTRAINED = 13.0
"""Loss in nats a token above that of an untrained model of any usual vocabulary (442,000)."""

_SETTINGS = (
    "n_params", "tokens", "batch_tokens", "peak_lr", "warmup_steps", "schedule", "min_lr",
    "decay_end_step", "plateau_lr", "cooldown_start_step",
)  # fmt: skip
Write = Callable[[float], str]
_GAP = 500.0  # between neighbours of a column in one unit
_ENOUGH = 4  # runs of a cell whose median says what is usual there


def doubts(frame: pd.DataFrame, *, outcome: bool, vocab_size: float | None = None) -> list[str]:
    """Sentences about what is hardly meant in a validated table.

    Parameters
    ----------
    frame : DataFrame
        Validated run table or candidates.
    outcome : bool
        Whether losses are to be looked at.
    vocab_size : float, optional
        Of the tokenizer: no finished run should be worse than guessing uniformly.

    Returns
    -------
    list of str
    """
    found: list[str] = []

    def say(bad: np.ndarray, what: str, values: np.ndarray, write: Write, remedy: str) -> None:
        if bad.any():
            span = _span(values[bad], write)
            found.append(f"{_rows(frame, bad)}: {what} ({span}); {remedy}")

    n, tokens, batch, steps, lr, warm = (
        frame[c].to_numpy(float)
        for c in ("n_params", "tokens", "batch_tokens", "steps", "peak_lr", "warmup_steps")
    )
    ratio = tokens / n
    remedy = "if n_params is in thousands, millions or billions pass units={'n_params': 'M'}"
    say(n < 1e4, "fewer than 10,000 parameters", n, short, remedy)
    remedy = (
        "check n_params and tokens, or the batch if tokens come from batch and steps: a batch in "
        "sequences needs sequence_length=2048"
    )
    say(ratio < 0.01, "tokens per parameter below 0.01", ratio, _digits, remedy)
    remedy = "check the units of n_params and tokens"
    say(ratio > 1e5, "tokens per parameter above 100,000", ratio, count, remedy)
    small = batch < 1000
    remedy = "if batch_tokens is in sequences pass sequence_length=2048 (tokens in one sequence)"
    say(small, "a batch of fewer than 1,000 tokens", batch, count, remedy)
    remedy = "check tokens and batch_tokens"
    say((steps > 1e7) & ~small, "more than 10 million steps", steps, short, remedy)
    remedy = "if it is in units of 1e-4 pass units={'peak_lr': 1e-4}"
    say(lr > 1, "a peak learning rate above 1", lr, rate, remedy)
    remedy = "if warmup_steps is a share of the steps pass units={'warmup_steps': 'share'}"
    say((warm > 0) & (warm < 1), "a warm-up below one step", warm, _digits, remedy)
    for name in ("n_params", "tokens", "batch_tokens", "peak_lr"):
        gap = _gap(frame[name].to_numpy(float))
        if gap is not None:
            found.append(
                f"{name} jumps from {short(gap[0]) if gap[0] >= 1 else rate(gap[0])} to "
                f"{short(gap[1]) if gap[1] >= 1 else rate(gap[1])}: two units in one column? "
                "Give all rows in one unit"
            )
    if outcome:
        found += _losses(frame, vocab_size)
    return found


def _losses(frame: pd.DataFrame, vocab_size: float | None) -> list[str]:
    found: list[str] = []
    loss = frame["final_loss"].to_numpy(float)
    finished = ~frame["diverged"].to_numpy(bool) & np.isfinite(loss)
    if not finished.any():
        return found
    ceiling = UNTRAINED if vocab_size is None else float(np.log(float(vocab_size)))
    above = finished & (loss > ceiling)
    if above.any():
        name = "13 nats" if vocab_size is None else f"log(vocabulary) = {ceiling:.2f} nats"
        remedy = (
            "mark it as diverged, or, if the column is perplexity, pass loss_unit='ppl'"
            if np.mean(above[finished]) < 0.5
            else "if it is perplexity pass loss_unit='ppl'"
        )
        found.append(
            f"{_rows(frame, above)}: a loss above {name}, worse than an untrained model "
            f"({_span(loss[above], _digits)}); {remedy}"
        )
    low = finished & (loss < 0.2)
    if low.any():
        found.append(
            f"{_rows(frame, low)}: a loss below 0.2 nats a token ({_span(loss[low], _digits)}); "
            "check that it is the mean loss of a token in nats"
        )
    apart = _apart(frame, loss, finished) & ~above
    if apart.any():
        found.append(
            f"{_rows(frame, apart)}: a loss far above the others of its scale "
            f"({_span(loss[apart], _digits)}); mark the run as diverged if it is"
        )
    same = equal_runs(frame)
    if same.any():
        found.append(
            f"{_rows(frame, same)}: equal to another row in every setting and in the loss; copies "
            "make the noise look smaller than it is: remove them, or give each run its own loss"
        )
    if _rises(frame[finished]):
        found.append(
            "the lowest loss rises with tokens at most model sizes; check tokens and final_loss, "
            "and that all runs share data and tokenizer"
        )
    return found


def equal_runs(frame: pd.DataFrame) -> np.ndarray:
    """Rows that repeat an earlier one in every setting and in a finite loss, shape (n,)."""
    seen = frame[[c for c in (*_SETTINGS, "final_loss") if c in frame.columns]]
    told = np.isfinite(frame["final_loss"].to_numpy(float)) & ~frame["diverged"].to_numpy(bool)
    # one hash a row first: few rows share it, and only those are compared column by column
    keys = pd.util.hash_pandas_object(seen, index=False)
    alike = keys.duplicated(keep=False).to_numpy() & told
    same = np.zeros(len(frame), dtype=bool)
    same[alike] = seen[alike].duplicated().to_numpy()
    return same


def _apart(frame: pd.DataFrame, loss: np.ndarray, finished: np.ndarray) -> np.ndarray:
    """Finished runs whose loss is far above those of their cell (or of all, in a small cell)."""
    bad = np.zeros(len(frame), dtype=bool)
    where = np.flatnonzero(finished)
    order = np.sort(loss[where])
    ceiling = 1.5 * order[-2] if order.size > 1 else np.inf
    for rows in frame.iloc[where].groupby(["n_params", "tokens"]).indices.values():
        at = where[rows]
        if len(at) < _ENOUGH:
            bad[at] = loss[at] > ceiling
            continue
        bad[at] = loss[at] > 2.0 * np.median(loss[at])
    # one run in ten is no exception any more
    return bad if bad.sum() <= max(1, 0.1 * len(where)) else np.zeros_like(bad)


def _rises(finished: pd.DataFrame) -> bool:
    """Whether, in most pairs of neighbouring budgets at one size, the longer run is worse."""
    best = finished.groupby(["n_params", "tokens"])["final_loss"].min()
    pairs = [np.diff(np.log(group.to_numpy())) for _, group in best.groupby(level=0)]
    change = np.concatenate(pairs) if pairs else np.zeros(0)
    return change.size >= 2 and float(np.mean(change > 0.005)) > 0.5


def _gap(values: np.ndarray) -> tuple[float, float] | None:
    seen = np.unique(values[values > 0])
    ratio = seen[1:] / seen[:-1]
    if not ratio.size or ratio.max() < _GAP:
        return None
    at = int(np.argmax(ratio))
    return float(seen[at]), float(seen[at + 1])


def _rows(frame: pd.DataFrame, bad: np.ndarray) -> str:
    ids = frame["run_id"].to_numpy(object)[bad]
    shown = ", ".join(abbreviate(v) for v in ids[:3])
    if len(ids) == 1:
        return f"run {shown}"
    return f"{len(ids)} of {len(frame)} runs ({shown}{', ...' if len(ids) > 3 else ''})"


def _span(values: np.ndarray, write: Write) -> str:
    low, high = write(float(values.min())), write(float(values.max()))
    return low if low == high else f"{low} to {high}"


def _digits(value: float) -> str:
    return f"{value:.3g}"
