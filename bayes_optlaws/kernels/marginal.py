r"""Exact marginal likelihood: coefficients, exponents and discrepancy integrated out.

For a run with log loss :math:`y`, dictionary row :math:`x` and discrepancy row :math:`z`,

.. math::

    y = x_k^\top \beta + z^\top u + \varepsilon, \quad
    \beta_j \sim N(0, 1/d_j), \quad u = T v,\ v \sim N(0, I), \quad
    \varepsilon \sim N(0, 1/w_c),

with :math:`k` the combination of exponents (a choice of columns) and :math:`c` the noise class
of the run.  Everything except the hyper-parameters :math:`(w, d, T)` is Gaussian or discrete, so
it is summed out in closed form; NUTS sees a handful of smooth dimensions.

The runs enter once, through the Gram matrices of :class:`SufficientStatistics`: the cost of an
evaluation does not depend on their number.  The gradient follows from Fisher's identity (the
score of the marginal is the posterior mean of the score of the joint), so it needs no more than
the posterior moments, and only combinations of non-negligible weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bayes_optlaws.kernels import exponent_tree
from bayes_optlaws.kernels.compiled import njit


@dataclass(frozen=True)
class Tree:
    """Exponent combinations as choices of columns, in the layout that the kernels walk.

    Parameters
    ----------
    common : int array, shape (n_common,)
        Columns that are in every combination.
    columns : int array, shape (n_groups, max_candidates, max_columns)
        ``columns[g, c, :n_columns[g]]`` are the columns of candidate c of group g.
    n_candidates, n_columns : int arrays, shape (n_groups,)
    """

    common: np.ndarray
    columns: np.ndarray
    n_candidates: np.ndarray
    n_columns: np.ndarray

    @property
    def n_combinations(self) -> int:
        """Number of exponent combinations."""
        return int(np.prod(self.n_candidates))

    @property
    def n_selected(self) -> int:
        """Number of columns in a combination."""
        return int(self.common.size + self.n_columns.sum())

    def candidate_index(self, combination: np.ndarray) -> np.ndarray:
        """Candidate of each group in the given combinations, shape (n, n_groups)."""
        return np.stack(np.unravel_index(combination, tuple(self.n_candidates)), axis=-1)

    def selected(self, combination: int) -> np.ndarray:
        """Columns of one combination, in the order common, group 0, group 1, ..."""
        return exponent_tree.selected_columns(combination, *self.args)

    @property
    def args(self) -> tuple[np.ndarray, ...]:
        """The four arrays as the kernels take them."""
        return self.common, self.columns, self.n_candidates, self.n_columns


@dataclass(frozen=True)
class SufficientStatistics:
    """All that the likelihood needs of the runs, one set for each noise class.

    Parameters
    ----------
    gram : array, shape (n_classes, p, p)
        Products of the columns, dictionary columns first, then discrepancy columns.
    xy : array, shape (n_classes, p)
        Products of the columns with the response.
    yy : array, shape (n_classes,)
        Sums of squares of the response.
    n : array, shape (n_classes,)
        Numbers of runs.
    """

    gram: np.ndarray
    xy: np.ndarray
    yy: np.ndarray
    n: np.ndarray

    @classmethod
    def from_rows(
        cls, rows: np.ndarray, y: np.ndarray, noise_class: np.ndarray, *, n_classes: int
    ) -> SufficientStatistics:
        """Accumulate the statistics of ``rows`` (n, p) and response ``y`` (n,).

        Examples
        --------
        >>> import numpy as np
        >>> rows = np.array([[1.0, 2.0], [1.0, 3.0]])
        >>> s = SufficientStatistics.from_rows(
        ...     rows, np.array([1.0, 2.0]), np.array([0, 0]), n_classes=1)
        >>> s.gram[0]
        array([[ 2.,  5.],
               [ 5., 13.]])
        """
        p = rows.shape[1]
        gram, xy = np.zeros((n_classes, p, p)), np.zeros((n_classes, p))
        yy, n = np.zeros(n_classes), np.zeros(n_classes)
        for c in range(n_classes):
            inside = noise_class == c
            r, t = rows[inside], y[inside]
            gram[c], xy[c], yy[c], n[c] = r.T @ r, r.T @ t, t @ t, t.size
        return cls(gram, xy, yy, n)

    @property
    def args(self) -> tuple[np.ndarray, ...]:
        """The four arrays as the kernels take them."""
        return self.gram, self.xy, self.yy, self.n

    def append(self, other: SufficientStatistics) -> SufficientStatistics:
        """These classes, then those of another set with the same columns."""
        return SufficientStatistics(
            *(np.concatenate(pair) for pair in zip(self.args, other.args, strict=True))
        )


@njit()
def _lower_solve(L, B):
    """Solve L X = B in place, row operations only (they vectorise)."""
    m, q = B.shape
    for i in range(m):
        for t in range(i):
            f = L[i, t]
            if f != 0.0:
                for j in range(q):
                    B[i, j] -= f * B[t, j]
        f = 1.0 / L[i, i]
        for j in range(q):
            B[i, j] *= f


@njit()
def _upper_solve(L, B):
    """Solve L' X = B in place."""
    m, q = B.shape
    for i in range(m - 1, -1, -1):
        f = 1.0 / L[i, i]
        for j in range(q):
            B[i, j] *= f
        for t in range(i):
            g = L[i, t]
            if g != 0.0:
                for j in range(q):
                    B[t, j] -= g * B[i, j]


@njit()
def _lower_inverse(L):
    """Inverse of a lower triangular matrix."""
    m = L.shape[0]
    X = np.zeros((m, m))
    for i in range(m):
        X[i, i] = 1.0
        for t in range(i):
            f = L[i, t]
            for j in range(t + 1):
                X[i, j] -= f * X[t, j]
        f = 1.0 / L[i, i]
        for j in range(i + 1):
            X[i, j] *= f
    return X


@njit()
def _weighted(w, gram, xy):
    n_classes, p = xy.shape
    P, b = np.zeros((p, p)), np.zeros(p)
    for c in range(n_classes):
        for i in range(p):
            b[i] += w[c] * xy[c, i]
            for j in range(p):
                P[i, j] += w[c] * gram[c, i, j]
    return P, b


@njit()
def _times_transform(A, scale_factor, amplitude, local_sd):
    """A T for the block-diagonal T of the discrepancy, A of shape (rows, m)."""
    rows, m = A.shape
    n_cells, n_fields = scale_factor.shape[0], amplitude.size
    s = n_fields * n_cells
    out = np.empty((rows, m))
    if s > 0:
        part = np.ascontiguousarray(A[:, :s]).reshape(rows * n_fields, n_cells)
        part = np.dot(part, scale_factor).reshape(rows, s)
        for i in range(rows):
            for f in range(n_fields):
                for j in range(f * n_cells, (f + 1) * n_cells):
                    out[i, j] = amplitude[f] * part[i, j]
    if m > s:
        out[:, s:] = local_sd * A[:, s:]
    return out


@njit()
def _times_transposed(A, scale_factor, amplitude, local_sd):
    """A T': rows are draws or moments of the whitened v, the result holds those of u = T v."""
    return _times_transform(A, np.ascontiguousarray(scale_factor.T), amplitude, local_sd)


@njit()
def _eliminate(P, b, q, scale_factor, amplitude, local_sd):
    """Integrate the whitened discrepancy v out; return what the dictionary then sees.

    Returns ``(S, bs, L, Y, yb)``: Schur complement and right-hand side of the dictionary
    columns, Cholesky factor of ``I + T' P_uu T``, ``L^-1 T' P_uX`` and ``L^-1 T' b_u``.
    """
    m = P.shape[0] - q
    if m == 0:
        return P.copy(), b.copy(), np.zeros((0, 0)), np.zeros((0, q)), np.zeros((0, 1))
    R = _times_transform(np.ascontiguousarray(P[:, q:]), scale_factor, amplitude, local_sd)
    B = _times_transform(np.ascontiguousarray(R[q:].T), scale_factor, amplitude, local_sd)
    for i in range(m):
        B[i, i] += 1.0
    L = np.linalg.cholesky(B)
    Y = np.ascontiguousarray(R[:q].T)
    bu = np.empty((1, m))
    bu[0] = b[q:]
    yb = np.ascontiguousarray(_times_transform(bu, scale_factor, amplitude, local_sd).T)
    _lower_solve(L, Y)
    _lower_solve(L, yb)
    S = np.ascontiguousarray(P[:q, :q]) - np.dot(Y.T, Y)
    bs = b[:q] - np.dot(Y.T, yb)[:, 0]
    return S, bs, L, Y, yb


@njit()
def _log_sum_exp(x):
    top = x.max()
    return top + np.log(np.exp(x - top).sum())


@njit()
def _drop_impossible(by_k, w, yy, L, yb):
    """Give no weight to combinations whose evidence is more than any, in place.

    The density of the response is at most that at its mean with the noise alone. Columns so
    nearly collinear that rounding makes their sum of squares negative go beyond that.
    """
    rest = -0.5 * np.dot(w, yy)
    for i in range(L.shape[0]):
        rest += 0.5 * yb[i, 0] * yb[i, 0] - np.log(L[i, i])
    for k in range(by_k.size):
        if not rest + by_k[k] <= 0.0:
            by_k[k] = -np.inf


@njit()
def log_evidence_by_combination(
    w,
    d,
    scale_factor,
    amplitude,
    local_sd,
    gram,
    xy,
    yy,
    n,
    log_prior,
    common,
    columns,
    n_candidates,
    n_columns,
):
    """Log p(y, k | hyper-parameters) for every combination k, shape (n_combinations,).

    Minus infinity where rounding leaves none.
    """
    q = d.size
    P, b = _weighted(w, gram, xy)
    S, bs, L, _, yb = _eliminate(P, b, q, scale_factor, amplitude, local_sd)
    const = 0.0
    for c in range(w.size):
        const += 0.5 * n[c] * np.log(w[c] / (2.0 * np.pi)) - 0.5 * w[c] * yy[c]
    for i in range(L.shape[0]):
        const += 0.5 * yb[i, 0] * yb[i, 0] - np.log(L[i, i])
    by_k = exponent_tree.log_evidence(S, bs, d, common, columns, n_candidates, n_columns, log_prior)
    _drop_impossible(by_k, w, yy, L, yb)
    return const + by_k


@njit()
def evidence_and_gradient(
    w,
    d,
    scale_factor,
    amplitude,
    local_sd,
    gram,
    xy,
    yy,
    n,
    log_prior,
    common,
    columns,
    n_candidates,
    n_columns,
):
    """Log p(y | hyper-parameters) and its gradient.

    Parameters
    ----------
    w : array, shape (n_classes,)
        Noise precision of each noise class.
    d : array, shape (q,)
        Prior precision of each dictionary column.
    scale_factor : array, shape (n_cells, n_cells)
        Cholesky factor of the correlation of the discrepancy over scales.
    amplitude : array, shape (n_fields,)
        Prior sd of each scale field (level, then slopes).
    local_sd : array, shape (m - n_fields * n_cells,)
        Prior sd of every other coefficient: local correction, drifts.
    gram, xy, yy, n : arrays
        `SufficientStatistics`; columns in the order dictionary, fields, local.
    log_prior : array, shape (n_combinations,)
    common, columns, n_candidates, n_columns : int arrays
        `Tree`.

    Returns
    -------
    log_evidence : float
        NaN where rounding leaves none to any combination.
    gradient : tuple of arrays
        With respect to w, d, the correlation over scales (of which ``scale_factor`` is the factor),
        amplitude and local_sd; that in a matrix is symmetric, so that a symmetric change of the
        matrix times the gradient, summed, is the change.
    """
    q = d.size
    p = xy.shape[1]
    P, b = _weighted(w, gram, xy)
    S, bs, L, Y, yb = _eliminate(P, b, q, scale_factor, amplitude, local_sd)
    log_p = 0.0
    for c in range(w.size):
        log_p += 0.5 * n[c] * np.log(w[c] / (2.0 * np.pi)) - 0.5 * w[c] * yy[c]
    for i in range(p - q):
        log_p += 0.5 * yb[i, 0] * yb[i, 0] - np.log(L[i, i])
    by_k = exponent_tree.log_evidence(S, bs, d, common, columns, n_candidates, n_columns, log_prior)
    _drop_impossible(by_k, w, yy, L, yb)
    total = _log_sum_exp(by_k)
    log_p += total
    mean, second, inclusion = exponent_tree.moments(
        S, bs, d, by_k - total, common, columns, n_candidates, n_columns
    )

    full_mean = np.zeros(p)
    full_second = np.zeros((p, p))
    full_mean[:q] = mean
    full_second[:q, :q] = second
    g_scale = np.zeros_like(scale_factor)
    g_amp, g_local = np.zeros(amplitude.size), np.zeros(local_sd.size)
    if p > q:
        v_mean, v_beta, vv = _whitened_moments(L, Y, yb, mean, second)
        g_scale, g_amp, g_local = _covariance_gradient(vv, scale_factor, amplitude, local_sd)
        # from the whitened v to the discrepancy coefficients u = T v
        full_mean[q:] = _times_transposed(v_mean, scale_factor, amplitude, local_sd)[0]
        u_beta = _times_transposed(v_beta, scale_factor, amplitude, local_sd)
        half = _times_transposed(vv, scale_factor, amplitude, local_sd)
        full_second[:q, q:] = u_beta
        full_second[q:, :q] = u_beta.T
        full_second[q:, q:] = _times_transposed(
            np.ascontiguousarray(half.T), scale_factor, amplitude, local_sd
        )

    inner = np.dot(gram.reshape(w.size, p * p), full_second.reshape(p * p))
    g_w = 0.5 * n / w - 0.5 * yy + np.dot(xy, full_mean) - 0.5 * inner
    g_d = np.empty(q)
    for j in range(q):
        g_d[j] = 0.5 * inclusion[j] / d[j] - 0.5 * second[j, j]
    return log_p, g_w, g_d, g_scale, g_amp, g_local


@njit()
def _whitened_moments(L, Y, yb, mean, second):
    """E[v], E[beta v'] and E[v v'], shapes (1, m), (q, m), (m, m).

    Given beta, v is normal with precision L L' and mean z0 - Z beta, where Z = L^-T Y.
    """
    inverse = _lower_inverse(L)
    upper = np.ascontiguousarray(inverse.T)
    Z = np.dot(upper, Y)
    z0 = np.dot(upper, yb)[:, 0]
    m, q = Z.shape
    v_mean = np.empty((1, m))
    v_mean[0] = z0 - np.dot(Z, mean)
    covariance = np.empty((q, q))
    for i in range(q):
        for j in range(q):
            covariance[i, j] = second[i, j] - mean[i] * mean[j]
    ZC = np.dot(Z, covariance)
    v_beta = -np.ascontiguousarray(ZC.T)
    for i in range(q):
        for j in range(m):
            v_beta[i, j] += mean[i] * v_mean[0, j]
    vv = np.dot(ZC, np.ascontiguousarray(Z.T))
    for t in range(m):  # L^-T L^-1, row by row of L^-1, lower triangle
        for i in range(t + 1):
            f = inverse[t, i]
            for j in range(i + 1):
                vv[i, j] += f * inverse[t, j]
    for i in range(m):
        f = v_mean[0, i]
        for j in range(i + 1):
            vv[i, j] += f * v_mean[0, j]
            vv[j, i] = vv[i, j]
    return v_mean, v_beta, vv


@njit()
def _covariance_gradient(vv, scale_factor, amplitude, local_sd):
    """Gradients in the correlation over scales, the amplitudes and the sd of the local part.

    By Fisher's identity that in K = T T' is T^-T (E[v v'] - I) T^-1 / 2, v being white a priori;
    the fields share one correlation, whose gradient is summed over them.
    """
    n_cells, n_fields = scale_factor.shape[0], amplitude.size
    excess, g_amp = np.zeros((n_cells, n_cells)), np.zeros(n_fields)
    for f in range(n_fields):
        s = f * n_cells
        for i in range(n_cells):
            for j in range(n_cells):
                excess[i, j] += 0.5 * vv[s + i, s + j]
            excess[i, i] -= 0.5
            g_amp[f] += (vv[s + i, s + i] - 1.0) / amplitude[f]
    inverse = _lower_inverse(scale_factor)
    g_scale = np.dot(np.ascontiguousarray(inverse.T), np.dot(excess, inverse))
    g_local = np.zeros(local_sd.size)
    for i in range(n_fields * n_cells, vv.shape[0]):
        j = i - n_fields * n_cells
        g_local[j] = (vv[i, i] - 1.0) / local_sd[j]
    return g_scale, g_amp, g_local


@njit()
def draw_coefficients(
    w,
    d,
    scale_factor,
    amplitude,
    local_sd,
    gram,
    xy,
    yy,
    n,
    log_prior,
    common,
    columns,
    n_candidates,
    n_columns,
    screened,
    signs,
    uniform,
    normal,
):
    """One exact draw of (combination, beta, u) given hyper-parameters.

    ``uniform`` (tries,) are U(0, 1) numbers, ``normal`` (tries, p) standard normal ones: as many
    draws are tried as there are, and the first is taken whose coefficients have the ``signs``
    (q,), where those are not zero.  Returns the combination's index, the dictionary coefficients
    (q,), the discrepancy coefficients (m,), minus the log posterior probability of the
    combinations marked in ``screened``, and the share of the tries that have the signs.
    """
    q = d.size
    m = xy.shape[1] - q
    P, b = _weighted(w, gram, xy)
    S, bs, L, Y, yb = _eliminate(P, b, q, scale_factor, amplitude, local_sd)
    by_k = exponent_tree.log_evidence(S, bs, d, common, columns, n_candidates, n_columns, log_prior)
    _drop_impossible(by_k, w, yy, L, yb)
    weight = np.exp(by_k - _log_sum_exp(by_k))
    kept = 0.0
    for i in range(weight.size):
        if screened[i]:
            kept += weight[i]
    cumulative = np.cumsum(weight)
    combination, taken, fitting = 0, 0, 0
    beta = np.zeros(q)
    for t in range(uniform.size):
        k = min(np.searchsorted(cumulative, uniform[t] * cumulative[-1]), weight.size - 1)
        selected = exponent_tree.selected_columns(k, common, columns, n_candidates, n_columns)
        tried = exponent_tree.draw(S, bs, d, selected, normal[t, :q])
        fits = True
        for j in range(q):
            if signs[j] * tried[j] < 0.0:
                fits = False
                break
        if fits:
            fitting += 1
        if t == 0 or (fits and fitting == 1):
            combination, taken, beta = k, t, tried
    u = np.zeros(m)
    if m > 0:
        v = np.empty((m, 1))
        v[:, 0] = yb[:, 0] - np.dot(Y, beta) + normal[taken, q:]
        _upper_solve(L, v)
        u = _times_transposed(v.T.copy(), scale_factor, amplitude, local_sd)[0]
    return combination, beta, u, -np.log(kept), fitting / uniform.size
