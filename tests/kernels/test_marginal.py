"""The kernels against dense linear algebra: multivariate normals, brute force, differences."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import block_diag
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from bayes_optlaws.kernels import exponent_tree
from bayes_optlaws.kernels.marginal import (
    SufficientStatistics,
    Tree,
    draw_coefficients,
    evidence_and_gradient,
    log_evidence_by_combination,
)

INPUTS = ("w", "d", "scale_factor", "amplitude", "local_sd")


def factor(rng, n):
    a = rng.normal(size=(n, n))
    return np.linalg.cholesky(a @ a.T + np.eye(n)) if n else np.zeros((0, 0))


class Problem:
    """Random columns, response, tree and hyper-parameters."""

    def __init__(
        self, seed, *, n=40, common=3, groups=((3, 2), (2, 3), (4, 1)), cells=4, fields=2,
        local=3, classes=2,
    ):  # fmt: skip
        rng = np.random.default_rng(seed)
        q = common + sum(a * b for a, b in groups)
        columns = np.zeros((len(groups), max(a for a, _ in groups), max(b for _, b in groups)), int)
        columns_in_order = iter(range(common, q))
        for g, (a, b) in enumerate(groups):
            for c in range(a):
                for j in range(b):
                    columns[g, c, j] = next(columns_in_order)
        self.tree = Tree(
            np.arange(common), columns, np.array([a for a, _ in groups]),
            np.array([b for _, b in groups]),
        )  # fmt: skip
        self.q = q
        self.rows = rng.normal(size=(n, q + fields * cells + local))
        self.y = rng.normal(size=n)
        self.label = rng.integers(0, classes, n)
        self.statistics = SufficientStatistics.from_rows(
            self.rows, self.y, self.label, n_classes=classes
        )
        self.inputs = (
            rng.uniform(0.5, 3, classes),
            rng.uniform(0.5, 2, q),
            factor(rng, cells),
            rng.uniform(0.5, 1, fields),
            rng.uniform(0.5, 1, local),
        )
        self.log_prior = np.log(rng.dirichlet(np.ones(self.tree.n_combinations)))

    @property
    def args(self):
        return (*self.inputs, *self.rest)

    @property
    def rest(self):
        return (*self.statistics.packed(self.q), self.log_prior, *self.tree.args)

    @property
    def transform(self):
        _, _, scale, amplitude, local_sd = self.inputs
        blocks = [a * scale for a in amplitude] + [np.diag(local_sd)]
        return block_diag(*blocks) if blocks else np.zeros((0, 0))

    def dense(self, k):
        """Log evidence of combination k from the n x n covariance."""
        w, d = self.inputs[:2]
        s = self.tree.selected(k)
        z = self.rows[:, self.q :] @ self.transform
        cov = np.diag(1 / w[self.label]) + (self.rows[:, s] / d[s]) @ self.rows[:, s].T + z @ z.T
        return multivariate_normal(np.zeros(len(cov)), cov).logpdf(self.y) + self.log_prior[k]

    def joint_posterior(self, k):
        """Mean and covariance of (selected coefficients, u) given combination k."""
        w, d = self.inputs[:2]
        s = self.tree.selected(k)
        x = np.hstack([self.rows[:, s], self.rows[:, self.q :]])
        prior = block_diag(np.diag(1 / d[s]), self.transform @ self.transform.T)
        precision = np.linalg.inv(prior) + (x * w[self.label][:, None]).T @ x
        cov = np.linalg.inv(precision)
        return cov @ x.T @ (w[self.label] * self.y), cov


SHAPES = {
    "full": {},
    "one class": {"classes": 1},
    "law alone": {"cells": 0, "fields": 0, "local": 0},
    "no local correction": {"local": 0},
    "level only": {"fields": 1, "cells": 3},
    "one combination": {"groups": ((1, 2),)},
    "five groups": {"groups": ((2, 1), (2, 1), (2, 1), (1, 2), (3, 1))},
    "fewer runs than columns": {"n": 5},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_evidence_equals_the_multivariate_normal_density(shape):
    p = Problem(1, **shape)
    expected = np.array([p.dense(k) for k in range(p.tree.n_combinations)])
    np.testing.assert_allclose(log_evidence_by_combination(*p.args), expected, rtol=1e-10)
    np.testing.assert_allclose(evidence_and_gradient(*p.args)[0], logsumexp(expected), rtol=1e-10)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(2, 60), classes=st.integers(1, 4))
def test_evidence_of_any_problem(seed, n, classes):
    p = Problem(seed, n=n, classes=classes)
    k = seed % p.tree.n_combinations
    np.testing.assert_allclose(log_evidence_by_combination(*p.args)[k], p.dense(k), rtol=1e-8)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_gradient_equals_central_differences(shape):
    p = Problem(2, **shape)
    gradient = evidence_and_gradient(*p.args)[1:]
    for i, name in enumerate(INPUTS):
        factor_of = np.linalg.cholesky if p.inputs[i].ndim == 2 else np.asarray
        x = p.inputs[i] @ p.inputs[i].T if p.inputs[i].ndim == 2 else p.inputs[i]
        numeric = np.zeros_like(x)
        for at in np.ndindex(x.shape):
            step = np.zeros_like(x)
            step[at] += 5e-6  # a change of a covariance is symmetric
            step[at[::-1]] += 5e-6
            up, down = (
                evidence_and_gradient(
                    *p.inputs[:i], factor_of(x + s * step), *p.inputs[i + 1 :], *p.rest
                )[0]
                for s in (1, -1)
            )
            numeric[at] = (up - down) / 2e-5
        np.testing.assert_allclose(gradient[i], numeric, rtol=2e-6, atol=2e-6, err_msg=name)


def test_moments_equal_brute_force_over_combinations():
    p = Problem(3, cells=0, fields=0, local=0)
    w, d = p.inputs[:2]
    x = p.rows * np.sqrt(w[p.label])[:, None]
    precision, b = x.T @ x, x.T @ (np.sqrt(w[p.label]) * p.y)
    weight = np.random.default_rng(4).dirichlet(np.ones(p.tree.n_combinations))
    mean, second, inclusion = np.zeros(p.q), np.zeros((p.q, p.q)), np.zeros(p.q)
    for k, wk in enumerate(weight):
        s = p.tree.selected(k)
        cov = np.linalg.inv(precision[np.ix_(s, s)] + np.diag(d[s]))
        m = cov @ b[s]
        mean[s] += wk * m
        second[np.ix_(s, s)] += wk * (cov + np.outer(m, m))
        inclusion[s] += wk
    found = exponent_tree.moments(precision, b, d, np.log(weight), *p.tree.args)
    for value, expected in zip(found, (mean, second, inclusion), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)


def test_combinations_of_prior_probability_zero_take_no_part():
    p = Problem(5)
    out = np.zeros(p.tree.n_combinations, dtype=bool)
    out[[0, 1, 2, 3, 9, 17]] = True
    p.log_prior[out] = -np.inf
    by_k = log_evidence_by_combination(*p.args)
    assert np.all(by_k[out] == -np.inf)
    expected = [p.dense(k) for k in np.flatnonzero(~out)]
    np.testing.assert_allclose(by_k[~out], expected, rtol=1e-10)
    np.testing.assert_allclose(evidence_and_gradient(*p.args)[0], logsumexp(expected), rtol=1e-10)


def test_selected_columns_are_the_combination_in_lexicographic_order():
    p = Problem(6)
    t = p.tree
    for k in range(t.n_combinations):
        choice = np.unravel_index(k, tuple(t.n_candidates))
        expected = list(t.common)
        for g, c in enumerate(choice):
            expected += list(t.columns[g, c, : t.n_columns[g]])
        assert list(t.selected(k)) == expected
        assert tuple(t.candidate_index(np.array([k]))[0]) == choice


def test_statistics_do_not_depend_on_the_order_or_the_split_of_runs():
    p = Problem(7)
    order = np.random.default_rng(8).permutation(p.y.size)
    again = SufficientStatistics.from_rows(p.rows[order], p.y[order], p.label[order], n_classes=2)
    half = p.y.size // 2
    parts = [
        SufficientStatistics.from_rows(p.rows[i], p.y[i], p.label[i], n_classes=2)
        for i in (slice(half), slice(half, None))
    ]
    for whole, other, a, b in zip(
        p.statistics.arrays, again.arrays, *(x.arrays for x in parts), strict=True
    ):
        np.testing.assert_allclose(whole, other, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(whole, a + b, rtol=1e-12, atol=1e-12)


def draw_many(p, n, seed, screened=None, signs=None, tries=1):
    rng = np.random.default_rng(seed)
    if signs is None:
        signs = np.zeros(p.args[1].size, np.int64)
    if screened is None:
        screened = np.ones(p.tree.n_combinations, dtype=bool)
    found = [
        draw_coefficients(
            *p.args, screened, signs, rng.random(tries),
            rng.standard_normal((tries, p.rows.shape[1])),
        )
        for _ in range(n)
    ]  # fmt: skip
    return tuple(np.array(x) for x in zip(*found, strict=True))


def test_signed_draws_are_the_free_ones_that_have_the_signs():
    p = Problem(9)
    k, beta, u, _, _ = draw_many(p, 20_000, 3)
    chosen = int(np.argmin(np.abs((beta > 0).mean(axis=0) - 0.4)))
    signs = np.zeros(beta.shape[1], np.int64)
    signs[chosen] = 1
    fits = beta[:, chosen] >= 0
    k_s, beta_s, u_s, _, share = draw_many(p, 4000, 4, signs=signs, tries=4)
    assert abs(share.mean() - fits.mean()) < 4.5 * np.sqrt(0.25 / 16_000 + 0.25 / 20_000)
    has = share > 0
    assert (beta_s[has, chosen] >= 0).all() and (beta_s[~has, chosen] < 0).all()
    for free, signed in ((beta, beta_s), (u, u_s)):
        a, b = free[fits], signed[has]
        error = np.sqrt(a.var(axis=0) / len(a) + b.var(axis=0) / len(b))
        assert np.all(np.abs(a.mean(axis=0) - b.mean(axis=0)) < 4.5 * error + 1e-12)


def test_draws_have_the_closed_form_combination_weights_means_and_covariances():
    p = Problem(9)
    n = 30_000
    k, beta, u, kept, _ = draw_many(p, n, 10)
    by_k = np.array([p.dense(i) for i in range(p.tree.n_combinations)])
    weight = np.exp(by_k - logsumexp(by_k))
    frequency = np.bincount(k, minlength=weight.size) / n
    z = (frequency - weight) / np.sqrt(weight * (1 - weight) / n)
    assert np.abs(z).max() < 4.5
    np.testing.assert_allclose(kept, 0.0, atol=1e-12)
    best = int(weight.argmax())
    mine = k == best
    assert mine.sum() > 2000
    x = np.hstack([beta[mine][:, p.tree.selected(best)], u[mine]])
    mean, cov = p.joint_posterior(best)
    sd = np.sqrt(np.diag(cov))
    z_mean = (x.mean(axis=0) - mean) / (sd / np.sqrt(mine.sum()))
    assert np.abs(z_mean).max() < 4.5
    correlation = (x - mean).T @ (x - mean) / mine.sum() / np.outer(sd, sd)
    # the sampling sd of a sample correlation around its value is at most sqrt(2 / n)
    error = correlation - cov / np.outer(sd, sd)
    assert np.abs(error).max() < 5 * np.sqrt(2 / mine.sum())
    off = np.ones(p.q, dtype=bool)
    off[p.tree.selected(best)] = False
    assert np.all(beta[mine][:, off] == 0)


def test_draws_report_the_weight_of_the_screened_combinations():
    p = Problem(11)
    screened = np.zeros(p.tree.n_combinations, dtype=bool)
    screened[[0, 4, 5, 20]] = True
    by_k = np.array([p.dense(i) for i in range(p.tree.n_combinations)])
    expected = logsumexp(by_k) - logsumexp(by_k[screened])
    _, _, _, ratio, _ = draw_many(p, 3, 12, screened)
    np.testing.assert_allclose(ratio, expected, rtol=1e-9)
