"""Covariates and groups: units, levels, errors, and the dense Gaussian as an oracle."""

import numpy as np
import pandas as pd
import pytest
from laws import encoded, with_draws
from scipy.stats import multivariate_normal

from bayes_optlaws.cli.law import law_options
from bayes_optlaws.cli.main import main
from bayes_optlaws.cli.parser import parser
from bayes_optlaws.decision.design_joint import Joint
from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.draws import recover
from bayes_optlaws.inference.pymc_model import build_model
from bayes_optlaws.inference.reference import coefficient_sd, discrepancy_covariance, noise_sd
from bayes_optlaws.law import OptLaw
from bayes_optlaws.model.covariates import CovariateError, Covariates
from bayes_optlaws.model.effects import bowl
from bayes_optlaws.runs.readers import RunTableError, read_runs

ONE = {"scale": (0.3,), "mixed": (0.15,), "escape": (0.3,), "cross": (0.2,)}
QUICK = {"draws": 250, "random_seed": 2, "progressbar": False, "method": "importance"}
TAU = 0.244


def with_settings(pocket, rng, every=3):
    """Pocket runs with a weight decay, a beta and an optimizer each, and two groups."""
    table = pocket.iloc[::every].reset_index(drop=True)
    n = len(table)
    table = table.assign(
        weight_decay=rng.choice([0.01, 0.1, 0.3], n),
        beta2=rng.choice([0.95, 0.99, 0.999], n),
        optimizer=rng.choice(["adam", "lion", "muon"], n),
        group=rng.choice(["web", "code"], n),
    )
    return read_runs(table, mixed_groups=True)


OPTIONS = {
    "covariates": {"weight_decay": "auto", "beta2": "log(1-x)", "optimizer": "auto"},
    "groups": "pooled",
    "exponents": ONE,
}


def written_out(law, hyper, table):
    """Covariance of what covariates and groups add to the log losses, from the formula."""
    e = law.encoding
    d = e.discrepancy
    s = np.log(table[["n_params", "tokens"]].to_numpy(float)) - d.centre
    n, t = ((1 - np.exp(-TAU * x)) / TAU for x in s.T)
    scale = [n, t]
    z = [d.standard_settings(table, (k,))[:, 0] for k in d.varying]
    fitted_lr = d.standard_settings(e.finished, ("lr",))
    z.append(bowl(d.standard_settings(table, ("lr",))[:, 0], fitted_lr.min(), fitted_lr.max()))
    runs = e.runs
    wd = [np.log(x["weight_decay"].to_numpy(float)) for x in (runs, table)]
    b2 = [np.log(1 - x["beta2"].to_numpy(float)) for x in (runs, table)]
    numbers = []
    for seen, x in (wd, b2):
        unit = (seen - seen.mean()) / seen.std()
        numbers.append(((x - seen.mean()) / seen.std(), unit.min(), unit.max()))
    columns = []
    a, b, g = hyper["effect_sd"], hyper["interaction_sd"], hyper["group_slope_sd"]
    for x, low, high in numbers:
        columns += [a[0] * x, a[0] * bowl(x, low, high)]
        columns += [b[0] * x * v for v in [*scale, *z]]
    for j, name in enumerate(("adam", "lion", "muon")):
        mine = (table["optimizer"] == name).to_numpy(float)
        columns += [a[1] * mine, *(b[1 + j] * mine * v for v in [*scale, *z])]
    bent = [v / 8 for v in (n * n, t * t, n * t)]
    for j, name in enumerate(("code", "web")):
        mine = (table["group"] == name).to_numpy(float)
        columns.append(hyper["group_level_sd"][0] * mine)
        columns += [g[j] * mine * v for v in [*scale, *bent, *z]]
    x = np.column_stack(columns)
    return x @ x.T


def dense(law, hyper, table):
    """Covariance of all log losses of a table, then of the slopes, without the noise."""
    e, data = law.encoding, law.encoding.data
    rows = np.vstack([e.rows(table), e.prior_rows])
    selected, q, m = data.tree.selected(0), data.column_block.size, data.effect_entry.size
    x = rows[:, selected] * coefficient_sd(data, law.priors, hyper)[selected]
    z = rows[:, q : rows.shape[1] - m]
    prior = discrepancy_covariance(data, hyper)[: z.shape[1], : z.shape[1]]
    cov = x @ x.T + z @ prior @ z.T
    n = len(table)
    cov[:n, :n] += written_out(law, hyper, table)
    return cov


def noise_of(law, hyper):
    e = law.encoding
    one = noise_sd(e.data, hyper)
    return np.concatenate([one[e.measurement.label], np.ones(len(e.prior_rows))]) ** 2


def near_mode(law):
    space = HyperSpace(law.encoding.data, law.priors)
    return space, space.mean + 0.3 * space.sd * np.cos(np.arange(space.size))


@pytest.mark.parametrize("transfer", [False, True], ids=["law alone", "transfer"])
def test_evidence_is_that_of_the_dense_gaussian(pocket, rng, transfer):
    law = encoded(with_settings(pocket, rng, 5), transfer=transfer, **OPTIONS)
    e = law.encoding
    space, x = near_mode(law)
    hyper = space.split(x)
    y = np.concatenate([e.response, e.prior_response])
    cov = dense(law, hyper, e.finished) + np.diag(noise_of(law, hyper))
    expected = multivariate_normal.logpdf(y, cov=cov, allow_singular=True)
    prior = -0.5 * np.sum(((x - space.mean) / space.sd) ** 2)
    value, gradient = space.log_density(x)
    np.testing.assert_allclose(value - prior, expected, rtol=1e-6)
    h = 1e-5
    for i in range(space.names.index("effect_sd[0]"), space.size):
        step = h * np.eye(space.size)[i]
        slope = (space.log_density(x + step)[0] - space.log_density(x - step)[0]) / (2 * h)
        np.testing.assert_allclose(gradient[i], slope, rtol=1e-4, atol=1e-4)


def test_predictions_and_designs_have_the_moments_of_the_dense_gaussian(pocket, rng):
    """Draws of `Predictor` and the closed form of `Joint`, for candidates of other settings."""
    law = encoded(with_settings(pocket, rng, 5), transfer=False, **OPTIONS)
    e = law.encoding
    table = e.finished.iloc[:6].assign(
        weight_decay=[0.01, 0.05, 0.3, 1.0, 0.1, 0.1], beta2=0.98,
        optimizer=["adam", "lion", "muon"] * 2, group=["web", "code"] * 3, peak_lr=0.05,
    )  # fmt: skip
    space, x = near_mode(law)
    hyper = space.split(x)
    n, k = len(e.finished), len(table)
    both = pd.concat([e.finished, table], ignore_index=True)
    cov = dense(law, hyper, both)
    new = np.arange(n, n + k)
    old = np.concatenate([np.arange(n), np.arange(n + k, len(cov))])
    inner = cov[np.ix_(old, old)] + np.diag(noise_of(law, hyper))
    gain = np.linalg.solve(inner, cov[np.ix_(old, new)])
    mean = e.centre + gain.T @ np.concatenate([e.response, e.prior_response])
    left = cov[np.ix_(new, new)] - cov[np.ix_(new, old)] @ gain
    every = np.ones(e.data.tree.n_combinations, dtype=bool)
    draws = recover(space, space.split(np.tile(x, (6000, 1))), every, rng)[0]
    fitted = with_draws(law, draws)
    found = fitted.predictor().mean(table, rng)
    sd = np.sqrt(np.diag(left))
    assert np.abs((found.mean(axis=0) - mean) / sd).max() < 4.8 / np.sqrt(6000)
    assert np.abs(np.cov(found.T) / np.outer(sd, sd) - left / np.outer(sd, sd)).max() < 0.07
    joint = Joint(fitted, draws.take(np.arange(1)))
    target = joint.targets(table)
    np.testing.assert_allclose(target.mean[0], mean, rtol=1e-6)
    np.testing.assert_allclose(target.cov[0], left, rtol=1e-3, atol=1e-3 * left.max())


def test_a_law_without_covariates_has_no_columns_of_them(pocket):
    e = encoded(pocket).encoding
    assert not e.covariates and e.data.effect_entry.size == 0 and e.data.effect_parts == ()
    assert e.effects.columns(pocket).shape == (len(pocket), 0)


def simulated(pocket, rng):
    """Losses of a law with a known effect of two covariates, and none of a third."""
    table = with_settings(pocket[~pocket["diverged"]], rng, 1).assign(group="pocket")
    x = encoded(table, transfer=False, exponents=ONE).encoding.rows()
    mean = x @ np.linalg.lstsq(x, np.log(table["final_loss"].to_numpy()), rcond=1e-6)[0]
    mean += np.where(table["optimizer"] == "muon", -0.03, 0.0)
    mean += 0.01 * np.log(table["weight_decay"] / 0.1) ** 2
    return table.assign(final_loss=np.exp(mean + 0.004 * rng.standard_normal(len(table))))


@pytest.fixture(scope="module")
def law(pocket, seed):
    """One fit: an optimizer that is better, a weight decay with an optimum, an idle beta."""
    table = simulated(pocket, np.random.default_rng(seed))
    found = OptLaw(covariates=["weight_decay", "beta2", "optimizer"], transfer=False,
                   exponents=ONE)  # fmt: skip
    return found.fit(table, **QUICK)


@pytest.fixture
def candidates(law):
    row = law.fitted.encoding.finished.iloc[[0] * 4].drop(columns=["final_loss", "diverged"])
    return row.assign(
        run_id=["muon", "adam", "lion", "adam high"], optimizer=["muon", "adam", "lion", "adam"],
        weight_decay=[0.1, 0.1, 0.1, 0.01], beta2=0.99,
    ).set_axis(["muon", "adam", "lion", "adam high"])  # fmt: skip


def test_known_effects_are_found_and_none_where_there_is_none(law, candidates):
    draws = np.log(law.predict_draws(candidates, "mean", finished=True).to_numpy())
    effect = draws[:, [0, 2, 3]] - draws[:, [1]]
    truth = np.array([-0.03, 0.0, 0.01 * np.log(0.1) ** 2])
    z = (effect.mean(axis=0) - truth) / effect.std(axis=0)
    assert np.abs(z).max() < 4.0 and effect.std(axis=0).max() < 0.004
    idle = candidates.iloc[1:3].assign(optimizer="adam", beta2=[0.95, 0.999])
    other = np.log(law.predict_draws(idle, "mean", finished=True).to_numpy())
    gap = other[:, 0] - other[:, 1]
    assert abs(gap.mean()) < 0.003 and gap.std() < 0.004


def test_ranking_search_and_explanation_see_the_covariates(law, candidates):
    ranking = law.rank(candidates)
    assert ranking.table.index[0] == "muon" and ranking.table.index[-1] == "adam high"
    assert ranking.table["p_best"].iloc[0] > 0.99
    assert ranking.better.setting["optimizer"].iloc[0] == "muon"
    told = law.explain(candidates.iloc[[0, 1]])
    assert told.table.loc["covariates", "mean"] == pytest.approx(-0.03, abs=0.006)
    assert told.draws[list(told.draws)].sum(axis=1).mean() == pytest.approx(
        told.table.loc["total", "mean"]
    )


def test_a_suggestion_is_for_the_settings_that_are_named(law):
    runs = law.runs
    at = (float(runs["n_params"].max()), float(runs["tokens"].max()), 1024.0)
    with pytest.raises(CovariateError, match=r"covariates=\{\.\.\.\} with .*optimizer \(one of"):
        law.suggest(*at, covariates={"weight_decay": 0.1, "beta2": 0.99})
    with pytest.raises(CovariateError, match="'momentum' is no covariate of the law"):
        law.suggest(*at, covariates={"momentum": 0.9})
    given = {"weight_decay": 0.1, "beta2": 0.99}
    muon, adam = (
        law.suggest(*at, covariates=given | {"optimizer": name}, max_draws=200)
        for name in ("muon", "adam")
    )
    assert muon.loss_mean < 0.98 * adam.loss_mean
    assert muon.candidate["optimizer"].iloc[0] == "muon"
    law.predict(muon.candidate)


def test_plans_propose_runs_of_the_settings_to_be_decided(law, candidates):
    plan = law.design(decide=candidates.iloc[[1, 2]], n_runs=1, fill=True, max_draws=100)
    assert set(plan.table["optimizer"]) <= {"adam", "lion"}
    assert {n.rsplit("-", 1)[1] for n in plan.scores.index} == {"adam", "lion"}


def test_risk_has_a_column_for_every_number_and_level(law, candidates):
    scale = law.fitted.encoding.divergence.scale
    assert scale.names[-5:] == ("weight_decay", "beta2", "optimizer[adam]", "optimizer[lion]",
                                "optimizer[muon]")  # fmt: skip
    far = candidates.iloc[[0]].assign(weight_decay=1e3)
    np.testing.assert_allclose(
        scale.inputs(far).columns, scale.inputs(far.assign(weight_decay=0.3)).columns
    )
    assert law.predict(candidates)["p_diverge"].notna().all()


def test_a_saved_law_predicts_the_same(law, candidates, tmp_path):
    back = OptLaw.load(law.save(tmp_path / "law.nc"))
    assert back.covariates == ["weight_decay", "beta2", "optimizer"]
    pd.testing.assert_frame_equal(law.predict(candidates), back.predict(candidates))
    pd.testing.assert_frame_equal(law.summary(), back.summary())
    effects = law.posterior["posterior_discrepancy"]["effect"]
    assert "optimizer[muon]" in effects["effect_column"].to_numpy()


def test_candidates_that_do_not_say_it_or_say_what_no_run_had_are_refused(law, candidates):
    with pytest.raises(CovariateError, match=r"no column optimizer: .*one of adam, lion, muon"):
        law.predict(candidates.drop(columns="optimizer"))
    odd = candidates.assign(optimizer=["muon", "sgd", "", "adam"], weight_decay=[0.1, -1, 0.1, 0.1])
    with pytest.raises(RunTableError) as caught:
        law.rank(odd)
    found = caught.value.problems
    assert list(zip(found["row"], found["column"], strict=True)) == [
        ("adam", "weight_decay"), ("adam", "optimizer"), ("lion", "optimizer"),
    ]  # fmt: skip
    assert found["rule"].iloc[1] == "no fitted run had it; they had adam, lion, muon"


def test_numbers_beyond_the_runs_are_named(law, candidates):
    notes = law.predict(candidates.assign(weight_decay=3.0)).attrs["notes"]
    assert "weight_decay 3 lies above all runs (0.01 to 0.3)." in notes


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"covariates": "weight_decay"}, TypeError, "must be a list of column names"),
        ({"covariates": ["peak_lr"]}, ValueError, "'peak_lr' is a column that the law reads"),
        ({"covariates": ["group"]}, ValueError, "pass groups='pooled'"),
        ({"covariates": ["a", "a"]}, ValueError, "named twice"),
        ({"covariates": [3]}, TypeError, "3 is no name of a column"),
        ({"covariates": {"a": "cubic"}}, ValueError, "must be one of"),
        ({"groups": "all"}, ValueError, "groups must be None or 'pooled', got 'all'"),
    ],
)
def test_a_wrong_option_is_refused_at_once(options, error, words):
    with pytest.raises(error, match=words):
        OptLaw(**options)


def test_what_a_table_cannot_teach_is_refused(pocket, rng):
    table = with_settings(pocket, rng).assign(group="pocket")
    with pytest.raises(CovariateError, match="no column momentum, named in covariates"):
        OptLaw(covariates=["momentum"]).encode(table)
    with pytest.raises(CovariateError, match="'optimizer' has one value in all runs"):
        OptLaw(covariates=["optimizer"]).encode(table.assign(optimizer="adam"))
    blank = table.assign(optimizer=table["optimizer"].where(table.index != 4))
    with pytest.raises(RunTableError, match="optimizer"):
        OptLaw(covariates=["optimizer"]).encode(blank)
    with pytest.raises(RunTableError, match="must be a positive number"):
        OptLaw(covariates={"weight_decay": "log"}).encode(table.assign(weight_decay=0.0))


def test_groups_are_mixed_only_where_they_are_pooled(pocket, rng):
    table = with_settings(pocket, rng)
    table.attrs = {}
    with pytest.raises(RunTableError, match="mixed groups.*fit all with"):
        OptLaw().encode(table)
    pooled = OptLaw(groups="pooled").encode(table)
    assert pooled.covariates.names == ("group",)
    with pytest.raises(CovariateError, match="losses of different groups are not comparable"):
        pooled.covariates.require_one_group(table)
    alone = OptLaw(groups="pooled").encode(table[table["group"] == "web"])
    assert not alone.covariates


def test_a_group_with_few_runs_has_the_slopes_of_the_other(pocket, seed):
    """Six runs of a group at one scale: its loss at another is known from the other group."""
    rng = np.random.default_rng(seed)
    table = pocket[~pocket["diverged"]]
    x = encoded(table, transfer=False, exponents=ONE).encoding.rows()
    mean = x @ np.linalg.lstsq(x, np.log(table["final_loss"].to_numpy()), rcond=1e-6)[0]
    loss = np.exp(mean + 0.003 * rng.standard_normal(len(table)))
    other = np.exp(mean + 0.2 + 0.003 * rng.standard_normal(len(table)))
    small = table["n_params"].to_numpy() == table["n_params"].min()
    few = rng.choice(np.flatnonzero(small), 6, replace=False)
    train = pd.concat(
        [
            table.assign(group="old", final_loss=loss),
            table.iloc[few].assign(group="new", final_loss=other[few],
                                   run_id=[f"new{i}" for i in range(6)]),
        ],
        ignore_index=True,
    )  # fmt: skip
    law = OptLaw(groups="pooled", transfer=False, exponents=ONE, divergence=False)
    law.fit(train, **QUICK)
    far = table[table["n_params"] == table["n_params"].max()].iloc[::8].assign(group="new")
    draws = np.log(law.predict_draws(far, "mean").to_numpy())
    truth = mean[(table["n_params"] == table["n_params"].max()).to_numpy()][::8] + 0.2
    z = (draws.mean(axis=0) - truth) / draws.std(axis=0)
    assert np.sqrt(np.mean(z**2)) < 2.5
    assert np.abs(draws.mean(axis=0) - truth).max() < 0.05  # its level differs by 0.2
    sd_old = np.log(law.predict_draws(far.assign(group="old"), "mean").to_numpy()).std(axis=0)
    assert (draws.std(axis=0) > 2 * sd_old).all()


def test_coordinates_tell_levels_two_apart():
    runs = pd.DataFrame({"optimizer": ["adam", "muon", "lion", "lion"]})
    z = Covariates.fit(runs, {"optimizer": "auto"}).coordinates(runs)
    distance = np.linalg.norm(z[:, None] - z[None], axis=2)
    np.testing.assert_allclose(distance[~np.eye(4, dtype=bool)].max(), 2.0)
    assert distance[2, 3] == 0.0


def test_the_command_line_takes_them_and_says_what_a_candidate_lacks(law, candidates, tmp_path,
                                                                     capsys):  # fmt: skip
    call = ["fit", "runs.csv", "-o", "law.nc", "--covariates", "weight_decay", "beta2=log(1-x)",
            "--groups", "pooled"]  # fmt: skip
    assert law_options(parser().parse_args(call)) == {
        "transfer": True, "exponents": None, "groups": "pooled",
        "covariates": {"weight_decay": "auto", "beta2": "log(1-x)"},
    }  # fmt: skip
    assert law_options(parser().parse_args(call[:4]))["covariates"] is None
    file, good, bad = str(law.save(tmp_path / "law.nc")), tmp_path / "a.csv", tmp_path / "b.csv"
    candidates.to_csv(good, index=False)
    candidates.drop(columns="beta2").to_csv(bad, index=False)
    assert main(["rank", file, str(good), "--no-search"]) == 0
    assert "muon" in capsys.readouterr().out
    assert main(["predict", file, str(bad)]) == 1
    assert "no column beta2" in capsys.readouterr().err


@pytest.mark.slow
def test_the_pymc_model_has_the_same_density(pocket, rng):
    law = encoded(with_settings(pocket, rng, 5), **OPTIONS)
    space, x = near_mode(law)
    model = build_model(law.encoding.data, law.priors)
    assert [v.name.removesuffix("_log__") for v in model.value_vars] == [n for n, *_ in space.parts]
    at, start = {}, 0
    for name, first in model.initial_point().items():
        at[name] = x[start : start + first.size].reshape(first.shape)
        start += first.size
    constant = np.sum(np.log(space.sd) + 0.5 * np.log(2 * np.pi))
    value = model.compile_logp()(at) + constant
    np.testing.assert_allclose(value, space.log_density(x)[0], rtol=1e-9, atol=1e-7)
