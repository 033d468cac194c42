r"""Student-t noise whose variance is the one that is stated: heavy tails as a mixture of normals.

Now and then a run ends far from where its seeds would: a loss spike that was not recovered from,
a label that is wrong, a run cut short.  With normal noise such runs widen the noise of all others;
with Student-t noise they do not (Lange, Little and Taylor 1989, doi:10.2307/2290063).  The noise
of a run is

.. math::

    \varepsilon = \sigma\, e / \sqrt\lambda, \quad e \sim N(0, 1), \quad
    \lambda \sim \mathrm{Gamma}\left(\frac{\nu}{2}, \text{rate } \frac{\nu - 2}{2}\right),

a Student-t of :math:`\nu` degrees of freedom scaled so that its variance is :math:`\sigma^2`: every
noise sd is a standard deviation, whatever the tails.  :math:`\nu = \infty` is normal noise.
"""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln, log_ndtr, logsumexp
from scipy.stats import t as student

FARTHEST = 30.0
"""Residuals up to a third of this many sds have log densities within 2e-6 by `mixture`."""

MOST_NODES = 400
"""Normals in a mixture at most; more are needed only where it is all but normal."""

CHUNK = 200_000
"""Densities at a time, to bound memory."""


def expected_weight(squared_z: np.ndarray, df: float) -> np.ndarray:
    """Expected precision of each run relative to that of its noise sd, given its residual.

    Parameters
    ----------
    squared_z : array
        Squared residuals over their noise variance.
    df : float
        Degrees of freedom.

    Examples
    --------
    >>> expected_weight(np.array([0.0, 1.0, 100.0]), 4.0).round(2)
    array([2.5 , 1.67, 0.05])
    """
    if np.isinf(df):
        return np.ones_like(squared_z)
    return (df + 1.0) / (df - 2.0 + squared_z)


def draw(rng: np.random.Generator, shape: tuple[int, ...], df: float) -> np.ndarray:
    """Independent draws of unit variance.

    Parameters
    ----------
    rng : numpy Generator
    shape : tuple of int
    df : float
        Degrees of freedom.
    """
    out = rng.standard_normal(shape)
    if not np.isinf(df):
        out *= np.sqrt((df - 2.0) / (2.0 * rng.standard_gamma(df / 2.0, shape)))
    return out


def log_density(z: np.ndarray, df: float | np.ndarray) -> np.ndarray:
    """Log density at z, unit variance.

    Parameters
    ----------
    z : array
        Residuals over their noise sd.
    df : float, or array that broadcasts
        Degrees of freedom.

    Examples
    --------
    >>> log_density(np.array([0.0, 5.0]), np.inf).round(3), log_density(np.array([5.0]), 4).round(3)
    (array([ -0.919, -13.419]), array([-7.141]))
    """
    normal = -0.5 * (z**2 + np.log(2.0 * np.pi))
    if np.isinf(df).all():
        return normal
    finite = np.where(np.isinf(df), 4.0, df)
    half = 0.5 * (finite + 1.0)
    constant = gammaln(half) - gammaln(0.5 * finite) - 0.5 * np.log((finite - 2.0) * np.pi)
    return np.where(np.isinf(df), normal, constant - half * np.log1p(z**2 / (finite - 2.0)))


def log_density_around(
    error: np.ndarray, mean_sd: np.ndarray, noise_sd: np.ndarray, df: float
) -> np.ndarray:
    """Log density of a normal error of sd ``mean_sd`` plus Student-t noise of sd ``noise_sd``.

    Parameters
    ----------
    error, mean_sd, noise_sd : arrays of one shape
    df : float
        Degrees of freedom of the noise.
    """

    def normal(e: np.ndarray, variance: np.ndarray) -> np.ndarray:
        return -0.5 * (e**2 / variance + np.log(2.0 * np.pi * variance))

    return _mixed(normal, error, mean_sd, noise_sd, df)


def probability_below(
    error: np.ndarray, mean_sd: np.ndarray, noise_sd: np.ndarray, df: float
) -> np.ndarray:
    """Probability that such an error is below the given one; see `log_density_around`."""

    def normal(e: np.ndarray, variance: np.ndarray) -> np.ndarray:
        return log_ndtr(e / np.sqrt(variance))

    return np.exp(_mixed(normal, error, mean_sd, noise_sd, df))


def quantile(prob: float, df: float) -> float:
    """Quantile of the noise, in its sds.

    Examples
    --------
    >>> round(quantile(0.975, np.inf), 3), round(quantile(0.975, 4.0), 3)
    (1.96, 1.963)
    """
    return float(student.ppf(prob, df) * (1.0 if np.isinf(df) else np.sqrt((df - 2.0) / df)))


def mixture(df: float) -> tuple[np.ndarray, np.ndarray]:
    """Precisions and their weights: the noise as a sum of normals, one of them where ``df`` is inf.

    Parameters
    ----------
    df : float
        Degrees of freedom.
    """
    if np.isinf(df):
        return np.ones(1), np.ones(1)
    shape, rate = 0.5 * df, 0.5 * (df - 2.0)
    # where the precision of a residual at FARTHEST has its mass, and where that of any ends
    low = np.log((df + 1.0) / (df - 2.0 + FARTHEST**2)) - 20.0 / (df + 1.0)
    high = np.log((shape + 8.0 * np.sqrt(shape) + 20.0) / rate)
    step = min(0.45, 0.8 * np.sqrt(2.0 / df))
    log = np.linspace(low, high, min(MOST_NODES, int((high - low) / step) + 2))
    density = shape * log - rate * np.exp(log)
    weight = np.exp(density - density.max())
    return np.exp(log), weight / weight.sum()


def _mixed(normal, error, mean_sd, noise_sd, df):  # type: ignore[no-untyped-def]
    shape = np.broadcast_shapes(np.shape(error), np.shape(mean_sd), np.shape(noise_sd))
    e, m, s = (np.broadcast_to(a, shape).ravel() for a in (error, mean_sd, noise_sd))
    precision, weight = mixture(df)
    keep = weight > 1e-300
    precision, log_weight = precision[keep], np.log(weight[keep])
    out = np.empty(e.size)
    size = max(1, CHUNK // precision.size)
    for start in range(0, e.size, size):
        i = slice(start, start + size)
        variance = m[i] ** 2 + s[i] ** 2 / precision[:, None]
        out[i] = logsumexp(log_weight[:, None] + normal(e[i], variance), axis=0)
    return out.reshape(shape)
