"""A run in progress: law and curve put together, rank, advice, errors."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest

from bayes_optlaws import datasets
from bayes_optlaws.decision.watch import BOTH, CURVE, LAW, shift_between, watch_tables
from bayes_optlaws.inference.path import EndForecast
from bayes_optlaws.runs.progress import CurveError

SHIFT = (0.018, 0.012)


@pytest.fixture(scope="module")
def curves():
    return datasets.load_curves("pocket")


@pytest.fixture(scope="module")
def plan(pocket):
    table = pocket.set_index("run_id", drop=False).rename_axis(None)
    names = ["d64_3600-010", "d64_3600-005", "d64_3600-030", "d64_3600-036"]
    return table.loc[names].drop(columns=["final_loss", "diverged"])


def seen(curves, run, share):
    c = curves[curves["run_id"] == run]
    return c[c["step"] <= share * c["step"].max()]


def test_law_and_curve_together_are_the_conjugate_answer(small_law, curves, plan, monkeypatch):
    """One normal for the curve: posterior mean and sd in closed form, others by regression."""
    from bayes_optlaws.decision import watch as module

    told = EndForecast(np.ones(1), np.array([np.log(1.36)]), np.array([0.01**2]), 0.1, 0.1)
    monkeypatch.setattr(module, "forecast", lambda *_: told)
    run, others = plan.iloc[[0]], plan.iloc[[1]]
    found = small_law.watch(seen(curves, "d64_3600-010", 0.5), run, others=others, random_seed=3)
    law = small_law.fitted
    draws = law.predictor().mean(plan.iloc[:2], np.random.default_rng(0))
    noise = law.predictor().noise_sd(plan.iloc[:2])[:, 0]
    prior, variance = draws[:, 0].mean(), draws[:, 0].var() + np.mean(noise**2)
    k = variance / (variance + 0.01**2)
    mean, sd = prior + k * (np.log(1.36) - prior), np.sqrt(k) * 0.01
    row = found.table.loc[BOTH]
    # Monte-Carlo: sd / sqrt(draws) of the mean, 1 / sqrt(2 draws) of the sd, five of each
    assert row["loss_mean"] == pytest.approx(np.exp(mean), abs=5 * 1.36 * 0.01 / 1600**0.5)
    assert row["loss_sd"] == pytest.approx(sd * np.exp(mean), rel=5 / 3200**0.5)
    shared = np.cov(draws.T)[0, 1] / (variance + 0.01**2) * (np.log(1.36) - prior)
    moved = np.log(found.ranking.loc["d64_3600-005", "loss_mean"]) - draws[:, 1].mean()
    assert moved == pytest.approx(shared, abs=5 * np.std(draws[:, 1]) / 1600**0.5 + 2e-3)


def test_the_interval_narrows_and_holds_the_loss_that_came(small_law, curves, plan, pocket):
    truth = pocket.set_index("run_id").loc["d64_3600-010", "final_loss"]
    widths = []
    for share in (0.3, 0.6, 0.9):
        found = small_law.watch(seen(curves, "d64_3600-010", share), plan.iloc[[0]], shift=SHIFT)
        row = found.table.loc[CURVE]
        assert found.table.loc[CURVE, "loss_lower"] < truth < row["loss_upper"]
        widths.append(row["loss_upper"] - row["loss_lower"])
        assert found.table.loc[BOTH, "loss_sd"] < found.table.loc[LAW, "loss_sd"] * 1.05
    assert widths[0] > widths[1] > widths[2]


def test_a_good_run_goes_on_and_a_hopeless_one_is_stopped(small_law, curves, plan):
    good = small_law.watch(
        seen(curves, "d64_3600-010", 0.5), plan.iloc[[0]], others=plan.iloc[2:], shift=SHIFT,
        flops_per_second=1e12,
    )  # fmt: skip
    assert not good.stop and good.p_stop < 0.5 and "Let it run" in good.answer()
    assert good.ranking.index[0] == "d64_3600-010"
    left = 6 * plan["n_params"].iloc[0] * 3600 * 1024 / 2
    assert good.saved["flops"] == pytest.approx(left, rel=1e-6)
    assert good.saved["gpu_hours"] == pytest.approx(left / 1e12 / 3600)
    bad = small_law.watch(
        seen(curves, "d64_3600-036", 0.5), plan.iloc[[3]], others=plan.iloc[:3], shift=SHIFT
    )
    assert bad.stop and bad.p_stop > 0.95 and "Stop it" in bad.answer()
    assert bad.table.loc[BOTH, "p_diverge"] > bad.table.loc[LAW, "p_diverge"]
    assert bad.ranking.loc["d64_3600-036", "p_best"] < 0.01
    target = small_law.watch(
        seen(curves, "d64_3600-010", 0.5), plan.iloc[[0]], target=1.0, shift=SHIFT
    )
    assert target.stop and "ends above 1" in target.answer()
    for one in (good, bad, target):
        assert "Stop it" in one._repr_html_() or "A run in progress" in one._repr_html_()
        assert one.plot().axes[0].get_xlabel() == "optimizer steps"


def test_what_the_law_cannot_believe_is_said(small_law, curves, plan):
    c = seen(curves, "d64_3600-010", 0.9)
    found = small_law.watch(c.assign(loss=c["loss"] * 1.44), plan.iloc[[0]])
    assert "Curve and law disagree" in found.answer()
    early = small_law.watch(seen(curves, "d64_3600-010", 0.01), plan.iloc[[0]])
    assert list(early.table.index) == [BOTH, LAW] and "this is what the law says" in early.answer()
    pd.testing.assert_series_equal(
        early.table.loc[BOTH, ["loss_mean", "loss_sd"]],
        early.table.loc[LAW, ["loss_mean", "loss_sd"]], check_names=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threshold": 0.7}, "threshold is 0.7: it must lie between 0 and 0.5"),
        ({"target": -1.0}, "target is -1.0: it must be positive"),
        ({"shift": (0.1, -1.0)}, "shift is"),
        ({"shift": 9.0}, "shift is 9: it is larger than the lowest loss"),
        ({"others": "same"}, "others has 'd64_3600-010' too"),
        ({"candidate": "all"}, "the candidate has 4 rows"),
        ({"prob": 1.5}, "prob must lie strictly"),
    ],
)
def test_wrong_options_are_refused(small_law, curves, plan, options, said):
    candidate = plan if options.pop("candidate", None) else plan.iloc[[0]]
    if "others" in options:
        options["others"] = plan
    with pytest.raises(ValueError, match=said):
        small_law.watch(seen(curves, "d64_3600-010", 0.5), candidate, **options)


def test_a_curve_with_faults_is_refused(small_law, curves, plan):
    c = seen(curves, "d64_3600-010", 0.5).copy()
    c.iloc[-1, c.columns.get_loc("loss")] = np.nan
    with pytest.raises(CurveError, match="has diverged: stop it"):
        watch_tables(small_law.fitted, c, plan.iloc[[0]])


def test_the_shift_is_learned_from_finished_curves(pocket, curves):
    middle, sd = shift_between(curves, pocket[~pocket["diverged"]])
    assert middle == pytest.approx(0.018, abs=0.003) and 0.005 < sd < 0.02
    with pytest.raises(ValueError, match="1 finished runs have a curve"):
        shift_between(curves[curves["run_id"] == "d64_3600-010"], pocket)
