"""Kriging of residuals: weights, what is left, and when the correction is used."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from bayes_optlaws.model.discrepancy import matern52
from bayes_optlaws.model.neighbours import NEAREST, Learned, Residuals, chosen_runs, learn

LENGTHS = (0.3, 0.5)


def measured(points, single=1.0, known=0.0, weight=1.0):
    """Residuals at these places, of one run each and measured exactly if nothing else is said."""
    return Residuals(points, *(np.broadcast_to(x, len(points)) for x in (single, known, weight)))


def grid(cells=6, lrs=9, batches=5):
    """Places of a grid of runs: scales, then standardised log LR and batch."""
    scale = np.column_stack([np.linspace(-2, 2, cells), np.linspace(-1.5, 1.5, cells)])
    setting = np.stack(np.meshgrid(np.linspace(-2, 2, lrs), np.linspace(-1.5, 1.5, batches)), -1)
    setting = setting.reshape(-1, 2)
    return np.hstack([np.repeat(scale, len(setting), axis=0), np.tile(setting, (cells, 1))])


def learned_from(residuals, e):
    """What all runs tell of one another."""
    runs = np.arange(len(residuals.points))
    return learn(residuals, e, runs, residuals.nearby(runs))


def covariance(residuals, share):
    scaled = residuals.points / residuals.lengths(*LENGTHS)
    own = (1 - share) * residuals.single + residuals.known
    return share * matern52(scaled, scaled, 1.0) + np.diag(own / residuals.weight)


def test_weights_are_those_of_the_dense_conditional(rng):
    """All runs are among the nearest: the conditional normal distribution is exact."""
    points = rng.normal(size=(NEAREST, 4)) * 0.5
    residuals = measured(points, *(rng.uniform(0.2, 1.0, NEAREST) for _ in range(3)))
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
    residuals = measured(points)
    own = np.arange(len(points))
    index, distance = residuals.nearest(points, residuals.lengths(*LENGTHS), own)
    assert index.shape == distance.shape == (len(points), NEAREST)
    assert not (index == own[:, None]).any()
    assert np.all(np.diff(distance, axis=1) >= 0)


def test_nothing_is_told_far_from_all_runs():
    residuals = measured(grid())
    lengths = residuals.lengths(*LENGTHS)
    far = np.array([[5.0, 5.0, 0.0, 0.0], [0.0, 0.0, 9.0, 0.0]])
    found = residuals.told(0.8, lengths, far)
    assert not found.weight.any() and not found.used.size
    np.testing.assert_array_equal(found.left, 1.0)


@pytest.mark.parametrize(("share", "noisy"), [(0.4, False), (0.8, False), (0.8, True)])
def test_the_share_that_neighbours_have_in_common_is_found(share, noisy, rng):
    """Also where a quarter of the runs have a known measurement variance twenty times the noise."""
    points = grid()
    residuals = measured(points, known=20.0 * (rng.random(len(points)) < 0.25) * noisy)
    cov = covariance(residuals, share)
    found = []
    for _ in range(12):
        e = multivariate_normal(cov=cov, seed=rng).rvs()[None]
        found.append(learned_from(residuals, e))
    assert sum(x.clear for x in found) >= 10
    assert np.mean([x.share for x in found]) == pytest.approx(share, abs=0.12)
    assert np.median([x.scale_length for x in found]) <= 0.6
    assert 0.25 <= np.median([x.setting_length for x in found]) <= 1.0


def test_the_gain_is_the_leave_one_out_log_density(rng):
    """By n x n algebra: a normal density of each run given all others, over that of noise alone."""
    points = grid(cells=2, lrs=5, batches=3)
    residuals = measured(points, rng.uniform(0.25, 1.0, 30), rng.uniform(0.0, 0.1, 30))
    e = multivariate_normal(cov=covariance(residuals, 0.9), seed=rng).rvs(3)
    learned = learned_from(residuals, e)
    assert learned.gain > 0
    lengths = residuals.lengths(learned.scale_length, learned.setting_length)
    scaled = points / lengths
    cov = learned.share * matern52(scaled, scaled, 1.0)
    cov += np.diag((1 - learned.share) * residuals.single + residuals.known)
    precision = np.linalg.inv(cov)
    variance = 1 / np.diag(precision)
    error = (e @ precision) * variance
    alone = residuals.single + residuals.known
    base = e**2 / alone + np.log(alone)
    gain = 0.5 * (base - error**2 / variance - np.log(variance)).mean(axis=0)
    assert learned.gain == pytest.approx(gain.sum(), rel=1e-9)
    assert learned.standard_error == pytest.approx(gain.std() * np.sqrt(len(points)), rel=1e-9)


def test_independent_noise_is_left_alone(rng):
    """Of 60 tables without anything shared at most two get a correction by chance."""
    points = grid(cells=4)
    residuals = measured(points)
    e = rng.standard_normal((60, len(points)))
    clear = [learned_from(residuals, x[None]).clear for x in e]
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
