"""OptLaw as its user meets it: options, gate, predictions, and tables at the edge."""

import warnings

import numpy as np
import pandas as pd
import pytest

import bayes_optlaws.inference.fitted as law_module
from bayes_optlaws.inference.gate import ConvergenceError
from bayes_optlaws.inference.stages import StagePrior
from bayes_optlaws.law import OptLaw
from bayes_optlaws.model.divergence import DivergencePriors
from bayes_optlaws.model.features import feature_bases
from bayes_optlaws.model.priors import CoefficientPrior, Priors
from bayes_optlaws.runs.readers import RunTableError, RunTableWarning

QUICK = {"draws": 150, "tune": 150, "chains": 2, "random_seed": 1, "progressbar": False}
BAD = {"rhat": np.nan, "ess_bulk": 900.0, "ess_tail": 900.0, "divergent": 0.0, "bfmi": 0.9}


@pytest.fixture(scope="module")
def candidates(pocket):
    columns = ["run_id", "n_params", "tokens", "batch_tokens", "peak_lr", "warmup_steps",
               "schedule", "min_lr"]  # fmt: skip
    table = pocket.loc[~pocket["diverged"], columns].iloc[3:200:40].copy()
    table.index = [f"plan {i}" for i in range(len(table))]
    return table


@pytest.fixture
def unconverged(small_law):
    """The shared law with figures that do not pass, and its own back afterwards."""
    kept = small_law.diagnostics
    small_law.fitted.__dict__["diagnostics"] = BAD
    yield small_law
    small_law.fitted.__dict__["diagnostics"] = kept


@pytest.mark.parametrize(
    ("options", "message"),
    [({"features": "all"}, "features must be"), ({"exponents": "papr"}, "exponents must be")],
)
def test_wrong_options_fail_before_any_run_is_read(options, message):
    with pytest.raises(ValueError, match=message):
        OptLaw(**options)


@pytest.mark.parametrize(
    ("name", "value"),
    [("draws", 99), ("draws", 1e3), ("tune", 10), ("chains", 1), ("chains", "4"), ("tune", None)],
)
def test_fit_refuses_wrong_sampler_options(pocket, name, value):
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least"):
        OptLaw().fit(pocket, **{name: value})


def test_fit_refuses_a_bad_table_before_sampling(pocket):
    bad = pocket.copy()
    bad.loc[bad.index[3], "final_loss"] = -1.0
    law = OptLaw()
    with pytest.raises(RunTableError, match="final_loss"):
        law.fit(bad)
    with pytest.raises(RuntimeError, match="call fit"):
        law.predict(bad)


def test_everything_that_needs_a_posterior_says_so(candidates):
    law = OptLaw()
    for call in (
        lambda: law.predict(candidates), lambda: law.rank(candidates), law.summary, law.loo,
        lambda: law.predict_draws(candidates), lambda: law.save("x.nc"), lambda: law.posterior,
        lambda: law.model,
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="call fit"):
            call()
    assert "not fitted" in repr(law)


def test_no_interval_leaves_an_unconverged_posterior(unconverged, candidates):
    law = unconverged
    for call in (law.predict, law.predict_draws, law.rank):
        with pytest.raises(ConvergenceError, match="R-hat nan"):
            call(candidates)


def test_unconverged_results_are_marked(unconverged, candidates):
    assert unconverged.predict(candidates, allow_unconverged=True).attrs["unconverged"] is True
    draws = unconverged.predict_draws(candidates, allow_unconverged=True)
    assert draws.attrs["converged"] == 0
    assert "R-hat" in repr(unconverged)


def test_converged_results_are_not_marked(small_law, candidates):
    assert "unconverged" not in small_law.predict(candidates).attrs
    assert small_law.predict_draws(candidates).attrs["converged"] == 1


def test_prediction_table(small_law, candidates):
    p = small_law.predict(candidates, prob=0.8)
    assert list(p.index) == list(candidates.index)
    assert {
        "loss_mean",
        "loss_sd",
        "loss_lower",
        "loss_upper",
        "p_diverge",
        "extrapolation",
    } <= set(p)
    assert np.all((p["loss_lower"] < p["loss_mean"]) & (p["loss_mean"] < p["loss_upper"]))
    np.testing.assert_allclose(p["extrapolation"], 0.0, atol=1e-9)
    draws = small_law.predict_draws(candidates).to_numpy()
    draws = np.where(np.isfinite(draws), draws, np.nan)
    np.testing.assert_allclose(p["loss_mean"], np.nanmean(draws, axis=0), rtol=2e-3)
    wide = small_law.predict(candidates, prob=0.95)
    assert np.all(wide["loss_upper"] > p["loss_upper"])


def test_predictions_of_the_training_runs_cover_their_losses(small_law, pocket):
    table = pocket[~pocket["diverged"]]
    p = small_law.predict(table, prob=0.9)
    inside = table["final_loss"].between(p["loss_lower"], p["loss_upper"])
    assert 0.82 < inside.mean() < 0.99
    error = (p["loss_mean"] - table["final_loss"]).abs()
    assert error.median() < 0.2 * table["final_loss"].std()


def test_the_mean_is_better_known_than_a_new_run(small_law, candidates):
    new, mean = (small_law.predict(candidates, kind=k)["loss_sd"] for k in ("new_run", "mean"))
    assert np.all(mean < new)


def test_extrapolation_counts_decades(small_law, candidates):
    far = candidates.copy()
    far["n_params"] = 10 * 246240.0
    far["tokens"] = 2457600.0
    np.testing.assert_allclose(small_law.predict(far)["extrapolation"], 1.0, rtol=1e-6)


@pytest.mark.parametrize("prob", [0.0, 1.0, -1, 1.5, np.nan])
def test_wrong_probabilities_are_refused(small_law, candidates, prob):
    for call in (small_law.predict, small_law.rank):
        with pytest.raises(ValueError, match="prob must lie strictly between"):
            call(candidates, prob=prob)


def test_wrong_kinds_are_refused(small_law, candidates):
    for call in (small_law.predict, small_law.predict_draws):
        with pytest.raises(ValueError, match="kind must be one of"):
            call(candidates, kind="best")


def test_predictions_do_not_depend_on_the_seed_of_others_or_on_chunks(
    small_law, candidates, monkeypatch
):
    a = small_law.predict(candidates, kind="mean")
    monkeypatch.setattr(law_module, "CHUNK", 2)
    pd.testing.assert_frame_equal(a, small_law.predict(candidates, kind="mean"))
    assert small_law.predict_draws(candidates).equals(small_law.predict_draws(candidates))


def test_candidates_are_predicted_jointly(small_law, candidates):
    """Two copies of one schedule have the same mean in every draw, and noise of their own."""
    twice = pd.concat([candidates.iloc[[0]]] * 2)
    twice["run_id"] = ["a", "b"]
    twice.index = ["a", "b"]
    mean = small_law.predict_draws(twice, kind="mean").to_numpy()
    np.testing.assert_allclose(mean[:, 0], mean[:, 1], rtol=1e-12)
    run = small_law.predict_draws(twice, kind="new_run").to_numpy()
    assert np.mean(run[:, 0] < run[:, 1]) == pytest.approx(0.5, abs=0.06)


def test_rank_prefers_what_is_predicted_lower(small_law, candidates):
    table = small_law.rank(candidates, kind="mean").table
    p = small_law.predict(candidates, kind="mean")
    assert table.index[0] == p["loss_mean"].idxmin()
    assert table["p_best"].sum() == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["new_run", "mean"])
def test_a_ranking_has_the_risk_of_the_prediction(small_law, candidates, kind):
    risky = candidates.assign(peak_lr=np.geomspace(0.02, 0.2, len(candidates)))
    ranked = small_law.rank(risky, kind=kind)
    p = small_law.predict(risky)["p_diverge"]
    assert p.max() - p.min() > 0.2
    n = ranked.draws.sizes["sample"]
    error = np.sqrt(p * (1 - p) / n)
    assert (np.abs(ranked.table["p_diverge"][p.index] - p) < 4 * error + 1e-9).all()


def test_summary_holds_coefficients_exponents_and_scales(small_law):
    s = small_law.summary()
    names = [f.name for f in small_law.fitted.encoding.features.features]
    assert list(s.index[: 1 + len(names)]) == ["intercept", *names]
    assert {f"exponent[{g}]" for g in small_law.fitted.encoding.features.groups} <= set(s.index)
    assert "noise_sd" in s.index
    assert np.all(s["lower"] <= s["upper"])


def test_paper_units_reproduce_the_law(pocket):
    """With one exponent combination the mean law is linear in the raw features."""
    one = {"scale": (0.3,), "mixed": (0.15,), "escape": (0.3,), "cross": (0.2,)}
    law = OptLaw(transfer=False, divergence=False, exponents=one).fit(pocket, **QUICK)
    s = law.summary()["paper_units"]
    table = pocket[~pocket["diverged"]].iloc[::30]
    base = feature_bases(table, reference_batch=law.fitted.encoding.features.reference_batch)
    expected = np.full(len(table), s["intercept"])
    for f in law.fitted.encoding.features.features:
        group = law.fitted.encoding.features.group_of(f)
        expected += s[f.name] * base[f.name] ** (1.0 if group is None else one[group][0])
    np.testing.assert_allclose(law.predictor.law(table).mean(axis=0), expected, rtol=1e-8)


def test_posterior_is_a_labelled_tree(small_law):
    tree = small_law.posterior
    post = tree["posterior"]
    n = len(small_law.fitted.encoding.finished)
    assert post["coefficient"].dims == ("chain", "draw", "feature")
    assert post["exponent"].dims == ("chain", "draw", "exponent_group")
    assert post.sizes["chain"] == 4 and post.sizes["feature"] == 15 + 3
    assert tree["observed_data"]["log_loss"].sizes["run"] == n
    assert {"sample_stats", "constant_data"} <= set(tree.children)
    for i, group in enumerate(small_law.fitted.encoding.features.groups):
        values = np.unique(post["exponent"][..., i])
        assert set(values) <= set(small_law.fitted.encoding.features.exponents[group])


def edge_tables(pocket):
    runs = pocket[~pocket["diverged"]]
    cell = runs[runs["n_params"] == 32928]
    same = pd.concat([runs.iloc[[0]]] * 30, ignore_index=True)
    same["run_id"] = [f"r{i}" for i in range(30)]
    return {
        "five runs": runs.iloc[::50].head(5),
        "one model size": cell,
        "one cell": cell[cell["tokens"] == cell["tokens"].min()],
        "thirty identical runs": same,
    }


EDGES = ["five runs", "one model size", "one cell", "thirty identical runs"]


def check_edge(law, table):
    options = {"draws": 200, "tune": 200, "chains": 2, "random_seed": 1, "progressbar": False}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*equal to another row", RunTableWarning)
        law.fit(table, **options)
    p = law.predict(table.head(5), allow_unconverged=True)
    losses = p[["loss_mean", "loss_lower", "loss_upper"]].to_numpy()
    assert np.all(np.isfinite(losses)) and np.all(losses > 0)
    known = table["final_loss"].head(5).to_numpy()
    assert np.mean((losses[:, 1] < known) & (known < losses[:, 2])) >= 0.6
    # beyond what was seen the interval is wider
    far = table.head(1).copy()
    far["n_params"] *= 100
    wide = law.predict(far, allow_unconverged=True)["loss_sd"].iloc[0]
    assert wide > 1.5 * p["loss_sd"].iloc[0]


@pytest.mark.parametrize("name", EDGES)
def test_tables_at_the_edge_without_discrepancy(pocket, name):
    check_edge(OptLaw(transfer=False), edge_tables(pocket)[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", EDGES)
def test_tables_at_the_edge(pocket, name):
    check_edge(OptLaw(), edge_tables(pocket)[name])


@pytest.mark.slow
def test_a_fit_of_the_pocket_grid_converges_and_covers(pocket):
    law = OptLaw().fit(pocket, random_seed=1, progressbar=False)
    table = pocket[~pocket["diverged"]]
    p = law.predict(table, prob=0.9)  # the gate passed
    inside = table["final_loss"].between(p["loss_lower"], p["loss_upper"])
    assert 0.85 < inside.mean() < 0.99


def test_draws_beyond_what_floats_hold_have_an_infinite_sd(small_law, pocket, monkeypatch):
    candidates = pocket.head(2)
    loss = np.full((50, 2), 3.0)
    loss[7] = 1e200, np.inf
    drawn = law_module.LossDraws(loss, None, 0.0)
    monkeypatch.setattr(law_module.FittedLaw, "draw_loss", lambda self, *a, **k: drawn)
    found = small_law.predict(candidates)
    assert np.isinf(found["loss_sd"]).all()
    assert (found["loss_lower"] == 3.0).all()
    assert (found["loss_upper"] == found["loss_mean"]).all()  # an interval holds its mean


EVERY_OPTION = {
    "features": "paper",
    "transfer": False,
    "divergence": DivergencePriors(correction_sd=0.5),
    "exponents": {g: (0.1, 0.5) for g in ("scale", "mixed", "escape", "cross")},
    "priors": Priors(
        unseen_sd=0.03,
        coefficients={"lr": (0.0, 0.1), "Ew": CoefficientPrior(0.0, 0.5, "positive")},
        exponents={"mixed": (1, 3)},
    ),
    "stage_prior": StagePrior(),
    "covariates": {"seed_word": "category"},
    "groups": "pooled",
    "residuals": False,
}


def test_every_option_survives_cloning_saving_loading_and_refits(pocket, tmp_path):
    from bayes_optlaws.evaluation import protocols

    law = OptLaw(**EVERY_OPTION)
    assert set(law.get_params()) == set(EVERY_OPTION), "add the new option to this test"
    assert law.get_params() == EVERY_OPTION
    assert OptLaw(**law.get_params()).get_params() == EVERY_OPTION
    assert protocols.fresh(law).get_params() == EVERY_OPTION
    law.fit(pocket.assign(seed_word=np.where(np.arange(len(pocket)) % 2, "a", "b")), **QUICK)
    assert law.fitted.options == EVERY_OPTION
    assert law.fitted.divergence_priors == EVERY_OPTION["divergence"]
    again = OptLaw.load(law.save(tmp_path / "law.nc"))
    kept = {k: v for k, v in again.get_params().items() if k != "exponents"}
    assert kept == {k: v for k, v in EVERY_OPTION.items() if k != "exponents"}
    lists = {g: tuple(v) for g, v in again.get_params()["exponents"].items()}
    assert lists == EVERY_OPTION["exponents"]
    assert again.fitted.divergence_priors == EVERY_OPTION["divergence"]
