"""The divergence posterior against quadrature, importance sampling and simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from scipy.special import expit
from scipy.stats import multivariate_t, norm

from bayes_optlaws.evaluation.manifest import MANIFEST, DamagedResultWarning, FolderError
from bayes_optlaws.inference import divergence_sampling
from bayes_optlaws.inference.divergence_sampling import sample_divergence
from bayes_optlaws.inference.gate import METHODS, MIN_ESS, diagnose, failures
from bayes_optlaws.inference.importance import Weighted
from bayes_optlaws.kernels.divergence import laplace, log_density
from bayes_optlaws.model import divergence as dv
from bayes_optlaws.model.divergence_data import MAX_ROWS
from bayes_optlaws.runs.readers import RunTableError, read_runs
from studies import divergence_sbc, sbc

PRIORS = dv.DivergencePriors()


def table_of(n, rng, *, lr=(1e-3, 3e-2)):
    """Runs with independent log-uniform settings; no outcome yet."""
    batch = np.exp(rng.uniform(np.log(2e5), np.log(2e6), n))
    steps = np.exp(rng.uniform(np.log(3e3), np.log(5e4), n))
    return pd.DataFrame(
        {
            "n_params": np.exp(rng.uniform(np.log(1e8), np.log(1e9), n)),
            "tokens": steps * batch,
            "batch_tokens": batch,
            "steps": steps,
            "peak_lr": np.exp(rng.uniform(*np.log(lr), n)),
            "warmup_steps": np.exp(rng.uniform(np.log(100), np.log(2000), n)),
            "diverged": False,
        }
    )


def sample(data, *, seed=1, draws=500, chains=4, priors=PRIORS, method="nuts"):
    """Draws of the divergence part, and what of the gate they fail."""
    values, stats = sample_divergence(
        data, priors, draws=draws, tune=500, chains=chains, random_seed=seed, method=method
    )
    z = values["divergence_z"].reshape(chains, draws, -1)
    return values, failures(diagnose({"z": z}, stats))


def unconstrained(values, data, priors=PRIORS):
    """Draws before softplus, shape (n, 6 + n_columns)."""
    mean, sd = priors.moments(len(data.scale.names))
    return mean + sd * (values["divergence_z"] @ dv.starting_point(data, priors)[0].T)


def log_likelihood(theta, data):
    """Log likelihood of unconstrained parameters through the public criterion, shape (n,)."""
    mean, sd = PRIORS.moments(len(data.scale.names))
    values = dv.parameters((theta - mean) / sd, data, PRIORS, np.eye(mean.size))
    rows, origin = data.rows, data.scale.origin
    inputs = dv.DivergenceInputs(
        rows[:, 0] + origin[0],
        rows[:, 1] + origin[1],
        rows[:, 1] + origin[1] - rows[:, 2] - origin[2],
        rows[:, 3],
        rows[:, 4:],
    )
    logit = dv.divergence_logit(values, inputs)
    return logit @ data.events - np.logaddexp(0.0, logit) @ data.runs


def simulated(table, theta, rng):
    """The table with outcomes drawn at unconstrained parameters."""
    data = dv.DivergenceData.from_runs(table)
    mean, sd = PRIORS.moments(len(data.scale.names))
    values = dv.parameters((theta - mean) / sd, data, PRIORS, np.eye(mean.size))
    p = dv.divergence_probability(values, data.scale.inputs(table))[0]
    return table.assign(diverged=rng.random(len(table)) < p)


@pytest.fixture(scope="module")
def pocket_data(pocket):
    return dv.DivergenceData.from_runs(pocket)


@pytest.fixture(scope="module")
def pocket_fit(pocket_data):
    return sample(pocket_data)


BY_METHOD = pytest.mark.parametrize("method", METHODS)


# the criterion


def test_log_r_follows_its_formula(rng):
    table = table_of(20, rng)
    scale = dv.DivergenceScale.fit(table)
    kappa, gamma, c1, c2, c3 = 0.02, 0.8, 0.3, 0.4, 0.6
    n, s = table["n_params"] / 1e9, table["tokens"] / 1e9
    a = table["warmup_steps"] * table["batch_tokens"] / 1e9
    rho = table["peak_lr"] / table["peak_lr"].max() / (c1 * s**c2 / n**c3)
    expected = kappa * (s / a) ** gamma * (np.sqrt(1 + rho**2) - 1) ** 2
    p = {"kappa": kappa, "gamma": gamma, "c1": c1, "c2": c2, "c3": c3}
    np.testing.assert_allclose(np.exp(dv.log_r(scale.inputs(table), p)), expected, rtol=1e-10)


def test_no_warmup_counts_as_one_step(rng):
    table = table_of(3, rng)
    scale = dv.DivergenceScale.fit(table)
    none, one = (scale.inputs(table.assign(warmup_steps=w)) for w in (0.0, 1.0))
    np.testing.assert_array_equal(none.columns, one.columns)
    np.testing.assert_array_equal(none.log_warmup, one.log_warmup)


# the data


def test_equal_runs_are_counted(pocket, pocket_data):
    twice = pd.concat([pocket, pocket.assign(diverged=False)], ignore_index=True)
    data = dv.DivergenceData.from_runs(twice)
    assert len(data.rows) == len(pocket_data.rows) == 260
    assert (data.n_runs, data.n_diverged) == (520, 28)
    np.testing.assert_array_equal(data.runs, 2.0)


@pytest.mark.slow
def test_merged_cells_have_nearly_the_mode_of_the_runs(rng):
    table = table_of(30_000, rng)
    mean, sd = PRIORS.moments(len(dv.DivergenceScale.fit(table).names))
    table = simulated(table, mean[None], rng)
    full = dv.DivergenceData.from_runs(table, max_rows=len(table))
    few = dv.DivergenceData.from_runs(table)
    assert len(few.rows) == MAX_ROWS < len(full.rows)
    assert (few.n_runs, few.n_diverged) == (full.n_runs, full.n_diverged)
    modes = [np.matmul(*dv.starting_point(data, PRIORS)[:2]) for data in (full, few)]
    gap = modes[1] - modes[0]
    layout = (mean, sd, np.eye(mean.size), full.rows, full.runs, full.events)
    step = 1e-4 * np.eye(mean.size)
    change = [
        log_density(modes[0] + h, *layout)[1] - log_density(modes[0] - h, *layout)[1] for h in step
    ]
    precision = -np.array(change) / 2e-4
    assert np.sqrt(gap @ precision @ gap / gap.size) < 0.05  # posterior sds


@pytest.mark.parametrize(
    "bad", [{"correction_sd": 0.0}, {"edge": (1.0, -1.0)}, {"level": (np.nan, 1.0)}]
)
def test_priors_that_are_no_distribution_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        dv.DivergencePriors(**bad)


# the density


def test_counts_have_the_likelihood_of_independent_runs(pocket, rng):
    table = pd.concat([pocket, pocket.iloc[:80].assign(diverged=True)], ignore_index=True)
    data = dv.DivergenceData.from_runs(table)
    mean, sd = PRIORS.moments(len(data.scale.names))
    theta = mean + 0.3 * sd * rng.standard_normal((5, mean.size))
    values = dv.parameters((theta - mean) / sd, data, PRIORS, np.eye(mean.size))
    p = dv.divergence_probability(values, data.scale.inputs(table))
    runs = np.where(table["diverged"], p, 1.0 - p)
    np.testing.assert_allclose(log_likelihood(theta, data), np.log(runs).sum(axis=1), rtol=1e-6)


def test_pymc_model_has_the_density_of_the_criterion_and_normal_priors(pocket_data, rng):
    mean, sd = PRIORS.moments(len(pocket_data.scale.names))
    rotation = np.linalg.qr(rng.standard_normal((mean.size, mean.size)))[0]
    with pm.Model() as model:
        dv.add_divergence(pocket_data, PRIORS, rotation=rotation)
    logp = model.compile_logp()
    z = rng.standard_normal((6, mean.size)) * np.repeat([0.1, 0.3, 1.0], 2)[:, None]
    here = np.array([float(logp({"divergence_z": v})) for v in z])
    there = log_likelihood(mean + sd * (z @ rotation.T), pocket_data) - 0.5 * np.sum(z**2, axis=1)
    # up to a constant
    np.testing.assert_allclose(here - here[0], there - there[0], rtol=1e-8, atol=1e-8)


def test_sampled_density_is_that_of_the_criterion_with_its_gradient(pocket_data, rng):
    mean, sd = PRIORS.moments(len(pocket_data.scale.names))
    rotation = np.linalg.qr(rng.standard_normal((mean.size, mean.size)))[0]
    table = (pocket_data.rows, pocket_data.runs, pocket_data.events)

    def density(z):
        return log_density(z, mean, sd, rotation, *table)

    for spread in (0.1, 0.3, 1.0, 1.0, 1.0):
        z = spread * rng.standard_normal(mean.size)
        value, gradient = density(z)
        theta = mean + sd * (rotation @ z)
        expected = log_likelihood(theta[None], pocket_data)[0] - 0.5 * z @ z
        assert value == pytest.approx(expected, rel=1e-9)
        step = 1e-5 * np.eye(mean.size)
        numeric = [(density(z + h)[0] - density(z - h)[0]) / 2e-5 for h in step]
        size = np.abs(numeric).max()
        np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-6 * size)
    for _ in range(20):  # far out nothing overflows
        value, gradient = density(8.0 * rng.standard_normal(mean.size))
        assert np.isfinite(value) and np.isfinite(gradient).all()


def test_laplace_variates_have_their_quantiles_and_derivative():
    z = np.concatenate([np.linspace(-8, 8, 33), [-30.0, -20.5, -19.5, 19.5, 20.5, 30.0]])
    value, slope = np.array([laplace(x) for x in z]).T
    # log of the tail by an independent library; a Laplace tail is exp(-x) / 2
    np.testing.assert_allclose(value, -np.sign(z) * (np.log(2) + norm.logsf(np.abs(z))), rtol=1e-5)
    numeric = [(laplace(x + 1e-5)[0] - laplace(x - 1e-5)[0]) / 2e-5 for x in z]
    np.testing.assert_allclose(slope, numeric, rtol=1e-4)


# the posterior


@BY_METHOD
def test_posterior_equals_importance_sampling(pocket_data, pocket_fit, method):
    """All eight parameters: draws from a wide t around the mode, weighted to the posterior."""
    values, failed = pocket_fit if method == "nuts" else sample(pocket_data, method=method)
    assert failed == []
    draws = unconstrained(values, pocket_data)
    centre, spread = draws.mean(axis=0), np.cov(draws.T)  # of the proposal; any would do
    proposal = multivariate_t(centre, 1.5 * spread, df=6, seed=3)
    theta = proposal.rvs(40_000)
    mean, sd = PRIORS.moments(len(pocket_data.scale.names))
    log_weight = log_likelihood(theta, pocket_data) - proposal.logpdf(theta)
    log_weight -= 0.5 * np.sum(((theta - mean) / sd) ** 2, axis=1)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    assert 1.0 / np.sum(weight**2) > 1000  # effective draws
    m = weight @ theta
    s = np.sqrt(weight @ (theta - m) ** 2)
    error = s * np.sqrt(1.0 / MIN_ESS + np.sum(weight**2))  # an sd's is smaller
    assert np.all(np.abs(draws.mean(axis=0) - m) < 4 * error)
    assert np.all(np.abs(draws.std(axis=0) - s) < 4 * error)


@BY_METHOD
def test_posterior_equals_quadrature_when_two_parameters_are_free(rng, method):
    """All priors but level and steepness nailed down; a grid gives means and sds."""
    table = table_of(60, rng)
    table["diverged"] = table["peak_lr"] * np.exp(rng.normal(0, 0.4, 60)) > 1.2e-2
    data = dv.DivergenceData.from_runs(table)
    tight = 1e-4
    priors = dv.DivergencePriors(
        edge=(1.0, tight),
        tokens=(0.2, tight),
        size=(0.25, tight),
        exposure=(2.0, tight),
        correction_sd=tight,
    )
    values, failed = sample(data, priors=priors, method=method)
    assert failed == []
    mean, sd = priors.moments(len(data.scale.names))
    draws = unconstrained(values, data, priors)

    level = np.linspace(*(mean[0] + np.array([-4.5, 4.5]) * sd[0]), 121)
    steep = np.linspace(-4, 22, 121)
    theta = np.tile(mean, (level.size, steep.size, 1))
    theta[..., 0], theta[..., 1] = level[:, None], steep[None, :]
    z = (theta[..., :2] - mean[:2]) / sd[:2]
    log_density = log_likelihood(theta.reshape(-1, mean.size), data).reshape(theta.shape[:2])
    log_density -= 0.5 * np.sum(z**2, axis=-1)
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    for k, (grid, marginal) in enumerate(((level, weight.sum(1)), (steep, weight.sum(0)))):
        m = grid @ marginal
        s = np.sqrt((grid - m) ** 2 @ marginal)
        error = s / np.sqrt(MIN_ESS)  # the sd's is smaller
        assert abs(draws[:, k].mean() - m) < 4 * error
        assert abs(draws[:, k].std() - s) < 4 * error


def test_rotation_does_not_change_the_posterior(pocket_data, pocket_fit, monkeypatch):
    rotation, start, _ = dv.starting_point(pocket_data, PRIORS)
    plain = np.eye(start.size), rotation @ start, np.ones(start.size)
    monkeypatch.setattr(
        "bayes_optlaws.inference.divergence_sampling.starting_point", lambda data, priors: plain
    )
    other, failed = sample(pocket_data, seed=5)
    assert failed == []
    for name in ("divergence_slope", "divergence_correction"):
        a, b = pocket_fit[0][name], other[name]
        error = np.sqrt((a.var(axis=0) + b.var(axis=0)) / MIN_ESS)
        assert np.all(np.abs(a.mean(axis=0) - b.mean(axis=0)) < 4 * error), name


# recovery and calibration


@pytest.mark.slow
def test_simulated_parameters_are_recovered(rng):
    table = table_of(1500, rng)
    mean, sd = PRIORS.moments(len(dv.DivergenceScale.fit(table).names))
    theta = mean + np.concatenate(
        [0.5 * sd[:6] * rng.standard_normal(6), rng.normal(0, 1, mean.size - 6)]
    )
    data = dv.DivergenceData.from_runs(simulated(table, theta[None], rng))
    values, failed = sample(data)
    assert failed == []
    draws = unconstrained(values, data)
    score = np.abs(theta - draws.mean(axis=0)) / draws.std(axis=0)
    assert score.max() < 3.5
    # and the data did teach: level and steepness are known to half their prior sd or better
    assert np.all(draws.std(axis=0)[:2] < 0.5 * sd[:2])


def test_a_replication_can_be_repeated_and_a_study_resumed(pocket, tmp_path):
    options = {"draws": 100, "tune": 100, "chains": 2}
    few = pocket.iloc[::4]
    first = divergence_sbc.study(few, 2, tmp_path, **options)
    second = tmp_path / "replication-00001.json"
    second.write_text(second.read_text()[:99])
    with pytest.warns(DamagedResultWarning, match=second.name):
        pd.testing.assert_frame_equal(divergence_sbc.study(few, 2, tmp_path, **options), first)
    with pytest.raises(FolderError, match="random_seed was 0, now 1"):
        divergence_sbc.study(few, 2, tmp_path, random_seed=1, **options)
    with pytest.raises(FolderError, match='runs was "table'):
        divergence_sbc.study(pocket.iloc[::5], 2, tmp_path, **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        MANIFEST,
        "replication-00000.json",
        "replication-00001.json",
    ]
    size = len(divergence_sbc.R_NAMES) + 2 + 4 + 1
    assert len(first) == 2 * size
    assert first["rank"].between(0, first["n_ranks"]).all()
    assert len(sbc.calibration(first)) == size


def test_ranked_quantities_are_those_of_the_public_criterion(pocket, pocket_data, pocket_fit):
    targets = divergence_sbc.default_targets(pocket)
    values = {name: value[:50] for name, value in pocket_fit[0].items()}
    out = divergence_sbc.quantities(values, pocket_data, pocket, targets)
    p = dv.divergence_probability(values, pocket_data.scale.inputs(targets))
    for i, name in enumerate(targets["run_id"]):
        np.testing.assert_allclose(expit(out[f"logit:{name}"]), p[:, i])
    theta = unconstrained(pocket_fit[0], pocket_data)[:50]
    np.testing.assert_allclose(
        out["likelihood:log_likelihood"], log_likelihood(theta, pocket_data), rtol=1e-8
    )


@pytest.mark.slow
def test_ranks_of_prior_draws_are_uniform(pocket, tmp_path):
    results = divergence_sbc.study(pocket, 40, tmp_path)
    table = sbc.calibration(results, band=0.999)
    assert table["inside_band"].all()
    assert (np.abs(table["coverage"] - 0.9) < 4 / 3 * table["three_se"]).all()
    assert results.drop_duplicates("replication")["converged"].mean() > 0.95


# the edges of what a table can say


def probabilities(data, values, table):
    return dv.divergence_probability(values, data.scale.inputs(table))


@BY_METHOD
def test_no_divergent_run_gives_small_and_uncertain_probabilities(pocket, method):
    calm = pocket[pocket["peak_lr"] < 0.03].assign(diverged=False)
    data = dv.DivergenceData.from_runs(calm)
    assert f"none of the {len(calm)} runs diverged" in data.message
    values, failed = sample(data, method=method)
    assert failed == []
    assert probabilities(data, values, calm).mean() < 0.02
    beyond = probabilities(data, values, calm.assign(peak_lr=10 * calm["peak_lr"].max()))
    lower, upper = np.quantile(beyond, [0.05, 0.95], axis=0)
    assert np.all(upper - lower > 0.5)  # far above what was seen nothing is known


def test_a_law_without_divergent_runs_says_what_its_risk_rests_on(pocket):
    calm = pocket[pocket["peak_lr"] < 0.03].assign(diverged=False)
    encoding = sbc.prepare(calm, transfer=False).encoding
    assert encoding.divergence.message == dv.DivergenceData.from_runs(calm).message
    assert sbc.prepare(pocket, transfer=False).encoding.divergence.message is None


def test_a_table_of_divergent_runs_alone_is_refused_with_a_remedy(pocket):
    with pytest.raises(RunTableError, match="runs must not have diverged.*add runs"):
        read_runs(pocket.assign(diverged=True))


@BY_METHOD
def test_all_divergent_gives_large_and_uncertain_probabilities(pocket, method):
    wild = pocket[pocket["peak_lr"] > 0.1].assign(diverged=True)
    data = dv.DivergenceData.from_runs(wild)
    assert f"all {len(wild)} runs diverged" in data.message
    values, failed = sample(data, method=method)
    assert failed == []
    assert probabilities(data, values, wild).mean() > 0.9
    below = probabilities(data, values, wild.assign(peak_lr=0.1 * wild["peak_lr"].min()))
    assert np.quantile(below, 0.95) - np.quantile(below, 0.05) > 0.5


@BY_METHOD
def test_complete_separation_is_not_certainty(rng, method):
    table = table_of(80, rng)
    table["diverged"] = table["peak_lr"] > 1e-2
    data = dv.DivergenceData.from_runs(table)
    assert data.message is None
    values, failed = sample(data, method=method)
    assert failed == []
    at = probabilities(data, values, table.iloc[:20].assign(peak_lr=1e-2)).mean(axis=0)
    assert np.all((at > 0.02) & (at < 0.98))
    inside = probabilities(data, values, table).mean(axis=0)
    assert np.all((inside > 0.5) == table["diverged"])


def test_draws_that_fail_the_gate_of_importance_sampling_give_way_to_nuts(
    pocket_data, pocket_fit, monkeypatch
):
    poor = Weighted(np.zeros((500, 8)), np.full(500, 1 / 500), 0.9, 500)
    monkeypatch.setattr(divergence_sampling, "importance_draws", lambda *args, **options: poor)
    with pytest.warns(UserWarning, match=r"did not pass its gate \(Pareto k 0.90 > 0.7\); NUTS"):
        values, failed = sample(pocket_data, method="importance")
    assert failed == []
    np.testing.assert_array_equal(values["divergence_z"], pocket_fit[0]["divergence_z"])
