"""Log posterior density of the divergence part and its gradient, one pass over the rows.

The same density that `bayes_optlaws.model.divergence.add_divergence` gives to PyMC (a test holds
the two equal), for a sampler that runs without compiling a model.
"""

from __future__ import annotations

import math

import numpy as np

from bayes_optlaws.kernels.compiled import njit

LEAST_LOGIT = -17.0
"""The logit of the highest LR, at the centre of a table, is this plus a lognormal."""


@njit()
def _softplus(x):
    return max(x, 0.0) + np.log1p(np.exp(-abs(x)))


@njit()
def _expit(x):
    if x >= 0.0:
        return 1.0 / (1.0 + np.exp(-x))
    e = np.exp(x)
    return e / (1.0 + e)


@njit()
def _excess(x):
    """`log_excess` of the model and its derivative: one exponential, one logarithm."""
    small = np.exp(-abs(x))
    root = np.sqrt(1.0 + small * small)
    if x >= 0.0:
        return x - np.log(small + root), 1.0 + small / root
    return 2.0 * x - np.log(1.0 + root), 1.0 + 1.0 / root


@njit()
def laplace(z):
    """Laplace variate of scale 1 from a standard normal one, and its derivative."""
    x = abs(z)
    if x > 20.0:  # two terms of the tail's expansion: the tail itself would be lost
        value = 0.5 * x * x + math.log(x * math.sqrt(0.5 * math.pi)) + 1.0 / (x * x)
        return math.copysign(value, z), x + 1.0 / x
    tail = math.erfc(x / math.sqrt(2.0))
    density = math.sqrt(2.0 / math.pi) * math.exp(-0.5 * x * x)
    return math.copysign(-math.log(tail), z), density / tail


@njit(nogil=True)
def log_density(z, mean, sd, rotation, rows, runs, events):
    """Log density of the rotated standard normals and its gradient.

    Parameters
    ----------
    z : array, shape (6 + n_columns,)
    mean, sd : arrays like z
        Prior moments of the unconstrained parameters, ``theta = mean + sd * rotation @ z``:
        level, steepness, edge, tokens, size, exposure, then the correction.
    rotation : array, shape (6 + n_columns, 6 + n_columns)
    rows : array, shape (n_rows, 4 + n_columns)
        As `bayes_optlaws.model.divergence.DivergenceScale.rows`.
    runs, events : arrays, shape (n_rows,)

    Returns
    -------
    value : float
    gradient : array like z
    """
    theta = mean + sd * np.dot(rotation, z)
    edge = theta[2]
    above_least = math.exp(theta[0])
    level = LEAST_LOGIT + above_least
    steepness, per_exposure = _softplus(theta[1]), _softplus(theta[5])
    by_tokens, by_size = math.exp(theta[3]), math.exp(theta[4])
    edge_excess, edge_slope = _excess(edge)
    slope = 0.5 * steepness / edge_slope
    weight = np.zeros(rows.shape[1])
    weight[2] = per_exposure
    stretch = np.empty(theta.size - 6)
    for j in range(stretch.size):
        value, stretch[j] = laplace(theta[6 + j] / sd[6 + j])
        weight[4 + j] = sd[6 + j] * value
    linear = np.dot(rows, weight)

    value = g_level = g_rise = g_at = 0.0
    error = np.empty(rows.shape[0])
    error_at = np.empty(rows.shape[0])
    for i in range(rows.shape[0]):
        excess, at_slope = _excess(
            edge + rows[i, 3] + by_size * rows[i, 0] - by_tokens * rows[i, 1]
        )
        rise = 2.0 * (excess - edge_excess)
        logit = level + slope * rise + linear[i]
        small = np.exp(-abs(logit))
        p = 1.0 / (1.0 + small) if logit >= 0.0 else small / (1.0 + small)
        value += events[i] * logit - runs[i] * (max(logit, 0.0) + np.log1p(small))
        error[i] = events[i] - runs[i] * p
        error_at[i] = error[i] * at_slope
        g_level += error[i]
        g_rise += error[i] * rise
        g_at += error_at[i]
    g_column = np.dot(rows.T, error)
    g_shift = 2.0 * slope * np.dot(rows.T, error_at)

    # the slope falls with the derivative of the excess at the edge
    by_edge = slope * (edge_slope - 1.0) * (2.0 - edge_slope)
    g = np.empty(theta.size)
    g[0] = g_level * above_least
    g[1] = g_rise * slope / steepness * _expit(theta[1])
    g[2] = g_rise * by_edge + 2.0 * slope * (g_at - g_level * edge_slope)
    g[3] = -g_shift[1] * by_tokens
    g[4] = g_shift[0] * by_size
    g[5] = g_column[2] * _expit(theta[5])
    g[6:] = stretch * g_column[4:]
    return value - 0.5 * np.dot(z, z), np.dot(rotation.T, sd * g) - z


@njit(nogil=True)
def log_densities(z, mean, sd, rotation, rows, runs, events):
    """Log density at each row of z, shape (n,); the other arguments as of `log_density`."""
    out = np.empty(z.shape[0])
    for i in range(z.shape[0]):
        out[i] = log_density(z[i], mean, sd, rotation, rows, runs, events)[0]
    return out
