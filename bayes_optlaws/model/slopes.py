r"""What published scaling laws say of the slopes of the loss, as data that every table shares.

Loss falls with model size and with tokens, and ever more slowly.  Few runs at few scales do not
say so, and a law that must learn it from them bends the wrong way a decade later.  So the law's
slopes, averaged over the best run of each scale, are taken as if they had been observed with noise
(published laws are of tuned runs; far from the best learning rate nothing is said of slopes),

.. math::

    \overline{b_j(s)} = m + \epsilon_0, \quad \epsilon_0 \sim N(0, s_0^2); \qquad
    \overline{b_j(s')} - \overline{\rho^{\,d} b_j(s)} = \epsilon_d, \quad
    \epsilon_d \sim N(0, (c\, m)^2 d),

with :math:`b_j = \partial \log L_\text{law} / \partial \log s_j` for N and for tokens (a run
stretched in time), s the scale of a run, and s' that scale with N or tokens alone, or both, moved
to 1, 2 and 3 decades beyond the table's largest; d is the distance moved, in decades.  Slopes are
linear in the coefficients, so these are rows of the likelihood with a known precision: one more
Gram matrix, and all else stays exact.  As data they also weigh exponents and hyper-parameters, by
how well those agree with them.

Where the figures come from.  Chinchilla's law (Hoffmann et al. 2022, arXiv:2203.15556, approach 3)
has slopes in N of -.108, -.075, -.048, -.026 at N of 1e7, 1e8, 1e9, 1e10 and 20 tokens a
parameter, and about the same in tokens; Kaplan et al. 2020 (arXiv:2001.08361) -.076 in N and
-.095 in tokens, where the other is not the limit.  So m = -.08, and an sd of .45 of it leaves
P(slope > 0) = .013.  Over a decade of both, Hoffmann's slopes keep .64 to .69 of themselves around
1e8 parameters, over one of N alone .52, of tokens alone .61.  With the refit of Besiroglu et al.
2024 (arXiv:2404.10102), N of 1e7 to 1e10 and 10 to 40 tokens a parameter: .60 (sd .08) together,
.52 (.05) alone, and Kaplan's law keeps all; so .67 and .57, and a change of slope known to
c = .05 of m.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm

from bayes_optlaws.model.discrepancy import merge_scales, scales

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
    relative_sd : float
        Its sd over its mean; infinite for no prior knowledge at all.
    alone, together : float
        Share of a slope that is left a decade further in N or tokens alone, and in both.
    change_sd : float
        Sd of the change of slope beyond that, over one decade, as a share of ``mean``.
    decades : tuple of float
        Distances beyond the largest scale at which slopes are stated.

    Examples
    --------
    >>> round(SlopePrior().p_rising(), 3)
    0.013
    """

    mean: float = -0.08
    relative_sd: float = 0.45
    alone: float = 0.57
    together: float = 0.67
    change_sd: float = 0.05
    decades: tuple[float, ...] = (1.0, 2.0, 3.0)

    def __post_init__(self) -> None:
        """Refuse values that are no belief in a falling loss."""
        if not (np.isfinite(self.mean) and self.mean < 0):
            raise ValueError(f"SlopePrior.mean must be negative and finite, got {self.mean!r}")
        for name in ("alone", "together"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(
                    f"SlopePrior.{name} must be in (0, 1], got {getattr(self, name)!r}"
                )
        for name in ("relative_sd", "change_sd"):
            if not getattr(self, name) > 0:
                raise ValueError(f"SlopePrior.{name} must be positive, got {getattr(self, name)!r}")

    def p_rising(self) -> float:
        """Probability that the loss rises with scale at the table."""
        return float(norm.sf(1.0 / self.relative_sd))


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


def best_of_scales(table: pd.DataFrame) -> pd.DataFrame:
    """Return the run of lowest loss at each (N, tokens), in the order of the table.

    Parameters
    ----------
    table : DataFrame
        Convergent runs.
    """
    cell = pd.DataFrame(merge_scales(scales(table), np.zeros((0, 2))).round(9))
    loss = table["final_loss"].reset_index(drop=True)
    return table.iloc[np.sort(loss.groupby([cell[0], cell[1]]).idxmin().to_numpy())]


def slope_rows(
    dictionary: Callable[[pd.DataFrame], np.ndarray], table: pd.DataFrame, prior: SlopePrior
) -> tuple[np.ndarray, np.ndarray]:
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
    rows : array, shape (n_slopes, n_columns)
    y : array, shape (n_slopes,)
    """
    if not np.isfinite(prior.relative_sd):
        return np.zeros((0, dictionary(table.iloc[:1]).shape[1])), np.zeros(0)
    best = best_of_scales(table)
    keep = np.unique(np.linspace(0, len(best) - 1, min(len(best), MAX_RUNS)).round().astype(int))
    some = best.iloc[keep]
    scale = np.log(some[["n_params", "tokens"]].to_numpy(float))
    to_top = np.log(table[["n_params", "tokens"]].max().to_numpy(float)) - scale

    def slope(shift: np.ndarray, axis: int) -> np.ndarray:
        step = STEP * np.eye(2)[axis]
        up, down = (dictionary(enlarged(some, *(shift + side * step).T)) for side in (1, -1))
        return (up - down) / (2 * STEP)

    rows, y = [], []
    for axis in (0, 1):
        here = slope(np.zeros_like(scale), axis)
        sd = prior.relative_sd * abs(prior.mean)
        rows.append(here.mean(axis=0) / sd)
        y.append(prior.mean / sd)
        for h in prior.decades:
            shift = to_top + h * np.log(10.0)
            distance = shift[:, axis] / np.log(10.0)
            sd = prior.change_sd * abs(prior.mean) * np.sqrt(distance.mean())
            only = np.where(np.arange(2) == axis, shift, 0.0)
            for moved, keeps in ((only, prior.alone), (shift, prior.together)):
                rest = slope(moved, axis) - keeps ** distance[:, None] * here
                rows.append(rest.mean(axis=0) / sd)
                y.append(0.0)
    return np.array(rows), np.array(y)
