"""Runs of a later stage that could be made: moments and values, against refits and algebra."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bayes_optlaws as bo
from bayes_optlaws.decision.design_scorers import Regret
from bayes_optlaws.decision.design_value import pair_gain
from bayes_optlaws.decision.stage_design import one_more_run
from bayes_optlaws.decision.stage_joint import StageJoint, places
from bayes_optlaws.inference import stages
from bayes_optlaws.inference.stage_posterior import (
    Scales,
    StageData,
    StagePrior,
    condition,
    given_data,
)
from bayes_optlaws.model.priors import LogNormal
from bayes_optlaws.runs.pools import stage_pool
from bayes_optlaws.runs.readers import RunTableError

PARENT = "families_d64_12000-003"


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return bo.datasets.load("pocket-stages")


@pytest.fixture(scope="module")
def past(runs) -> pd.DataFrame:
    return stages.history(runs, PARENT)


@pytest.fixture(scope="module")
def made(runs) -> pd.DataFrame:
    """One run of each of the five schedules of the weak shift at the lower peak LR."""
    own = runs[(runs["block"] == "weak_d64_4000") & (runs["seed"] == 0)]
    return own[own["peak_lr"] == 0.003].set_index("name", drop=False).rename_axis(None)


@pytest.fixture(scope="module")
def three(made) -> pd.DataFrame:
    return made.iloc[[0, 1, 4]].drop(columns=["final_loss", "train_loss", "diverged"])


@pytest.fixture
def law(small_law) -> bo.OptLaw:
    """A law that expects large deviations, so that runs have a value."""
    prior = StagePrior(LogNormal(0.006, 0.5))
    return bo.OptLaw.from_fitted(replace(small_law.fitted, stage_prior=prior))


def test_given_data_is_the_posterior_of_a_linear_model(rng):
    """Oracle: precisions of scores, levels and deviations, each a coefficient, and the data."""
    m, t, tau, sigma, level_sd = 3, 3, 0.004, 0.003, 0.7
    root = rng.normal(size=(m + t, m + t)) * 0.01
    scores = 0.02 * rng.normal(size=m + t) + rng.standard_normal((500, m + t)) @ root.T
    data = StageData(np.array([0.5, 0.53, 0.2]), np.array([2.0, 1, 4]), 0.0, np.array([0, 0, 1]))
    which, label = np.array([0, 0, 1, 0, 1, 2]), np.array([0, 1, 2, 1, 3, 4])
    mean, cov = given_data(scores, data, which, label, tau, sigma, level_sd)
    # coefficients: 6 scores less their mean, 3 levels, 5 deviations
    x = np.hstack([np.eye(m + t), np.eye(3)[which], np.eye(5)[label]])
    prior = np.zeros((14, 14))
    prior[:6, :6] = np.linalg.inv(np.cov(scores.T))
    prior[6:, 6:] = np.diag([level_sd**-2] * 3 + [tau**-2] * 5)
    weight = data.runs / sigma**2
    inner = prior + x[:m].T @ (weight[:, None] * x[:m])
    found = np.linalg.solve(inner, x[:m].T @ (weight * (data.mean - scores.mean(0)[:m])))
    np.testing.assert_allclose(mean, scores.mean(0)[m:] + x[m:] @ found, rtol=1e-6)
    np.testing.assert_allclose(cov, x[m:] @ np.linalg.inv(inner) @ x[m:].T, rtol=1e-5, atol=1e-9)


def test_identical_candidates_of_a_later_stage_are_a_tie(law, past, three):
    """They are one configuration, so they have one deviation."""
    both = pd.concat([three.iloc[:1], three.iloc[:1]]).set_axis(["a", "b"])
    ranking = law.rank(both.assign(run_id=["a", "b"]), history=past)
    np.testing.assert_allclose(ranking.draws[:, 0], ranking.draws[:, 1], rtol=1e-9)
    assert ranking.flips["p_tie"].iloc[0] == 1


def test_a_value_is_the_drop_of_regret_over_real_refits(law, past, made, three):
    """Oracle: over a grid of its outcome the run is put among the measured ones, and all is learned
    anew, the sds by `learn_scales` too; the mixture over their whole grid is exact.
    """
    law = law.fitted
    table = bo.read_candidates(three)
    known = pd.concat([past, made.iloc[:2]], ignore_index=True)
    stage = law.stage(table, past, known)
    after = law.stage(table, past, pd.concat([past, made.iloc[[0, 1, 4]]], ignore_index=True))
    draws = law.predictor(law.draws.thin(1000))
    drawn, drawn_after = (s.scores(draws, np.random.default_rng(0)) for s in (stage, after))

    def mixture(s, scores, data):
        scales = replace(s, data=data).scales(scores)
        weight, parts = [], []
        for (i, j), w in np.ndenumerate(scales.weight):
            if w > 1e-4:
                sds = scales.deviation[i], scales.noise[j]
                moments = given_data(
                    scores, data, s.which_set, s.configuration, *sds, s.prior.level_sd
                )
                weight.append(w)
                parts.append((*moments, sds[1]))
        return np.array(weight) / np.sum(weight), parts

    weight, parts = mixture(stage, drawn, stage.data)
    mean = np.array([m for m, _, _ in parts])
    sd = np.array([np.sqrt(c[2, 2] + s**2) for _, c, s in parts])
    centre = weight @ mean[:, 2]
    grid = np.linspace(centre - 5 * sd.max(), centre + 5 * sd.max(), 41)
    density = stats.norm.pdf(grid[:, None], mean[:, 2], sd) @ weight
    now = weight @ mean
    loss, centre = np.exp(now.mean()), now.mean()
    drop = np.zeros(grid.size)
    for k, y in enumerate(grid):
        w, then = mixture(
            after, drawn_after, replace(after.data, mean=np.r_[after.data.mean[:2], y])
        )
        expected = loss * (1 + w @ np.array([m for m, _, _ in then]) - centre)
        drop[k] = expected[np.argmin(now)] - expected.min()
    exact = np.sum(density * drop) / np.sum(density)
    joint = StageJoint(law, stage, draws=1000, seed=0)
    value = Regret(joint, places([0, 1, 2]), 0).score(places([2]))[0]
    assert exact > 1e-4
    assert value == pytest.approx(exact, rel=0.05)


def test_two_candidates_at_known_sds_follow_the_closed_form(law, past, made, three):
    """One run of the second of two: the gap moves by its gain times the sd of the outcome."""
    prior = StagePrior(LogNormal(0.006, 1e-6), LogNormal(0.002, 1e-6))
    law = replace(law.fitted, stage_prior=prior)
    table = bo.read_candidates(three.iloc[:2])
    stage = law.stage(table, past, pd.concat([past, made.iloc[:1]], ignore_index=True))
    joint = StageJoint(law, stage, draws=1000, components=4)
    scorer = Regret(joint, places([0, 1]), 0)
    mean, cov = joint.mean[0], joint.cov[0]
    loss, gap = np.exp(mean.mean()), mean[1] - mean[0]
    move = (cov[0, 1] - cov[1, 1]) / np.sqrt(cov[1, 1] + 0.002**2)
    exact = loss * pair_gain(gap, abs(move))
    assert scorer.score(places([1]))[0] == pytest.approx(float(exact), rel=5e-3)
    # the outcome that two runs have as their difference
    apart = cov[0, 0] + cov[1, 1] - 2 * cov[0, 1]
    exact = loss * pair_gain(gap, apart / np.sqrt(apart + 2 * 0.002**2))
    assert scorer.score(places([1], [0]))[0] == pytest.approx(float(exact), rel=5e-3)


def test_without_a_run_of_the_set_two_are_proposed_together(law, past, three):
    plan = law.design(None, three, history=past, n_runs=2, progressbar=False)
    value = plan.table["value"].to_numpy()
    assert len(plan.table) == 2 and value[0] < 1e-3 * value[1]
    assert plan.table["tokens"].nunique() == 1  # one set
    assert plan.table["candidate"].nunique() == 2
    assert "alone it gives the level" in plan.table["settles"].iloc[0]
    one = law.design(None, three, history=past, n_runs=1, progressbar=False)
    assert not len(one.table)  # a single run settles nothing
    assert plan.scores.max() == pytest.approx(value.sum(), rel=0.15)
    assert plan.benefit.after > plan.benefit.before


def test_cost_is_that_of_the_stage_and_the_budget_holds(law, past, three):
    plan = law.design(None, three, history=past, n_runs=None, budget=6e12, progressbar=False)
    flops = 6 * plan.table["n_params"] * plan.table["tokens"]
    np.testing.assert_allclose(plan.table["cost"], flops)
    assert 0 < plan.table["cost"].sum() <= 6e12
    assert plan.cost_label == "FLOP from the checkpoint"
    assert plan.decide_cost == pytest.approx(6 * 115008 * 4096000)
    assert plan.table["p_diverge"].isna().all()
    assert "Whether a later stage diverges is not known" in plan.answer()
    assert "nan" not in plan._repr_html_() + plan.answer()
    plan.plot().clear()


def test_a_risk_that_is_given_lowers_the_value(law, past, made, three):
    known = pd.concat([past, made.iloc[:2]], ignore_index=True)
    options = {"history": past, "stage_runs": known, "n_runs": 1, "progressbar": False}
    pool = stage_pool(three, shares=[1.0], copies=1).iloc[[2]]
    safe, risky = (
        law.design(pool, three, **options, **more) for more in ({}, {"p_diverge": [0.5]})
    )
    assert risky.table["value"].iloc[0] == pytest.approx(0.5 * safe.table["value"].iloc[0])


def test_a_ranking_says_what_one_more_run_settles(law, past, made, three):
    blind = law.rank(three, history=past)
    assert len(blind.next_runs.table) == 2 and "One run each of" in blind.answer()
    known = pd.concat([past, made.iloc[:2]], ignore_index=True)
    ranking = law.rank(three, history=past, stage_runs=known)
    assert len(ranking.next_runs.table) == 1
    label = ranking.next_runs.table.index[0]
    assert f"One more run, of {label}, is worth" in ranking.answer()
    assert "is told with 90 % probability by" in ranking.answer()
    stage = law.fitted.stage(bo.read_candidates(three), past, known)
    table = bo.read_candidates(three)
    again = one_more_run(law.fitted, stage, table, tie=ranking.tie, random_seed=0)
    pd.testing.assert_frame_equal(again.table, ranking.next_runs.table)
    assert law.rank(three, history=past, search=False).next_runs is None
    assert ranking.flips["seeds"].ge(0).all()


def test_histories_that_differ_by_candidate_reach_the_pool(law, past, three):
    each = pd.concat([past.assign(candidate=name) for name in three.index], ignore_index=True)
    options = {"n_runs": 2, "progressbar": False}
    shared = law.design(None, three, history=past, **options)
    own = law.design(None, three, history=each, **options)
    pd.testing.assert_frame_equal(shared.table, own.table)
    pool = stage_pool(three, copies=1)
    with pytest.raises(RunTableError, match="differs by candidate"):
        law.design(pool.drop(columns="candidate"), three, history=each, **options)
    with pytest.raises(RunTableError, match="label of a candidate"):
        law.design(pool.assign(candidate="nobody"), three, history=each, **options)


def test_what_cannot_be_planned_is_refused(law, runs, past, three):
    with pytest.raises(ValueError, match="'regret' alone"):
        law.design(None, three, history=past, objective="information")
    with pytest.raises(ValueError, match="without history"):
        law.design(None, three, stage_runs=runs)
    with pytest.raises(ValueError, match="at most 400"):
        law.design(stage_pool(three, copies=50), three, history=past)
    with pytest.raises(ValueError, match="shares"):
        stage_pool(three, shares=[1.5])
    with pytest.raises(ValueError, match="copies"):
        stage_pool(three, copies=0)


def test_shorter_runs_keep_the_shape(made):
    """Corners at the same shares of the steps, so the integrals shrink by the share."""
    candidates = bo.read_candidates(made.drop(columns=["final_loss", "train_loss", "diverged"]))
    pool = stage_pool(candidates, shares=[0.25], copies=1)
    np.testing.assert_allclose(pool["steps"], candidates["steps"] / 4)
    whole, part = (bo.schedules.integrals(t) for t in (candidates, pool))
    np.testing.assert_allclose(4 * part.conv_cooldown, whole.conv_cooldown, rtol=2e-3)
    np.testing.assert_allclose(4 * part.conv_warmup, whole.conv_warmup, rtol=2e-2)


@pytest.mark.parametrize(
    ("lost", "expected"),
    [(0, "none diverged, at peak LRs up to 0.008."), (1, "1 diverged, others finished at")],
)
def test_runs_of_later_stages_are_counted(runs, made, lost, expected):
    table = stages.read_stages(runs)
    later = table[table["stage"] > 1].copy()
    later.iloc[:lost, later.columns.get_loc("diverged")] = True
    note = stages.LaterRuns.of(later).note(made)
    assert expected in note and "not known" in note and "candidates go up" not in note
    assert "candidates go up to 0.5" in stages.LaterRuns.of(later).note(made.assign(peak_lr=0.5))
    assert stages.LaterRuns().note(made) == stages.UNKNOWN_RISK


def test_equal_configurations_share_a_deviation_when_conditioned(rng):
    scores = np.repeat(0.02 * rng.standard_normal((4000, 1)), 2, axis=1)
    scales = Scales(np.array([0.01]), np.array([0.002]), np.ones((1, 1)))
    out, _ = condition(scores, None, np.array([-1, -1]), np.array([0, 0]), scales, 1.0, rng)
    np.testing.assert_array_equal(out[:, 0], out[:, 1])
