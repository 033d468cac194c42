r"""What a change of stage does to the order of schedules, as measured sets of later stages show it.

A law of training from scratch has the best peak LR of training from scratch. A later stage starts
from a trained model, and its best peak LR is another, which falls with model size and with the
length of the stage. Beside the score of the law, log loss of a later stage therefore has

.. math:: (\gamma + \delta_g)^\top z, \quad \gamma \sim N(m, V),\ \delta_g \sim N(0, \omega^2 I),

with `z` the columns of `change_columns`, :math:`\gamma` common to all sets and :math:`\delta_g` of
set `g` alone (partial pooling). m, V and :math:`\omega` are learned from measured sets by
`bayes_optlaws.inference.stage_learning.learn_change`; those of the shipped sets are the default.
All of it is own choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayes_optlaws.inference.stage_numbers import BETWEEN, COVARIANCE, MEAN
from bayes_optlaws.schedules import integrals

COLUMNS = (
    "log lr",
    "log lr squared",
    "log lr x log n_params",
    "log lr x log tokens",
    "log lr x log mean lr / peak lr",
    "share of warm-up",
)
"""What the columns of `change_columns` are."""

COLUMN_SD = 0.05
"""Prior sd of each coefficient before any later stage was measured, nats."""

HALF_SHARE, SHARE_SCALE = 0.2, 0.3
"""Share of the steps in warm-up at which its column has half of its limit, and that limit."""

LATER_LR = 0.25
"""Peak LR of a later stage, over that of runs from scratch, where the columns of LR are zero."""


@dataclass(frozen=True)
class Reference:
    """Scale at which the columns are zero: geometric means of the runs that the law was fitted to.

    Parameters
    ----------
    lr : float
        Peak LR, per step.
    n_params, tokens : float
    """

    lr: float
    n_params: float
    tokens: float

    @classmethod
    def of(cls, runs: pd.DataFrame) -> Reference:
        """Geometric means over a validated run table."""
        names = ("peak_lr", "n_params", "tokens")
        return cls(*(float(np.exp(np.log(runs[k].astype(float)).mean())) for k in names))


def change_columns(table: pd.DataFrame, reference: Reference) -> np.ndarray:
    """Columns that a change of stage acts on, shape (n, len(COLUMNS)).

    Parameters
    ----------
    table : DataFrame
        Validated candidates or runs of a later stage.
    reference : Reference
    """
    area = integrals(table)
    lr, steps = table["peak_lr"].to_numpy(float), table["steps"].to_numpy(float)
    x = np.log(lr / (LATER_LR * reference.lr))
    n = np.log(table["n_params"].to_numpy(float) / reference.n_params)
    d = np.log(table["tokens"].to_numpy(float) / reference.tokens)
    shape = np.log(2 * (area.conv_warmup + area.conv_cooldown) / (lr * steps))
    share = table["warmup_steps"].to_numpy(float) / steps
    warm = SHARE_SCALE * share / (share + HALF_SHARE)
    return np.column_stack([x, x * x, x * n, x * d, x * shape, warm])


@dataclass(frozen=True)
class StageChange:
    """Coefficients of a change of stage.

    Parameters
    ----------
    mean : tuple of float
        One for each of `COLUMNS`, nats of log loss.
    covariance : tuple of float
        Of the coefficients, row by row.
    between : float
        Sd of each coefficient from set to set.
    """

    mean: tuple[float, ...] = (0.0,) * len(COLUMNS)
    covariance: tuple[float, ...] = tuple((COLUMN_SD**2 * np.eye(len(COLUMNS))).ravel().tolist())
    between: float = 0.005

    def __post_init__(self) -> None:
        k = len(COLUMNS)
        if len(self.mean) != k or len(self.covariance) != k * k:
            raise ValueError(
                f"a change of stage has {k} coefficients and {k * k} entries of their covariance, "
                f"got {len(self.mean)} and {len(self.covariance)}"
            )
        v = np.reshape(self.covariance, (k, k))
        if not np.allclose(v, v.T) or np.linalg.eigvalsh(v).min() < -1e-12 or self.between < 0:
            raise ValueError("the covariance must be symmetric, with no negative variance")

    @classmethod
    def shipped(cls) -> StageChange:
        """As learned from the shipped sets, `bayes_optlaws.inference.stage_numbers`."""
        return cls(MEAN, COVARIANCE, BETWEEN)

    @classmethod
    def none(cls) -> StageChange:
        """No change: scores are those of the law."""
        k = len(COLUMNS)
        return cls((0.0,) * k, (0.0,) * k**2, 0.0)

    def draw(
        self, z: np.ndarray, which_set: np.ndarray, n_draws: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw what the change adds to log loss, joint over configurations, shape (n_draws, n).

        Parameters
        ----------
        z : array, shape (n, k)
        which_set : int array, shape (n,)
        n_draws : int
        rng : numpy Generator
        """
        k = len(self.mean)
        value, vector = np.linalg.eigh(np.reshape(self.covariance, (k, k)))
        root = vector * np.sqrt(np.maximum(value, 0.0))
        common = np.asarray(self.mean) + rng.standard_normal((n_draws, k)) @ root.T
        out = common @ z.T
        for label in np.unique(which_set):
            mine = which_set == label
            out[:, mine] += self.between * rng.standard_normal((n_draws, k)) @ z[mine].T
        return out
