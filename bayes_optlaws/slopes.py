r"""What published scaling laws say of the slopes of the loss, as data that every table shares.

Loss falls with model size and with tokens, and ever more slowly.  Few runs at few scales do not
say so, and a law that must learn it from them bends the wrong way a decade later.  So the law's
slopes, averaged over the runs of the table, are taken as if they had been observed with noise,

.. math::

    m_h = \overline{\frac{\partial \log L_\text{law}}{\partial \log N}}\Big|_{h} + \epsilon_h,
    \qquad \epsilon_h \sim N(0, s_h^2),

at the table's scales (h = 0) and 1, 2, 3 decades beyond its largest model, and likewise for tokens
(a run stretched in time).  Slopes are linear in the coefficients, so these are rows of the
likelihood with a known precision: one more Gram matrix, and all else stays exact.  As data they
also weigh exponents and hyper-parameters, by how well those agree with them.

Where the figures come from.  Slopes of Chinchilla's law (Hoffmann et al. 2022, doi:10.48550/
arXiv.2203.15556, and the refit of Besiroglu et al. 2024, arXiv:2404.10102) for N of 1e7 to 1e11 and
5 to 200 tokens a parameter: -.12 at 1e7, -.075 at 1e8, -.05 at 1e9, -.026 at 1e10 in N, and about
the same in tokens, so that each decade takes about a third off.  Kaplan et al. 2020
(arXiv:2001.08361): -.076 in N and -.095 in tokens, where the other is not the limit.  From them:
mean -.08 at the table, times .65 a decade, and an sd of .55 of the mean, which leaves
P(slope > 0) = .035 at each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

STEP = 0.02
"""Half the step of the central differences, nats."""

MAX_RUNS = 300
"""Runs averaged over, evenly spaced through the table."""

_TIMES = ("steps", "tokens", "warmup_steps", "decay_end_step", "cooldown_start_step")
_AREAS = {"conv_warmup": 1, "conv_cooldown": 1, "escape_warmup": -1, "escape_cooldown": -1}


@dataclass(frozen=True)
class SlopePrior:
    """Prior of d log loss / d log N and d log loss / d log tokens.

    Parameters
    ----------
    mean : float
        Mean slope at the scales of the table; negative.
    per_decade : float
        Factor of the mean for each decade beyond the largest scale.
    relative_sd : float
        Sd over mean, at every distance; infinite for no prior knowledge.
    decades : tuple of float
        Distances beyond the largest scale at which the slope is stated, beside the table's own.

    Examples
    --------
    >>> mean, sd = SlopePrior().moments()
    >>> mean.round(3), sd.round(3)
    (array([-0.08 , -0.052, -0.034, -0.022]), array([0.044, 0.029, 0.019, 0.012]))
    """

    mean: float = -0.08
    per_decade: float = 0.65
    relative_sd: float = 0.55
    decades: tuple[float, ...] = (1.0, 2.0, 3.0)

    def __post_init__(self) -> None:
        """Refuse values that are no belief in a falling loss."""
        if not (np.isfinite(self.mean) and self.mean < 0):
            raise ValueError(f"SlopePrior.mean must be negative and finite, got {self.mean!r}")
        if not 0 < self.per_decade <= 1:
            raise ValueError(f"SlopePrior.per_decade must be in (0, 1], got {self.per_decade!r}")
        if not self.relative_sd > 0:
            raise ValueError(f"SlopePrior.relative_sd must be positive, got {self.relative_sd!r}")

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and sd of the slope at the table and at each of `decades` beyond it."""
        mean = self.mean * self.per_decade ** np.array([0.0, *self.decades])
        return mean, self.relative_sd * np.abs(mean)


def enlarged(table: pd.DataFrame, log_n: np.ndarray, log_time: np.ndarray) -> pd.DataFrame:
    """Return the runs with model size and tokens multiplied, schedules stretched in time.

    Parameters
    ----------
    table : DataFrame
        Validated run table.
    log_n, log_time : float or array, shape (n,)
        Logs of the factors.
    """
    out = table.copy()
    out["n_params"] = table["n_params"].to_numpy(float) * np.exp(log_n)
    for name in _TIMES:
        if name in out:
            out[name] = table[name].to_numpy(float) * np.exp(log_time)
    for name, power in _AREAS.items():
        if name in out:
            out[name] = table[name].to_numpy(float) * np.exp(power * log_time)
    return out


def slope_rows(dictionary, table: pd.DataFrame, prior: SlopePrior) -> tuple[np.ndarray, np.ndarray]:
    """Rows and responses of the slopes as observations of unit noise.

    Parameters
    ----------
    dictionary : callable
        From a table to standardised columns, shape (n, n_columns).
    table : DataFrame
        Convergent runs.
    prior : SlopePrior

    Returns
    -------
    rows : array, shape (2 * (1 + n_decades), n_columns)
        Those of N first.
    y : array, shape (2 * (1 + n_decades),)
    """
    mean, sd = prior.moments()
    if not np.all(np.isfinite(sd)):
        return np.zeros((0, dictionary(table.iloc[:1]).shape[1])), np.zeros(0)
    keep = np.unique(np.linspace(0, len(table) - 1, min(len(table), MAX_RUNS)).round().astype(int))
    some = table.iloc[keep]
    rows = []
    for name in ("n_params", "tokens"):
        log = np.log(some[name].to_numpy(float))
        to_top = np.log(table[name].max()) - log
        for h in (None, *prior.decades):
            shift = np.zeros(len(some)) if h is None else to_top + h * np.log(10.0)
            ends = []
            for side in (STEP, -STEP):
                move = shift + side
                still = np.zeros(len(some))
                moved = (move, still) if name == "n_params" else (still, move)
                ends.append(dictionary(enlarged(some, *moved)).mean(axis=0))
            rows.append((ends[0] - ends[1]) / (2 * STEP))
    y, scale = np.tile(mean, 2), np.tile(sd, 2)
    return np.array(rows) / scale[:, None], y / scale
