"""What a plan is given beside the law: costs of pool runs, probabilities of divergence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd


def costs_of(pool: pd.DataFrame, cost: str | Sequence[float] | None) -> tuple[np.ndarray, str]:
    """Cost of each pool run, and its unit.

    Parameters
    ----------
    pool : DataFrame
        Validated.
    cost : str, array or None
        As for `bayes_optlaws.decision.design.design`.

    Examples
    --------
    >>> costs_of(pd.DataFrame({"n_params": [1e6], "tokens": [2e7]}), "flops")
    (array([1.2e+14]), 'FLOP')
    """
    if cost is None:
        return np.ones(len(pool)), "runs"
    if isinstance(cost, str):
        if cost == "flops":
            return 6.0 * pool["n_params"].to_numpy(float) * pool["tokens"].to_numpy(float), "FLOP"
        if cost not in pool.columns:
            raise ValueError(
                f"cost is {cost!r}: it must be 'flops', a column of the pool, an array or None"
            )
        values, label = pool[cost].to_numpy(float), cost
    else:
        values, label = np.asarray(cost, dtype=float), "units of cost"
    if values.shape != (len(pool),):
        raise ValueError(f"cost has shape {values.shape}: give one for each of {len(pool)} rows")
    bad = ~(np.isfinite(values) & (values > 0))
    if bad.any():
        row = pool.index[np.flatnonzero(bad)[0]]
        raise ValueError(
            f"cost of row {row!r} is {values[bad][0]}: costs must be positive and finite; "
            "correct it or leave the row out of the pool"
        )
    return values, label


def given_risk(pool: pd.DataFrame, p_diverge: str | Sequence[float] | None) -> np.ndarray | None:
    """Probability that each pool run diverges, where it is given; else None.

    Parameters
    ----------
    pool : DataFrame
        Validated; its column ``p_diverge`` counts where nothing else is given.
    p_diverge : str, array or None
        Name of a column, or one a row.
    """
    if p_diverge is None:
        if "p_diverge" not in pool.columns:
            return None
        p_diverge = "p_diverge"
    if isinstance(p_diverge, str):
        if p_diverge not in pool.columns:
            raise ValueError(f"p_diverge is {p_diverge!r}: it must be a column of the pool")
        p = pool[p_diverge].to_numpy(float)
    else:
        p = np.asarray(p_diverge, dtype=float)
    if p.shape != (len(pool),):
        raise ValueError(f"p_diverge has shape {p.shape}: give one for each of {len(pool)} rows")
    bad = ~((p >= 0) & (p <= 1))
    if bad.any():
        row = pool.index[np.flatnonzero(bad)[0]]
        raise ValueError(
            f"p_diverge of row {row!r} is {p[bad][0]}: probabilities must lie in [0, 1]"
        )
    return p
