"""Log posterior density of the divergence part and its gradient, one pass over the rows.

The same density that `bayes_optlaws.model.divergence.add_divergence` gives to PyMC (a test holds
the two equal), for a sampler that runs without compiling a model.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, error_model="numpy")
def _softplus(x):
    return max(x, 0.0) + np.log1p(np.exp(-abs(x)))


@njit(cache=True, error_model="numpy")
def _expit(x):
    if x >= 0.0:
        return 1.0 / (1.0 + np.exp(-x))
    e = np.exp(x)
    return e / (1.0 + e)


@njit(cache=True, error_model="numpy")
def _excess(x):
    """`log_excess` of the model and its derivative: one exponential, one logarithm."""
    small = np.exp(-abs(x))
    root = np.sqrt(1.0 + small * small)
    if x >= 0.0:
        return x - np.log(small + root), 1.0 + small / root
    return 2.0 * x - np.log(1.0 + root), 1.0 + 1.0 / root


@njit(cache=True, nogil=True, error_model="numpy")
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
    level, edge = theta[0], theta[2]
    steepness, per_tokens = _softplus(theta[1]), _softplus(theta[3])
    per_size, per_exposure = _softplus(theta[4]), _softplus(theta[5])
    edge_excess, edge_slope = _excess(edge)
    slope = 0.5 * steepness / edge_slope
    by_size, by_tokens = 0.5 * per_size / slope, 0.5 * per_tokens / slope
    weight = np.zeros(rows.shape[1])
    weight[2] = per_exposure
    weight[4:] = theta[6:]
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
    g_shift = np.dot(rows.T, error_at)

    by_slope = g_rise + (per_tokens * g_shift[1] - per_size * g_shift[0]) / slope
    # the slope falls with the derivative of the excess at the edge
    by_edge = slope * (edge_slope - 1.0) * (2.0 - edge_slope)
    g = np.empty(theta.size)
    g[0] = g_level
    g[1] = by_slope * slope / steepness * _expit(theta[1])
    g[2] = by_slope * by_edge + 2.0 * slope * (g_at - g_level * edge_slope)
    g[3] = -g_shift[1] * _expit(theta[3])
    g[4] = g_shift[0] * _expit(theta[4])
    g[5] = g_column[2] * _expit(theta[5])
    g[6:] = g_column[4:]
    return value - 0.5 * np.dot(z, z), np.dot(rotation.T, sd * g) - z
