"""What a diverged run counts as: a property of the run table, never of draws or candidates."""

from __future__ import annotations

import numpy as np
import pandas as pd

PRICE_ABOVE = 1.0
"""Nats above the highest finished loss, where no diverged run has a recorded loss (own choice)."""


def divergence_price(runs: pd.DataFrame) -> float:
    """Loss that a diverged run counts as, nats a token.

    The median of the losses recorded for runs that diverged; where none is recorded, the highest
    finished loss plus 1 nat (own choice).

    Parameters
    ----------
    runs : DataFrame
        Validated run table.

    Examples
    --------
    >>> runs = pd.DataFrame({"final_loss": [2.5, 3.0, None], "diverged": [False, False, True]})
    >>> divergence_price(runs)
    4.0
    >>> divergence_price(runs.assign(final_loss=[2.5, 3.0, 7.2]))
    7.2
    """
    loss = runs["final_loss"].to_numpy(dtype=float)
    diverged, finite = runs["diverged"].to_numpy(dtype=bool), np.isfinite(loss)
    recorded = loss[diverged & finite]
    if recorded.size:
        return float(np.median(recorded))
    return float(loss[~diverged & finite].max() + PRICE_ABOVE)
