"""From hyper-parameters to the marginal likelihood: noise, priors and kernels, with gradients.

One compiled function takes the positive hyper-parameters that NUTS samples, builds what
`bayes_optlaws.kernels.marginal.evidence_and_gradient` needs, and carries its gradient back.  It is
reached by address (`evidence_pointer`), so that a PyMC model that uses it compiles in seconds:
compiled into the model's graph the kernel would be optimised anew each time.
"""

from __future__ import annotations

from functools import cache

import llvmlite.binding
import numba
import numpy as np
from numba import carray, types

from bayes_optlaws.kernels.compiled import cfunc, njit
from bayes_optlaws.kernels.marginal import evidence_and_gradient, log_evidence_by_combination

JITTER = 1e-6
"""Relative variance added to correlation matrices over inducing points."""

RESOLUTION = 2e-5
"""Least noise sd of log loss, in quadrature: runs that repeat exactly leave the noise bounded.

Losses around 3 that are printed with four decimals are rounded by half as much (own choice)."""


@njit()
def squared_exponential_factor(points, length, nugget):
    """Cholesky factor of squared-exponential correlation plus nugget**2 on the diagonal.

    Returns ``(factor, d correlation / d log length)``.
    """
    n = points.shape[0]
    K, D = np.empty((n, n)), np.empty((n, n))
    for i in range(n):
        for j in range(n):
            r2 = 0.0
            for t in range(points.shape[1]):
                r2 += (points[i, t] - points[j, t]) ** 2
            r2 /= length * length
            K[i, j] = np.exp(-0.5 * r2)
            D[i, j] = K[i, j] * r2
        K[i, i] += JITTER + nugget * nugget
    return np.linalg.cholesky(K), D


@njit()
def noise_variance(noise_sd, noise_slope, noise_covariates):
    """Noise variance of each class: a floor, plus a part that grows with the settings.

    ``noise_sd`` holds the floor's sd and, where there are covariates, the sd of the growing part
    at average settings.  ``noise_covariates`` has a column for each of ``noise_slope``, then one of
    known variance, that of measurement.  Returns the variances and the growing parts.
    """
    n = noise_covariates.shape[0]
    variance, growth = np.full(n, noise_sd[0] ** 2 + RESOLUTION**2), np.zeros(n)
    if noise_sd.size > 1:
        for c in range(n):
            s = np.log(noise_sd[1])
            for j in range(noise_slope.size):
                s += noise_covariates[c, j] * noise_slope[j]
            growth[c] = np.exp(2.0 * s)
            variance[c] += growth[c]
    for c in range(n):
        variance[c] += noise_covariates[c, noise_slope.size]
    return variance, growth


@njit()
def hyper_inputs(
    noise_sd,
    noise_slope,
    coefficient_sd,
    scale_length,
    field_sd,
    local_sd,
    column_block,
    intercept_sd,
    noise_covariates,
    cells,
):
    """Noise precision, column precision, and the factor over scales with its derivative.

    The last noise class is that of the slopes (`bayes_optlaws.model.slopes`): its precision is one.
    """
    w = np.ones(noise_covariates.shape[0] + 1)
    w[:-1] = 1.0 / noise_variance(noise_sd, noise_slope, noise_covariates)[0]
    d = np.empty(column_block.size)
    for j in range(d.size):
        sd = intercept_sd[0] if column_block[j] < 0 else coefficient_sd[column_block[j]]
        d[j] = 1.0 / (sd * sd)
    if field_sd.size > 0:
        scale_factor, scale_derivative = squared_exponential_factor(
            cells, scale_length[0], scale_length[1]
        )
    else:
        scale_factor, scale_derivative = np.zeros((0, 0)), np.zeros((0, 0))
    return w, d, scale_factor, scale_derivative


@njit()
def log_evidence_and_gradient(
    noise_sd,
    noise_slope,
    coefficient_sd,
    scale_length,
    field_sd,
    local_sd,
    column_block,
    intercept_sd,
    noise_covariates,
    cells,
    products,
    n,
    log_prior,
    common,
    columns,
    n_candidates,
    n_columns,
):
    """Log p(y | hyper-parameters) and its gradient in the first seven arguments (all arrays).

    Absent parts (no transfer, no noise covariates, no local correction) are empty arrays.
    """
    w, d, scale_factor, dK_scale = hyper_inputs(
        noise_sd,
        noise_slope,
        coefficient_sd,
        scale_length,
        field_sd,
        local_sd,
        column_block,
        intercept_sd,
        noise_covariates,
        cells,
    )
    log_p, g_w, g_d, g_scale, g_amp, g_local = evidence_and_gradient(
        w,
        d,
        scale_factor,
        field_sd,
        local_sd,
        products,
        n,
        log_prior,
        common,
        columns,
        n_candidates,
        n_columns,
    )
    growth = noise_variance(noise_sd, noise_slope, noise_covariates)[1]
    g_noise, g_slope = np.zeros(noise_sd.size), np.zeros(noise_slope.size)
    for c in range(growth.size):
        g = -2.0 * w[c] * w[c] * g_w[c]
        g_noise[0] += g * noise_sd[0]
        if noise_sd.size > 1:
            g_noise[1] += g * growth[c] / noise_sd[1]
        for j in range(noise_slope.size):
            g_slope[j] += g * growth[c] * noise_covariates[c, j]
    g_sd = np.zeros(coefficient_sd.size)
    for j in range(d.size):
        if column_block[j] >= 0:
            sd = coefficient_sd[column_block[j]]
            g_sd[column_block[j]] -= 2.0 * g_d[j] / (sd * sd * sd)
    g_length = np.zeros(scale_length.size)
    if field_sd.size > 0:
        g_length[0] = (g_scale * dK_scale).sum() / scale_length[0]
        g_length[1] = 2.0 * scale_length[1] * np.trace(g_scale)
    return log_p, g_noise, g_slope, g_sd, g_length, g_amp, g_local


@njit(nogil=True)
def log_density(x, mean, sd, is_log, entry, sizes, args):
    """Log posterior density of the unconstrained hyper-parameters, and its gradient.

    Parameters
    ----------
    x : array
        Logs of the positive hyper-parameters and slopes as they are.
    mean, sd : arrays like x
        Of their normal priors.
    is_log : bool array like x
    entry : int array
        Entry of x behind each number in the first six arguments of `log_evidence_and_gradient`.
    sizes : int array, shape (6,)
        Lengths of those arguments.
    args : tuple
        The other arguments.
    """
    value_of = np.where(is_log, np.exp(x), x)
    value = value_of[entry]
    end = np.cumsum(sizes)
    r = log_evidence_and_gradient(
        value[: end[0]],
        value[end[0] : end[1]],
        value[end[1] : end[2]],
        value[end[2] : end[3]],
        value[end[3] : end[4]],
        value[end[4] :],
        *args,
    )
    z = (x - mean) / sd
    gradient = np.zeros_like(x)
    i = 0
    for part in (r[1], r[2], r[3], r[4], r[5], r[6]):
        for j in range(part.size):
            gradient[entry[i]] += part[j]
            i += 1
    gradient = np.where(is_log, gradient * value_of, gradient) - z / sd
    return r[0] - 0.5 * np.dot(z, z), gradient


@njit(nogil=True)
def log_densities(x, mean, sd, is_log, entry, sizes, args):
    """Log posterior density at each row of x, shape (n,); values alone cost half of `log_density`.

    Parameters are those of `log_density`, but x of shape (n, size).
    """
    end = np.cumsum(sizes)
    out = np.empty(x.shape[0])
    for i in range(x.shape[0]):
        value = np.where(is_log, np.exp(x[i]), x[i])[entry]
        field_sd, local_sd = value[end[3] : end[4]], value[end[4] :]
        w, d, scale_factor, _ = hyper_inputs(
            value[: end[0]],
            value[end[0] : end[1]],
            value[end[1] : end[2]],
            value[end[2] : end[3]],
            field_sd,
            local_sd,
            *args[:4],
        )
        by_combination = log_evidence_by_combination(
            w, d, scale_factor, field_sd, local_sd, *args[4:]
        )
        top = by_combination.max()
        z = (x[i] - mean) / sd
        out[i] = -np.inf
        if top > -np.inf:
            out[i] = top + np.log(np.exp(by_combination - top).sum()) - 0.5 * np.dot(z, z)
    return out


N_HYPER = 6
_DOUBLE, _INT = types.CPointer(types.float64), types.CPointer(types.int64)
_SIGNATURE = types.void(
    *([_INT] + [_DOUBLE] * 6 + [_INT] + [_DOUBLE] * 6 + [_INT] * 4 + [_DOUBLE] * 7)
)


def _by_pointer(
    size, noise_sd, noise_slope, coefficient_sd, scale_length, field_sd, local_sd,
    column_block, intercept_sd, noise_covariates, cells, products, n, log_prior,
    common, columns, n_candidates, n_columns, out, g0, g1, g2, g3, g4, g5,
):  # fmt: skip
    s = carray(size, (14,))
    rows, p, q = s[0], s[1], s[2]
    classes = rows - 1  # the last is that of the slopes
    parts = 2 if s[3] > 0 else 1
    r = log_evidence_and_gradient(
        carray(noise_sd, (parts,)), carray(noise_slope, (s[3],)), carray(coefficient_sd, (s[4],)),
        carray(scale_length, (s[5],)), carray(field_sd, (s[6],)), carray(local_sd, (s[7],)),
        carray(column_block, (q,)), carray(intercept_sd, (1,)),
        carray(noise_covariates, (classes, s[3] + 1)), carray(cells, (s[8], 2)),
        carray(products, (rows, p)), carray(n, (rows,)),
        carray(log_prior, (s[9],)), carray(common, (s[10],)),
        carray(columns, (s[11], s[12], s[13])), carray(n_candidates, (s[11],)),
        carray(n_columns, (s[11],)),
    )  # fmt: skip
    carray(out, (1,))[0] = r[0]
    carray(g0, (parts,))[:] = r[1]
    carray(g1, (s[3],))[:] = r[2]
    carray(g2, (s[4],))[:] = r[3]
    carray(g3, (s[5],))[:] = r[4]
    carray(g4, (s[6],))[:] = r[5]
    carray(g5, (s[7],))[:] = r[6]


@cache
def _compiled():
    return cfunc(_SIGNATURE)(_by_pointer)


SYMBOL = "bayes_optlaws_log_evidence"

_external = types.ExternalFunction(SYMBOL, types.void(*([types.intp] * 25)))


def register_symbol() -> None:
    """Make the compiled kernel known to the linker as `SYMBOL`, once in a process.

    Compiled code that calls it by name can be cached on disk, since no address is in it.
    """
    if llvmlite.binding.address_of_symbol(SYMBOL) is None:
        llvmlite.binding.add_symbol(SYMBOL, _compiled().address)


@numba.njit  # not kept: PyTensor compiles it into what it keeps itself
def call_kernel(size, inputs, block, tree, out):
    """Call the kernel by name: sizes, hyper-parameters and data, tree, output buffers."""
    h, s, (common, columns, n_candidates, n_columns) = inputs[:6], inputs[6:], tree
    _external(
        size.ctypes.data, h[0].ctypes.data, h[1].ctypes.data, h[2].ctypes.data,
        h[3].ctypes.data, h[4].ctypes.data, h[5].ctypes.data, block.ctypes.data,
        s[0].ctypes.data, s[1].ctypes.data, s[2].ctypes.data, s[3].ctypes.data,
        s[4].ctypes.data, s[5].ctypes.data,
        common.ctypes.data, columns.ctypes.data, n_candidates.ctypes.data, n_columns.ctypes.data,
        out[0].ctypes.data, out[1].ctypes.data, out[2].ctypes.data, out[3].ctypes.data,
        out[4].ctypes.data, out[5].ctypes.data, out[6].ctypes.data,
    )  # fmt: skip
