"""Joint draws of the loss of candidates, and the columns of a prediction made of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayes_optlaws.inference.intervals import central_interval

MOST_LOG = 70.0
"""Log losses above it count as it: so far from all runs no float holds the squares of losses."""

MOST_NUMBERS, FEWEST_DRAWS = 10_000_000, 250
"""Draws times candidates at most, by using fewer draws for long tables; and least draws."""


def draws_for(n_candidates: int, max_draws: int) -> int:
    """How many posterior draws a table gets: all, but for tables so long that it would not end.

    Examples
    --------
    >>> draws_for(1_000, 4000), draws_for(10_000, 4000), draws_for(100_000, 4000)
    (4000, 1000, 250)
    """
    return min(max_draws, max(FEWEST_DRAWS, MOST_NUMBERS // max(n_candidates, 1)))


@dataclass(frozen=True)
class LossDraws:
    """Joint draws of the loss of candidates.

    Parameters
    ----------
    loss : array, shape (n_draws, n_candidates)
        Given that the run does not diverge, nats a token.
    risk : array of that shape, or None
        Probability that it does; None where divergence is not modelled.
    noise_sd : float
        Median noise sd of log loss over draws and candidates.
    """

    loss: np.ndarray
    risk: np.ndarray | None
    noise_sd: float


def losses(log_loss: np.ndarray) -> np.ndarray:
    """Losses in nats of log losses, none beyond what floats hold."""
    return np.exp(np.minimum(log_loss, MOST_LOG))


def columns(drawn: LossDraws, tail: float) -> pd.DataFrame:
    """Loss and risk columns of a prediction, one row a candidate."""
    loss, risk = drawn.loss, drawn.risk
    with np.errstate(over="ignore", invalid="ignore"):
        mean, sd = loss.mean(axis=0), loss.std(axis=0)
    lower, upper = central_interval(loss, tail)
    out = {
        "loss_mean": mean,
        # so far from all runs that a draw's square is beyond what floats hold
        "loss_sd": np.nan_to_num(sd, nan=np.inf, posinf=np.inf),
        "loss_lower": lower,
        "loss_upper": upper,
    }
    if risk is None:
        risk = np.full((1, loss.shape[1]), np.nan)
    out["p_diverge"] = risk.mean(axis=0)
    out["p_diverge_lower"], out["p_diverge_upper"] = central_interval(risk, tail)
    return pd.DataFrame(out)
