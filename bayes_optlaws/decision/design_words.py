"""What a run settles, in words: the pair of candidates whose order it does most for."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import norm

from bayes_optlaws.decision.design_value import pair_gain
from bayes_optlaws.text import html


def settled_pair(
    labels: pd.Index,
    loss: np.ndarray,
    cov: np.ndarray,
    explained: np.ndarray,
    *,
    after: str = "this run",
) -> str:
    """Say which pair of candidates an outcome does most for.

    Parameters
    ----------
    labels : Index
        Of the candidates.
    loss : array, shape (C,)
        Expected losses, nats.
    cov, explained : array, shape (C, C)
        Covariance of the losses now, and its part that the outcome explains.
    after : str
        What the outcome is of.

    Examples
    --------
    >>> cov = np.diag([4e-4, 4e-4])
    >>> settled_pair(pd.Index(["A", "B"]), np.array([2.0, 2.01]), cov, 0.5 * cov)[:41]
    'it helps most to decide between A and B. '
    """
    if len(loss) < 2:
        return "it sharpens the only candidate"
    gap = loss[None, :] - loss[:, None]
    total, part = (
        np.maximum(np.diag(m)[:, None] + np.diag(m) - 2 * m, 0.0) for m in (cov, explained)
    )
    leader = int(np.argmin(loss))
    gain = pair_gain(gap, np.sqrt(part))[leader]
    gain[leader] = -1.0
    rival = int(np.argmax(gain))
    before = np.sqrt(total[leader, rival])
    then = np.sqrt(max(total[leader, rival] - part[leader, rival], 0.0))
    p = norm.cdf(gap[leader, rival] / before) if before > 0 else 1.0
    return (
        f"it helps most to decide between {labels[leader]} and {labels[rival]}. "
        f"{labels[leader]} is now expected to be lower by "
        f"{html.significant(gap[leader, rival])} ± {html.significant(before)} nats "
        f"(probability {html.percent(p)}); after {after} the difference would be known to "
        f"± {html.significant(then)} nats"
    )
