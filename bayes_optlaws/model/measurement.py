r"""How well a final loss was measured: its standard error, and the seeds that it is a mean of.

A row of the run table may be the mean over several seeds, and its loss may have been read from a
small evaluation set or a short stretch of a noisy curve.  With n seeds (column ``n_seeds``) and
standard error m of the loss as measured (column ``loss_sd``) the log loss y has the variance

.. math::

    \operatorname{var}(y) = (m / L)^2 + \sigma_c^2 / n,

with :math:`\sigma_c` the noise of one run of the class c (`bayes_optlaws.model.noise`).  So a row
times :math:`\sqrt n` has the variance :math:`\sigma_c^2 + e`, with :math:`e = n (m / L)^2` known,
and the runs of one class and one e are one Gram matrix.  Known variances are few: those of a table
that has more than `MAX_LEVELS` are merged, the nearest first, and likelihood, leave-one-out,
evaluation and replicated data all read the merged ones.  (Own choice.)

With Student-t noise (`bayes_optlaws.model.student_t`) a run has a weight, too: its expected
precision relative to that of its noise sd, by which it enters the likelihood as if it were the mean
over so many seeds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from bayes_optlaws.model.noise import NoiseClasses

MAX_LEVELS = 6
"""Known variances that are told apart; one Gram matrix for each in every noise class."""

GRID = 0.02
"""Nats of measurement sd to which they are rounded before they are merged."""

COLUMNS = ("loss_sd", "n_seeds")
"""Columns of the run table that say how a loss was measured."""


def seeds(table: pd.DataFrame) -> np.ndarray:
    """Number of runs that each row is the mean of, shape (n,); one where it is not said."""
    if "n_seeds" not in table:
        return np.ones(len(table))
    return table["n_seeds"].fillna(1.0).to_numpy(float)


def measurement_sd(table: pd.DataFrame, log_loss: np.ndarray) -> np.ndarray:
    """Standard error of the log loss as measured; zero where it is not said.

    Parameters
    ----------
    table : DataFrame
        Validated run table.
    log_loss : array, shape (..., n)
        Log loss of each row, by which its standard error in nats is divided.
    """
    if "loss_sd" not in table:
        return np.zeros(np.shape(log_loss))
    return table["loss_sd"].fillna(0.0).to_numpy(float) * np.exp(-np.asarray(log_loss, float))


@dataclass(frozen=True)
class Measurement:
    """Seeds, known variance and noise class of the runs of a table.

    Parameters
    ----------
    seeds : array, shape (n_runs,)
    label : int array, shape (n_runs,)
        Class of each run among those below.
    covariates : array, shape (n_classes, n_names)
        Noise covariates of each class, those of its `NoiseClasses`.
    variance : array, shape (n_classes,)
        Known variance of each class, of rows times the root of their seeds.
    lower, upper, level : arrays, shape (n_levels,)
        Known variances of the runs: range of those merged into one, and that one.
    weight : array, shape (n_runs,)
        Expected precision of each run relative to that of its noise sd; one with normal noise.
    df : float
        Degrees of freedom of the noise; infinite: normal.

    Examples
    --------
    >>> runs = pd.DataFrame({"final_loss": 3.0, "loss_sd": [0.003, None], "n_seeds": [4, 1]})
    >>> one = NoiseClasses((), np.zeros((1, 0)), np.zeros(2, dtype=int))
    >>> m = Measurement.fit(runs, one)
    >>> m.variance[m.label].round(9).tolist(), m.sd(0.002, runs, np.log([3.0, 3.0])).round(6)
    ([4e-06, 0.0], array([0.001414, 0.002   ]))
    """

    seeds: np.ndarray
    label: np.ndarray
    covariates: np.ndarray
    variance: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    level: np.ndarray
    weight: np.ndarray
    df: float = np.inf

    @classmethod
    def fit(cls, table: pd.DataFrame, noise: NoiseClasses) -> Measurement:
        """Read the measurement of the finished runs of a validated table.

        Parameters
        ----------
        table : DataFrame
            Convergent runs.
        noise : NoiseClasses
            Classes of the same runs by the noise of one run.
        """
        n = seeds(table)
        known = n * measurement_sd(table, np.log(table["final_loss"].to_numpy(float))) ** 2
        lower, upper, level = _levels(known[known > 0])
        if not level.size:
            none = np.zeros(len(noise.covariates))
            return cls(n, noise.label, noise.covariates, none, lower, upper, level, np.ones(n.size))
        rounded = _rounded(known, lower, upper, level)
        pairs, label = np.unique(
            np.column_stack([rounded, noise.label]), axis=0, return_inverse=True
        )
        return cls(
            n, label.ravel(), noise.covariates[pairs[:, 1].astype(int)], pairs[:, 0], lower, upper,
            level, np.ones(n.size),
        )  # fmt: skip

    def weighted(self, weight: np.ndarray, df: float) -> Measurement:
        """The same with these weights of the runs, and degrees of freedom of the noise."""
        return replace(self, weight=np.asarray(weight, dtype=float), df=float(df))

    @property
    def times(self) -> np.ndarray:
        """What each row is multiplied by to have the noise sd of one run, shape (n_runs,)."""
        return np.sqrt(self.seeds * self.weight)

    @property
    def said(self) -> bool:
        """Whether any row has a standard error, or is a mean over seeds."""
        return bool(self.variance.any() or (self.seeds != 1).any())

    def sd(
        self, one_run: np.ndarray | float, table: pd.DataFrame, log_loss: np.ndarray
    ) -> np.ndarray:
        """Noise sd of log loss of rows as they were measured.

        Parameters
        ----------
        one_run : array, shape (..., n)
            Noise sd of one run at each row's settings.
        table : DataFrame
            Validated run table; its losses are not read.
        log_loss : array, shape (..., n)
            Log loss of each row, measured or expected.

        Returns
        -------
        array, shape (..., n)
        """
        if not set(COLUMNS) & set(table.columns):
            return np.asarray(one_run, dtype=float)
        n = seeds(table)
        known = n * measurement_sd(table, log_loss) ** 2
        known = _rounded(known, self.lower, self.upper, self.level)
        return np.sqrt((np.square(one_run) + known) / n)


def _rounded(
    known: np.ndarray, lower: np.ndarray, upper: np.ndarray, level: np.ndarray
) -> np.ndarray:
    """Known variances, those within the range of a level as that level."""
    out = np.array(known, dtype=float)
    for low, high, value in zip(lower, upper, level, strict=True):
        # a ten-thousandth: the same standard error over an expected loss instead of the measured
        out[(known >= low * (1 - 1e-4)) & (known <= high * (1 + 1e-4))] = value
    return out


def _levels(known: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranges and means of known variances, the nearest merged (Ward, in logs) while too many."""
    distinct, count = np.unique(known, return_counts=True)
    if len(distinct) <= MAX_LEVELS:
        return distinct, distinct, distinct
    cell = np.unique(np.round(np.log(distinct) / (2 * GRID)), return_inverse=True)[1]
    n = np.bincount(cell, count)
    lower = np.full(n.size, np.inf)
    np.minimum.at(lower, cell, distinct)
    upper = np.zeros(n.size)
    np.maximum.at(upper, cell, distinct)
    total = np.bincount(cell, count * distinct)
    log = np.bincount(cell, count * np.log(distinct))
    while n.size > MAX_LEVELS:
        gap = np.diff(log / n)
        i = int(np.argmin(gap**2 * n[1:] * n[:-1] / (n[1:] + n[:-1])))
        upper[i] = upper[i + 1]
        for sums in (n, total, log):
            sums[i] += sums[i + 1]
        n, lower, upper, total, log = (np.delete(a, i + 1) for a in (n, lower, upper, total, log))
    return lower, upper, total / n
