"""Gaussian-process regression in closed form: Matern 5/2, a length each, a trend, white noise.

``y = H b + f(x) + e`` with ``H = [1, x]``, ``b ~ N(0, trend_sd^2)``, ``f`` a process of covariance
``a^2 M(r)``, ``M(r) = (1 + sqrt5 r + 5 r^2 / 3) exp(-sqrt5 r)``, ``r^2 = sum_j (dx_j / l_j)^2``,
and ``e ~ N(0, s^2)``. The amplitude, lengths and noise maximise the marginal likelihood, by its
gradient, from several starts (Rasmussen and Williams, doi:10.7551/mitpress/3206.001.0001,
equations 2.40, 4.17 and 5.9). ``x`` and ``y`` are expected to be standardised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

BOUNDS = {"amplitude": (1e-3, 10.0), "length": (0.05, 100.0), "noise": (1e-4, 2.0)}
"""Of sds in units of the sd of y, and of lengths in sds of their coordinate (own choice)."""

START = {"amplitude": 0.3, "length": 1.5, "noise": 0.1}
JITTER = 1e-10
_ROOT5 = np.sqrt(5.0)


def matern(squares: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matern 5/2 correlation, and the factor of ``(dx_j / l_j)^2`` in its slope by ``log l_j``.

    Parameters
    ----------
    squares : ndarray, shape (d, n, m)
        Squared differences of each coordinate.
    lengths : ndarray, shape (d,)
    """
    r = np.sqrt(np.tensordot(lengths**-2.0, squares, axes=1))
    decay = np.exp(-_ROOT5 * r)
    return (1.0 + _ROOT5 * r + 5.0 / 3.0 * r**2) * decay, 5.0 / 3.0 * (1.0 + _ROOT5 * r) * decay


def squared_differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared differences of the rows of (n, d) and (m, d), shape (d, n, m)."""
    return (a.T[:, :, None] - b.T[:, None, :]) ** 2


def _trend(x: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(x)), x])


def log_marginal(
    theta: np.ndarray, squares: np.ndarray, trend: np.ndarray, y: np.ndarray
) -> tuple[float, np.ndarray]:
    """Log marginal likelihood and its gradient.

    Parameters
    ----------
    theta : ndarray, shape (d + 2,)
        Logs of amplitude, lengths and noise sd.
    squares : ndarray, shape (d, n, n)
    trend : ndarray, shape (n, n)
        Covariance of the trend.
    y : ndarray, shape (n,)
    """
    amplitude, lengths, noise = np.exp(theta[0]), np.exp(theta[1:-1]), np.exp(theta[-1])
    correlation, slope = matern(squares, lengths)
    part = amplitude**2 * correlation
    n = y.size
    k = trend + part
    k[np.diag_indices(n)] += noise**2 + JITTER
    try:
        factor = cho_factor(k, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return -np.inf, np.zeros_like(theta)
    alpha = cho_solve(factor, y, check_finite=False)
    value = -0.5 * y @ alpha - np.log(np.diag(factor[0])).sum() - 0.5 * n * np.log(2 * np.pi)
    inner = np.outer(alpha, alpha) - cho_solve(factor, np.eye(n), check_finite=False)
    weighted = inner * slope * amplitude**2
    by_length = 0.5 * np.tensordot(squares, weighted, axes=2) / lengths**2
    gradient = np.concatenate([[np.sum(inner * part)], by_length, [noise**2 * np.trace(inner)]])
    return float(value), gradient


@dataclass(frozen=True)
class Process:
    """A process conditioned on runs.

    Attributes
    ----------
    theta : ndarray, shape (d + 2,)
        Logs of amplitude, lengths and noise sd.
    trend_sd : float
        Prior sd of the trend's coefficients; 0 for no trend.
    x : ndarray, shape (n, d)
    log_evidence : float
        Of the runs that the hyper-parameters were fitted to.
    """

    theta: np.ndarray
    trend_sd: float
    x: np.ndarray
    log_evidence: float
    _factor: np.ndarray
    _alpha: np.ndarray

    @property
    def noise_sd(self) -> float:
        """Sd of a single run around the process."""
        return float(np.exp(self.theta[-1]))

    def covariance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Prior covariance without noise, shape (n, m)."""
        amplitude, lengths = np.exp(self.theta[0]), np.exp(self.theta[1:-1])
        trend = self.trend_sd**2 * _trend(a) @ _trend(b).T
        return trend + amplitude**2 * matern(squared_differences(a, b), lengths)[0]

    def mean(self, x: np.ndarray) -> np.ndarray:
        """Mean at new points (m, d), shape (m,)."""
        return self.covariance(x, self.x) @ self._alpha

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean, shape (m,), and joint covariance without noise, (m, m), at new points (m, d)."""
        cross = self.covariance(x, self.x)
        half = solve_triangular(self._factor, cross.T, lower=True, check_finite=False)
        return cross @ self._alpha, self.covariance(x, x) - half.T @ half

    def draw(self, x: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        """Joint draws of new runs, noise included, shape (n, m)."""
        mean, covariance = self.predict(x)
        covariance[np.diag_indices(len(x))] += self.noise_sd**2
        value, vector = np.linalg.eigh(0.5 * (covariance + covariance.T))
        root = vector * np.sqrt(np.maximum(value, 0.0))
        return mean + rng.standard_normal((n, len(x))) @ root.T


def fit_process(
    x: np.ndarray,
    y: np.ndarray,
    *,
    trend_sd: float,
    rng: np.random.Generator,
    n_starts: int = 4,
    n_hyper: int = 500,
    n_max: int = 2000,
) -> Process:
    """Fit amplitude, lengths and noise, and condition on the runs.

    Parameters
    ----------
    x : ndarray, shape (n, d)
    y : ndarray, shape (n,)
    trend_sd : float
    rng : numpy Generator
    n_starts : int
        Random starts lie within a factor of e^2 of the first.
    n_hyper, n_max : int
        Random subsets of this size take the place of more runs: in the fit of the kernel, and in
        the conditioning. Both cost the third power of their size.

    Returns
    -------
    Process

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = np.linspace(-2, 2, 40)[:, None]
    >>> y = np.sin(x[:, 0]) + 0.05 * rng.normal(size=40)
    >>> found = fit_process(x, y, trend_sd=10.0, rng=rng, n_starts=1)
    >>> bool(0.03 < found.noise_sd < 0.08)
    True
    """
    order = rng.permutation(y.size)
    hyper, known = np.sort(order[:n_hyper]), np.sort(order[:n_max])
    d = x.shape[1]
    squares = squared_differences(x[hyper], x[hyper])
    trend = trend_sd**2 * _trend(x[hyper]) @ _trend(x[hyper]).T
    keys = ["amplitude", *["length"] * d, "noise"]
    bounds = np.log([BOUNDS[k] for k in keys])
    first = np.log([START[k] for k in keys])
    starts = [first, *(first + rng.uniform(-2, 2, (n_starts - 1, d + 2)))]

    def negative(theta: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = log_marginal(theta, squares, trend, y[hyper])
        return (1e10, np.zeros_like(theta)) if np.isneginf(value) else (-value, -gradient)

    found = [
        minimize(
            negative, np.clip(s, *bounds.T), jac=True, method="L-BFGS-B", bounds=bounds,
            options={"maxiter": 200},
        )
        for s in starts
    ]  # fmt: skip
    best = min(found, key=lambda result: result.fun)
    empty = np.empty(0)
    bare = Process(best.x, trend_sd, x[known], float(-best.fun), empty, empty)
    k = bare.covariance(x[known], x[known])
    k[np.diag_indices(known.size)] += bare.noise_sd**2 + JITTER
    factor = np.linalg.cholesky(k)
    alpha = cho_solve((factor, True), y[known])
    return Process(best.x, trend_sd, x[known], float(-best.fun), factor, alpha)
