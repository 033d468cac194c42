"""Classifiers of divergence, and their comparison with the law on held-out runs."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn import linear_model, metrics

from bayes_optlaws.baselines import divergence as rivals
from bayes_optlaws.evaluation.manifest import MANIFEST, DamagedResultWarning, FolderError
from studies import divergence as study


@pytest.fixture(scope="module")
def design():
    """Independent log-uniform settings; no outcome yet."""
    rng = np.random.default_rng(0)
    n = 400
    batch = np.exp(rng.uniform(np.log(2e5), np.log(2e6), n))
    steps = np.exp(rng.uniform(np.log(3e3), np.log(5e4), n))
    return pd.DataFrame(
        {
            "run_id": [f"run-{i}" for i in range(n)],
            "n_params": np.exp(rng.uniform(np.log(1e8), np.log(1e9), n)),
            "tokens": steps * batch,
            "batch_tokens": batch,
            "steps": steps,
            "peak_lr": np.exp(rng.uniform(np.log(1e-3), np.log(3e-2), n)),
            "warmup_steps": np.exp(rng.uniform(np.log(100), np.log(2000), n)),
            "final_loss": 3.0,
        }
    )


@pytest.fixture(scope="module")
def runs(design):
    """Divergent where a logistic in the log of the LR says so."""
    rng = np.random.default_rng(1)
    logit = 4.0 * np.log(design["peak_lr"] / 1.2e-2)
    return design.assign(diverged=rng.logistic(size=len(design)) < logit)


def test_threshold_is_the_one_with_the_best_f1(runs):
    rule = rivals.PeakLrThreshold().fit(runs)
    y, lr = runs["diverged"].to_numpy(), runs["peak_lr"].to_numpy()
    best = max(metrics.f1_score(y, lr > cut, zero_division=0) for cut in np.append(lr, 0.0))
    assert metrics.f1_score(y, rule.flag(runs)) == best
    np.testing.assert_array_equal(rule.flag(runs), lr > rule.threshold)
    for side in (True, False):
        share = (y[rule.flag(runs) == side].sum() + 0.5) / ((rule.flag(runs) == side).sum() + 1)
        np.testing.assert_allclose(rule.predict(runs)[rule.flag(runs) == side], share)


def test_logistic_regression_is_scikit_learn_s_on_standardised_logs(runs):
    ours = rivals.LogisticRegression(penalty=3.0).fit(runs)
    x = np.log(runs[list(rivals.INPUTS)].to_numpy())
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    model = linear_model.LogisticRegression(C=3.0, max_iter=10_000).fit(z, runs["diverged"])
    np.testing.assert_allclose(ours.predict(runs), model.predict_proba(z)[:, 1], rtol=1e-6)


def test_criterion_by_likelihood_finds_what_it_was_simulated_from(design):
    """At the truth the likelihood must not be higher than at the optimum, nor far below it."""
    rng = np.random.default_rng(2)
    rule = rivals.CriterionR(squared=False).fit(design.assign(diverged=design["peak_lr"] > 1e-2))
    unit = rule._state[0]
    truth = np.array([0.0, -2.5, -2.5, 0.4, 0.5, 2.0])
    truth[0] = -np.quantile(rule._log_r(truth, rule._inputs(design, unit)), 0.6)
    p = rule._probability(design, (unit, truth))
    y = rng.random(len(design)) < p
    assert 0.1 < y.mean() < 0.9
    rule.fit(design.assign(diverged=y))
    gain = -2.0 * (study.log_loss(rule.predict(design), y).sum() - study.log_loss(p, y).sum())
    assert 0.0 <= gain < 22.5  # chi-squared with six degrees of freedom, 99.9 %


def test_squares_are_of_lr_and_warm_up_alone(design):
    v = np.array([0.3, -2.0, -1.5, 0.2, 0.1, 1.0])
    lr = design["peak_lr"] / design["peak_lr"].max()
    n, s = design["n_params"] / 1e9, design["tokens"] / 1e9
    a = design["warmup_steps"] * design["batch_tokens"] / 1e9
    for power, rule in ((1, rivals.CriterionR(squared=False)), (2, rivals.CriterionR())):
        threshold = np.exp(-2.0) + np.exp(-1.5) * s**0.2 / n**0.1
        excess = np.maximum(lr**power - threshold, 1e-3 * threshold)
        r = np.exp(0.3) * s * excess**2 / (a**power * threshold**2)
        p = rule._probability(design, (design["peak_lr"].max(), v))
        np.testing.assert_allclose(p, r / (1.0 + r), rtol=1e-9)


@pytest.mark.parametrize("rule", rivals.classifiers(), ids=lambda c: c.name)
@pytest.mark.parametrize("outcome", [True, False])
def test_one_kind_of_outcome_gives_probabilities_and_no_error(rule, outcome, design):
    p = rule.fit(design.assign(diverged=outcome)).predict(design)
    assert p.shape == (len(design),) and np.all((p >= 0) & (p <= 1))
    assert np.all((p > 0.5) == outcome)
    np.testing.assert_array_equal(rule.flag(design), outcome)


@pytest.mark.parametrize("rule", rivals.classifiers(), ids=lambda c: c.name)
def test_what_cannot_be_fitted_or_asked_is_refused(rule, design):
    with pytest.raises(ValueError, match="not fitted"):
        type(rule)().predict(design)
    with pytest.raises(ValueError, match="column diverged"):
        rule.fit(design)
    with pytest.raises(ValueError, match="0 rows"):
        rule.fit(design.assign(diverged=False).iloc[:0])


# the comparison


def test_folds_hold_every_run_once_and_both_outcomes_evenly(pocket):
    fold = study.stratified_folds(pocket, 5, random_seed=3)
    assert set(fold) == set(range(5))
    table = pocket.assign(fold=fold)
    per_block = table.groupby(["block", "diverged", "fold"]).size()
    spread = per_block.groupby(level=[0, 1]).agg(
        lambda x: x.max() - (x.min() if len(x) == 5 else 0)
    )
    assert spread.max() <= 1
    assert np.ptp(table.groupby("fold")["diverged"].sum()) <= 1
    assert np.any(fold != study.stratified_folds(pocket, 5, random_seed=4))


def test_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(5)
    p = rng.random(200)
    y = rng.random(200) < p
    weight = rng.integers(0, 4, 200).astype(float)
    flagged = p >= 0.5
    for w in (np.ones(200), weight):
        got = study.score(p, flagged, y, w)
        expected = {
            "precision": metrics.precision_score(y, flagged, sample_weight=w),
            "recall": metrics.recall_score(y, flagged, sample_weight=w),
            "f1": metrics.f1_score(y, flagged, sample_weight=w),
            "balanced_accuracy": metrics.balanced_accuracy_score(y, flagged, sample_weight=w),
            "log_loss": metrics.log_loss(y, p, sample_weight=w),
            "brier": metrics.brier_score_loss(y, p, sample_weight=w),
        }
        assert set(got) == set(study.SCORES)
        for name, value in expected.items():
            assert got[name] == pytest.approx(value, rel=1e-12), name
    both = study.score(p, flagged, y, np.stack([np.ones(200), weight]))
    assert both["f1"][1] == got["f1"]


def predictions(rng, n=300, repeats=2):
    p = rng.random(n)
    y = rng.random(n) < p
    parts = []
    for repeat in range(repeats):
        for method, said in ((study.LAW, p), ("overconfident", expit(4.0 * (p - 0.5) / 0.25))):
            order = rng.permutation(n)  # folds leave runs in another order
            part = pd.DataFrame({"run_id": [str(i) for i in order], "p": said[order]})
            part = part.assign(flagged=part["p"] >= 0.5, diverged=y[order], converged=True)
            parts.append(part.assign(repeat=repeat, method=method))
    return p, y, pd.concat(parts, ignore_index=True)


def test_table_averages_repeats_and_pairs_runs():
    p, y, table = predictions(np.random.default_rng(6))
    out = study.tabulate(table, n_bootstrap=400)
    law, other = out.loc[study.LAW], out.loc["overconfident"]
    assert law["log_loss"] == pytest.approx(metrics.log_loss(y, p))
    assert law["log_loss_lead"] == 0.0 and law["log_loss_lead_se"] == 0.0
    gap = study.log_loss(expit(16.0 * (p - 0.5)), y) - study.log_loss(p, y)
    assert other["log_loss_lead"] == pytest.approx(gap.mean())
    assert other["log_loss_lead_se"] == pytest.approx(gap.std(ddof=1) / np.sqrt(gap.size))
    se = study.log_loss(p, y).std() / np.sqrt(p.size)
    assert law["log_loss_se"] == pytest.approx(se, rel=4 / np.sqrt(2 * 400))  # 4 se of an sd
    assert (law["n_runs"], law["repeats"]) == (300, 2)
    assert study.verdict(out).startswith("better than overconfident")
    swapped = {study.LAW: "overconfident", "overconfident": study.LAW}
    other = study.tabulate(table.replace({"method": swapped}), n_bootstrap=2)
    assert study.verdict(other).startswith("worse than overconfident")


def test_reliability_of_true_probabilities_is_the_diagonal():
    _, _, table = predictions(np.random.default_rng(7), n=20_000, repeats=1)
    curve = study.reliability(table)
    law = curve[curve["method"] == study.LAW]
    assert law["n"].sum() == 20_000
    assert np.all(np.abs(law["diverged"] - law["said"]) < 4 * law["se"])
    wrong = curve[curve["method"] == "overconfident"]
    assert np.max(np.abs(wrong["diverged"] - wrong["said"]) / wrong["se"]) > 10


def test_a_study_goes_on_where_it_stopped(tmp_path):
    one = study.STUDIES[0]
    rule = rivals.MajorityClass()
    first = study.run_study(one, tmp_path, repeats=2, methods=[rule])
    assert len(first) == 2 * 260
    folder = tmp_path / "pocket" / "majority"
    files = sorted(p for p in folder.iterdir() if p.name != MANIFEST)
    assert len(files) == 10
    kept = json.loads(files[0].read_text())
    files[0].write_text(json.dumps(kept | {"p": [0.125] * len(kept["p"])}))  # read, not refitted
    files[1].unlink()
    files[2].write_text(files[2].read_text()[:50])
    with pytest.warns(DamagedResultWarning, match=f"{files[2].name} is damaged"):
        again = study.run_study(one, tmp_path, repeats=2, methods=[rule])
    assert (again["p"] == 0.125).sum() == len(kept["p"])
    same = (again["p"] != 0.125).to_numpy()
    pd.testing.assert_frame_equal(first[same], again[same])
    other = replace(one, above=1e5)
    with pytest.raises(FolderError, match="above was null, now 100000"):
        study.run_study(other, tmp_path, repeats=2, methods=[rule])
    rule.penalty = 3.0
    with pytest.raises(FolderError, match=r"options was \{\}, now .*penalty.*3"):
        study.run_study(one, tmp_path, repeats=2, methods=[rule])


def test_larger_models_are_held_out(pocket):
    split = study.Study("n", "n", "pocket", above=1e5)
    (mask,) = study.masks(split, pocket, 0)
    np.testing.assert_array_equal(mask, pocket["n_params"] > 1e5)


def test_page_of_curves_has_a_panel_a_study(tmp_path):
    _, _, table = predictions(np.random.default_rng(8))
    curve = study.reliability(table)
    both = pd.concat([curve.assign(study=s) for s in ("pocket", "marin")])
    figure = study.plot_reliability(both)
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        study.STUDIES[0].title, study.STUDIES[1].title
    ]  # fmt: skip
    assert len(figure.axes[0].containers) == len(study.DRAWN)
