r"""One coordinate of a density, mapped so that its marginal is close to normal.

NUTS moves slowly along a coordinate with a long tail: its steps fit the middle.  With

.. math:: v = \sinh\bigl(\delta \operatorname{arsinh}((y - \xi) / \lambda) - \epsilon\bigr)

v is normal where y is sinh-arcsinh (Jones and Pewsey 2009, doi:10.1093/biomet/asp053): location
:math:`\xi`, scale :math:`\lambda`, skewness :math:`\epsilon`, and tails that are heavier than the
normal's for :math:`\delta < 1`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.optimize import minimize

from bayes_optlaws.inference.importance import Density

STRENGTH = np.array([1.0, 1.0, 0.5, 0.3])
"""Sds that keep location and scale (in sds of the draws), skewness and log tail near the normal:
few weighted draws say little of a tail (own choice)."""


@dataclass(frozen=True)
class TailMap:
    """The map of one coordinate.

    Parameters
    ----------
    entry : int
        Which coordinate.
    location, scale, skewness, tail : float
        xi, lambda, epsilon and delta.
    """

    entry: int
    location: float
    scale: float
    skewness: float
    tail: float

    @classmethod
    def fit(cls, entry: int, x: np.ndarray, weight: np.ndarray) -> Self:
        """The map under which weighted draws are most likely, given `STRENGTH`.

        Parameters
        ----------
        entry : int
        x : array, shape (n, size)
        weight : array, shape (n,)
            Summing to one.

        Examples
        --------
        >>> v = np.random.default_rng(0).normal(size=(4000, 1))
        >>> y = np.sinh(np.arcsinh(v) / 0.7)
        >>> round(TailMap.fit(0, y, np.full(4000, 1 / 4000)).tail, 1)
        0.7
        """
        y = x[:, entry]
        mean = weight @ y
        sd = np.sqrt(weight @ (y - mean) ** 2)
        t = (y - mean) / sd
        ess = 1.0 / np.sum(weight**2)

        def negative(p: np.ndarray) -> float:
            scale, tail = np.exp(p[[1, 3]])
            u = (t - p[0]) / scale
            a = tail * np.arcsinh(u) - p[2]
            with np.errstate(over="ignore"):
                log_density = np.log(tail * np.cosh(a) / scale) - 0.5 * np.log1p(u**2)
                log_density -= 0.5 * np.sinh(a) ** 2
            value = -ess * (weight @ log_density) + 0.5 * np.sum((p / STRENGTH) ** 2)
            return float(value) if np.isfinite(value) else 1e100

        p = minimize(negative, np.zeros(4), method="Nelder-Mead").x
        found = (mean + sd * p[0], sd * np.exp(p[1]), p[2], np.exp(p[3]))
        return cls(entry, *(float(value) for value in found))

    def forward(self, y: np.ndarray) -> np.ndarray:
        """Mapped vectors, shape (..., size)."""
        v = np.array(y, dtype=float)
        u = np.arcsinh((v[..., self.entry] - self.location) / self.scale)
        v[..., self.entry] = np.sinh(self.tail * u - self.skewness)
        return v

    def back(self, v: np.ndarray) -> np.ndarray:
        """Vectors of mapped ones, shape (..., size)."""
        y = np.array(v, dtype=float)
        y[..., self.entry] = self.location + self.scale * np.sinh(self._angle(v))
        return y

    def slope(self, v: np.ndarray) -> float:
        """How fast the coordinate changes with the mapped one, at v of shape (size,)."""
        return float(
            self.scale * np.cosh(self._angle(v)) / (self.tail * np.hypot(1.0, v[self.entry]))
        )

    def slope_of_log_slope(self, v: np.ndarray) -> float:
        """Derivative of the log of `slope` by the mapped coordinate."""
        root = np.hypot(1.0, v[self.entry])
        return float(np.tanh(self._angle(v)) / (self.tail * root) - v[self.entry] / root**2)

    def _angle(self, v: np.ndarray) -> np.ndarray:
        return (np.arcsinh(v[..., self.entry]) + self.skewness) / self.tail


class Mapped:
    """A density of the mapped vectors.

    Parameters
    ----------
    density : Density
    by : TailMap
    """

    def __init__(self, density: Density, by: TailMap) -> None:
        self.density, self.by = density, by

    def log_density(self, v: np.ndarray) -> tuple[float, np.ndarray]:
        """Log density up to a constant, and its gradient, shape (size,)."""
        with np.errstate(all="ignore"):  # a step too far leaves what floats hold
            y, slope = self.by.back(v), self.by.slope(v)
            if not (np.isfinite(y).all() and 0 < slope < np.inf):
                return -np.inf, np.zeros_like(v)
            value, gradient = self.density.log_density(y)
            at = self.by.entry
            gradient[at] = gradient[at] * slope + self.by.slope_of_log_slope(v)
        return value + np.log(slope), gradient

    def curvature_factor(self, v: np.ndarray) -> np.ndarray:
        """Factor of the covariance of a Gaussian fitted at v."""
        factor = self.density.curvature_factor(self.by.back(v)).copy()
        factor[self.by.entry] /= self.by.slope(v)
        return factor
