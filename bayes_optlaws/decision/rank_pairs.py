"""Each candidate of a ranking against the next: how sure their order is, and what would show it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayes_optlaws.decision.rank_words import LIKELY
from bayes_optlaws.decision.seeds import seeds_to_decide
from bayes_optlaws.kernels import rank_counts


def neighbours(
    labels: pd.Index,
    counted: np.ndarray,
    expected: np.ndarray,
    finished: np.ndarray,
    *,
    tie: float,
    prob: float,
    noise_sd: float | None,
) -> pd.DataFrame:
    """Table of `bayes_optlaws.Ranking.flips`.

    Parameters
    ----------
    labels : Index
        Candidates in the order of the ranking.
    counted, expected, finished : array, shape (n_draws, n)
        Draws of what the order counts on, of what ties are judged on, and of the expected loss of
        runs that finish; columns in that order.
    tie : float
        Nats.
    prob : float
    noise_sd : float or None
        Nats.
    """
    n = len(labels)
    i, j = np.arange(n - 1), np.arange(1, n)
    pairs = rank_counts.pair_summary(counted, i, j, tie=tie)
    judged = rank_counts.pair_summary(expected, i, j, tie=tie)
    verdict = np.select(
        [
            judged.p_tie >= prob,
            judged.p_lower_beyond >= prob,
            pairs.p_lower >= LIKELY,
            pairs.p_lower > 1 - LIKELY,
        ],
        ["tie", "clear", "likely", "coin flip"],
        "reversed",
    )
    return pd.DataFrame(
        {
            "first": labels[:-1],
            "second": labels[1:],
            "gap": pairs.gap,
            "p_lower": pairs.p_lower,
            "p_flip": 1.0 - pairs.p_lower,
            "p_tie": judged.p_tie,
            "p_lower_beyond_tie": judged.p_lower_beyond,
            "p_flip_beyond_tie": judged.p_higher_beyond,
            "verdict": verdict,
            "seeds": [_seeds(finished[:, k : k + 2], noise_sd, prob) for k in i],
        }
    )


def _seeds(pair: np.ndarray, noise_sd: float | None, prob: float) -> float:
    """Runs of each that tell two candidates apart, from draws of both, shape (n_draws, 2)."""
    pair = pair[np.isfinite(pair).all(axis=1)]
    if noise_sd is None or len(pair) < 2:
        return np.nan
    gap = pair[:, 1] - pair[:, 0]
    return seeds_to_decide(float(gap.mean()), float(gap.std()), noise_sd, prob)
