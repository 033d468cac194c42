"""Settings of runs as standardised logs, and log losses as a standardised target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd

from bayes_optlaws.baselines.gaussian_process import coordinates

SCALE = ("log_n_params", "log_tokens")
_FLAT = 0.05  # sd of a log (own choice): below it a coordinate varies by rounding only


@dataclass(frozen=True)
class StandardLogs:
    """Coordinates that vary among the training runs, standardised by them.

    Attributes
    ----------
    names : tuple of str
        Coordinates in use.
    mean, sd : ndarray, shape (n_names,)
    y_mean, y_sd : float
        Of the log losses.
    """

    names: tuple[str, ...]
    mean: np.ndarray
    sd: np.ndarray
    y_mean: float
    y_sd: float

    @classmethod
    def fit(cls, rows: pd.DataFrame, loss: np.ndarray, *, scale_only: bool = False) -> Self:
        """Learn from finished runs and their losses, shape (n,)."""
        x = coordinates(rows)
        if scale_only:
            x = x[list(SCALE)]
        x = x.loc[:, x.std(ddof=0) > _FLAT]
        y = np.log(loss)
        return cls(
            tuple(x.columns), x.mean().to_numpy(), x.std(ddof=0).to_numpy(), float(y.mean()),
            max(float(y.std()), 1e-12),
        )  # fmt: skip

    def points(self, table: pd.DataFrame) -> np.ndarray:
        """Standardised coordinates of a table, shape (n, n_names)."""
        return (coordinates(table)[list(self.names)].to_numpy() - self.mean) / self.sd

    def target(self, loss: np.ndarray) -> np.ndarray:
        """Standardised log losses."""
        return (np.log(loss) - self.y_mean) / self.y_sd

    def loss(self, y: np.ndarray) -> np.ndarray:
        """Losses of standardised log losses, nats per token."""
        return np.exp(np.clip(self.y_mean + self.y_sd * y, -50.0, 50.0))
