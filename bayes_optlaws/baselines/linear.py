"""Linear regression on the raw inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from bayes_optlaws.baselines.base import ResampledBaseline, read_columns


class LinearRegression(ResampledBaseline):
    """``L = b0 + b1 N + b2 peak_lr + b3 warmup_steps`` by least squares: 4 parameters.

    Parameters
    ----------
    inputs : sequence of str
        Numeric columns of the run table. Each is divided by its largest absolute value among the
        training runs, as the paper does with the learning rate; this changes only the size of
        the coefficients.

    Notes
    -----
    Source: the "Linear regression" row (4 parameters) of arXiv 2409.04777, Table 1. Its inputs are
    lost; peak learning rate and warm-up are certain, model size and the constant are inferred from
    the count and from its R2 of 0.56, which needs both. A plane knows no lower bound: predictions
    are cut at 1e-3 nats.

    Examples
    --------
    >>> from bayes_optlaws import datasets, read_runs
    >>> law = LinearRegression().fit(read_runs(datasets.load("pocket")))
    >>> list(law.parameters.index)
    ['constant', 'n_params', 'peak_lr', 'warmup_steps']
    """

    name = "linear"
    noise: ClassVar[Literal["log", "loss"]] = "loss"

    def __init__(self, *, inputs: Sequence[str] = ("n_params", "peak_lr", "warmup_steps")) -> None:
        if isinstance(inputs, str) or not len(inputs):
            raise ValueError(
                f"inputs = {inputs!r}: must be a sequence of columns; give at least one"
            )
        self.inputs = tuple(inputs)
        self.n_parameters = len(self.inputs) + 1

    def _inputs(self, table: pd.DataFrame) -> np.ndarray:
        return np.column_stack(list(read_columns(table, self.inputs).values()))

    def _estimate(
        self, inputs: np.ndarray, loss: np.ndarray, weight: np.ndarray, start: Any | None
    ) -> np.ndarray:
        if start is None:
            top = np.abs(inputs).max(axis=0)
            self._scale = np.where(top > 0, top, 1.0)
        root = np.sqrt(weight)
        return np.linalg.lstsq(self._columns(inputs) * root[:, None], loss * root, rcond=None)[0]

    def _columns(self, inputs: np.ndarray) -> np.ndarray:
        return np.column_stack([np.ones(len(inputs)), inputs / self._scale])

    def _curve(self, inputs: np.ndarray, state: np.ndarray) -> np.ndarray:
        return self._columns(inputs) @ state

    def _describe(self, state: np.ndarray) -> pd.Series:
        return pd.Series(state, index=["constant", *self.inputs])
