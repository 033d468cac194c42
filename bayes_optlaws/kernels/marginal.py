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

from bayes_optlaws.kernels import elimination, exponent_tree
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
    def arrays(self) -> tuple[np.ndarray, ...]:
        """The four arrays."""
        return self.gram, self.xy, self.yy, self.n

    def packed(self, n_dictionary: int) -> tuple[np.ndarray, np.ndarray]:
        """Products of the columns, and numbers of runs, as the kernels take them.

        Parameters
        ----------
        n_dictionary : int
            Columns of the dictionary, which come first.
        """
        return elimination.packed(self.gram, self.xy, self.yy, n_dictionary), self.n

    def append(self, other: SufficientStatistics) -> SufficientStatistics:
        """These classes, then those of another set with the same columns."""
        return SufficientStatistics(
            *(np.concatenate(pair) for pair in zip(self.arrays, other.arrays, strict=True))
        )


@njit()
def _log_sum_exp(x):
    top = x.max()
    return top + np.log(np.exp(x - top).sum())


@njit()
def _rest(F, q, w, n):
    """Log density of the response but for what the combinations add: (constant, sum of squares)."""
    m = F.shape[0] - q - 1
    squares = -0.5 * F[m + q, m + q] - elimination.log_determinant(F, m)
    constant = 0.0
    for c in range(w.size):
        constant += 0.5 * n[c] * np.log(w[c] / (2.0 * np.pi))
    return constant, squares


@njit()
def _by_combination(F, S, bs, d, squares, log_prior, common, columns, n_candidates, n_columns):
    """Log evidence of every combination but for `_rest`.

    Those whose evidence is more than any get none: the density of the response is at most that at
    its mean with the noise alone. Columns so nearly collinear that rounding makes their sum of
    squares negative go beyond that.
    """
    by_k = exponent_tree.log_evidence(S, bs, d, common, columns, n_candidates, n_columns, log_prior)
    for k in range(by_k.size):
        if not squares + by_k[k] <= 0.0:
            by_k[k] = -np.inf
    return by_k


@njit()
def log_evidence_by_combination(
    w,
    d,
    scale_factor,
    amplitude,
    local_sd,
    products,
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
    F = elimination.eliminate(w, products, q, scale_factor, amplitude, local_sd)
    S, bs = elimination.dictionary_part(F, q)
    constant, squares = _rest(F, q, w, n)
    by_k = _by_combination(
        F, S, bs, d, squares, log_prior, common, columns, n_candidates, n_columns
    )
    return constant + squares + by_k


@njit()
def evidence_and_gradient(
    w,
    d,
    scale_factor,
    amplitude,
    local_sd,
    products,
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
    products, n : arrays
        `SufficientStatistics.packed`; columns in the order dictionary, fields, local.
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
    F = elimination.eliminate(w, products, q, scale_factor, amplitude, local_sd)
    S, bs = elimination.dictionary_part(F, q)
    constant, squares = _rest(F, q, w, n)
    by_k = _by_combination(
        F, S, bs, d, squares, log_prior, common, columns, n_candidates, n_columns
    )
    total = _log_sum_exp(by_k)
    mean, second, inclusion = exponent_tree.moments(
        S, bs, d, by_k - total, common, columns, n_candidates, n_columns
    )
    E = elimination.second_moments(F, mean, second)
    g_scale, g_amp, g_local = elimination.prior_gradient(E, scale_factor, amplitude, local_sd)
    # from the whitened v to the discrepancy coefficients u = T v
    elimination.transform(E, scale_factor, amplitude, local_sd, True)
    g_w = 0.5 * (n / w - elimination.inner_products(E, products))
    g_d = np.empty(q)
    for j in range(q):
        g_d[j] = 0.5 * inclusion[j] / d[j] - 0.5 * second[j, j]
    return constant + squares + total, g_w, g_d, g_scale, g_amp, g_local


@njit()
def draw_coefficients(
    w,
    d,
    scale_factor,
    amplitude,
    local_sd,
    products,
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
    F = elimination.eliminate(w, products, q, scale_factor, amplitude, local_sd)
    S, bs = elimination.dictionary_part(F, q)
    squares = _rest(F, q, w, n)[1]
    by_k = _by_combination(
        F, S, bs, d, squares, log_prior, common, columns, n_candidates, n_columns
    )
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
    u = elimination.draw(F, beta, normal[taken, q:], scale_factor, amplitude, local_sd)
    return combination, beta, u, -np.log(kept), fitting / uniform.size
