"""The divergence part against closed forms, quadrature, another parametrisation and simulation."""

import nutpie
import numpy as np
import pandas as pd
import pymc as pm
import pytest
from scipy.special import expit
from threadpoolctl import threadpool_limits

from bayes_optlaws import divergence as dv
from bayes_optlaws.datasets import load
from bayes_optlaws.runs import read_runs
from bayes_optlaws.sampling import diagnose, failures

PRIORS = dv.DivergencePriors()


def table_of(n, rng, *, lr=(1e-3, 3e-2)):
    """Runs with independent log-uniform settings; no outcome yet."""
    batch = np.exp(rng.uniform(np.log(2e5), np.log(2e6), n))
    steps = np.exp(rng.uniform(np.log(3e3), np.log(5e4), n))
    return pd.DataFrame({
        "n_params": np.exp(rng.uniform(np.log(1e8), np.log(1e9), n)),
        "tokens": steps * batch,
        "batch_tokens": batch,
        "steps": steps,
        "peak_lr": np.exp(rng.uniform(*np.log(lr), n)),
        "warmup_steps": np.exp(rng.uniform(np.log(100), np.log(2000), n)),
        "diverged": False,
    })  # fmt: skip


_compiled = {}


def sample(data, *, seed=1, tune=500, draws=1000, chains=4, rotation=None, priors=PRIORS):
    """Draws of the divergence part alone, by the sampler that the package uses."""
    found, start = dv.starting_point(data, priors)
    if rotation is not None:
        found, start = rotation, rotation.T @ (found @ start)
    key = (data.scale.names, priors)
    if key not in _compiled:
        with pm.Model() as model:
            dv.add_divergence(data, priors, rotation=found)
        _compiled[key] = nutpie.compile_pymc_model(model)
    with threadpool_limits(1):
        tree = nutpie.sample(
            _compiled[key].with_data(**dv.data_inputs(data, found)), draws=draws, tune=tune,
            chains=chains, cores=2, seed=seed, init_mean=start, progress_bar=False,
            save_warmup=False,
        )  # fmt: skip
    posterior = tree["posterior"].to_dataset()
    figures = diagnose(
        {k: posterior[k].to_numpy() for k in posterior}, tree["sample_stats"].to_dataset()
    )
    return posterior, figures, found


def flat(posterior):
    return {k: v.to_numpy().reshape(-1, *v.shape[2:]) for k, v in posterior.items()}


@pytest.fixture(scope="module")
def pocket_data():
    return dv.DivergenceData.from_runs(read_runs(load("pocket")))


@pytest.fixture(scope="module")
def pocket_fit(pocket_data):
    return sample(pocket_data)


# the criterion


def test_log_r_follows_its_formula():
    rng = np.random.default_rng(0)
    table = table_of(20, rng)
    table["diverged"] = rng.random(20) < 0.5
    scale = dv.DivergenceScale.fit(table)
    kappa, gamma, c1, c2, c3 = 0.02, 0.8, 0.3, 0.4, 0.6
    n, s = table["n_params"] / 1e9, table["tokens"] / 1e9
    a = table["warmup_steps"] * table["batch_tokens"] / 1e9
    rho = table["peak_lr"] / table["peak_lr"].max() / (c1 * s**c2 / n**c3)
    expected = kappa * (s / a) ** gamma * (np.sqrt(1 + rho**2) - 1) ** 2
    p = {"kappa": kappa, "gamma": gamma, "c1": c1, "c2": c2, "c3": c3}
    np.testing.assert_allclose(np.exp(dv.log_r(scale.inputs(table), p)), expected, rtol=1e-10)


def test_excess_is_the_papers_far_above_and_a_power_far_below():
    rho = np.array([1e4, 1e6])
    np.testing.assert_allclose(np.exp(dv.log_excess(np.log(rho))), rho - 1, rtol=1e-4)
    rho = np.array([1e-3, 1e-5])
    np.testing.assert_allclose(dv.log_excess(np.log(rho)), np.log(rho**2 / 2), atol=1e-5)
    assert np.all(np.isfinite(dv.log_excess([-700.0, -300.0, 300.0, 700.0])))


def test_no_warmup_counts_as_one_step():
    table = table_of(3, np.random.default_rng(0))
    scale = dv.DivergenceScale.fit(table)
    none, one = table.assign(warmup_steps=0.0), table.assign(warmup_steps=1.0)
    np.testing.assert_array_equal(scale.inputs(none).columns, scale.inputs(one).columns)
    np.testing.assert_array_equal(scale.inputs(none).log_warmup, scale.inputs(one).log_warmup)


# the data


def test_equal_runs_are_counted(pocket_data):
    runs = read_runs(load("pocket"))
    twice = pd.concat([runs, runs.assign(diverged=False)], ignore_index=True)
    data = dv.DivergenceData.from_runs(twice)
    assert len(data.rows) == len(pocket_data.rows) == 260
    assert data.n_runs == 520 and data.n_diverged == 28
    np.testing.assert_array_equal(data.runs, 2.0)


def test_merged_cells_have_nearly_the_likelihood_of_the_runs():
    rng = np.random.default_rng(3)
    table = table_of(30_000, rng)
    scale = dv.DivergenceScale.fit(table)
    mean, sd = PRIORS.moments(len(scale.names))
    theta = mean.copy()
    rows = scale.rows(scale.inputs(table))
    table["diverged"] = rng.random(len(table)) < expit(dv._logit_and_jacobian(theta, rows)[0])
    full = dv.DivergenceData.from_runs(table, max_rows=len(table))
    few = dv.DivergenceData.from_runs(table)
    assert len(few.rows) == dv.MAX_ROWS
    assert (few.n_runs, few.n_diverged) == (full.n_runs, full.n_diverged)
    rotation, start = dv.starting_point(full, PRIORS)
    mode = rotation @ start
    other = dv.starting_point(few, PRIORS)
    # the merged mode lies within half a posterior sd of the exact one, in every direction
    information = (lambda j, p: (j * (p * (1 - p) * full.runs)[:, None]).T @ j)(
        *(lambda lj: (lj[1] * sd, expit(lj[0])))(
            dv._logit_and_jacobian(mean + sd * mode, full.rows)
        )
    )
    gap = other[0] @ other[1] - mode
    distance = np.sqrt(gap @ (information + np.eye(gap.size)) @ gap / gap.size)
    assert distance < 0.5


def test_an_empty_table_is_refused():
    with pytest.raises(ValueError, match="at least one row"):
        dv.DivergenceData.from_runs(table_of(3, np.random.default_rng(0)).iloc[:0])


# priors


@pytest.mark.parametrize(
    "bad", [{"correction_sd": 0.0}, {"edge": (1.0, -1.0)}, {"level": (np.nan, 1.0)}]
)
def test_priors_that_are_no_distribution_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        dv.DivergencePriors(**bad)


# the density


def density(data, theta):
    """Log likelihood of the unconstrained parameters, through the public criterion alone."""
    mean, sd = PRIORS.moments(len(data.scale.names))
    p = dv.parameters(((theta - mean) / sd)[None], data, PRIORS, np.eye(mean.size))
    rows, origin = data.rows, data.scale.origin
    inputs = dv.DivergenceInputs(
        rows[:, 0] + origin[0], rows[:, 1] + origin[1],
        rows[:, 1] + origin[1] - rows[:, 2] - origin[2], rows[:, 3], rows[:, 4:],
    )  # fmt: skip
    p = dv.divergence_probability(p, inputs)[0]
    return float(np.sum(data.events * np.log(p) + (data.runs - data.events) * np.log1p(-p)))


def test_model_has_the_density_of_the_criterion_and_normal_priors(pocket_data):
    rng = np.random.default_rng(1)
    size = len(dv.CRITERION) + len(pocket_data.scale.names)
    rotation = np.linalg.qr(rng.standard_normal((size, size)))[0]
    with pm.Model() as model:
        dv.add_divergence(pocket_data, PRIORS, rotation=rotation)
    logp = model.compile_logp()
    mean, sd = PRIORS.moments(len(pocket_data.scale.names))
    z = 0.3 * rng.standard_normal((2, size))
    prior = -0.5 * np.sum(z**2, axis=1)
    other = [density(pocket_data, mean + sd * rotation @ v) for v in z]
    here = [float(logp({"divergence_z": v})) for v in z]
    # up to a constant (binomial coefficients, normalisation)
    assert here[0] - here[1] == pytest.approx(other[0] + prior[0] - other[1] - prior[1], rel=1e-8)


def test_gradient_is_finite_everywhere_and_right(pocket_data):
    rng = np.random.default_rng(2)
    mean, sd = PRIORS.moments(len(pocket_data.scale.names))
    for spread in (1.0, 8.0):
        theta = mean + spread * sd * rng.standard_normal(mean.size)
        logit, jacobian = dv._logit_and_jacobian(theta, pocket_data.rows)
        assert np.isfinite(logit).all() and np.isfinite(jacobian).all()
    theta = mean + sd * rng.standard_normal(mean.size)
    jacobian = dv._logit_and_jacobian(theta, pocket_data.rows)[1]
    for j in range(mean.size):
        step = np.zeros(mean.size)
        step[j] = 1e-6
        up, down = (dv._logit_and_jacobian(theta + s * step, pocket_data.rows)[0] for s in (1, -1))
        np.testing.assert_allclose(jacobian[:, j], (up - down) / 2e-6, rtol=1e-5, atol=1e-6)


# the posterior


def test_pocket_passes_the_gate(pocket_fit):
    assert failures(pocket_fit[1]) == []


def test_deterministics_are_the_numpy_parameters(pocket_data, pocket_fit):
    posterior, _, rotation = pocket_fit
    draws = flat(posterior)
    again = dv.parameters(draws["divergence_z"], pocket_data, PRIORS, rotation)
    for name, value in again.items():
        np.testing.assert_allclose(value, draws[name], rtol=1e-9, err_msg=name)


def test_rotation_does_not_change_the_posterior(pocket_data, pocket_fit):
    other, figures, _ = sample(pocket_data, rotation=np.eye(11), seed=5)
    assert failures(figures) == []
    for name in ("divergence_slope", "divergence_correction"):
        a, b = flat(pocket_fit[0])[name], flat(other)[name]
        error = np.sqrt((a.var(axis=0) + b.var(axis=0)) / 400)  # the gate's least ESS
        assert np.all(np.abs(a.mean(axis=0) - b.mean(axis=0)) < 4 * error), name


def test_posterior_equals_quadrature_when_two_parameters_are_free():
    """All priors but level and steepness nailed down; a grid gives means and sds."""
    rng = np.random.default_rng(4)
    table = table_of(60, rng)
    table["diverged"] = table["peak_lr"] * np.exp(rng.normal(0, 0.4, 60)) > 1.2e-2
    data = dv.DivergenceData.from_runs(table)
    tight = 1e-4
    priors = dv.DivergencePriors(
        edge=(1.0, tight), tokens=(1.5, tight), size=(1.5, tight), exposure=(2.0, tight),
        correction_sd=tight,
    )  # fmt: skip
    posterior, figures, rotation = sample(data, priors=priors)
    assert failures(figures) == []
    mean, sd = priors.moments(len(data.scale.names))
    draws = mean + sd * (flat(posterior)["divergence_z"] @ rotation.T)

    level, steep = np.linspace(-15, 15, 241), np.linspace(-4, 22, 241)
    log_density = np.empty((level.size, steep.size))
    for i, a in enumerate(level):
        for j, g in enumerate(steep):
            theta = mean.copy()
            theta[:2] = a, g
            logit = dv._logit_and_jacobian(theta, data.rows)[0]
            log_density[i, j] = (
                data.events @ logit - data.runs @ np.logaddexp(0, logit)
                - 0.5 * (a / sd[0]) ** 2 - 0.5 * ((g - mean[1]) / sd[1]) ** 2
            )  # fmt: skip
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    for k, (grid, marginal) in enumerate(((level, weight.sum(1)), (steep, weight.sum(0)))):
        m = grid @ marginal
        s = np.sqrt((grid - m) ** 2 @ marginal)
        error = s / np.sqrt(400)  # the gate's least ESS; the sd's error is half as large
        assert abs(draws[:, k].mean() - m) < 4 * error
        assert abs(draws[:, k].std() - s) < 4 * error


def test_simulated_parameters_are_recovered():
    rng = np.random.default_rng(6)
    table = table_of(1500, rng)
    scale = dv.DivergenceScale.fit(table)
    mean, sd = PRIORS.moments(len(scale.names))
    theta = mean + np.concatenate(
        [0.5 * sd[:6] * rng.standard_normal(6), rng.normal(0, 1, mean.size - 6)]
    )
    table["diverged"] = rng.random(1500) < expit(
        dv._logit_and_jacobian(theta, scale.rows(scale.inputs(table)))[0]
    )
    data = dv.DivergenceData.from_runs(table)
    posterior, figures, rotation = sample(data)
    assert failures(figures) == []
    draws = mean + sd * (flat(posterior)["divergence_z"] @ rotation.T)
    score = np.abs(theta - draws.mean(axis=0)) / draws.std(axis=0)
    assert score.max() < 3.5
    # and the data did teach: of the level and the steepness at least nine tenths of the prior sd
    assert np.all(draws.std(axis=0)[:2] < 0.3 * sd[:2])


@pytest.mark.slow
def test_ranks_of_prior_draws_are_uniform():
    """Simulation-based calibration of every parameter and of one probability."""
    rng = np.random.default_rng(7)
    table = table_of(150, rng)
    scale = dv.DivergenceScale.fit(table)
    rows = scale.rows(scale.inputs(table))
    mean, sd = PRIORS.moments(len(scale.names))
    ranks, kept = [], 200
    for i in range(200):
        theta = mean + sd * rng.standard_normal(mean.size)
        logit = dv._logit_and_jacobian(theta, rows)[0]
        data = dv.DivergenceData.from_runs(table.assign(diverged=rng.random(150) < expit(logit)))
        posterior, _, rotation = sample(data, seed=i, tune=300, draws=500)
        draws = mean + sd * (flat(posterior)["divergence_z"] @ rotation.T)
        draws = draws[:: len(draws) // kept][:kept]
        at = [dv._logit_and_jacobian(t, rows[:1])[0][0] for t in draws]
        smaller = np.append(np.sum(draws < theta, axis=0), np.sum(np.array(at) < logit[0]))
        ranks.append(smaller / kept)
    ranks = np.array(ranks)
    # mean and variance of a uniform rank, each within 3.5 standard errors
    assert np.abs(ranks.mean(axis=0) - 0.5).max() < 3.5 * np.sqrt(1 / 12 / 200)
    assert np.abs(ranks.var(axis=0) - 1 / 12).max() < 3.5 * np.sqrt(1 / 180 / 200)


# the edges of what a table can say


def probabilities(data, posterior, table):
    return dv.divergence_probability(flat(posterior), data.scale.inputs(table))


def test_no_divergent_run_gives_small_and_uncertain_probabilities():
    runs = read_runs(load("pocket"))
    calm = runs[runs["peak_lr"] < 0.03].assign(diverged=False)
    data = dv.DivergenceData.from_runs(calm)
    assert "none of the" in data.message
    posterior, figures, _ = sample(data)
    assert failures(figures) == []
    seen = probabilities(data, posterior, calm)
    assert seen.mean() < 0.02
    beyond = probabilities(data, posterior, calm.assign(peak_lr=10 * calm["peak_lr"].max()))
    lower, upper = np.quantile(beyond, [0.05, 0.95], axis=0)
    assert np.all(upper - lower > 0.5)  # far above what was seen nothing is known


def test_all_divergent_gives_large_and_uncertain_probabilities():
    runs = read_runs(load("pocket"))
    wild = runs[runs["peak_lr"] > 0.1].assign(diverged=True)
    data = dv.DivergenceData.from_runs(wild)
    assert "all" in data.message
    posterior, figures, _ = sample(data)
    assert failures(figures) == []
    assert probabilities(data, posterior, wild).mean() > 0.9
    below = probabilities(data, posterior, wild.assign(peak_lr=0.1 * wild["peak_lr"].min()))
    assert np.quantile(below, 0.95) - np.quantile(below, 0.05) > 0.5


def test_complete_separation_is_not_certainty():
    rng = np.random.default_rng(8)
    table = table_of(80, rng)
    table["diverged"] = table["peak_lr"] > 1e-2
    data = dv.DivergenceData.from_runs(table)
    posterior, figures, _ = sample(data)
    assert failures(figures) == []
    assert data.message is None
    at = probabilities(data, posterior, table.iloc[:20].assign(peak_lr=1e-2))
    assert np.all((at.mean(axis=0) > 0.02) & (at.mean(axis=0) < 0.98))
    inside = probabilities(data, posterior, table).mean(axis=0)
    assert np.all((inside > 0.5) == table["diverged"])


def test_a_higher_lr_is_never_safer(pocket_data, pocket_fit):
    table = read_runs(load("pocket")).iloc[:30]
    low, high = (
        probabilities(pocket_data, pocket_fit[0], table.assign(peak_lr=lr)) for lr in (0.01, 0.1)
    )
    assert np.all(high >= low)
