"""Sums over the learning-rate curve that loss-curve laws need, in closed form or by quadrature.

A loss-curve law (Tissue et al., arXiv 2408.11029; Multi-Power-Law, arXiv 2503.12811) sums over all
steps of a run. Here the sums are integrals over the phases of the schedule template, which costs
the same for 10^3 and 10^6 steps and differs from the sum by less than one step's worth.

Own choices: the warm-up counts in the sum of learning rates and not in the annealing terms, which
start at the peak; rows with schedule ``array`` carry no curve, so they are read as the plateau with
a linear cooldown that has their ``conv_cooldown``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import dawsn

from bayes_optlaws.baselines.base import read_columns
from bayes_optlaws.schedules import integrals

_NODES = 24


@dataclass(frozen=True)
class Curves:
    """Learning-rate curves of a table: arrays of shape (n,), times in optimizer steps.

    Attributes
    ----------
    peak, plateau, low : ndarray
        Learning rate after the warm-up, on the plateau, at the end.
    decay, rest, cooldown : ndarray
        Length of the decay, of everything after it, and of the cooldown.
    area, area_rest : ndarray
        Integral of the learning rate over the whole run, and after the decay.
    cosine, sqrt : ndarray of bool
        Shape of the cooldown; linear where neither.
    """

    peak: np.ndarray
    plateau: np.ndarray
    low: np.ndarray
    decay: np.ndarray
    rest: np.ndarray
    cooldown: np.ndarray
    area: np.ndarray
    area_rest: np.ndarray
    cosine: np.ndarray
    sqrt: np.ndarray

    @classmethod
    def from_table(cls, table: pd.DataFrame) -> Curves:
        """Read the curves of a validated run or candidate table."""
        found = integrals(table)
        x = read_columns(
            table,
            (
                "peak_lr",
                "min_lr",
                "steps",
                "warmup_steps",
                "decay_end_step",
                "plateau_lr",
                "cooldown_start_step",
            ),
        )
        kind = table["schedule"].to_numpy(dtype=object)
        peak, plateau, low, steps = x["peak_lr"], x["plateau_lr"], x["min_lr"], x["steps"]
        a1 = np.maximum(x["warmup_steps"], 1.0)
        a2 = np.maximum(x["decay_end_step"], a1)
        a3 = np.maximum(x["cooldown_start_step"], a2)
        decay, rest = a2 - a1, steps - a2
        # An array: as much cooldown as lowers the mean learning rate after a2 to what it was.
        missing = plateau * rest - found.conv_cooldown
        fall = np.where(plateau > low, plateau - low, 1.0)
        as_linear = np.clip(2.0 * missing / fall, 0.0, rest)
        cooldown = np.where(kind == "array", as_linear, steps - a3)
        cooldown = np.where(kind == "constant", 0.0, cooldown)
        low = np.where(cooldown > 0, np.minimum(low, plateau), plateau)
        area = found.conv_warmup + 0.5 * (peak + plateau) * decay + found.conv_cooldown
        return cls(
            peak,
            plateau,
            low,
            decay,
            rest,
            cooldown,
            area,
            found.conv_cooldown,
            kind == "cosine",
            kind == "wsd-sqrt",
        )

    def annealing_area(self, decay_rate: float = 0.999) -> np.ndarray:
        """Return the annealing area ``int (-lr'(t)) (1 - e^(-r (S - t))) / r dt``.

        Here ``r = -log decay_rate``. It is the continuous form of the sum over steps i and
        k <= i of ``(lr_(k-1) - lr_k) decay_rate^(i - k)`` (arXiv 2408.11029), from the end of the
        warm-up on.

        Parameters
        ----------
        decay_rate : float
            lambda, between 0 and 1.

        Returns
        -------
        ndarray, shape (n,)
            Learning rate x steps.

        Notes
        -----
        With ``x = r T`` for a cooldown of T steps the factor ``r S2 / fall`` is
        ``1 - (1 - e^-x) / x`` (linear), ``1 - w^2 (1 + e^-x) / (2 (1 + w^2))`` with ``w = pi / x``
        (cosine), ``1 - D(sqrt x) / sqrt x`` with Dawson's D (1 - sqrt); the decay before a rest
        of R steps has ``1 - e^(-r R) (1 - e^-x) / x``.
        """
        r = -np.log(decay_rate)
        x = r * self.cooldown
        safe = np.where(x > 0, x, 1.0)
        w2 = (np.pi / safe) ** 2
        root = np.sqrt(safe)
        factor = 1.0 - _mean_exp(x)
        factor = np.where(self.cosine, 1.0 - 0.5 * (1.0 + np.exp(-x)) * w2 / (1.0 + w2), factor)
        factor = np.where(self.sqrt, 1.0 - dawsn(root) / root, factor)
        factor = np.where(x > 0, factor, 0.0)
        before = 1.0 - np.exp(-r * self.rest) * _mean_exp(r * self.decay)
        return ((self.plateau - self.low) * factor + (self.peak - self.plateau) * before) / r

    def falls(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Quadrature of ``int (-lr'(t)) g(lr(t), int_t^S lr) dt`` over decay and cooldown.

        Gauss-Legendre in a variable in which the cooldown is smooth.

        Returns
        -------
        lr, area_left, weight : ndarray, shape (n, n_nodes)
            The integral is ``sum(weight * g(lr, area_left), axis=1)``.
        """
        v, dv = np.polynomial.legendre.leggauss(_NODES)
        v, dv = 0.5 * (v + 1.0), 0.5 * dv
        cosine, sqrt = self.cosine[:, None], self.sqrt[:, None]
        u = np.where(sqrt, v**2, v)
        done = np.where(cosine, 0.5 * (1.0 - np.cos(np.pi * v)), v)
        slope = np.where(cosine, 0.5 * np.pi * np.sin(np.pi * v), 1.0)
        # Mean of what is still to fall, over the time left.
        left = 0.5 * (1.0 - u) ** 2
        left = np.where(cosine, 0.5 * (1.0 - u) - np.sin(np.pi * u) / (2 * np.pi), left)
        left = np.where(sqrt, (1.0 - u) - 2.0 / 3.0 * (1.0 - u**1.5), left)
        fall, drop = (self.plateau - self.low)[:, None], (self.peak - self.plateau)[:, None]
        low, time = self.low[:, None], self.cooldown[:, None]
        lr = [self.plateau[:, None] - fall * done]
        area = [time * (low * (1.0 - u) + fall * left)]
        weight = [fall * slope * dv]
        if np.any(drop > 0):
            lr.append(self.peak[:, None] - drop * v)
            mean = 0.5 * (lr[-1] + self.plateau[:, None])
            area.append(self.area_rest[:, None] + self.decay[:, None] * (1.0 - v) * mean)
            weight.append(drop * dv)
        return np.hstack(lr), np.hstack(area), np.hstack(weight)


def _mean_exp(x: np.ndarray) -> np.ndarray:
    """``(1 - e^-x) / x``, 1 at 0."""
    safe = np.where(x > 0, x, 1.0)
    return np.where(x > 0, -np.expm1(-safe) / safe, 1.0)
