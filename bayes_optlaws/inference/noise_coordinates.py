r"""Coordinates in which the posterior of the noise has no corner.

A run's noise has a floor :math:`f` and a part that grows with the settings, :math:`g` where they
are average.  Few runs fix :math:`f^2 + g^2` and not which of the two it is: the posterior of
:math:`(\log f, \log g)` is an L, with two long arms and a corner that no linear map takes away.
In

.. math:: \tau = \tfrac12 \log(f^2 + g^2), \qquad d = \log g - \log f

both arms lie on one line.  The map has unit Jacobian, so that densities stay as they are.
"""

from __future__ import annotations

import numpy as np

from bayes_optlaws.inference.density import HyperSpace


class NoiseCoordinates:
    """A `HyperSpace` read in total noise and log ratio of its parts; all else as it is.

    A model whose noise has one part is left as it is.

    Parameters
    ----------
    space : HyperSpace

    Attributes
    ----------
    mean, sd : array, shape (size,)
        Centre and sds of the prior: those of the logs, to first order for the total.
    ratio : int or None
        Which coordinate is the log ratio; its posterior has a long tail.
    """

    def __init__(self, space: HyperSpace) -> None:
        self.space = space
        self._two = bool(space.data.noise_names)
        self.ratio: int | None = None
        self.mean, self.sd = space.mean.copy(), space.sd.copy()
        if self._two:
            names = space.names
            self._f, self._g = names.index("noise_sd"), names.index("noise_growth")
            self.ratio = self._g
            self.mean = self.from_logs(space.mean)
            self.sd[self._g] = np.hypot(space.sd[self._f], space.sd[self._g])

    @property
    def size(self) -> int:
        """Number of dimensions."""
        return self.space.size

    def from_logs(self, x: np.ndarray) -> np.ndarray:
        """Coordinates of vectors of the space, shape (..., size)."""
        out = np.array(x, dtype=float)
        if self._two:
            f, g = x[..., self._f], x[..., self._g]
            out[..., self._f] = 0.5 * np.logaddexp(2 * f, 2 * g)
            out[..., self._g] = g - f
        return out

    def to_logs(self, y: np.ndarray) -> np.ndarray:
        """Vectors of the space, shape (..., size).

        Examples
        --------
        >>> import bayes_optlaws as bo
        >>> runs = bo.read_runs(bo.datasets.load("pocket"))
        >>> space = HyperSpace(bo.OptLaw().encode(runs).data, bo.Priors())
        >>> there = NoiseCoordinates(space)
        >>> bool(np.allclose(there.to_logs(there.from_logs(space.mean)), space.mean))
        True
        """
        out = np.array(y, dtype=float)
        if self._two:
            total, ratio = y[..., self._f], y[..., self._g]
            out[..., self._f] = total - 0.5 * np.logaddexp(0.0, 2 * ratio)
            out[..., self._g] = out[..., self._f] + ratio
        return out

    def log_density(self, y: np.ndarray) -> tuple[float, np.ndarray]:
        """Log posterior density up to a constant, and its gradient, shape (size,)."""
        value, gradient = self.space.log_density(self.to_logs(y))
        if self._two:
            f, g = gradient[self._f], gradient[self._g]
            share = self._share(y)
            gradient[self._f] = f + g
            gradient[self._g] = (1 - share) * g - share * f
        return value, gradient

    def log_densities(self, y: np.ndarray) -> np.ndarray:
        """Log posterior density at each row of y, shape (n,)."""
        return self.space.log_densities(self.to_logs(y))

    def mode(self, start: np.ndarray | None = None) -> np.ndarray:
        """Posterior mode, searched from ``start``, a point of the space."""
        return self.from_logs(self.space.mode(start))

    def curvature_factor(self, y: np.ndarray) -> np.ndarray:
        """Factor of the covariance of a Gaussian fitted at y, no wider than the prior."""
        factor = self.space.curvature_factor(self.to_logs(y))
        if self._two:
            f, g = factor[self._f].copy(), factor[self._g].copy()
            share = self._share(y)
            factor[self._f] = (1 - share) * f + share * g
            factor[self._g] = g - f
        return factor

    def _share(self, y: np.ndarray) -> float:
        """Share of the growing part in the variance."""
        return float(0.5 * (1.0 + np.tanh(y[self._g])))
