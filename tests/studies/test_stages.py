"""The comparison of methods on measured later stages."""

import numpy as np
import pandas as pd
import pytest

from bayes_optlaws import datasets
from bayes_optlaws.inference.stages import read_stages
from studies.stage_prior import learn_prior
from studies.stages import (
    METHODS,
    compare_sets,
    pair_calibration,
    summarize_null,
    summarize_pairs,
    summarize_sets,
)


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    """Seven sets of d64 and d32."""
    table = datasets.load("pocket-stages")
    kept = ["weak_d64_4000", "strong_d64_4000", "weak_d32_4000", "strong_d32_4000"]
    kept += ["tuned_d64_120", "tuned_d64_1200", "tuned_d32_120"]
    return table[table["block"].isin(kept) | (table["stage"] == 1)]


@pytest.fixture(scope="module")
def compared(small_law, runs):
    return compare_sets(small_law, runs, max_draws=600)


def test_every_set_and_pair_by_every_method(compared):
    sets, pairs, _ = compared
    assert sets.groupby("method").size().eq(7).all() and set(sets["method"]) == set(METHODS)
    n = {"weak_d64_4000": 10, "strong_d64_4000": 6, "tuned_d64_120": 3}
    for name, count in n.items():
        assert (sets.loc[sets["set"] == name, "n"] == count).all()
    expected = sum(k * (k - 1) // 2 for k in (10, 10, 6, 6, 3, 3, 3))
    assert pairs.groupby("method").size().eq(expected).all()
    assert pairs["p"].between(0, 1).all()


def test_truth_is_the_mean_over_seeds(compared, runs):
    sets, pairs, _ = compared
    loss = runs[runs["block"] == "tuned_d64_1200"].groupby("name", sort=False)["final_loss"].mean()
    some = pairs[(pairs["set"] == "tuned_d64_1200") & (pairs["method"] == "law")]
    gaps = [loss.iloc[0] - loss.iloc[1], loss.iloc[0] - loss.iloc[2], loss.iloc[1] - loss.iloc[2]]
    np.testing.assert_allclose(some["gap"], np.abs(gaps))
    assert some["lower"].tolist() == [g < 0 for g in gaps]


def test_losses_of_a_set_do_not_leak_into_its_own_prediction(small_law, runs, compared):
    """Other losses of the set left out, also of runs that others continue: nothing changes."""
    changed = runs.copy()
    mine = changed["block"] == "strong_d64_4000"
    rng = np.random.default_rng(5)
    changed.loc[mine, "final_loss"] *= np.exp(0.3 * rng.standard_normal(mine.sum()))
    _, pairs, _ = compare_sets(small_law, changed, max_draws=600)
    for method in ("law", "law, other sizes"):
        before, after = (
            p[(p["set"] == "strong_d64_4000") & (p["method"] == method)]["p"].to_numpy()
            for p in (compared[1], pairs)
        )
        np.testing.assert_allclose(before, after, atol=0.02)  # noise of the sets' seeds differs


def test_summary_and_calibration_count_pairs(compared):
    sets, pairs, _ = compared
    rows = summarize_sets(sets, pairs)
    assert list(rows.index) == list(METHODS)
    assert (rows.loc[["least squares", "least squares without history"], "said"] == 1).all()
    one = pairs[pairs["method"] == "law"]
    called = np.where(one["p"] == 0.5, 0.5, (one["p"] > 0.5) == one["lower"])
    assert rows.loc["law", "right"] == pytest.approx(called.mean())
    bins = pair_calibration(pairs)
    assert bins["pairs"].groupby(level=0).sum().eq(len(one)).all()
    weighted = (bins["said"] * bins["pairs"]).groupby(level=0).sum() / len(one)
    np.testing.assert_allclose(weighted[rows.index], rows["said"])


def test_a_point_ranking_counts_as_sure(compared):
    """Its Brier score is the share of pairs that it has wrong."""
    rows = summarize_sets(*compared[:2])
    for method in ("least squares", "least squares without history"):
        assert rows.loc[method, "brier"] == pytest.approx(1 - rows.loc[method, "right"])
        assert rows.loc[method, "p_best"] == rows.loc[method, "top1"]


def test_parts_of_the_pairs_by_hand():
    """Six pairs of one method: two of LRs, two of shapes, one within the noise, one of tuning."""
    pairs = pd.DataFrame(
        [
            ("weak_a", 0.9, True, 0.02, False),
            ("weak_a", 0.8, False, 0.02, False),
            ("weak_a", 0.03, False, 0.02, True),
            ("weak_a", 0.6, False, 0.02, True),
            ("weak_a", 0.7, True, 0.001, True),
            ("tuned_a", 0.99, False, 0.02, False),
        ],
        columns=["set", "p", "lower", "gap", "same_lr"],
    ).assign(method="m", gap_se=0.01)
    row = summarize_pairs(pairs).loc["m"]
    assert row[["lr", "shape", "tuned", "within_noise", "sure"]].tolist() == [2, 2, 1, 1, 2]
    assert row["lr_said"] == pytest.approx(0.85) and row["lr_right"] == 0.5
    assert row["shape_said"] == pytest.approx(0.785) and row["shape_right"] == 0.5
    assert row["tuned_right"] == 0 and row["undecided"] == 1 and row["sure_wrong"] == 0.5


def test_the_null_is_what_a_calibrated_method_has(compared):
    """Under its own draws a method is right as often as it says, and its pairs hang together."""
    _, pairs, null = compared
    said = summarize_pairs(pairs)["lr_said"]
    by = null.groupby("method", sort=False)[["lr", "lr_right"]].sum()
    share = by["lr_right"] / by["lr"]
    for method in ("law", "law, two runs known", "law, paper's form"):
        # 400 replicates of 4 sets whose pairs are nearly one fact each
        assert share[method] == pytest.approx(said[method], abs=4 * 0.5 / np.sqrt(400 * 4))
    table = summarize_null(null)
    assert (table["lr_from"] <= share).all() and (share <= table["lr_to"]).all()
    assert set(table.index) == {m for m in METHODS if not m.startswith("least")}
    # as independent pairs the range would be narrower by far
    width = table.loc["law", "lr_to"] - table.loc["law", "lr_from"]
    assert width > 2 * 1.96 * np.sqrt(0.25 / 68)


def test_a_prior_is_learned_of_what_it_is_given(small_law, runs):
    """Losses of a set that was left out change nothing; those of one that was not do."""
    table = read_stages(runs)
    out = (table["block"] == "weak_d64_4000").to_numpy()
    changed = table.copy()
    changed.loc[out, "final_loss"] *= np.exp(0.2 * np.arange(out.sum()) / out.sum())
    a, b = (learn_prior(small_law.fitted, t[~out]) for t in (table, changed))
    c = learn_prior(small_law.fitted, changed)
    assert a == b and a != c
