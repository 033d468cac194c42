"""Metrics against closed forms, brute force and other packages."""

import itertools
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import brier_score_loss, r2_score

from bayes_optlaws.evaluation import metric_parts as parts
from bayes_optlaws.evaluation import metrics as m

finite = st.floats(-5, 5, allow_nan=False, width=32)


def gaussian_crps(y, mean, sd):
    """Closed form, doi:10.1198/016214506000001437, eq. 21."""
    z = (y - mean) / sd
    return sd * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))


# Point predictions ---------------------------------------------------------------------------


def test_r2_is_that_of_scikit_learn(rng):
    y, f = rng.normal(size=(2, 40))
    assert m.r2(y, f) == pytest.approx(r2_score(y, f), rel=1e-12)
    assert np.isnan(m.r2([2.0, 2.0], [1.0, 2.0]))


def test_relative_error_by_hand():
    assert m.relative_error([2.0, 4.0, 5.0], [2.2, 4.0, 4.0]) == pytest.approx(10.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=3, max_size=12), st.integers(0, 10**6))
def test_rank_correlation_is_that_of_scipy_with_ties(values, seed):
    y = np.random.default_rng(seed).integers(0, 6, len(values)).astype(float)
    f = np.array(values, dtype=float)
    np.testing.assert_allclose(parts.ranks(f), stats.rankdata(f))
    if np.ptp(f) == 0 or np.ptp(y) == 0:
        assert parts.rank_correlation(y, f) == 0.0
    else:
        assert parts.rank_correlation(y, f) == pytest.approx(stats.spearmanr(y, f)[0], abs=1e-12)


def test_selection_metrics_by_hand():
    y = np.array([1.0, 1.1, 1.3, 1.6, 2.0, 2.2, 2.5, 9.0, 8.0])
    f = np.array([1.2, 1.1, 1.0, 1.6, 2.2, 2.0, 2.1, 1.0, 2.0])
    blocks = np.array(["a"] * 4 + ["b"] * 3 + ["too small"] * 2)
    # a: the third best is chosen, 0.3 off; b: the second best, 0.2 off.
    assert m.top2(y, f, blocks) == 0.5
    assert m.regret(y, f, blocks) == pytest.approx((0.3 + 0.2) / 2)
    assert m.regret(y, f, blocks, relative=True) == pytest.approx((0.3 + 0.1) / 2)
    expected = (stats.spearmanr(y[:4], f[:4])[0] + stats.spearmanr(y[4:7], f[4:7])[0]) / 2
    assert m.spearman(y, f, blocks) == pytest.approx(expected)
    assert m.regret(y, f, blocks, min_runs=2) == pytest.approx((0.3 + 0.2 + 1.0) / 3)
    assert np.isnan(m.spearman(y[7:], f[7:], blocks[7:]))


def test_a_prediction_without_ranking_earns_what_a_choice_by_lot_earns(rng):
    y = rng.normal(3, 0.1, 30)
    blocks = np.repeat([0, 1, 2], 10)
    flat = np.full(30, 2.5) * (1 + 1e-16 * rng.normal(size=30))
    assert m.spearman(y, flat, blocks) == 0.0
    assert m.top2(y, flat, blocks) == pytest.approx(0.2)
    expected = np.mean([y[blocks == b].mean() - y[blocks == b].min() for b in range(3)])
    assert m.regret(y, flat, blocks) == pytest.approx(expected)


def test_the_order_of_rows_and_blocks_does_not_matter(rng):
    y = rng.normal(3, 0.1, 40)
    draws = y + 0.1 * rng.normal(size=(60, 40))
    blocks = np.repeat(list("abcd"), 10)
    swap = rng.permutation(40)
    a = m.summarize(y, draws, blocks)
    b = m.summarize(y[swap], draws[:, swap], blocks[swap])
    pd.testing.assert_series_equal(a, b, rtol=1e-10)


# Distributions -------------------------------------------------------------------------------


def test_coverage_and_width_of_a_calibrated_gaussian(rng):
    n, s = 4000, 400
    centre = rng.normal(size=n)
    y = centre + rng.normal(size=n)
    draws = centre + rng.normal(size=(s, n))
    for prob in m.LEVELS:
        se = np.sqrt(prob * (1 - prob) * (1 / n + 1 / s))
        assert abs(m.coverage(y, draws, prob=prob) - prob) < 4 * se
        exact = 2 * stats.norm.ppf(0.5 * (1 + prob))
        assert m.interval_width(draws, prob=prob) == pytest.approx(exact, rel=0.02)


def test_intervals_of_infinite_draws_are_not_nan():
    draws = np.array([[1.0, 1.0], [2.0, np.inf], [3.0, np.inf], [4.0, np.inf]])
    assert m.coverage([2.5, 1e9], draws, prob=0.9) == 1.0
    assert m.coverage([0.5, 0.5], draws, prob=0.5) == 0.0


def test_crps_is_unbiased_for_the_closed_form_gaussian(rng):
    n, s = 3000, 10
    y, mean, sd = rng.normal(size=n), rng.normal(size=n), rng.uniform(0.2, 2, n)
    draws = mean + sd * rng.normal(size=(s, n))
    gap = m.crps(y, draws) - gaussian_crps(y, mean, sd)
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(n)
    biased = m.crps(y, draws, fair=False) - gaussian_crps(y, mean, sd)
    assert biased.mean() > 4 * biased.std() / np.sqrt(n)  # the test would see the bias
    many = mean[:20] + sd[:20] * rng.normal(size=(40_000, 20))
    np.testing.assert_allclose(
        m.crps(y[:20], many), gaussian_crps(y, mean, sd)[:20], atol=0.03 * sd[:20].max()
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(finite, min_size=2, max_size=9), finite)
def test_crps_is_the_double_sum(values, y):
    x = np.array(values)
    double = np.abs(x[:, None] - x).sum()
    s = x.size
    for fair, pairs in ((True, s * (s - 1)), (False, s * s)):
        expected = np.abs(x - y).mean() - 0.5 * double / pairs
        assert m.crps([y], x[:, None], fair=fair)[0] == pytest.approx(expected, abs=1e-9)


def test_log_score_of_a_mixture_is_the_log_of_its_density(rng):
    mean, sd = rng.normal(1, 0.1, (50, 7)), rng.uniform(0.05, 0.2, (50, 1))
    y = np.exp(rng.normal(1, 0.1, 7))
    expected = np.log(stats.norm.pdf(np.log(y), mean, sd).mean(axis=0))
    np.testing.assert_allclose(m.log_score(y, cond_mean=mean, cond_sd=sd), expected, rtol=1e-10)
    # Far tails do not underflow.
    far = m.log_score([np.exp(60.0)], cond_mean=[[0.0], [1.0]], cond_sd=[[1.0], [1.0]])
    assert far[0] == pytest.approx(stats.norm.logpdf(59) - np.log(2), rel=1e-9)


def test_log_score_of_draws_is_a_gaussian_fit_to_log_losses(rng):
    draws = np.exp(rng.normal(1, 0.1, (5000, 3)))
    y = np.exp([1.0, 1.1, 0.8])
    expected = stats.norm.logpdf(np.log(y), np.log(draws).mean(0), np.log(draws).std(0, ddof=1))
    np.testing.assert_allclose(m.log_score(y, draws), expected, rtol=1e-10)


def test_pit_of_a_calibrated_prediction_is_uniform(rng):
    n, s = 2000, 999
    centre = rng.normal(size=n)
    draws = centre + rng.normal(size=(s, n))
    values = m.pit(centre + rng.normal(size=n), draws)
    assert stats.kstest(values, "uniform").pvalue > 1e-3
    assert stats.kstest(m.pit(centre + 1 + rng.normal(size=n), draws), "uniform").pvalue < 1e-6
    assert m.pit_distance(values) == pytest.approx(stats.kstest(values, "uniform").statistic)


def test_pit_counts_equal_draws_by_half():
    draws = np.array([[1.0], [2.0], [2.0], [np.inf]])
    assert m.pit([2.0], draws)[0] == 0.5 and m.pit([9.0], draws)[0] == 0.75


# Pairs and P(best) ---------------------------------------------------------------------------


def test_pairs_are_all_pairs_of_a_block_and_no_other(rng):
    y = rng.normal(size=17)
    y[3] = y[5]
    blocks = np.array([0] * 6 + [1] * 8 + [2] * 3)[rng.permutation(17)]
    draws = np.round(rng.normal(size=(40, 17)), 1)
    pairs = m.pairwise(y, draws, blocks)
    found = {(min(a, b), max(a, b)) for a, b in zip(pairs.first, pairs.second, strict=True)}
    every = {
        (i, j)
        for i, j in itertools.combinations(range(17), 2)
        if blocks[i] == blocks[j] and y[i] != y[j]
    }
    assert found == every and len(found) == pairs.first.size
    for k in range(pairs.first.size):
        a, b = draws[:, pairs.first[k]], draws[:, pairs.second[k]]
        assert pairs.p_lower[k] == np.mean(a < b) + 0.5 * np.mean(a == b)
        assert pairs.lower[k] == (y[pairs.first[k]] < y[pairs.second[k]])


def test_many_pairs_are_sampled_without_bias(rng):
    y = np.sort(rng.normal(size=120))
    draws = y + rng.normal(size=(50, 120))
    blocks = np.zeros(120)
    all_pairs = m.pairwise(y, draws, blocks, max_pairs=10_000)
    some = m.pairwise(y, draws, blocks, max_pairs=1000, random_seed=3)
    assert all_pairs.first.size == 120 * 119 // 2 and some.first.size == 1000
    pair_ids = some.first * 1000 + some.second
    assert np.unique(pair_ids).size == 1000
    np.testing.assert_array_equal(
        some.p_lower, m.pairwise(y, draws, blocks, max_pairs=1000, random_seed=3).p_lower
    )
    gap = m.pairwise_accuracy(some) - m.pairwise_accuracy(all_pairs)
    assert abs(gap) < 4 * np.sqrt(0.25 / 1000)


def test_calibration_error_tells_calibrated_from_over_confident(rng):
    n = 200_000
    p = rng.uniform(size=n)
    rows = np.zeros(n, dtype=int), np.ones(n, dtype=int)
    calibrated = m.Pairs(*rows, p, rng.uniform(size=n) < p)
    assert m.pairwise_calibration_error(calibrated) < 10 * np.sqrt(0.25 * 10 / n)
    truth = 0.5 + 0.5 * (p - 0.5)
    sharp = m.Pairs(*rows, p, rng.uniform(size=n) < truth)
    # said - right = (said - 1/2) / 2, whose mean is 1/8.
    assert m.pairwise_calibration_error(sharp) == pytest.approx(0.125, abs=0.005)


def test_calibration_error_by_hand_with_two_bins():
    p = np.array([0.6, 0.4, 0.9, 0.05])
    pairs = m.Pairs(np.zeros(4, int), np.ones(4, int), p, np.array([True, True, True, False]))
    # Bin one: said 0.6 and 0.6, right 1 and 0; bin two: said 0.9 and 0.95, right 1 and 1.
    assert pairs.right.tolist() == [1, 0, 1, 1]
    expected = 0.5 * abs(0.6 - 0.5) + 0.5 * abs(0.925 - 1)
    assert m.pairwise_calibration_error(pairs, bins=2) == pytest.approx(expected)
    assert m.pairwise_accuracy(pairs) == 0.75


def test_pairs_without_a_call_count_one_half():
    pairs = m.pairwise([1.0, 2.0], [[np.inf, np.inf]], [0, 0])
    assert pairs.p_lower[0] == 0.5 and m.pairwise_accuracy(pairs) == 0.5
    assert m.pairwise_calibration_error(pairs) == 0.0
    none = m.pairwise([1.0, 2.0], [[1.0, 2.0]], [0, 1])
    assert none.first.size == 0 and np.isnan(m.pairwise_accuracy(none))
    assert np.isnan(m.pairwise_calibration_error(none))


def test_brier_of_p_best_is_that_of_scikit_learn(rng):
    y = rng.normal(size=6)
    draws = y + rng.normal(size=(500, 6))
    p = np.bincount(draws.argmin(axis=1), minlength=6) / 500
    expected = brier_score_loss([y.argmin()], [p], labels=range(6), scale_by_half=False)
    assert m.brier_best(y, draws, np.zeros(6)) == pytest.approx(expected)
    everything_diverged = np.full((3, 6), np.inf)
    uniform = m.brier_best(y, everything_diverged, np.zeros(6))
    assert uniform == pytest.approx(1 - 1 / 6)


# All at once ---------------------------------------------------------------------------------


@pytest.fixture
def case(rng):
    blocks = np.repeat(np.arange(12), 8)
    centre = 3 + 0.05 * rng.normal(size=96)
    y = centre * np.exp(0.01 * rng.normal(size=96))
    cond_mean = np.log(centre) + 0.003 * rng.normal(size=(300, 96))
    draws = np.exp(cond_mean + 0.01 * rng.normal(size=(300, 96)))
    return {"observed": y, "draws": draws, "blocks": blocks}, cond_mean


def test_summary_holds_what_the_single_metrics_say(case):
    args, cond_mean = case
    y, draws, blocks = args["observed"], args["draws"], args["blocks"]
    found = m.summarize(**args, cond_mean=cond_mean, cond_sd=np.full((300, 1), 0.01))
    f = np.median(draws, axis=0)
    pairs = m.pairwise(y, draws, blocks)
    expected = {
        "n_runs": 96,
        "n_blocks": 12,
        "r2": m.r2(np.log(y), np.log(f)),
        "relative_error": m.relative_error(y, f),
        "spearman": m.spearman(y, f, blocks),
        "top2": m.top2(y, f, blocks),
        "regret": m.regret(y, f, blocks),
        "regret_relative": m.regret(y, f, blocks, relative=True),
        "crps": m.crps(y, draws).mean(),
        "log_score": m.log_score(y, cond_mean=cond_mean, cond_sd=np.full((300, 1), 0.01)).mean(),
        "pit_distance": m.pit_distance(m.pit(y, draws)),
        "pair_accuracy": m.pairwise_accuracy(pairs),
        "pair_said": pairs.said.mean(),
        "pair_calibration_error": m.pairwise_calibration_error(pairs),
        "brier_best": m.brier_best(y, draws, blocks),
    }
    for prob in m.LEVELS:
        expected[f"coverage_{100 * prob:.0f}"] = m.coverage(y, draws, prob=prob)
        expected[f"width_{100 * prob:.0f}"] = m.interval_width(draws, prob=prob)
    assert set(found.index) == set(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-10), name


def test_predicted_and_diverged_loss_are_used(case):
    args, _ = case
    given_ = m.summarize(**args, predicted=args["observed"])
    assert given_["relative_error"] == 0 and given_["spearman"] == 1 and given_["regret"] == 0
    draws = args["draws"].copy()
    draws[::2, 0] = np.inf
    with pytest.raises(ValueError, match="run 0 are infinite.*diverged_loss"):
        m.summarize(args["observed"], draws, args["blocks"])
    seven = draws.copy()
    seven[::2, 0] = 7.0
    found = m.summarize(args["observed"], draws, args["blocks"], diverged_loss=7.0)
    with_seven = m.summarize(args["observed"], seven, args["blocks"])
    pd.testing.assert_series_equal(found.drop("crps"), with_seven.drop("crps"))
    assert found["crps"] < with_seven["crps"]


def test_crps_is_that_of_the_finished_draws(rng):
    """Against the score of each run's finite draws alone, and whatever their number."""
    y, draws = rng.normal(3, 0.1, 5), rng.normal(3, 0.1, (300, 5))
    draws[rng.random(draws.shape) < np.array([0.0, 0.1, 0.5, 0.9, 0.3])] = np.inf
    for fair in (True, False):
        alone = [m.crps(y[[i]], d[np.isfinite(d)][:, None], fair=fair)[0]
                 for i, d in enumerate(draws.T)]  # fmt: skip
        np.testing.assert_allclose(m.crps(y, draws, fair=fair), alone, rtol=1e-10)


def test_bootstrap_takes_cells_that_are_spread_over_blocks(case):
    args, _ = case
    cells = np.asarray(args["blocks"]) // 2
    whole = m.bootstrap_se(**args, cells=args["blocks"], n_boot=20, random_seed=1)
    pd.testing.assert_series_equal(whole, m.bootstrap_se(**args, n_boot=20, random_seed=1))
    se = m.bootstrap_se(**args, cells=cells, n_boot=2000, random_seed=4)["relative_error"]
    error = 100 * np.abs(np.median(args["draws"], axis=0) / args["observed"] - 1)
    means = np.array([error[cells == c].mean() for c in range(6)])
    assert se == pytest.approx(means.std() / np.sqrt(6), rel=4 / np.sqrt(2 * 2000))
    with pytest.raises(ValueError, match="a block holds runs of the cells"):
        m.bootstrap_se(**args, cells=np.arange(96), n_boot=2)


def test_bootstrap_over_blocks_is_the_error_of_a_mean_of_blocks(case):
    args, _ = case
    se = m.bootstrap_se(**args, n_boot=2000, random_seed=4)
    y, f, blocks = args["observed"], np.median(args["draws"], axis=0), args["blocks"]
    each = np.array([m.regret(y[r], f[r], blocks[r]) for r in parts.members(blocks, 96)])
    rank = np.array([m.spearman(y[r], f[r], blocks[r]) for r in parts.members(blocks, 96)])
    for name, values in (("regret", each), ("spearman", rank)):
        assert se[name] == pytest.approx(values.std() / np.sqrt(12), rel=4 / np.sqrt(2 * 2000))
    assert se["n_runs"] == 0 and (se.drop(["n_runs", "n_blocks"]) > 0).all()


def test_bootstrap_over_runs_is_the_error_of_a_mean_of_runs(case):
    args, _ = case
    se = m.bootstrap_se(**args, resample="runs", n_boot=1000, random_seed=4)
    y, f, blocks = args["observed"], np.median(args["draws"], axis=0), args["blocks"]
    error = 100 * np.abs(f / y - 1)
    within = np.mean([error[blocks == b].var() for b in range(12)])
    assert se["relative_error"] == pytest.approx(np.sqrt(within / 96), rel=4 / np.sqrt(2 * 1000))
    assert (se.drop(["n_runs", "n_blocks"]) > 0).all()


def test_bootstrap_needs_blocks_to_resample(case):
    args, _ = case
    one = {**args, "blocks": np.zeros(96)}
    assert m.bootstrap_se(**one, n_boot=3).isna().all()
    assert np.isfinite(m.bootstrap_se(**one, n_boot=3, resample="runs")["regret"])
    with pytest.raises(ValueError, match="resample = 'rows'"):
        m.bootstrap_se(**args, resample="rows")


def test_memory_is_bounded(rng, monkeypatch):
    """Temporaries are chunked: a small chunk gives the same numbers with less memory."""
    y = rng.normal(3, 0.1, 300)
    draws = y + 0.1 * rng.normal(size=(500, 300))
    blocks = np.repeat([0, 1], 150)

    def work():
        tracemalloc.start()
        out = [m.crps(y, draws), m.pit(y, draws), m.pairwise(y, draws, blocks).p_lower]
        out += [m.brier_best(y, draws, blocks), m.interval_width(draws)]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return out, peak

    whole, much = work()
    monkeypatch.setattr(parts, "_CHUNK", 5000)
    chunked, little = work()
    for a, b in zip(whole, chunked, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    assert little < 0.5 * much


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: m.r2([1.0, 2.0], [1.0]), "lengths differ: 1 predictions for 2"),
        (lambda: m.r2([1.0, np.nan], [1.0, 2.0]), "observed of run 1 is nan"),
        (lambda: m.r2([], []), "with n > 0"),
        (lambda: m.r2([1.0], [[1.0]]), "predicted has shape"),
        (lambda: m.crps([1.0], [1.0, 2.0]), r"draws has shape \(2,\)"),
        (lambda: m.crps([1.0], [[np.nan]]), "draws of run 0 hold NaN"),
        (lambda: m.crps([1.0], [[np.inf], [1.0]]), "1 finished draws of run 0: the fair CRPS"),
        (lambda: m.crps([1.0], [[np.inf]], fair=False), "0 finished draws of run 0: the CRPS"),
        (lambda: m.log_score([1.0]), "needs draws"),
        (lambda: m.log_score([-1.0], [[1.0]]), "observed of run 0 is -1.0"),
        (lambda: m.log_score([1.0], [[1.0], [0.0]]), "draws of run 0 is 0.0"),
        (lambda: m.log_score([1.0], cond_mean=[[0.0]], cond_sd=[[0.0]]), "cond_sd of run 0"),
        (lambda: m.log_score([1.0, 2.0], cond_mean=[[0.0]], cond_sd=[[1.0]]), "lengths differ"),
        (lambda: m.coverage([1.0], [[1.0]], prob=95), "prob = 95"),
        (lambda: m.spearman([1.0, 2.0], [1.0, 2.0], [0]), "lengths differ"),
        (lambda: m.spearman([1.0, 2.0], [1.0, 2.0], [0, np.nan]), "blocks of run 1 is missing"),
        (lambda: m.spearman([1.0], [1.0], [[0]]), "blocks has shape"),
        (lambda: m.summarize([1.0], [[1.0], [2.0]], [0], predicted=[-1.0]), "predicted of run 0"),
    ],
)
def test_errors_name_the_argument_and_the_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()
