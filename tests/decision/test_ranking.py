import itertools
import re
import time

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.figure import Figure
from scipy.stats import norm, rankdata

from bayes_optlaws.decision.rank_words import LIKELY
from bayes_optlaws.decision.ranking import DEFAULT_TIE, DIVERGENCE_LOSS, Ranking
from bayes_optlaws.kernels import rank_counts

INF = np.inf
PROBABILITIES = ["p_best", "p_best_or_tied", "p_top2", "p_diverge"]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@st.composite
def draws_with_ties(draw, most=6):
    """Few distinct losses, exact in binary, so ties are exact too; some runs diverge."""
    shape = (draw(st.integers(1, 8)), draw(st.integers(1, most)))
    return draw(arrays(float, shape, elements=st.sampled_from([2.0, 2.25, 2.5, 3.0, INF])))


def by_hand(draws, tie, divergence_cost):
    """Table columns by plain loops over draws and candidates."""
    n_samples, n = draws.shape
    names = ["p_best", "p_best_or_tied", "p_top2", "expected_rank", "expected_regret"]
    total = {name: [0.0] * n for name in names}
    for row in draws.tolist():
        finite = [v for v in row if v < INF]
        for i, mine in enumerate(row):
            lower = sum(v < mine for v in row)
            equal = sum(v == mine for v in row)
            total["p_best"][i] += 1 / equal if lower == 0 else 0
            total["p_top2"][i] += max(0, min(equal, 2 - lower)) / equal
            total["expected_rank"][i] += lower + (equal + 1) / 2
            if not finite:
                total["p_best_or_tied"][i] += 1
                continue
            counted = mine if mine < INF else divergence_cost
            total["expected_regret"][i] += counted - min(finite)
            total["p_best_or_tied"][i] += mine - min(finite) <= tie
    return pd.DataFrame({name: np.array(values) / n_samples for name, values in total.items()})


# Worked by hand


def test_fast_but_risky_candidate():
    """Risky is 0.5 nats lower in 3 draws of 4 and diverges in one, counted as 7 nats."""
    draws = np.array([[2.0, 1.5], [2.0, 1.5], [2.25, 1.75], [2.0, INF]])
    r = Ranking.from_draws(draws, labels=["safe", "risky"], divergence_loss=7)
    assert list(r.table.index) == ["safe", "risky"]
    safe, risky = r.table.loc["safe"], r.table.loc["risky"]
    assert (safe["p_best"], risky["p_best"]) == (0.25, 0.75)
    assert (safe["expected_regret"], risky["expected_regret"]) == (0.375, 1.25)
    assert (safe["expected_rank"], risky["expected_rank"]) == (1.75, 1.25)
    assert (safe["p_diverge"], risky["p_diverge"]) == (0.0, 0.25)
    assert safe["loss_mean"] == 2.0625
    assert risky["loss_mean"] == pytest.approx(4.75 / 3)
    assert r.p_better.loc["risky", "safe"] == 0.75
    flip = r.flips.iloc[0]
    assert (flip["p_lower"], flip["p_flip"], flip["gap"]) == (0.25, 0.75, -0.5)
    assert flip["verdict"] == "reversed"
    assert "risky is lower with probability over 99 % if both finish" in r.answer()
    assert "but diverges with probability 25 %" in r.answer()


def test_a_cheap_divergence_turns_the_order():
    draws = np.array([[2.0, 1.5], [2.0, 1.5], [2.0, 1.5], [2.0, INF]])
    # Regret of the safe one is 3 x 0.5 / 4; of the other (cost - 2) / 4: equal at a cost of 3.5.
    for cost, best in ((3.25, "risky"), (3.75, "safe")):
        r = Ranking.from_draws(draws, labels=["safe", "risky"], divergence_loss=cost)
        assert r.table.index[0] == best
        assert r.table.loc["risky", "expected_regret"] == (cost - 2) / 4


def test_a_diverged_run_costs_what_the_paper_counts_unless_told_otherwise():
    r = Ranking.from_draws(np.array([[2.0, INF], [2.5, 2.25]]))
    assert r.divergence_cost == DIVERGENCE_LOSS == 7
    assert r.table.loc[1, "expected_regret"] == 5 / 2
    assert r.table.loc[0, "expected_regret"] == 0.25 / 2


def test_a_diverged_run_may_not_cost_less_than_a_run_that_finished():
    with pytest.raises(ValueError, match="divergence_loss is 7, below a loss that finished, 9"):
        Ranking.from_draws(np.array([[9.0, 8.0, INF]]), divergence_loss=7)


def test_draws_in_which_all_diverge_are_shared_and_count_no_regret():
    r = Ranking.from_draws(np.array([[INF, INF], [2.0, 3.0]]), divergence_loss=7)
    assert r.table["p_best"].to_dict() == {0: 0.75, 1: 0.25}
    assert r.table["expected_regret"].to_dict() == {0: 0.0, 1: 0.5}
    assert r.table["p_best_or_tied"].to_dict() == {0: 1.0, 1: 0.5}
    assert r.p_better.loc[0, 1] == 0.75
    assert r.flips.loc[0, "p_tie"] == 0.5


def test_tie_zone_and_its_three_parts():
    draws = np.array([[2.0, 2.25], [2.0, 2.5], [2.0, 3.0], [2.5, 2.0]])
    r = Ranking.from_draws(draws, labels=["a", "b"], tie=0.25)
    flip = r.flips.iloc[0]
    assert (flip["first"], flip["second"], flip["gap"]) == ("a", "b", 0.3125)
    assert (flip["p_tie"], flip["p_lower_beyond_tie"], flip["p_flip_beyond_tie"]) == (
        0.25,
        0.5,
        0.25,
    )
    assert r.table["p_best_or_tied"].to_dict() == {"a": 0.75, "b": 0.5}


def test_p_best_by_exact_enumeration():
    """Independent discrete losses: the draws are all combinations, each as likely."""
    values = [(2.0, 2.5, 3.0), (2.25, 2.5), (2.5, INF, 2.0)]
    draws = np.array(list(itertools.product(*values)))
    r = Ranking.from_draws(draws, labels=list("abc"))
    # P(lowest) by hand, cell by cell of the 3 x 2 x 3 combinations:
    # a=2: wins 4 of 6, halves 2 with c=2. a=2.5: ties b=2.5 with c=inf (1/2), ties b=c=2.5 (1/3).
    a = (4 + 2 / 2 + 1 / 2 + 1 / 3) / 18
    # b=2.25 wins unless a=2 or c=2: a in {2.5, 3}, c in {2.5, inf}. b=2.5: (2.5, inf) 1/2,
    # (2.5, 2.5) 1/3, (3, 2.5) 1/2, (3, inf) 1.
    b = (4 + 1 / 2 + 1 / 3 + 1 / 2 + 1) / 18
    assert r.table.loc[list("abc"), "p_best"].to_numpy() == pytest.approx([a, b, 1 - a - b])


# Against plain loops, and properties


@settings(deadline=None)
@given(draws_with_ties(), st.sampled_from([0.0, 0.25, 0.3]), st.sampled_from([7.0, 3.0]))
def test_table_equals_plain_loops(draws, tie, divergence_loss):
    r = Ranking.from_draws(draws, tie=tie, divergence_loss=divergence_loss)
    assert r.divergence_cost == divergence_loss
    want = by_hand(draws, tie, divergence_loss)
    got = r.table.sort_index()[list(want.columns)]
    np.testing.assert_allclose(got, want, atol=1e-12)
    order = r.table["expected_regret"].to_numpy()
    assert (np.diff(order) >= -1e-9).all()


@settings(deadline=None)
@given(draws_with_ties(), st.sampled_from([0.5, 0.8, 0.9]))
def test_intervals_are_quantiles_of_the_finite_draws_and_hold_the_mean(draws, prob):
    table = Ranking.from_draws(draws, prob=prob).table
    for i, column in enumerate(draws.T):
        finite = column[np.isfinite(column)]
        row = table.loc[i]
        assert row["p_diverge"] == pytest.approx(1 - finite.size / column.size)
        if finite.size:
            want = np.quantile(finite, [(1 - prob) / 2, (1 + prob) / 2])
            want = [min(want[0], finite.mean()), max(want[1], finite.mean())]  # holds its mean
            got = row[["loss_lower", "loss_upper"]].to_numpy(dtype=float)
            np.testing.assert_allclose(got, want, rtol=1e-14)
            assert row["loss_mean"] == pytest.approx(finite.mean())
        else:
            assert row[["loss_mean", "loss_lower", "loss_upper"]].isna().all()


@settings(deadline=None)
@given(draws_with_ties())
def test_probabilities_add_up(draws):
    r = Ranking.from_draws(draws)
    n = draws.shape[1]
    assert r.table["p_best"].sum() == pytest.approx(1)
    assert r.table["p_top2"].sum() == pytest.approx(min(n, 2))
    assert r.table["expected_rank"].sum() == pytest.approx(n * (n + 1) / 2)
    assert (r.table["p_best_or_tied"] >= r.table["p_best"] - 1e-12).all()
    matrix = r.p_better.to_numpy()
    np.testing.assert_allclose(matrix + matrix.T, 1.0, atol=1e-15)
    assert (np.diag(matrix) == 0.5).all()
    # Rank is one more than the number of candidates that are lower.
    np.testing.assert_allclose(n + 0.5 - matrix.sum(axis=1), r.table["expected_rank"], atol=1e-12)
    parts = r.flips[["p_tie", "p_lower_beyond_tie", "p_flip_beyond_tie"]]
    np.testing.assert_allclose(parts.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(r.flips["p_lower"], np.diag(matrix, k=1), atol=1e-12)


@settings(deadline=None)
@given(draws_with_ties(), st.data())
def test_order_of_the_candidates_does_not_matter(draws, data):
    n = draws.shape[1]
    order = data.draw(st.permutations(range(n)))
    one = Ranking.from_draws(draws)
    two = Ranking.from_draws(draws[:, order], labels=order)
    # Candidates with equal regret and rank stand in the order given, and groups depend on it.
    a, b = (r.table.drop(columns="tie_group").sort_index() for r in (one, two))
    pd.testing.assert_frame_equal(a, b, check_index_type=False)
    labels = list(one.table.index)
    np.testing.assert_allclose(
        one.p_better.to_numpy(), two.p_better.loc[labels, labels].to_numpy(), atol=1e-15
    )


@settings(deadline=None)
@given(draws_with_ties(), st.integers(1, 7))
def test_rank_probabilities(draws, top):
    r = Ranking.from_draws(draws)
    n = draws.shape[1]
    share = r.rank_probability(top=top)
    assert list(share.columns) == list(range(1, min(top, n) + 1))
    np.testing.assert_allclose(share.sum(axis=0), 1.0)
    np.testing.assert_allclose(share[1], r.table["p_best"])
    whole = r.rank_probability(top=n)
    np.testing.assert_allclose(whole.sum(axis=1), 1.0)
    np.testing.assert_allclose(whole @ np.arange(1, n + 1), r.table["expected_rank"])


def test_ranks_without_ties_equal_those_of_scipy(rng):
    draws = rng.normal(size=(50, 20))
    r = Ranking.from_draws(draws)
    want = rankdata(draws, axis=1).mean(axis=0)
    np.testing.assert_allclose(r.table["expected_rank"].sort_index(), want, rtol=1e-12)


def test_work_in_small_blocks_gives_the_same(rng, monkeypatch):
    draws = rng.normal(2.4, 0.01, size=(103, 17)).round(3)
    draws[rng.random(draws.shape) < 0.1] = INF
    whole = Ranking.from_draws(draws)
    results = [whole.table, whole.p_better, whole.flips, whole.rank_probability(top=4)]
    monkeypatch.setattr(rank_counts, "_BLOCK", 40)
    parts = Ranking.from_draws(draws)
    again = [parts.table, parts.p_better, parts.flips, parts.rank_probability(top=4)]
    for a, b in zip(results, again, strict=True):
        pd.testing.assert_frame_equal(a, b)
    assert parts.resolution == pytest.approx(whole.resolution)


# Closed forms


def test_independent_gaussians_have_closed_forms(rng):
    mean, sd = np.array([2.400, 2.404, 2.410]), np.array([0.004, 0.008, 0.003])
    n = 40_000
    tie = 0.005
    r = Ranking.from_draws(rng.normal(mean, sd, size=(n, 3)), tie=tie)
    assert list(r.table.index) == [0, 1, 2]
    gap = mean[None, :] - mean[:, None]
    spread = np.hypot(sd[None, :], sd[:, None])
    # Five Monte-Carlo standard errors of a share of one half.
    np.testing.assert_allclose(r.p_better, norm.cdf(gap / spread), atol=2.5 / np.sqrt(n))
    for k, (i, j) in enumerate([(0, 1), (1, 2)]):
        g, s = gap[i, j], spread[i, j]
        flip = r.flips.iloc[k]
        within = norm.cdf((tie - g) / s) - norm.cdf((-tie - g) / s)
        assert flip["p_tie"] == pytest.approx(within, abs=2.5 / np.sqrt(n))
        assert flip["p_lower_beyond_tie"] == pytest.approx(
            norm.sf((tie - g) / s), abs=2.5 / np.sqrt(n)
        )
        assert flip["gap"] == pytest.approx(g, abs=5 * s / np.sqrt(n))
    for row, (m, s) in zip(r.table.itertuples(), zip(mean, sd, strict=True), strict=True):
        assert row.loss_mean == pytest.approx(m, abs=5 * s / np.sqrt(n))
        # Standard error of a 5 % quantile: sqrt(0.05 x 0.95 / n) over its density, 0.103 / s.
        error = 5 * np.sqrt(0.05 * 0.95 / n) / norm.pdf(norm.ppf(0.05)) * s
        assert row.loss_lower == pytest.approx(norm.ppf(0.05, m, s), abs=error)
        assert row.loss_upper == pytest.approx(norm.ppf(0.95, m, s), abs=error)


def test_expected_regret_of_two_gaussians(rng):
    """The regret of i is the mean of max(d, 0) with d = L_i - L_j normal."""
    n, mean, sd = 40_000, np.array([2.40, 2.41]), np.array([0.01, 0.02])
    r = Ranking.from_draws(rng.normal(mean, sd, size=(n, 2)))
    s = np.hypot(*sd)
    for i in (0, 1):
        m = mean[i] - mean[1 - i]
        want = s * norm.pdf(m / s) + m * norm.cdf(m / s)
        assert r.table.loc[i, "expected_regret"] == pytest.approx(want, abs=5 * s / np.sqrt(n))


@pytest.mark.parametrize("prob", [0.8, 0.9, 0.975])
def test_resolution_is_the_gap_called_with_probability_prob(rng, prob):
    """Common error cancels; at a gap equal to the resolution P(better) is prob."""
    n, sd, k = 40_000, 0.003, 6
    common = rng.normal(0, 0.05, size=(n, 1))
    r = Ranking.from_draws(2.4 + common + rng.normal(0, sd, size=(n, k)), prob=prob)
    want = norm.ppf(prob) * np.sqrt(2) * sd
    assert r.resolution == pytest.approx(want, rel=5 / np.sqrt(2 * n))
    pair = 2.4 + common + rng.normal([0, r.resolution], sd, size=(n, 2))
    called = Ranking.from_draws(pair, prob=prob).p_better.loc[0, 1]
    assert called == pytest.approx(prob, abs=3.5 / np.sqrt(n))


def test_resolution_takes_finite_draws_of_the_leaders(rng):
    noise = rng.normal(0, 0.002, size=(2000, 3))
    clean = Ranking.from_draws(2.4 + noise).resolution
    draws = 2.4 + noise
    draws[rng.random(draws.shape) < 0.3] = INF
    assert Ranking.from_draws(draws).resolution == pytest.approx(clean, rel=0.1)
    # A wild candidate far behind ten good ones does not change what the decision needs.
    good = 2.4 + rng.normal(0, 0.002, size=(2000, 10))
    wild = np.column_stack([good, rng.normal(4.0, 0.5, size=(2000, 5))])
    assert Ranking.from_draws(wild).resolution == Ranking.from_draws(good).resolution
    alone = np.column_stack([good[:, 0], np.full(2000, INF)])
    assert np.isnan(Ranking.from_draws(alone).resolution)


# Ties and verdicts


def groups_by_hand(draws, tie, prob):
    """The rule of the docstring, one pair at a time; columns are ordered best first."""
    groups, number = {}, 0
    for leader in range(draws.shape[1]):
        if leader in groups:
            continue
        number += 1
        groups[leader] = number
        for other in range(leader + 1, draws.shape[1]):
            if other in groups:
                continue
            members = [m for m, g in groups.items() if g == number]
            wins = [np.mean(draws[:, other] > draws[:, m] + tie) for m in members]
            if max(wins) < prob:
                groups[other] = number
    return [groups[i] for i in range(draws.shape[1])]


@settings(deadline=None)
@given(draws_with_ties(), st.sampled_from([0.0, 0.25]), st.sampled_from([0.5, 0.75, 0.9]))
def test_tie_groups_follow_their_rule(draws, tie, prob):
    r = Ranking.from_draws(draws, tie=tie, prob=prob)
    ordered = draws[:, r.table.index]
    assert r.table["tie_group"].tolist() == groups_by_hand(ordered, tie, prob)


@pytest.mark.parametrize("common", [0.0, 0.3])
def test_tie_groups_of_many_candidates(rng, common):
    """The shortcut by quantiles never differs from counting every pair."""
    n, k = 300, 80
    draws = 2.4 + np.linspace(0, 0.08, k) + rng.normal(0, 0.004, size=(n, k))
    draws = draws + rng.normal(0, common, size=(n, 1))
    draws[rng.random((n, k)) < 0.02] = INF
    r = Ranking.from_draws(draws, tie=0.001)
    assert 3 < r.table["tie_group"].max() < k
    assert r.table["tie_group"].tolist() == groups_by_hand(draws[:, r.table.index], 0.001, 0.9)


def test_tie_groups_of_three_levels():
    losses = [2.0, 2.001, 2.5, 2.501, 2.502, 3.0]
    r = Ranking.from_draws(np.tile(losses, (10, 1)), labels=list("abcdef"), tie=0.01)
    assert r.table["tie_group"].to_dict() == dict(zip("abcdef", [1, 1, 2, 2, 2, 3], strict=True))
    assert "May be as good, to within 0.01 nats, for all these runs show: b." in r.answer()
    # A zone of nothing: every certain difference counts.
    assert Ranking.from_draws(np.tile(losses, (10, 1)), tie=0).table["tie_group"].max() == 6


def test_two_identical_candidates():
    draws = np.repeat(np.array([[2.0], [2.5], [INF]]), 2, axis=1)
    r = Ranking.from_draws(draws)
    assert (r.table["p_best"] == 0.5).all() and (r.table["p_top2"] == 1).all()
    assert (r.table["expected_rank"] == 1.5).all() and (r.table["tie_group"] == 1).all()
    assert (r.table["expected_regret"] == 0).all()
    assert list(r.table.index) == [0, 1]
    assert r.flips.loc[0, "verdict"] == "tie" and r.flips.loc[0, "p_flip"] == 0.5
    assert r.resolution == 0
    assert "Neighbours whose order is a tie: 0 / 1" in r.answer()


def shifted(wins, of=20):
    """Draws of a pair in which the first is lower in so many; misses are as wide as wins."""
    second = np.where(np.arange(of) < wins, 2.5, 1.75)
    return np.column_stack([np.full(of, 2.0), second])


@pytest.mark.parametrize(
    ("wins", "verdict"), [(20, "clear"), (18, "clear"), (17, "likely"), (14, "likely")]
)
def test_verdicts_by_probability(wins, verdict):
    flip = Ranking.from_draws(shifted(wins)).flips.iloc[0]
    assert flip["p_lower"] == wins / 20
    assert flip["verdict"] == verdict
    assert 0.5 < LIKELY


def test_coin_flip_and_reversed():
    assert Ranking.from_draws(shifted(13)).flips.loc[0, "verdict"] == "coin flip"
    assert Ranking.from_draws(shifted(7)).flips.loc[0, "verdict"] == "coin flip"
    # Lower on average, as its few wins are large: regret puts it first against the odds.
    draws = np.column_stack([np.full(20, 2.0), np.where(np.arange(20) < 6, 9.0, 1.75)])
    r = Ranking.from_draws(draws)
    assert r.table.index[0] == 0 and r.flips.loc[0, "verdict"] == "reversed"


def test_default_tie_is_the_seed_noise():
    draws = np.array([[2.0, 2.1]])
    assert Ranking.from_draws(draws).tie == DEFAULT_TIE == 0.001
    assert Ranking.from_draws(draws, noise_sd=0.004).tie == 0.004
    assert Ranking.from_draws(draws, noise_sd=0.004, tie=0.02).tie == 0.02
    assert Ranking.from_draws(draws, tie=0).tie == 0


# Shapes of input


def test_one_candidate():
    r = Ranking.from_draws(np.array([[2.0], [2.5]]), labels=["only"])
    row = r.table.loc["only"]
    assert row[["p_best", "p_best_or_tied", "p_top2", "expected_rank"]].tolist() == [1, 1, 1, 1]
    assert row["expected_regret"] == 0
    assert r.p_better.to_numpy().tolist() == [[0.5]]
    assert r.flips.empty and "verdict" in r.flips
    assert np.isnan(r.resolution)
    assert r.answer().startswith(
        "only is the only candidate. A single run of only that finishes ends at 2."
    )
    assert "the next" not in r._repr_html_()


def test_candidates_that_always_diverge():
    r = Ranking.from_draws(np.array([[2.0, INF, 2.1], [2.1, INF, 2.2]]), labels=list("abc"))
    assert list(r.table.index) == ["a", "c", "b"]
    assert r.table.loc["b", ["loss_mean", "loss_lower", "loss_upper"]].isna().all()
    assert r.table.loc["b", "p_diverge"] == 1 and r.table.loc["b", "p_best"] == 0
    assert np.isnan(r.flips.loc[1, "gap"]) and r.flips.loc[1, "p_lower"] == 1
    none = Ranking.from_draws(np.full((3, 2), INF))
    assert none.answer() == "Every candidate diverges in every draw: none can be recommended."
    assert (none.table["p_best"] == 0.5).all() and (none.table["expected_regret"] == 0).all()
    for ranking in (r, none):
        assert isinstance(ranking.plot(), Figure) and isinstance(ranking.plot_pairs(), Figure)
        assert ">nan<" not in ranking._repr_html_()


def test_dataarray_with_dims_in_either_order_and_its_labels():
    values = np.array([[2.0, 1.0, 3.0], [2.0, 1.5, 3.0]])
    array = xr.DataArray(values, dims=("sample", "candidate"), coords={"candidate": list("abc")})
    one, two = Ranking.from_draws(array), Ranking.from_draws(array.T)
    assert list(one.table.index) == ["b", "a", "c"]
    pd.testing.assert_frame_equal(one.table, two.table)
    assert two.draws.dims == ("sample", "candidate")
    xr.testing.assert_equal(one.draws, array.rename("loss"))
    renamed = Ranking.from_draws(array, labels=["x", "y", "z"])
    assert list(renamed.table.index) == ["y", "x", "z"]
    assert list(Ranking.from_draws(array.drop_vars("candidate")).table.index) == [1, 0, 2]


def test_labels_of_several_levels_stay_whole():
    index = pd.MultiIndex.from_tuples([("cosine", 1e-3), ("wsd", 1e-3)])
    r = Ranking.from_draws(np.array([[2.0, 1.0]]), labels=index)
    assert list(r.table.index) == [("wsd", 1e-3), ("cosine", 1e-3)]
    assert r.p_better.shape == (2, 2) and len(r.flips) == 1


def test_stacked_chains_and_draws():
    array = xr.DataArray(
        np.arange(12.0).reshape(2, 3, 2), dims=("chain", "draw", "candidate")
    ).stack(sample=("chain", "draw"))
    assert Ranking.from_draws(array).table.loc[0, "loss_mean"] == 5.0


def test_probability_of_divergence_may_be_known_better():
    draws = np.array([[2.0, 2.5]] * 99 + [[2.0, INF]])
    assert Ranking.from_draws(draws).table.loc[1, "p_diverge"] == 0.01
    given = Ranking.from_draws(draws, p_diverge=[0.001, 0.02]).table["p_diverge"]
    assert given.to_dict() == {0: 0.001, 1: 0.02}
    by_label = pd.Series({"b": 0.02, "a": 0.001})
    given = Ranking.from_draws(draws, p_diverge=by_label, labels=["a", "b"]).table["p_diverge"]
    assert given.to_dict() == {"a": 0.001, "b": 0.02}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["a", "b", "a", "b"]}, "labels must be all different.*repeated: a, b"),
        ({"labels": ["a", "b"]}, "2 labels for 4 candidates"),
        ({"draws": np.array([[1.0, np.nan]]), "labels": ["x", "y"]}, "1 are NaN.*candidates y"),
        ({"draws": np.array([[-INF, 1.0]])}, "1 are -inf.*candidates 0"),
        ({"draws": np.zeros((0, 4))}, r"shape \(0, 4\)"),
        ({"draws": np.zeros(4)}, r"shape \(4,\)"),
        ({"draws": xr.DataArray(np.zeros((2, 4)), dims=("draw", "candidate"))}, "dims.*'draw'"),
        ({"kind": "best"}, "kind is 'best'.*'new_run', 'mean'"),
        ({"prob": 1.0}, "prob is 1.0"),
        ({"prob": 0.4}, "prob is 0.4"),
        ({"tie": -0.1}, "tie is -0.1"),
        ({"noise_sd": np.nan}, "noise_sd is nan"),
        ({"divergence_loss": np.nan}, "divergence_loss is nan"),
        ({"divergence_loss": INF}, "divergence_loss is inf"),
        ({"p_diverge": [0.1, 0.2]}, r"p_diverge has the shape \(2,\).*\(4,\)"),
        ({"p_diverge": [0.0, 0.0, 1.2, 0.0]}, "from 0 to 1: it is not for 2"),
        ({"p_diverge": pd.Series([0.0] * 3)}, "no entry for 3"),
        (
            {"draws": np.ones((1000, 2)), "p_diverge": [0.0, 0.5]},
            "p_diverge of 1 is 0.500.*infinite draws is 0.000",
        ),
    ],
)
def test_errors_name_rule_value_and_remedy(change, message):
    call = {"draws": np.ones((3, 4)), **change}
    with pytest.raises(ValueError, match=message):
        Ranking.from_draws(call.pop("draws"), **call)


def test_all_pairs_have_a_limit_with_a_remedy_that_works(rng):
    draws = rng.normal(size=(5, 2001))
    ranking = Ranking.from_draws(draws, labels=[f"c{i}" for i in range(2001)])
    with pytest.raises(ValueError, match="at most 2,000 candidates, here are 2,001") as raised:
        _ = ranking.p_better
    remedy = re.search(r"Ranking\.from_draws\(.*\)$", str(raised.value)).group()
    leading = eval(remedy, {"Ranking": Ranking, "ranking": ranking})
    assert leading.p_better.shape == (200, 200)
    assert isinstance(ranking.plot_pairs(), Figure)
    assert len(ranking.flips) == 2000
    assert "… and 1,981 more rows" in ranking._repr_html_()


@pytest.mark.slow
def test_5000_candidates_in_seconds(rng):
    draws = 2.4 + rng.uniform(0, 0.3, 5000) + rng.normal(0, 0.01, size=(4000, 5000))
    draws[rng.random(draws.shape) < 0.02] = INF
    start = time.perf_counter()
    r = Ranking.from_draws(draws)
    r.answer()
    assert time.perf_counter() - start < 30
    assert r.table["p_best"].sum() == pytest.approx(1)
