"""Log posterior density of the divergence part and its gradient, one pass over the rows.

The same density that `bayes_optlaws.divergence.add_divergence` gives to PyMC (a test holds the two
equal), for a sampler that runs without compiling a model.
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
        As `bayes_optlaws.divergence.DivergenceScale.rows`.
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

    # log of the excess of the LR over the threshold at the edge, and its derivatives
    inner = _softplus(2.0 * edge)
    edge_excess = 2.0 * edge - _softplus(0.5 * inner)
    edge_slope = 1.0 + np.exp(-0.5 * inner)
    root = np.exp(0.5 * inner)
    slope = 0.5 * steepness / edge_slope
    slope_by_edge = slope * (root - 1.0) / (root * root)

    value = 0.0
    g_rise, g_at, g_at_shift, g_exposure, g_level = 0.0, 0.0, 0.0, 0.0, 0.0
    g_tokens, g_size = 0.0, 0.0
    g = np.zeros(theta.size)
    for i in range(rows.shape[0]):
        shift = per_tokens * rows[i, 1] - per_size * rows[i, 0]
        at = edge + rows[i, 3] - 0.5 * shift / slope
        inner = _softplus(2.0 * at)
        at_slope = 1.0 + np.exp(-0.5 * inner)
        rise = 2.0 * (2.0 * at - _softplus(0.5 * inner) - edge_excess)
        logit = level + slope * rise + per_exposure * rows[i, 2]
        for j in range(6, theta.size):
            logit += rows[i, j - 2] * theta[j]
        value += events[i] * logit - runs[i] * _softplus(logit)
        e = events[i] - runs[i] * _expit(logit)
        g_level += e
        g_rise += e * rise
        g_at += e * at_slope
        g_at_shift += e * at_slope * shift
        g_tokens += e * at_slope * rows[i, 1]
        g_size += e * at_slope * rows[i, 0]
        g_exposure += e * rows[i, 2]
        for j in range(6, theta.size):
            g[j] += e * rows[i, j - 2]
    by_slope = g_rise + g_at_shift / slope
    g[0] = g_level
    g[1] = by_slope * slope / steepness * _expit(theta[1])
    g[2] = by_slope * slope_by_edge + 2.0 * slope * (g_at - g_level * edge_slope)
    g[3] = -g_tokens * _expit(theta[3])
    g[4] = g_size * _expit(theta[4])
    g[5] = g_exposure * _expit(theta[5])
    return value - 0.5 * np.dot(z, z), np.dot(rotation.T, sd * g) - z
