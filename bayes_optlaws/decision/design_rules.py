"""Rules that choose runs without looking at the law, to compare a plan with."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree
from scipy.stats import qmc, rankdata

RULES = ("random", "cost-weighted random", "cheapest", "space-filling", "mid-size")
"""``cost-weighted random`` draws cheap runs more often, in proportion to one over the cost;
``mid-size`` takes the models nearest to the geometric middle of the pool's sizes, in random order.
"""

_AXES = ("n_params", "tokens", "batch_tokens", "peak_lr", "warmup_steps")


def order_by_rule(
    rule: str, pool: pd.DataFrame, cost: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Rows of the pool in the order in which a rule takes them, shape (n,).

    Examples
    --------
    >>> pool = pd.DataFrame({"n_params": [1.0, 2.0, 3.0]})
    >>> order_by_rule("cheapest", pool, np.array([3.0, 1.0, 2.0]), np.random.default_rng(0))
    array([1, 2, 0])
    """
    if rule == "random":
        return rng.permutation(len(pool))
    if rule == "cost-weighted random":
        # exponential races: the first arrivals are a draw without replacement by weight
        return np.argsort(rng.exponential(size=len(pool)) * cost)
    if rule == "cheapest":
        return np.argsort(cost, kind="stable")
    if rule == "mid-size":
        size = np.log(pool["n_params"].to_numpy(float))
        far = np.abs(size - 0.5 * (size.min() + size.max()))
        return np.lexsort((rng.permutation(len(pool)), far.round(9)))
    if rule == "space-filling":
        return _space_filling(pool, rng)
    raise ValueError(f"rule is {rule!r}: it must be one of {', '.join(RULES)}")


def _space_filling(pool: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """Nearest rows to the points of a scrambled Sobol sequence over the pool's quantiles."""
    n = len(pool)
    axes = [c for c in _AXES if c in pool.columns and pool[c].nunique() > 1]
    if not axes:
        return rng.permutation(n)
    position = np.column_stack([(rankdata(pool[c]) - 0.5) / n for c in axes])
    points = qmc.Sobol(len(axes), rng=rng).random_base2(int(np.ceil(np.log2(max(n, 2)))))
    free = np.ones(n, dtype=bool)
    order = []
    tree = cKDTree(position)
    for point in points[:n]:
        k = 8
        while True:
            near = np.atleast_1d(tree.query(point, k=min(k, n))[1])
            near = near[free[near]]
            if near.size:
                break
            k *= 4
        free[near[0]] = False
        order.append(near[0])
    return np.concatenate([order, np.flatnonzero(free)]).astype(int)
