"""Later stages: tables, history-aware features, learned scales, conditioning, the law's API."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from laws import ONE, check_moments, dense_prediction, encoded, repeated, with_draws
from scipy import integrate, stats

import bayes_optlaws as bo
from bayes_optlaws.decision.rank import rank
from bayes_optlaws.inference import stages
from bayes_optlaws.inference.stage_change import StageChange
from bayes_optlaws.inference.stage_posterior import (
    Scales,
    StageData,
    StagePrior,
    condition,
    contrasts,
    learn_scales,
    noise_points,
)
from bayes_optlaws.model.features import LR_UNIT, Earlier, feature_bases
from bayes_optlaws.model.priors import LogNormal
from bayes_optlaws.runs.readers import RunTableError, read_candidates
from bayes_optlaws.runs.stages import earlier_of_candidates, earlier_of_runs
from bayes_optlaws.schedules import integrals

OUTCOME = ["final_loss", "train_loss", "diverged"]


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return bo.datasets.load("pocket-stages")


@pytest.fixture
def law(small_law) -> bo.OptLaw:
    return small_law


@pytest.fixture(scope="module")
def weak(runs) -> pd.DataFrame:
    """The five schedules of the weak shift at d64 and the lower peak LR, without outcome."""
    some = runs[(runs["block"] == "weak_d64_4000") & (runs["seed"] == 0)]
    return some[some["peak_lr"] == 0.003].set_index("name").drop(columns=OUTCOME)


def test_earlier_integrals_add_up_along_the_parents(runs):
    table = stages.read_stages(runs)
    before = earlier_of_runs(table)
    by_id = table.reset_index(drop=True).reset_index().set_index("run_id")["index"]
    area = integrals(table)
    tuned = by_id["tuned_d64_2400-001"]
    for k, own in enumerate((area.conv_warmup, area.conv_cooldown)):
        parts = [own[by_id[r]] for r in ("families_d64_12000-003", "strong_d64_4000-005")]
        assert before[k, tuned] == pytest.approx(sum(parts), rel=1e-12)
    assert before[2, tuned] == 2
    assert (before[:, (table["stage"] == 1).to_numpy()] == 0).all()


def test_history_of_all_and_of_each_candidate_agree(runs, weak):
    candidates = read_candidates(weak)
    past = stages.history(runs, "families_d64_12000-003")
    shared = earlier_of_candidates(candidates, past)
    each = pd.concat([past.assign(candidate=name) for name in weak.index], ignore_index=True)
    np.testing.assert_allclose(earlier_of_candidates(candidates, each), shared, rtol=1e-14)
    # Two stages for one candidate, one for the others.
    more = pd.concat([each, past.assign(candidate="Linear")], ignore_index=True)
    twice = earlier_of_candidates(candidates, more)
    at = weak.index.get_loc("Linear")
    np.testing.assert_allclose(twice[:, at], 2 * shared[:, at], rtol=1e-14)


def test_features_with_history_by_hand(weak):
    """Cw and Cc grow by the earlier integrals; E is the current one over the square of its LR."""
    table = read_candidates(weak)
    area, unit = integrals(table), 1024 / 1e9
    earlier = Earlier(np.full(5, 3.0), np.full(5, 40.0), reference_lr=0.006)
    got = feature_bases(table, reference_batch=1024, earlier=earlier)
    cw, cc = (area.conv_warmup + 3) / LR_UNIT * unit, (area.conv_cooldown + 40) / LR_UNIT * unit
    ec = area.escape_cooldown / 0.003**2 * (0.006 / LR_UNIT) ** 2 / unit
    n = table["n_params"].to_numpy() / 1e9
    np.testing.assert_allclose(got["1/Cw"], 1 / cw)
    np.testing.assert_allclose(got["N/C"], n / (cw + cc))
    np.testing.assert_allclose(got["Ec"], ec)
    np.testing.assert_allclose(got["N Ec/Cc"], n * ec / cc)
    # With nothing before and the reference at the own LR, these are the features from scratch.
    none = feature_bases(table, earlier=Earlier(np.zeros(5), np.zeros(5), reference_lr=0.003))
    plain = feature_bases(table)
    for name, value in plain.items():
        np.testing.assert_allclose(none[name], value, rtol=1e-12)


def test_escape_terms_do_not_depend_on_the_lr_scale(weak):
    """The paper's reason for the normalised form: comparable under different LR scales."""
    earlier = Earlier(np.zeros(5), np.zeros(5))
    low, high = (
        feature_bases(
            read_candidates(weak.assign(**{c: weak[c] * k for c in ("peak_lr", "plateau_lr")})),
            earlier=earlier,
        )
        for k in (1.0, 10.0)
    )
    for name in ("Ew", "Ec", "E/N"):
        np.testing.assert_allclose(low[name], high[name], rtol=1e-12)


def test_contrasts_are_orthonormal_and_free_of_levels():
    which = np.array([0, 0, 0, 1, 1, 2])
    c = contrasts(which)
    assert c.shape == (3, 6)
    np.testing.assert_allclose(c @ c.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(c @ (which[:, None] == np.arange(3)), 0.0, atol=1e-12)


def test_scales_agree_with_quadrature_over_both_sds():
    """Oracle: adaptive quadrature of the same posterior for two sets of two configurations.

    The contrast of a pair has variance v + 2 tau^2 + sigma^2 (1/n1 + 1/n2). Five points stand for
    the noise sd and 40 for the deviation, so means agree to a few per cent.
    """
    prior = StagePrior(LogNormal(0.03, 1.0), LogNormal(0.002, 1.0))
    data = StageData(
        np.array([0.0, 0.02, 0.0, -0.03]), np.full(4, 3.0), 8 * 0.004**2, np.repeat([0, 1], 2)
    )
    cov = np.diag([1e-4, 2e-4, 1e-4, 1e-4])
    found = learn_scales(np.zeros(4), cov, data, prior)
    gaps, variances = np.array([0.02, -0.03]), np.array([3e-4, 2e-4])

    def density(log_tau: float, log_sigma: float) -> float:
        tau, sigma = np.exp(log_tau), np.exp(log_sigma)
        sd = np.sqrt(variances + 2 * tau**2 + 2 * sigma**2 / 3)
        likelihood = np.prod(stats.norm.pdf(gaps, scale=sd))
        replicates = stats.chi2.pdf(data.squares / sigma**2, 8) / sigma**2
        priors = stats.norm.pdf(log_tau, np.log(0.03)) * stats.norm.pdf(log_sigma, np.log(0.002))
        return likelihood * replicates * priors

    box = [(np.log(0.0015), np.log(0.015)), (np.log(0.03) - 3.5, np.log(0.03) + 3.5)]
    low, high = zip(*box, strict=True)

    def integral(f) -> float:
        result = integrate.cubature(
            lambda x: np.array([f(*row) * density(row[1], row[0]) for row in x]),
            low,
            high,
            rtol=1e-3,
        )
        return float(result.estimate)

    total = integral(lambda s, t: 1.0)
    for name, pick in (("deviation", lambda s, t: t), ("noise", lambda s, t: s)):
        mass = found.weight.sum(axis=1 if name == "deviation" else 0)
        mean = integral(pick) / total
        assert mass @ np.log(getattr(found, name)) == pytest.approx(mean, abs=0.03)


def test_noise_points_follow_the_replicates():
    """With many replicates the prior is forgotten: sigma^2 degrees / squares is inverse chi^2."""
    points = noise_points(LogNormal(0.002, 1.0), 400 * 0.005**2, 400.0)
    exact = np.sqrt(400 * 0.005**2 / stats.chi2.ppf(1 - (np.arange(5) + 0.5) / 5, 400))
    np.testing.assert_allclose(points, exact, rtol=5e-3)


def test_conditioning_is_the_gaussian_conditional(rng):
    """Oracle: closed-form conditional mean and covariance at fixed sds; 4 standard errors."""
    n_draws, m = 40_000, 3
    root = rng.normal(size=(5, 5)) * 0.01
    exact_cov = root @ root.T + 1e-5 * np.eye(5)
    centre = np.array([0.0, 0.01, -0.02, 0.03, 0.0])
    scores = centre + rng.standard_normal((n_draws, 5)) @ np.linalg.cholesky(exact_cov).T
    data = StageData(
        np.array([0.5, 0.53, 0.2]), np.array([2.0, 1.0, 4.0]), 0.0, np.array([0, 0, 1])
    )
    tau, sigma = 0.004, 0.003
    scales = Scales(np.array([tau]), np.array([sigma]), np.ones((1, 1)))
    set_of, same = np.array([0, -1]), np.array([0, 1, 2, 1, 3])
    out, noise = condition(scores, data, set_of, same, scales, 1.0, rng)
    assert (noise == sigma).all()
    sets = np.array([0, 0, 1, 0, -1])
    level = ((sets[:, None] == sets) & (sets >= 0)).astype(float)
    prior = np.cov(scores.T) + level + tau**2 * np.eye(5)
    prior[1, 3] += tau**2
    prior[3, 1] += tau**2
    observed = prior[:m, :m] + np.diag(sigma**2 / data.runs)
    gain = np.linalg.solve(observed, prior[:m, m:]).T
    mean = scores[:, m:].mean(0) + gain @ (data.mean - scores[:, :m].mean(0))
    cov = prior[m:, m:] - gain @ prior[:m, m:]
    error = np.sqrt(np.diag(cov) / n_draws)
    assert np.all(np.abs(out.mean(0) - mean) < 4 * error)
    np.testing.assert_allclose(np.cov(out.T), cov, atol=4 * np.sqrt(2 / n_draws) * cov.max())


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_runs_of_a_stage_inform_the_local_correction(pocket, runs, weight, rng):
    """Oracle: one Gaussian of runs from scratch, runs of the stage and candidates, given both."""
    law = encoded(pocket, exponents=ONE)
    hyper, draws = repeated(law, 8000, rng)
    prior = StagePrior(change=StageChange.none(), score_weight=weight)
    fitted = replace(with_draws(law, draws), stage_prior=prior)
    past = stages.history(runs, "families_d64_12000-003")
    own = (runs["block"] == "weak_d64_4000") & (runs["seed"] == 0)
    made = runs[own | runs["run_id"].isin(past["run_id"])]
    made = made.drop(index=made.index[own[made.index]][[1, 4, 7]])
    asked = runs[own].drop(columns=OUTCOME).iloc[[1, 4, 7]]
    asked = pd.concat([asked, asked.assign(peak_lr=asked["peak_lr"] * 1.1)], ignore_index=True)
    asked = read_candidates(asked.assign(run_id=[f"c{i}" for i in range(len(asked))]))
    stage = fitted.stage(asked, past, made)
    tau, sigma, m = 0.0016, 0.002, len(stage.measured)
    scales = Scales(np.array([tau]), np.array([sigma]), np.ones((1, 1)))
    scores = stage.scores(fitted.predictor(), rng)
    found, _ = condition(
        scores, stage.data, stage.set_of, stage.configuration, scales, prior.level_sd, rng
    )

    def exact(correction_is_shared):
        mean, cov = dense_prediction(law, hyper, stage.table)
        if not correction_is_shared:
            without = {**hyper, "local_sd": 0 * hyper["local_sd"]}
            cov[:m, m:] = dense_prediction(law, without, stage.table)[1][:m, m:]
            cov[m:, :m] = cov[:m, m:].T
        centre = np.ones((mean.size, mean.size)) / mean.size  # all of one set
        keep = centre + weight * (np.eye(mean.size) - centre)
        mean, cov = keep @ (mean + law.encoding.centre), keep @ cov @ keep.T
        cov = cov + prior.level_sd**2 + tau**2 * np.eye(mean.size)
        gain = np.linalg.solve(cov[:m, :m] + np.diag(sigma**2 / stage.data.runs), cov[:m, m:]).T
        return mean[m:] + gain @ (stage.data.mean - mean[:m]), cov[m:, m:] - gain @ cov[:m, m:]

    mean, cov = exact(True)
    check_moments(found, mean, cov)
    error = np.sqrt(np.diag(cov) / len(found))
    apart = exact(False)
    assert (np.abs(apart[0] - mean) > 10 * error).any()
    assert (np.diag(apart[1]) > 1.1 * np.diag(cov)).any()


def test_intervals_of_a_simulated_stage_cover(rng):
    """Deviation and noise drawn from their prior: ranks of the truth among draws are uniform."""
    prior, ranks = StagePrior(), []
    which = np.repeat(np.arange(4), 4)
    for _ in range(150):
        scores = 0.02 * rng.standard_normal((400, 17))
        tau, sigma = (
            p.median * np.exp(p.log_sd * rng.standard_normal())
            for p in (prior.deviation, prior.noise)
        )
        truth = 0.02 * rng.standard_normal(17) + tau * rng.standard_normal(17)
        truth[:16] += rng.standard_normal(4)[which]
        losses = truth[:16, None] + sigma * rng.standard_normal((16, 3))
        mean = losses.mean(1)
        data = StageData(
            mean, np.full(16, 3.0), float(((losses - mean[:, None]) ** 2).sum()), which
        )
        cov = np.cov(scores[:, :16].T)
        scales = learn_scales(scores[:, :16].mean(0), cov, data, prior)
        out, _ = condition(scores, data, np.array([-1]), np.arange(17), scales, 1.0, rng)
        ranks.append(np.mean(out[:, 0] < truth[16]))
    assert stats.kstest(ranks, "uniform").pvalue > 0.001


def test_stage_runs_sharpen_a_ranking_and_teach_the_level(law, runs, weak):
    past = stages.history(runs, "families_d64_12000-003")
    other = runs[runs["block"] != "weak_d64_4000"]
    own, table = replace(law.fitted, stage_prior=StagePrior.paper()), bo.read_candidates(weak)
    blind, taught, after = (
        rank(own, table, stage=own.stage(table, past, known), kind="mean")
        for known in (None, other, runs)
    )
    assert (blind.level, taught.level, after.level) == ("score", "score", "loss")
    assert blind.resolution > 3 * taught.resolution > 3 * after.resolution
    measured = runs[(runs["block"] == "weak_d64_4000") & (runs["peak_lr"] == 0.003)]
    loss = measured.groupby("name")["final_loss"].mean()
    error = (after.table["loss_mean"] - loss[after.table.index]).abs()
    assert (error < 0.0037).all()  # the seed sd of this set
    loss = loss[after.table.index]
    assert ((after.table["loss_lower"] < loss) & (loss < after.table["loss_upper"])).all()


def test_scores_never_come_with_a_level_interval(law, runs, weak):
    past = stages.history(runs, "families_d64_12000-003")
    ranking = law.rank(weak, history=past)
    assert not {"loss_mean", "loss_lower", "loss_upper"} & set(ranking.table.columns)
    assert ranking.table[["gap_lower", "gap_upper"]].iloc[0].tolist() == [0.0, 0.0]
    assert "are no losses" in ranking.answer() and "nats (90 % interval" not in ranking.answer()
    assert "score" in ranking._repr_html_()
    predicted = law.predict(weak, history=past)
    assert (predicted["level"] == "score").all()
    assert predicted[["loss_mean", "loss_sd", "loss_lower", "loss_upper"]].isna().all().all()
    assert predicted["score"].notna().all()
    figure = ranking.plot()
    assert "score less" in figure.axes[-1].get_xlabel()
    figure.clear()
    learned = law.predict(weak, history=past, stage_runs=runs)
    assert (learned["level"] == "loss").all() and learned["loss_lower"].notna().all()


def test_level_offset_cancels_in_the_ranking(law, runs, weak):
    """The same stage losses times 1.7, as on other data: contrasts of log loss stay."""
    past = stages.history(runs, "families_d64_12000-003")
    other = runs[runs["block"] != "weak_d64_4000"].copy()
    a = law.rank(weak, history=past, stage_runs=other, kind="mean")
    other.loc[other["stage"] > 1, "final_loss"] *= 1.7
    b = law.rank(weak, history=past, stage_runs=other, kind="mean")
    np.testing.assert_allclose(a.table["p_best"], b.table["p_best"][a.table.index], atol=0.02)


def test_fit_takes_the_first_stage_alone(runs, tmp_path):
    both = pd.concat([bo.datasets.load("pocket").assign(stage=1), runs], ignore_index=True)
    law = bo.OptLaw(transfer=False, divergence=False)
    law.fit(both, draws=100, tune=50, chains=2, random_seed=1, progressbar=False)
    assert len(law.runs) == 263 and (law.runs["group"] == "pocket").all()
    assert len(law.stage_runs) == len(both)
    past = stages.history(runs, "families_d64_12000-003")
    both.to_csv(tmp_path / "runs.csv", index=False)
    from_file, _ = stages.split(tmp_path / "runs.csv")
    assert from_file["run_id"].tolist() == law.runs["run_id"].tolist()
    later = runs[(runs["block"] == "weak_d64_4000") & (runs["seed"] == 0)].set_index("run_id")
    ranking = law.rank(later.drop(columns=OUTCOME), history=past, allow_unconverged=True)
    assert ranking.level == "loss"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"parent": ("weak_d64_4000-000", "nobody")}, "must be the run_id of a run"),
        ({"parent": ("weak_d64_4000-000", "")}, "needs the run it continues"),
        ({"parent": ("weak_d64_4000-000", "longer_d32_12000-000")}, "same n_params"),
        ({"stage": ("weak_d64_4000-000", 0)}, "must be 1, 2"),
        ({"parent": ("strong_d64_4000-000", "tuned_d64_120-000")}, "earlier stage"),
    ],
)
def test_wrong_stages_are_named(runs, change, match):
    table = runs.copy()
    for column, (run_id, value) in change.items():
        table.loc[table["run_id"] == run_id, column] = value
    with pytest.raises(RunTableError, match=match) as error:
        stages.read_stages(table)
    assert next(iter(change.values()))[0] in str(error.value)


def test_wrong_history_is_named(law, runs, weak):
    past = stages.history(runs, "longer_d32_12000-000")
    with pytest.raises(RunTableError, match="n_params of the candidate"):
        law.rank(weak, history=past)
    past = stages.history(runs, "families_d64_12000-003")
    with pytest.raises(RunTableError, match="label of a candidate"):
        law.rank(weak, history=past.assign(candidate="Nobody"))
    with pytest.raises(RunTableError, match="every candidate needs"):
        law.rank(weak, history=past.assign(candidate="Linear"))
    with pytest.raises(ValueError, match="without history"):
        law.rank(weak, stage_runs=runs)
    with pytest.raises(ValueError, match="tokens is"):
        law.rank(weak.assign(tokens=[4e6, 5e6, 6e6, 7e6, 8e6], steps=np.nan), history=past)
    with pytest.raises(KeyError, match="nobody"):
        stages.history(runs, "nobody")
    with pytest.raises(RunTableError, match="the column is required"):
        stages.read_stages(runs.drop(columns="stage"))


def test_prior_of_the_stage_change_is_the_users(law, runs, weak):
    """Without runs of later stages a narrower prior gives a narrower ranking."""
    past, table = stages.history(runs, "families_d64_12000-003"), bo.read_candidates(weak)
    wide, shipped, narrow = (
        rank(own, table, stage=own.stage(table, past), kind="mean").resolution
        for own in (
            replace(law.fitted, stage_prior=prior)
            for prior in (
                StagePrior.paper(),
                StagePrior(),
                StagePrior(LogNormal(1e-4, 0.1), change=StageChange.none(), score_weight=0.0),
            )
        )
    )
    assert narrow < shipped / 3 < wide / 9


def test_without_weight_and_change_nothing_is_known_of_an_order(law, runs, weak):
    """Two candidates, level in common, deviations alone: each is first with one half."""
    past = stages.history(runs, "families_d64_12000-003")
    prior = StagePrior(change=StageChange.none(), score_weight=0.0)
    own, table = replace(law.fitted, stage_prior=prior), bo.read_candidates(weak.iloc[:2])
    ranking = rank(own, table, stage=own.stage(table, past), kind="mean")
    error = 0.5 / np.sqrt(len(ranking.draws))
    np.testing.assert_allclose(ranking.table["p_best"], 0.5, atol=4 * error)


def test_weight_keeps_the_level_and_scales_differences(law, runs, weak):
    past, table = stages.history(runs, "families_d64_12000-003"), bo.read_candidates(weak)
    draws = {}
    for weight in (1.0, 0.25):
        own = replace(law.fitted, stage_prior=StagePrior(score_weight=weight))
        stage = own.stage(table, past)
        draws[weight] = stage.law_scores(own.predictor(), np.random.default_rng(3))
    level = {k: v.mean(axis=1, keepdims=True) for k, v in draws.items()}
    np.testing.assert_allclose(level[1.0], level[0.25], rtol=1e-12)
    np.testing.assert_allclose(draws[0.25] - level[0.25], 0.25 * (draws[1.0] - level[1.0]))


def test_risk_of_a_later_stage_is_said_to_be_unknown(law, runs, weak):
    past = stages.history(runs, "families_d64_12000-003")
    hot = weak.assign(peak_lr=0.5, plateau_lr=weak["plateau_lr"] * 0.5 / weak["peak_lr"])
    assert (law.predict(hot)["p_diverge"] > 0.3).all()  # from scratch
    for known in (None, runs):
        assert law.predict(hot, history=past, stage_runs=known)["p_diverge"].isna().all()
        ranking = law.rank(hot, history=past, stage_runs=known)
        assert ranking.table["p_diverge"].isna().all()
        assert "Whether a later stage diverges is not known" in ranking.answer()
        assert "diverges with probability" not in ranking.answer()
        assert "nan" not in ranking._repr_html_() + ranking.answer()
        ranking.plot().clear()


def test_a_saved_law_keeps_its_later_stages(law, runs, weak, tmp_path):
    taught = bo.OptLaw.from_fitted(replace(law.fitted, stage_runs=stages.read_stages(runs)))
    again = bo.OptLaw.load(taught.save(tmp_path / "law.nc"))
    pd.testing.assert_frame_equal(again.stage_runs, taught.stage_runs, check_dtype=False)
    past = stages.history(runs, "families_d64_12000-003")
    a, b = (x.rank(weak, history=past, kind="mean", random_seed=1).table for x in (taught, again))
    pd.testing.assert_frame_equal(a, b)
