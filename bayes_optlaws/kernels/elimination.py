r"""The discrepancy integrated out: one Cholesky factorisation forward, its moments backward.

All products that the likelihood needs are in one symmetric matrix over

.. math:: \theta = (v, \beta, -1),

with :math:`v` the whitened discrepancy, :math:`u = T v`, and :math:`\beta` the coefficients of the
dictionary: given the hyper-parameters, minus twice the log density of the response and of
:math:`v` is :math:`\theta^\top F \theta`, up to a constant.  Eliminating :math:`v` is the first
part of a Cholesky factorisation of :math:`F`; what is left is the dictionary's.  The gradient in
:math:`F` is minus half of :math:`E[\theta \theta^\top]`, so the way back needs that one matrix,
and is one more elimination's work.

Both matrices are worked on in place, and only in their lower triangles.
"""

from __future__ import annotations

import numpy as np

from bayes_optlaws.kernels import blas
from bayes_optlaws.kernels.compiled import njit

BLOCK = 32
"""Columns that are inverted, or rows that are multiplied, at once."""


def packed(gram: np.ndarray, xy: np.ndarray, yy: np.ndarray, q: int) -> np.ndarray:
    """Lower triangles, row by row, of the products of (discrepancy, dictionary, response).

    Parameters
    ----------
    gram : array, shape (n_classes, p, p)
        Products of the columns, the ``q`` of the dictionary first.
    xy : array, shape (n_classes, p)
        Of the columns with the response.
    yy : array, shape (n_classes,)
        Of the response with itself.
    q : int

    Returns
    -------
    array, shape (n_classes, (p + 1) (p + 2) / 2)

    Examples
    --------
    >>> gram = np.array([[[1.0, 2.0], [2.0, 3.0]]])
    >>> packed(gram, np.array([[4.0, 5.0]]), np.array([6.0]), 1)
    array([[3., 2., 1., 5., 4., 6.]])
    """
    classes, p = xy.shape
    whole = np.empty((classes, p + 1, p + 1))
    order = np.r_[q:p, :q]
    whole[:, :p, :p] = gram[:, order[:, None], order]
    whole[:, p, :p] = xy[:, order]
    whole[:, p, p] = yy
    return np.ascontiguousarray(whole[:, *np.tril_indices(p + 1)])


@njit()
def weighted(w, products, size):
    """Sum of `packed` products over classes, by their precision, as (size, size), lower part."""
    flat = np.dot(w, products)
    F = np.empty((size, size))
    start = 0
    for i in range(size):
        F[i, : i + 1] = flat[start : start + i + 1]
        start += i + 1
    return F


@njit()
def inner_products(E, products):
    """Sum of the entries of the symmetric E times `packed` products, shape (n_classes,)."""
    size = E.shape[0]
    flat = np.empty(products.shape[1])
    start = 0
    for i in range(size):
        for j in range(i):
            flat[start + j] = 2.0 * E[i, j]
        flat[start + i] = E[i, i]
        start += i + 1
    return np.dot(products, flat)


@njit()
def _mirror(A, start, end):
    for i in range(start, end):
        for j in range(start, i):
            A[j, i] = A[i, j]


@njit()
def transform(A, scale_factor, amplitude, local_sd, back):
    """T' A T of the discrepancy's part of A, in place; with ``back`` T A T'.

    T is block-diagonal: for each field its amplitude times the factor over scales, then the sds of
    all other coefficients.
    """
    size, n_cells = A.shape[0], scale_factor.shape[0]
    factor = np.ascontiguousarray(scale_factor)
    for f in range(amplitude.size):
        s = f * n_cells
        e = s + n_cells
        _mirror(A, s, e)
        block = blas.at(factor, 0, 0)
        blas.times_lower(
            size - s, n_cells, amplitude[f], block, n_cells, back, blas.at(A, s, s), size
        )
        blas.lower_times(n_cells, e, amplitude[f], block, n_cells, not back, blas.at(A, s, 0), size)
    first = amplitude.size * n_cells
    m = first + local_sd.size
    for i in range(first, size):
        for j in range(first, min(i + 1, m)):
            A[i, j] *= local_sd[j - first]
    for i in range(first, m):
        for j in range(i + 1):
            A[i, j] *= local_sd[i - first]
    return factor[0, 0] if factor.size else 0.0


@njit()
def eliminate(w, products, q, scale_factor, amplitude, local_sd):
    """Integrate the whitened discrepancy v out.

    Returns
    -------
    F : array, shape (m + q + 1, m + q + 1)
        In its lower triangle the Cholesky factor L of ``I + T' P_uu T`` (m, m), below it
        ``Y' = P_Xu T L'^-1`` and the response's row of the same, and right of these what the
        dictionary sees: the Schur complement, then its products with the response.
    """
    m = scale_factor.shape[0] * amplitude.size + local_sd.size
    size = m + q + 1
    F = weighted(w, products, size)
    if m > 0:
        transform(F, scale_factor, amplitude, local_sd, False)
        for i in range(m):
            F[i, i] += 1.0
        whole = blas.at(F, 0, 0)
        blas.factorise(m, whole, size)
        blas.solve_rows(q + 1, m, whole, size, blas.at(F, m, 0), size)
        blas.add_square(q + 1, m, -1.0, blas.at(F, m, 0), size, False, blas.at(F, m, m), size)
    return F


@njit()
def dictionary_part(F, q):
    """Schur complement (q, q), whole, and products with the response (q,), of `eliminate`."""
    m = F.shape[0] - q - 1
    S, b = np.empty((q, q)), np.empty(q)
    for i in range(q):
        b[i] = F[m + q, m + i]
        for j in range(i + 1):
            S[i, j] = F[m + i, m + j]
            S[j, i] = F[m + i, m + j]
    return S, b


@njit()
def log_determinant(F, m):
    """Log determinant of ``I + T' P_uu T``, halved."""
    total = 0.0
    for i in range(m):
        total += np.log(F[i, i])
    return total


@njit()
def _inverse(F, m):
    """Inverse of the lower triangular part (m, m), zero above the diagonal."""
    size = F.shape[0]
    inverse = np.zeros((m, m))
    for s in range(0, m, BLOCK):
        width = min(BLOCK, m - s)
        for i in range(width):
            inverse[s + i, s + i] = 1.0
        blas.solve_columns(m - s, width, blas.at(F, s, s), size, blas.at(inverse, s, s), m)
    return inverse


@njit()
def second_moments(F, mean, second):
    """E[theta theta'] of the whole, from that of the dictionary's coefficients.

    Given beta, v is normal with precision L L' and mean -Z (beta, -1), where
    ``Z = L'^-1 Y``.  Lower triangle, shape of F.
    """
    size, q = F.shape[0], mean.size
    m = size - q - 1
    E = np.empty((size, size))
    known = np.empty((q + 1, q + 1))  # of (beta, -1)
    known[:q, :q] = second
    known[q, :q] = -mean
    known[:q, q] = -mean
    known[q, q] = 1.0
    for i in range(q + 1):
        E[m + i, m : m + i + 1] = known[i, : i + 1]
    if m == 0:
        return E
    inverse = _inverse(F, m)
    Z = np.empty((q + 1, m))  # transposed
    for s in range(0, m, BLOCK):
        width = min(BLOCK, m - s)
        blas.multiply(
            q + 1, width, m - s, 1.0, blas.at(F, m, s), size, False, blas.at(inverse, s, s), m,
            0.0, blas.at(Z, 0, s), m,
        )  # fmt: skip
    mixed = blas.at(E, m, 0)
    blas.multiply(
        q + 1, m, q + 1, -1.0, blas.at(known, 0, 0), q + 1, False, blas.at(Z, 0, 0), m,
        0.0, mixed, size,
    )  # fmt: skip
    for s in range(0, m, BLOCK):
        width = min(BLOCK, m - s)
        # -Z' E[(beta, -1) v'], the block's rows up to the diagonal and a little beyond
        blas.multiply(
            width, s + width, q + 1, -1.0, blas.at(Z, 0, s), m, True, mixed, size,
            0.0, blas.at(E, s, 0), size,
        )  # fmt: skip
    for s in range(0, m, BLOCK):  # L'^-1 L^-1, by rows of L^-1
        width = min(BLOCK, m - s)
        blas.add_square(
            s + width, width, 1.0, blas.at(inverse, s, 0), m, True, blas.at(E, 0, 0), size
        )
    blas.keep(0, Z[0, 0] + inverse[0, 0] + known[0, 0])
    return E


@njit()
def prior_gradient(E, scale_factor, amplitude, local_sd):
    """Gradients in the correlation over scales, the amplitudes and the other sds.

    By Fisher's identity that in K = T T' is T^-T (E[v v'] - I) T^-1 / 2, v being white a priori;
    the fields share one correlation, whose gradient is summed over them.
    """
    n_cells, n_fields = scale_factor.shape[0], amplitude.size
    excess, g_amplitude = np.zeros((n_cells, n_cells)), np.zeros(n_fields)
    for f in range(n_fields):
        s = f * n_cells
        for i in range(n_cells):
            for j in range(i + 1):
                excess[i, j] += 0.5 * E[s + i, s + j]
            excess[i, i] -= 0.5
            g_amplitude[f] += (E[s + i, s + i] - 1.0) / amplitude[f]
    for i in range(n_cells):
        for j in range(i):
            excess[j, i] = excess[i, j]
    g_scale = np.zeros((n_cells, n_cells))
    if n_fields > 0 and n_cells > 0:
        inverse, factor = np.eye(n_cells), np.ascontiguousarray(scale_factor)
        blas.solve_columns(
            n_cells, n_cells, blas.at(factor, 0, 0), n_cells, blas.at(inverse, 0, 0), n_cells
        )
        blas.keep(0, factor[0, 0])
        g_scale = np.dot(np.ascontiguousarray(inverse.T), np.dot(excess, inverse))
    g_local = np.empty(local_sd.size)
    first = n_fields * n_cells
    for j in range(local_sd.size):
        g_local[j] = (E[first + j, first + j] - 1.0) / local_sd[j]
    return g_scale, g_amplitude, g_local


@njit()
def draw(F, beta, normal, scale_factor, amplitude, local_sd):
    """A draw u of the discrepancy's coefficients given those of the dictionary, shape (m,).

    ``normal`` (m,) are standard normal numbers.
    """
    q, m = beta.size, normal.size
    v = normal + F[m + q, :m]
    for i in range(q):
        if beta[i] != 0.0:
            v -= beta[i] * F[m + i, :m]
    for i in range(m - 1, -1, -1):  # solve L' x = v, by rows of L
        v[i] /= F[i, i]
        v[:i] -= v[i] * F[i, :i]
    n_cells = scale_factor.shape[0]
    u = np.empty(m)
    for f in range(amplitude.size):
        s = f * n_cells
        for i in range(n_cells):
            u[s + i] = 0.0
            for j in range(i + 1):
                u[s + i] += amplitude[f] * scale_factor[i, j] * v[s + j]
    first = amplitude.size * n_cells
    u[first:] = local_sd * v[first:]
    return u
