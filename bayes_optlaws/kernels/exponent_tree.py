"""Gaussian evidence of every exponent combination, by one walk over a tree of eliminations.

For combination k the coefficients have posterior precision ``A_k = P_kk + diag(d_k)`` and

    log p_k = -1/2 log|A_k| + 1/2 b_k' A_k^-1 b_k + 1/2 sum log d_k,

where ``P`` and ``b`` are the data's precision and its product with the response, over all
dictionary columns.  Combinations share columns: those of the common part are in all of them,
those of the first exponent group in all with the same first exponent, and so on.  Eliminating
the columns of one level leaves a Schur complement on the columns of later levels, which every
combination below that node shares; so a walk in lexicographic order eliminates each prefix once,
and the last level costs one column a combination.

The derivative of the log evidence in ``P`` is minus half the posterior second moment of the
coefficients, in ``b`` their mean.  The reverse of the same walk accumulates both, weighted over
combinations, and passes by subtrees of negligible weight.  A combination of prior probability
zero is passed by in both.
"""

from __future__ import annotations

import numpy as np

from bayes_optlaws.kernels.compiled import njit

NEGLIGIBLE = 1e-10
"""Subtrees below this posterior weight are left out of moments (never out of the evidence)."""


@njit()
def _factor(M, prior, lev, o, c, L, inv):
    """Cholesky factor L of A11 of `_eliminate`, inv = L^-1; return the term of the determinant."""
    ratio = 1.0
    for i in range(c):
        d = prior[lev, o + i]
        for j in range(i + 1):
            s = M[lev, o + j, o + i]
            if i == j:
                s += d
            for t in range(j):
                s -= L[i, t] * L[j, t]
            if i == j:
                # rounding can take the pivot below what the prior alone guarantees
                s = max(s, d)
                L[i, i] = np.sqrt(s)
                ratio *= d / s
            else:
                L[i, j] = s / L[j, j]
    for i in range(c):
        inv[lev, i, i] = 1.0 / L[i, i]
        for j in range(i):
            s = 0.0
            for t in range(j, i):
                s -= L[i, t] * inv[lev, t, j]
            inv[lev, i, j] = s / L[i, i]
    return 0.5 * np.log(ratio)


@njit()
def _invert(M, b, prior, lev, o, c, L, inv, mu):
    """Invert A11 of `_eliminate`: inv = A11^-1, mu = A11^-1 b1; return the evidence term."""
    if c == 1:
        d = prior[lev, o]
        s = max(M[lev, o, o] + d, d)
        inv[lev, 0, 0] = 1.0 / s
        mu[lev, 0] = b[lev, o] / s
        return 0.5 * (np.log(d / s) + b[lev, o] * mu[lev, 0])
    value = _factor(M, prior, lev, o, c, L, inv)
    for i in range(c):
        z = 0.0
        for j in range(i + 1):
            z += inv[lev, i, j] * b[lev, o + j]
        mu[lev, i] = z
        value += 0.5 * z * z
    for i in range(c):
        s = 0.0
        for t in range(i, c):
            s += inv[lev, t, i] * mu[lev, t]
        mu[lev, i] = s
    for i in range(c):
        for j in range(i + 1):
            s = 0.0
            for t in range(i, c):
                s += inv[lev, t, i] * inv[lev, t, j]
            L[i, j] = s
    for i in range(c):
        for j in range(i + 1):
            inv[lev, i, j] = L[i, j]
            inv[lev, j, i] = L[i, j]
    return value


@njit()
def _eliminate(M, b, prior, lev, o, c, r, m, L, inv, W, mu):
    """Eliminate the c columns at ``o`` of a level; return their term of the log evidence.

    Writes inv = A11^-1, W = A11^-1 A12, mu = A11^-1 b1 and, for the next level, what is left on
    the m columns at ``r``.  Positions are local to the level, of whose M only the upper triangle
    is read or written.  The inner loops run along rows: they vectorise.  (Whole arrays and a level
    are passed since the view of a level costs as much as eliminating a column.)
    """
    value = _invert(M, b, prior, lev, o, c, L, inv, mu)
    for j in range(m):
        b[lev + 1, j] = b[lev, r + j]
    for i in range(c):
        f = inv[lev, i, 0]
        for j in range(m):
            W[lev, i, j] = f * M[lev, o, r + j]
        for t in range(1, c):
            f = inv[lev, i, t]
            for j in range(m):
                W[lev, i, j] += f * M[lev, o + t, r + j]
        f = mu[lev, i]
        for j in range(m):
            b[lev + 1, j] -= f * M[lev, o + i, r + j]
    for i in range(m):
        f = M[lev, o, r + i]
        for j in range(i, m):
            M[lev + 1, i, j] = M[lev, r + i, r + j] - f * W[lev, 0, j]
        for t in range(1, c):
            f = M[lev, o + t, r + i]
            for j in range(i, m):
                M[lev + 1, i, j] -= f * W[lev, t, j]
    return value


@njit()
def _last_level(M, b, prior, lev, n, value, log_prior, k, out):
    """Evidence of the n combinations from k on, which differ in the last level's one column."""
    for i in range(n):
        if log_prior[k + i] > -np.inf:
            d = prior[lev, i]
            s = max(M[lev, i, i] + d, d)
            term = 0.5 * (np.log(d / s) + b[lev, i] * b[lev, i] / s)
            out[k + i] = value + term + log_prior[k + i]


@njit()
def _clear(lev, m, M_bar, b_bar, weight):
    """Zero what is to be summed over the nodes below a level's node."""
    weight[lev] = 0.0
    for i in range(m):
        b_bar[lev, i] = 0.0
        for j in range(m):
            M_bar[lev, i, j] = 0.0


@njit()
def _fold(o, c, r, m, lev, inv, W, mu, weight, M_bar, b_bar, Wb, WM):
    """Reverse of `_eliminate`: add the adjoint of a level's (M, b) given that of the next.

    ``Wb`` and ``WM`` are room to work in.
    """
    for i in range(c):
        s = 0.0
        for j in range(m):
            WM[i, j] = 0.0
        for j in range(m):
            f = W[lev, i, j]
            s += f * b_bar[lev + 1, j]
            for t in range(m):
                WM[i, t] += f * M_bar[lev + 1, j, t]
        Wb[i] = s
    for i in range(c):
        f = mu[lev, i]
        b_bar[lev, o + i] += weight * f - Wb[i]
        for j in range(c):
            s = -0.5 * weight * (inv[lev, i, j] + f * mu[lev, j])
            s += 0.5 * (f * Wb[j] + Wb[i] * mu[lev, j])
            for t in range(m):
                s += WM[i, t] * W[lev, j, t]
            M_bar[lev, o + i, o + j] += s
        for j in range(m):
            s = -WM[i, j] - 0.5 * f * b_bar[lev + 1, j]
            M_bar[lev, o + i, r + j] += s
            M_bar[lev, r + j, o + i] += s
    for i in range(m):
        b_bar[lev, r + i] += b_bar[lev + 1, i]
        for j in range(m):
            M_bar[lev, r + i, r + j] += M_bar[lev + 1, i, j]


@njit()
def _layout(common, columns, n_candidates, n_columns):
    """Order of the columns (common, then level by level) and where each level starts.

    Also how many combinations each node of a level has below it, and the widest block.
    """
    levels = n_candidates.size
    stride = np.ones(levels + 1, dtype=np.int64)
    widest = common.size
    for g in range(levels - 1, -1, -1):
        stride[g] = stride[g + 1] * n_candidates[g]
        widest = max(widest, n_columns[g])
    start = np.zeros(levels + 2, dtype=np.int64)
    start[1] = common.size
    for g in range(levels):
        start[g + 2] = start[g + 1] + n_candidates[g] * n_columns[g]
    order = np.zeros(start[-1], dtype=np.int64)
    order[: common.size] = common
    for g in range(levels):
        i = start[g + 1]
        for c in range(n_candidates[g]):
            for j in range(n_columns[g]):
                order[i] = columns[g, c, j]
                i += 1
    return order, start, stride, widest


@njit()
def _in_order(P, b, d, order, start, M, v, prior):
    """Write P and b in the order of the columns, and the prior precision from each level on."""
    q = order.size
    for i in range(q):
        v[0, i] = b[order[i]]
        for j in range(q):
            M[0, i, j] = P[order[i], order[j]]
    for lev in range(prior.shape[0]):
        for j in range(q - start[lev]):
            prior[lev, j] = d[order[start[lev] + j]]


@njit()
def _cumulative(log_prior, log_weight, reverse):
    """Running sum over combinations: of their weights, or of those that count at all."""
    out = np.zeros(log_prior.size + 1)
    for k in range(log_prior.size):
        step = 1.0
        if reverse:
            step = np.exp(log_weight[k])
        elif log_prior[k] == -np.inf:
            step = 0.0
        out[k + 1] = out[k] + step
    return out


@njit()
def _as_given(M_bar, b_bar, fallen, order):
    """Moments from the adjoints, in the order in which the columns were given."""
    q = order.size
    mean, second, inclusion = np.zeros(q), np.zeros((q, q)), np.zeros(q)
    for i in range(q):
        mean[order[i]] = b_bar[i]
        inclusion[order[i]] = fallen[i]
        for j in range(q):
            second[order[i], order[j]] = -2.0 * M_bar[i, j]
    return mean, second, inclusion


@njit()
def _walk(P, b, d, common, columns, n_candidates, n_columns, log_prior, log_weight, reverse):
    """Forward walk (log evidence by combination) or reverse walk (moments).

    Returned with the adjoints of the reordered P and b, the weight that fell on each column,
    and the order: with ``reverse`` the combinations are weighted by exp(log_weight).
    """
    levels = n_candidates.size
    order, start, stride, widest = _layout(common, columns, n_candidates, n_columns)
    q, total = order.size, stride[0]

    # level 0 eliminates the common columns, level g + 1 those of one candidate of group g
    M = np.zeros((levels + 2, q, q))
    v = np.zeros((levels + 2, q))
    inv = np.zeros((levels + 1, widest, widest))
    W = np.zeros((levels + 1, widest, q))
    mu = np.zeros((levels + 1, widest))
    value = np.zeros(levels + 2)
    room, Wb, WM = np.zeros((widest, widest)), np.zeros(widest), np.zeros((widest, q))
    own = np.zeros(levels + 1, dtype=np.int64)  # where its columns start, then where the rest
    rest = start[1:] - start[:-1]
    prior = np.zeros((levels + 1, q))
    size = np.empty(levels + 1, dtype=np.int64)
    size[0], size[1:] = common.size, n_columns
    n_rest = q - start[1:]
    M_bar = np.zeros((levels + 2, q, q)) if reverse else np.zeros((1, 1, 1))
    b_bar = np.zeros((levels + 2, q)) if reverse else np.zeros((1, 1))
    weight = np.zeros(levels + 2)
    fallen = np.zeros(q)
    _in_order(P, b, d, order, start, M, v, prior)

    out = np.full(total, -np.inf)
    cumulative = _cumulative(log_prior, log_weight, reverse)
    least = NEGLIGIBLE if reverse else 0.5
    digit = np.zeros(levels + 1, dtype=np.int64)
    # the combinations that differ in the last column only need no walk, unless moments are wanted
    together = levels if not reverse and levels > 0 and n_columns[-1] == 1 else -1
    first = 0
    k = 0
    while k < total:
        lev = first
        skipped = False
        while lev <= levels and lev != together:
            if cumulative[k + stride[lev]] - cumulative[k] < least:
                skipped = True
                break
            own[lev] = digit[lev] * size[lev]
            value[lev + 1] = value[lev] + _eliminate(
                M, v, prior, lev, own[lev], size[lev], rest[lev], n_rest[lev], room, inv, W, mu
            )
            if reverse:
                _clear(lev + 1, n_rest[lev], M_bar, b_bar, weight)
            lev += 1
        if skipped:
            k += stride[lev]
        elif lev == together:
            _last_level(M, v, prior, lev, n_candidates[-1], value[lev], log_prior, k, out)
            k += stride[lev - 1]
            digit[lev] = n_candidates[-1] - 1
        else:
            out[k] = value[levels + 1] + log_prior[k]
            lev = levels
            if reverse:
                weight[levels + 1] = cumulative[k + 1] - cumulative[k]
            k += 1
        while lev >= 0:
            if reverse and not skipped:
                w = weight[lev + 1]
                _fold(
                    own[lev], size[lev], rest[lev], n_rest[lev], lev, inv, W, mu, w,
                    M_bar, b_bar, Wb, WM,
                )  # fmt: skip
                weight[lev] += w
                fallen[start[lev] + own[lev] : start[lev] + own[lev] + size[lev]] += w
            skipped = False
            if lev == 0:
                break
            digit[lev] += 1
            if digit[lev] < n_candidates[lev - 1]:
                break
            digit[lev] = 0
            lev -= 1
        first = lev
    return out, M_bar[0], b_bar[0], fallen, order


@njit()
def log_evidence(P, b, d, common, columns, n_candidates, n_columns, log_prior):
    """Log evidence of every combination, shape (n_combinations,).

    Parameters
    ----------
    P, b : arrays, shapes (q, q) and (q,)
        Data precision of the dictionary columns and its product with the response.
    d : array, shape (q,)
        Prior precision.
    common, columns, n_candidates, n_columns : int arrays
        Combinations as choices of columns, see `bayes_optlaws.kernels.marginal.Tree`.
    log_prior : array, shape (n_combinations,)
    """
    return _walk(P, b, d, common, columns, n_candidates, n_columns, log_prior, log_prior, False)[0]


@njit()
def moments(P, b, d, log_weight, common, columns, n_candidates, n_columns):
    """First and second posterior moments of the coefficients, averaged over combinations.

    Returns ``(mean, second, inclusion)`` of shapes (q,), (q, q), (q,): E[beta] and E[beta beta']
    with the coefficient of a column that is not in the combination equal to zero, and the
    posterior probability that a column is in.
    """
    _, M_bar, b_bar, fallen, order = _walk(
        P, b, d, common, columns, n_candidates, n_columns, log_weight, log_weight, True
    )
    return _as_given(M_bar, b_bar, fallen, order)


@njit()
def draw(P, b, d, selected, normal):
    """One draw of the coefficients of the ``selected`` columns: mean + L^-T normal, shape (q,)."""
    m = selected.size
    A = np.empty((m, m))
    r = np.empty(m)
    for i in range(m):
        r[i] = b[selected[i]]
        for j in range(m):
            A[i, j] = P[selected[i], selected[j]]
        A[i, i] += d[selected[i]]
    L = np.linalg.cholesky(A)
    for i in range(m):
        for j in range(i):
            r[i] -= L[i, j] * r[j]
        r[i] /= L[i, i]
    out = np.zeros(b.size)
    for i in range(m - 1, -1, -1):
        s = r[i] + normal[i]
        for j in range(i + 1, m):
            s -= L[j, i] * r[j]
        r[i] = s / L[i, i]
        out[selected[i]] = r[i]
    return out


@njit()
def selected_columns(k, common, columns, n_candidates, n_columns):
    """Columns of combination k, in the order common, group 0, group 1, ..."""
    out = np.empty(common.size + n_columns.sum(), dtype=np.int64)
    out[: common.size] = common
    i = common.size
    stride = 1
    for g in range(n_candidates.size):
        stride *= n_candidates[g]
    for g in range(n_candidates.size):
        stride //= n_candidates[g]
        c = (k // stride) % n_candidates[g]
        for j in range(n_columns[g]):
            out[i] = columns[g, c, j]
            i += 1
    return out
