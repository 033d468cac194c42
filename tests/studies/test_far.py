"""Far studies, few runs, scale-up and table priors: on small tables whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from bayes_optlaws import baselines
from studies import far, few_runs, scale_up, table_priors
from studies.scenarios import NEAR, PROCESSES

POCKET = next(s for s in NEAR if s.name == "pocket-n")


def test_a_study_is_one_table_and_resumes(tmp_path, monkeypatch):
    names = ["chinchilla", "quadratic"]
    rows, nulls = far.run_study(POCKET, tmp_path, names=names)
    assert rows["method"].tolist() == names and nulls.empty
    assert set(far.MEASURES) <= set(rows.columns) and rows["passed"].all()

    def refuse(self, runs):
        raise AssertionError("what is there is fitted again")

    monkeypatch.setattr(baselines.QuadraticRegression, "fit", refuse)
    again, _ = far.run_study(POCKET, tmp_path, names=names)
    pd.testing.assert_frame_equal(rows, again)


def test_the_law_is_judged_beside_its_null(tmp_path):
    rows, nulls = far.run_study(POCKET, tmp_path, names=["opt-law"], draws=64)
    assert (rows["error"] == "").all() and rows["relative_error"].between(0, 20).all()
    assert set(nulls["method"]) == {"opt-law"} and nulls["p"].between(0, 1).all()


def test_verdicts_take_the_best_process_in_each_measure():
    methods = ["opt-law", *PROCESSES]
    rows = pd.DataFrame({
        "study": "s", "method": methods, "relative_error": [1.1, 1.0, 2.0, 3.0],
        "log_score": [2.9, 1.0, 3.0, 2.0], "coverage_95": 0.8, "passed": True,
    })  # fmt: skip
    assert far.verdicts(rows).loc["s", "holds"]
    for column, value in (("relative_error", 1.2), ("log_score", 2.8), ("coverage_95", 0.7),
                          ("passed", False)):  # fmt: skip
        worse = rows.copy()
        worse.loc[0, column] = value
        assert not far.verdicts(worse).loc["s", "holds"], column


@pytest.mark.parametrize("kind", few_runs.KINDS)
def test_subsets_are_finished_runs_of_the_pool(pocket, kind):
    pool = np.flatnonzero(pocket["n_params"] < 2e5)
    for n in (12, 40):
        rows = few_runs.subset(pocket, pool, n, kind, 3)
        assert len(set(rows)) == n and set(rows) <= set(pool)
        assert not pocket["diverged"].iloc[rows].any()
        np.testing.assert_array_equal(rows, few_runs.subset(pocket, pool, n, kind, 3))
    with pytest.raises(ValueError, match="for a subset of"):
        few_runs.subset(pocket, pool[:5], 12, kind, 0)


def test_sensible_subsets_spread_over_cells_and_lie_near_the_best_rates(pocket):
    pool = np.arange(len(pocket))
    sensible = pocket.iloc[few_runs.subset(pocket, pool, 21, "sensible", 0)]
    assert sensible.groupby(["n_params", "tokens"]).size().tolist() == [3] * 7
    chance = pocket.iloc[few_runs.subset(pocket, pool, 21, "random", 0)]
    assert sensible["final_loss"].mean() < chance["final_loss"].mean()


def test_enlarged_runs_keep_their_shape(pocket):
    both = scale_up.candidates(pocket, "both")
    assert both["n_params"].iloc[-1] == 1000 * both["n_params"].iloc[0]
    share = both["warmup_steps"] / both["steps"]
    np.testing.assert_allclose(share, share.iloc[0])
    assert both["batch_tokens"].nunique() == 1
    assert scale_up.candidates(pocket, "N")["tokens"].nunique() == 1
    with pytest.raises(ValueError, match="axis = 'D'"):
        scale_up.candidates(pocket, "D")


def test_scale_up_sees_a_rise_and_an_interval_that_does_not_widen(small_law, pocket):
    table = scale_up.scale_up(small_law, pocket, "N")
    assert table["rise"].iloc[0] == 0 and (table["lower"] <= table["upper"]).all()
    good = pd.DataFrame({
        "mean": [3.0, 2.9, 2.8], "upper": [3.1, 3.1, 3.2], "sd_log": [0.01, 0.02, 0.03],
        "rise": [0.0, -0.03, -0.03], "rise_se": [0.0, 0.001, 0.001],
    })  # fmt: skip
    assert all(scale_up.checks(good).values())
    for column, value, broken in (("mean", 50.0, "finite"), ("rise", 0.01, "falling"),
                                  ("sd_log", 0.005, "widening")):  # fmt: skip
        worse = good.copy()
        worse.loc[2, column] = value
        found = scale_up.checks(worse)
        assert not found.pop(broken) and all(found.values())


def test_pooling_recovers_mean_and_spread_over_tables(rng):
    true = rng.normal(-0.05, 0.02, 200)
    error = rng.uniform(0.005, 0.02, 200)
    mean, between = table_priors.pool(true + error * rng.normal(size=200), error)
    assert abs(mean + 0.05) < 4 * np.sqrt(0.02**2 + 0.015**2) / np.sqrt(200)
    assert between == pytest.approx(0.02, rel=0.3)
    assert table_priors.pool(-0.05 + error * rng.normal(size=200), error)[1] < 0.005


def test_slopes_of_a_power_law_are_its_exponents(rng):
    n, d = np.exp(rng.uniform(17, 20, 40)), np.exp(rng.uniform(20, 23, 40))
    cells = pd.DataFrame({"n_params": n, "tokens": d})
    cells["final_loss"] = 30 * n**-0.08 * d**-0.05 * np.exp(0.001 * rng.normal(size=40))
    slope, error = table_priors.scale_slopes(cells)
    assert (np.abs(slope - [-0.08, -0.05]) < 4 * error).all() and (error < 0.001).all()
    assert np.isnan(table_priors.scale_slopes(cells.assign(tokens=n))[0]).all()  # one axis of two


def test_a_table_is_left_out_with_all_its_groups():
    measured = pd.DataFrame({
        "table": ["a/x", "a/y", "b", "c", "d"], "quantity": "slope_n",
        "value": [9.0, 9.0, -1.0, -1.0, -1.0], "se": 0.1,
    })  # fmt: skip
    found = table_priors.pooled(measured, without="a").loc["slope_n"]
    assert found["n_tables"] == 3 and found["mean"] == pytest.approx(-1.0)
