"""What a change of stage does: its columns, draws, and how it is learned from measured sets."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import logsumexp

from bayes_optlaws import datasets
from bayes_optlaws.inference.stage_change import (
    COLUMN_SD,
    COLUMNS,
    LATER_LR,
    Reference,
    StageChange,
    change_columns,
)
from bayes_optlaws.inference.stage_learning import BETWEEN_GRID, learn_change, log_evidence
from bayes_optlaws.inference.stage_posterior import StageData, StagePrior, contrasts
from bayes_optlaws.inference.stages import read_stages
from bayes_optlaws.model.priors import LogNormal
from bayes_optlaws.runs.readers import read_candidates

K = len(COLUMNS)
FLAT = StagePrior(LogNormal(0.003, 1.0), change=StageChange.none())


def _row(**changes) -> pd.DataFrame:
    row = {
        "n_params": 1e6, "tokens": 4e6, "batch_tokens": 1e3, "peak_lr": 0.01, "warmup_steps": 1000,
        "schedule": "linear",
    }  # fmt: skip
    return read_candidates(pd.DataFrame([row | changes]))


def test_columns_by_hand():
    """A triangle has half of its peak LR on average: the shape column is then zero."""
    reference = Reference(0.02, 2e6, 1e6)
    x = np.log(0.5 / 0.25)
    expected = [x, x * x, x * np.log(0.5), x * np.log(4), 0.0, 0.3 * 0.25 / 0.45]
    got = change_columns(_row(), reference)
    np.testing.assert_allclose(got, [expected], atol=1e-12)
    flat = change_columns(_row(schedule="constant", warmup_steps=0), reference)
    np.testing.assert_allclose(flat[0, 4:], [x * np.log(2), 0.0], rtol=1e-3)  # half a step


def test_units_do_not_matter():
    """Sizes, tokens and LRs of another world, with their reference: the same columns."""
    here = change_columns(_row(), Reference(0.02, 2e6, 1e6))
    there = _row(n_params=1e9, tokens=4e9, batch_tokens=1e6, peak_lr=1e-4)
    np.testing.assert_allclose(here, change_columns(there, Reference(2e-4, 2e9, 1e9)), rtol=1e-9)


def test_draws_have_the_covariance_of_pooled_coefficients(rng):
    z = rng.normal(size=(5, K))
    root = 0.01 * rng.normal(size=(K, K))
    mean, cov = 0.02 * rng.normal(size=K), root @ root.T
    change = StageChange(tuple(mean), tuple(cov.ravel()), 0.01)
    which, n = np.array([0, 0, 1, 1, 1]), 100_000
    out = change.draw(z, which, n, rng)
    exact = z @ cov @ z.T + 0.01**2 * (which[:, None] == which) * (z @ z.T)
    sd = np.sqrt(np.diag(exact))
    assert np.all(np.abs(out.mean(0) - z @ mean) < 4.5 * sd / np.sqrt(n))
    error = np.sqrt((np.outer(sd, sd) ** 2 + exact**2) / n)
    assert np.all(np.abs(np.cov(out.T) - exact) < 4.5 * error)


def _measured(rng, gamma, between, deviation, noise, n_sets=10, size=8, seeds=4):
    which = np.repeat(np.arange(n_sets), size)
    z = rng.normal(size=(which.size, K))
    own = between * rng.standard_normal((n_sets, K))
    truth = np.sum(z * (gamma + own[which]), axis=1) + rng.normal(size=n_sets)[which]
    truth += deviation * rng.standard_normal(which.size)
    runs = truth[:, None] + noise * rng.standard_normal((which.size, seeds))
    mean = runs.mean(axis=1)
    squares = float(((runs - mean[:, None]) ** 2).sum())
    return z, StageData(mean, np.full(which.size, float(seeds)), squares, which)


def test_learning_agrees_with_regression_with_known_variances(rng):
    """Oracle: Gaussian regression with a free level a set, at the sds the data were made with."""
    gamma = 0.02 * rng.standard_normal(K)
    between, deviation, noise = 0.004, 0.004, 0.002
    z, data = _measured(rng, gamma, between, deviation, noise, n_sets=40)
    n = data.mean.size
    found, median, _ = learn_change(np.zeros(n), np.zeros((n, n)), z, data, FLAT)
    same = data.which_set[:, None] == data.which_set
    v = between**2 * same * (z @ z.T) + np.eye(n) * (deviation**2 + noise**2 / 4)
    design = np.hstack([z, np.eye(40)[data.which_set]])
    prior = np.diag(np.r_[np.full(K, COLUMN_SD**-2), np.zeros(40)])
    cov = np.linalg.inv(design.T @ np.linalg.solve(v, design) + prior)
    mean = cov @ design.T @ np.linalg.solve(v, data.mean)
    sd = np.sqrt(np.diag(cov))[:K]
    assert np.all(np.abs(found.mean - mean[:K]) < 0.2 * sd)
    np.testing.assert_allclose(
        np.sqrt(np.diag(np.reshape(found.covariance, (K, K)))), sd, rtol=0.25
    )
    assert found.between == pytest.approx(between, rel=0.25)
    assert median == pytest.approx(deviation, rel=0.2)


def test_coefficients_are_covered(rng):
    """Coefficients, sds between sets and of configurations from their priors, 20 times."""
    scores = []
    for _ in range(20):
        gamma = COLUMN_SD * rng.standard_normal(K)
        between = 0.005 * np.exp(rng.standard_normal())
        deviation = 0.003 * np.exp(rng.standard_normal())
        z, data = _measured(rng, gamma, between, deviation, 0.002, n_sets=6, size=5)
        n = data.mean.size
        found, _, _ = learn_change(np.zeros(n), np.zeros((n, n)), z, data, FLAT)
        sd = np.sqrt(np.diag(np.reshape(found.covariance, (K, K))))
        scores.extend((gamma - found.mean) / sd)
    assert stats.kstest(scores, "norm").pvalue > 0.001
    assert 0.8 < np.std(scores) < 1.25


def test_evidence_is_that_of_the_contrasts(rng):
    """Oracle: normal density of the contrasts at known sds, summed over the sd between sets."""
    z, data = _measured(rng, 0.01 * rng.standard_normal(K), 0.004, 0.003, 0.002, n_sets=3, size=4)
    n = data.mean.size
    root = 0.003 * rng.normal(size=(n, n))
    mean, cov = 0.01 * rng.normal(size=n), root @ root.T
    known = StagePrior(LogNormal(0.003, 1e-5), LogNormal(0.002, 1e-5), change=StageChange.none())
    same = data.which_set[:, None] == data.which_set
    c = contrasts(data.which_set)

    def exact(mean):
        each = []
        for b in BETWEEN_GRID:
            v = cov + (b**2 * same + COLUMN_SD**2) * (z @ z.T)
            v = c @ (v + (0.003**2 + 0.002**2 / 4) * np.eye(n)) @ c.T
            density = stats.multivariate_normal(np.zeros(len(c)), v).logpdf(c @ (data.mean - mean))
            each.append(density - 0.5 * np.log(b / 0.005) ** 2)
        return logsumexp(each)

    found = [log_evidence(m, cov, z, data, known) for m in (mean, 2 * mean)]
    assert found[1] - found[0] == pytest.approx(exact(2 * mean) - exact(mean), abs=1e-3)


def test_levels_of_the_sets_teach_nothing(rng):
    z, data = _measured(rng, 0.02 * np.ones(K), 0.004, 0.003, 0.002)
    n, shift = data.mean.size, rng.normal(size=10)[data.which_set]
    moved = StageData(data.mean + shift, data.runs, data.squares, data.which_set)
    a, b = (learn_change(np.zeros(n), np.zeros((n, n)), z, d, FLAT) for d in (data, moved))
    np.testing.assert_allclose(a[0].mean, b[0].mean, atol=1e-9)
    np.testing.assert_allclose(a[1:], b[1:], rtol=1e-6)


@pytest.mark.parametrize(
    "change", [{"mean": (0.0,)}, {"covariance": (0.0,)}, {"between": -1.0},
               {"covariance": tuple((-np.eye(K)).ravel())}],
)  # fmt: skip
def test_coefficients_that_are_none_are_refused(change):
    with pytest.raises(ValueError, match="covariance"):
        StageChange(**change)


def test_shipped_numbers_say_what_the_shipped_sets_show():
    """The best peak LR of a later stage falls with size and with tokens, and is within the sets."""
    change, reference = StageChange.shipped(), Reference(0.01645, 39866.0, 2.249e6)
    assert BETWEEN_GRID.min() < change.between < BETWEEN_GRID.max()
    linear, square, size, tokens = change.mean[:4]
    assert min(square, size, tokens) > 0
    table = read_stages(datasets.load("pocket-stages"))
    later = table[table["stage"] > 1]
    n = np.log(later["n_params"] / reference.n_params)
    d = np.log(later["tokens"] / reference.tokens)
    best = LATER_LR * reference.lr * np.exp(-(linear + size * n + tokens * d) / (2 * square))
    assert best.between(0.0003, 0.03).all()
