"""Kriging of residuals: weights, what is left, and when the correction is used."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from bayes_optlaws.model.discrepancy import matern52
from bayes_optlaws.model.neighbours import NEAREST, Learned, Residuals, chosen_runs, learn

LENGTHS = (0.3, 0.5)


def grid(cells=6, lrs=9, batches=5):
    """Places of a grid of runs: scales, then standardised log LR and batch."""
    scale = np.column_stack([np.linspace(-2, 2, cells), np.linspace(-1.5, 1.5, cells)])
    setting = np.stack(np.meshgrid(np.linspace(-2, 2, lrs), np.linspace(-1.5, 1.5, batches)), -1)
    setting = setting.reshape(-1, 2)
    return np.hstack([np.repeat(scale, len(setting), axis=0), np.tile(setting, (cells, 1))])


def covariance(residuals, share):
    scaled = residuals.points / residuals.lengths(*LENGTHS)
    return share * matern52(scaled, scaled, 1.0) + (1 - share) * np.diag(residuals.nugget)


def test_weights_are_those_of_the_dense_conditional(rng):
    """All runs are among the nearest: the conditional normal distribution is exact."""
    points = rng.normal(size=(NEAREST, 4)) * 0.5
    residuals = Residuals(points, rng.uniform(0.2, 1.0, NEAREST))
    new = rng.normal(size=(7, 4)) * 0.5
    lengths, share = residuals.lengths(*LENGTHS), 0.7
    found = residuals.told(share, lengths, new)
    to_new = share * matern52(new / lengths, points / lengths, 1.0)
    weight = np.linalg.solve(covariance(residuals, share), to_new.T).T
    dense = found.matrix(np.arange(NEAREST)).toarray()
    np.testing.assert_allclose(dense, weight, atol=1e-10)
    np.testing.assert_allclose(found.left, 1 - np.sum(weight * to_new, axis=1), atol=1e-10)


def test_the_run_itself_is_left_out_also_where_more_runs_lie_in_its_place_than_are_asked_for(rng):
    points = np.vstack([np.zeros((NEAREST + 9, 3)), rng.normal(size=(40, 3))])
    residuals = Residuals(points, np.ones(len(points)))
    own = np.arange(len(points))
    index, distance = residuals.nearest(points, residuals.lengths(*LENGTHS), own)
    assert index.shape == distance.shape == (len(points), NEAREST)
    assert not (index == own[:, None]).any()
    assert np.all(np.diff(distance, axis=1) >= 0)


def test_nothing_is_told_far_from_all_runs():
    residuals = Residuals(grid(), np.ones(len(grid())))
    lengths = residuals.lengths(*LENGTHS)
    far = np.array([[5.0, 5.0, 0.0, 0.0], [0.0, 0.0, 9.0, 0.0]])
    found = residuals.told(0.8, lengths, far)
    assert not found.weight.any() and not found.used.size
    np.testing.assert_array_equal(found.left, 1.0)


@pytest.mark.parametrize("share", [0.4, 0.8])
def test_the_share_that_neighbours_have_in_common_is_found(share, rng):
    points = grid()
    residuals = Residuals(points, np.ones(len(points)))
    cov = covariance(residuals, share)
    found = []
    for _ in range(12):
        e = multivariate_normal(cov=cov, seed=rng).rvs()[None]
        found.append(learn(residuals, e, np.arange(len(points))))
    assert all(x.clear for x in found)
    assert np.mean([x.share for x in found]) == pytest.approx(share, abs=0.12)
    assert np.median([x.scale_length for x in found]) <= 0.6
    assert 0.25 <= np.median([x.setting_length for x in found]) <= 1.0


def test_the_gain_is_the_leave_one_out_log_density(rng):
    """By n x n algebra: a normal density of each run given all others, over that of noise alone."""
    points = grid(cells=2, lrs=5, batches=3)
    residuals = Residuals(points, rng.uniform(0.25, 1.0, len(points)))
    e = multivariate_normal(cov=covariance(residuals, 0.8), seed=rng).rvs(3)
    learned = learn(residuals, e, np.arange(len(points)))
    assert learned.gain > 0
    lengths = residuals.lengths(learned.scale_length, learned.setting_length)
    scaled = points / lengths
    cov = learned.share * matern52(scaled, scaled, 1.0)
    cov += (1 - learned.share) * np.diag(residuals.nugget)
    precision = np.linalg.inv(cov)
    variance = 1 / np.diag(precision)
    error = (e @ precision) * variance
    base = e**2 / residuals.nugget + np.log(residuals.nugget)
    gain = 0.5 * (base - error**2 / variance - np.log(variance)).mean(axis=0)
    assert learned.gain == pytest.approx(gain.sum(), rel=1e-9)
    assert learned.standard_error == pytest.approx(gain.std() * np.sqrt(len(points)), rel=1e-9)


def test_independent_noise_is_left_alone(rng):
    """Of 60 tables without anything shared at most two get a correction by chance."""
    points = grid(cells=4)
    residuals = Residuals(points, np.ones(len(points)))
    e = rng.standard_normal((60, len(points)))
    clear = [learn(residuals, x[None], np.arange(len(points))).clear for x in e]
    assert sum(clear) <= 2


@pytest.mark.parametrize(
    ("gain", "error", "clear"), [(2.9, 0.1, False), (3.1, 0.1, True), (9.0, 5.0, False)]
)
def test_a_gain_counts_only_if_it_is_clear(gain, error, clear):
    assert Learned(0.5, 0.3, 0.5, gain, error).clear is clear


def test_long_tables_are_learned_from_some_runs_always_the_same():
    some = chosen_runs(5_000)
    assert some.size < 1_000 and np.unique(some).size == some.size
    np.testing.assert_array_equal(some, chosen_runs(5_000))
    np.testing.assert_array_equal(chosen_runs(10), np.arange(10))
