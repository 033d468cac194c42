"""The mean loss of the block: what is known without looking at the schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bayes_optlaws.baselines.base import ResampledBaseline, read_columns


@dataclass(frozen=True)
class _Blocks:
    """Blocks in (log N, log tokens), shape (n_blocks, 2), and their mean losses."""

    centre: np.ndarray
    mean: np.ndarray


class ConstantBlockMean(ResampledBaseline):
    """The mean loss of the runs of the same model size and token budget.

    Parameters
    ----------
    tolerance : float
        Model sizes and budgets that differ by less than this fraction are one block: budgets are
        rounded to whole steps, and batch sizes differ.

    Notes
    -----
    Source: the "Constant (block mean)" row of arXiv 2409.04777, Table 1. A block that was not
    seen gets the mean of the nearest one in (log N, log tokens) (own choice). `n_parameters` is
    the number of blocks.

    Examples
    --------
    >>> from bayes_optlaws import datasets, read_runs
    >>> runs = read_runs(datasets.load("pocket"))
    >>> law = ConstantBlockMean().fit(runs)
    >>> law.n_parameters, bool(np.isclose(law.predict(runs)[0], runs["final_loss"][:35].mean()))
    (7, True)
    """

    name = "constant"

    def __init__(self, *, tolerance: float = 0.01) -> None:
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance = {tolerance}: must lie between 0 and 1; 0.01 is 1 %")
        self.tolerance = tolerance
        self.n_parameters = 0

    def _inputs(self, table: pd.DataFrame) -> np.ndarray:
        x = read_columns(table, ("n_params", "tokens"))
        return np.log(np.column_stack([x["n_params"], x["tokens"]]))

    def _estimate(
        self, inputs: np.ndarray, loss: np.ndarray, weight: np.ndarray, start: Any | None
    ) -> _Blocks:
        code = self._cells(inputs)
        count = np.bincount(code)
        centre = np.column_stack([np.bincount(code, weights=x) / count for x in inputs.T])
        mean = np.bincount(code, weights=weight * loss) / np.bincount(code, weights=weight)
        return _Blocks(centre, mean)

    def _cells(self, inputs: np.ndarray) -> np.ndarray:
        """Return the number of the block of each training run."""
        gap = np.log1p(self.tolerance) + 1e-12
        code = np.zeros(len(inputs), dtype=int)
        for x in inputs.T:
            # Within the cells so far, a gap along the sorted axis opens a new one.
            order = np.lexsort((x, code))
            new = (np.diff(x[order]) > gap) | (np.diff(code[order]) > 0)
            fresh = np.empty_like(code)
            fresh[order] = np.concatenate([[0], np.cumsum(new)])
            code = fresh
        return code

    def _curve(self, inputs: np.ndarray, state: _Blocks) -> np.ndarray:
        distance = ((inputs[:, None, :] - state.centre) ** 2).sum(axis=2)
        return state.mean[distance.argmin(axis=1)]

    def _count(self, state: _Blocks) -> float:
        return state.mean.size

    def _describe(self, state: _Blocks) -> pd.Series:
        index = [f"N={np.exp(n):.4g}, D={np.exp(d):.4g}" for n, d in state.centre]
        return pd.Series(state.mean, index=index)
