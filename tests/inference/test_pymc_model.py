"""The PyMC model, the NumPy density and the plain models all say the same."""

from dataclasses import replace

import numpy as np
import nutpie
import pymc as pm
import pytest
from arviz_stats.base import array_stats
from laws import encoded, everything
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.nuts import sample
from bayes_optlaws.inference.pymc_model import build_model
from bayes_optlaws.inference.reference import covariance, draw_prior, explicit_model, naive_model
from bayes_optlaws.kernels.hyper import RESOLUTION
from bayes_optlaws.kernels.marginal import SufficientStatistics, Tree
from bayes_optlaws.law import OptLaw
from bayes_optlaws.model.data import ModelData
from bayes_optlaws.model.priors import Priors

SMALL = {"scale": (-0.3, 0.3), "mixed": (0.15,), "escape": (0.3, 0.5), "cross": (0.2,)}


def prepared(pocket, transfer, exponents=SMALL):
    return encoded(pocket, transfer=transfer, exponents=exponents)


@pytest.fixture(scope="module", params=[False, True], ids=["law alone", "transfer"])
def law(request, pocket):
    return prepared(pocket, request.param)


def points(space, rng, n=3):
    return space.mean + 0.7 * space.sd * rng.standard_normal((n, space.size))


def test_log_density_is_the_dense_normal_density_times_the_prior(law, rng):
    """All the way from the run table: 232 runs, noise classes, both kernels."""
    data = law.encoding.data
    space = HyperSpace(data, law.priors)
    rows, y, label = everything(law)
    for x in points(space, rng):
        hyper = space.split(x)
        by_k = [
            multivariate_normal(
                np.zeros(y.size),
                covariance(data, law.priors, hyper, k, rows, label),
                allow_singular=False,
            ).logpdf(y)
            for k in range(data.tree.n_combinations)
        ]
        expected = logsumexp(by_k) - np.log(len(by_k))
        expected -= 0.5 * np.sum(((x - space.mean) / space.sd) ** 2)
        np.testing.assert_allclose(space.log_density(x)[0], expected, rtol=1e-8)


def test_gradient_of_the_log_density_equals_central_differences(law, rng):
    space = HyperSpace(law.encoding.data, law.priors)
    for x in points(space, rng):
        numeric = np.empty(x.size)
        for i in range(x.size):
            e = np.zeros(x.size)
            e[i] = 1e-4
            numeric[i] = (space.log_density(x + e)[0] - space.log_density(x - e)[0]) / 2e-4
        gradient = space.log_density(x)[1]
        # differences of a value of 1e5 lose the small slopes beside the large ones
        np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-7 * np.abs(gradient).max())


def test_pymc_model_has_the_same_density_and_gradient(law, rng):
    space = HyperSpace(law.encoding.data, law.priors)
    model = build_model(law.encoding.data, law.priors)
    names = [v.name.removesuffix("_log__") for v in model.value_vars]
    assert names == [n for n, *_ in space.parts]
    # NumPy leaves out the constants of the normal priors
    constant = np.sum(np.log(space.sd) + 0.5 * np.log(2 * np.pi))
    value, gradient = model.compile_logp(), model.compile_dlogp()
    shapes = model.initial_point()
    for x in points(space, rng):
        start, at = 0, {}
        for v in model.value_vars:
            shape = shapes[v.name].shape
            size = int(np.prod(shape))
            at[v.name] = x[start : start + size].reshape(shape)
            start += size
        expected, slope = space.log_density(x)
        np.testing.assert_allclose(value(at) + constant, expected, rtol=1e-10, atol=1e-7)
        np.testing.assert_allclose(gradient(at), slope, rtol=1e-8, atol=1e-8)


def test_model_is_a_pymc_model_with_named_dimensions(law):
    model = build_model(law.encoding.data, law.priors)
    assert isinstance(model, pm.Model)
    assert list(model.coords["block"]) == ["scale", "convergence", "escape", "mixed"]
    names = {v.name for v in model.free_RVs}
    assert {"noise_sd", "coefficient_sd"} <= names
    assert ("scale_length" in names) == law.encoding.transfer
    if law.encoding.transfer:
        assert list(model.coords["slope"]) == list(law.encoding.data.fields[1:])


def test_mode_has_no_slope(law):
    space = HyperSpace(law.encoding.data, law.priors)
    x = space.mode()
    inside = np.abs(x - space.mean) < 5.9 * space.sd
    value, gradient = space.log_density(x)
    assert np.abs(gradient[inside]).max() < 0.05
    assert value >= space.log_density(space.mean)[0]


def test_restricting_combinations_keeps_their_evidence(law, rng):
    data = law.encoding.data
    active = np.zeros(data.tree.n_combinations, dtype=bool)
    active[[0, 3]] = True
    part = HyperSpace(data.restrict(active), law.priors)
    whole = HyperSpace(data, law.priors)
    rows, y, label = everything(law)
    x = points(whole, rng, 1)[0]
    by_k = [
        multivariate_normal(
            np.zeros(y.size),
            covariance(data, law.priors, whole.split(x), k, rows, label),
        ).logpdf(y)
        for k in np.flatnonzero(active)
    ]
    # each combination keeps a prior weight of one over the size of the box around the active ones
    expected = logsumexp(by_k) - np.log(part.data.tree.n_combinations)
    expected -= 0.5 * np.sum(((x - whole.mean) / whole.sd) ** 2)
    np.testing.assert_allclose(part.log_density(x)[0], expected, rtol=1e-8)


def small_data(transfer, seed=3):
    """A model with one combination that NUTS can sample with every coefficient in the graph."""
    rng = np.random.default_rng(seed)
    n, q = 120, 5
    cells = rng.normal(size=(3, 2))
    label = np.arange(n) % 3 if transfer else np.zeros(n, dtype=int)
    empty = np.zeros((0, 0))
    p = q + (12 if transfer else 0)
    data = ModelData(
        SufficientStatistics(np.zeros((1, p, p)), np.zeros((1, p)), np.zeros(1), np.zeros(1)),
        Tree(np.arange(3), np.array([[[3, 4]]]), np.array([1]), np.array([2])),
        np.array([-1, 0, 1, 2, 3]),
        np.array([[-3.0], [0.0], [1.5]]) if transfer else np.zeros((1, 0)),
        np.zeros(3 if transfer else 1),
        ("lr",) if transfer else (),
        cells if transfer else empty,
        ("level", "lr") if transfer else (),
        3 if transfer else 0,
        (2, 1) if transfer else (),
    )
    rows = np.hstack([np.ones((n, 1)), rng.normal(size=(n, q - 1))])
    if transfer:
        which = np.eye(3)[rng.integers(0, 3, n)]
        z = rng.normal(size=(n, 1))
        other = np.eye(3)[rng.integers(0, 3, n)]
        rows = np.hstack([rows, which, z * which, other, rng.normal(size=(n, 3))])
    truth = draw_prior(data, Priors(), rng)
    mean = np.hstack([truth.beta, truth.fields.reshape(1, -1), truth.local]) @ rows.T
    # noise whose floor and growth the runs tell apart, so that the posterior has one mode
    sd = np.array([0.01, 0.022, 0.1])[label] if transfer else 0.02
    y = mean[0] + sd * rng.standard_normal(n)
    # the last class, that of the slopes, is empty here
    statistics = SufficientStatistics.from_rows(rows, y, label, n_classes=2 + label.max())
    return replace(data, statistics=statistics)


def mean_and_error(x):
    """Means and Monte-Carlo standard errors of the mean and the sd, x (chains, draws)."""
    return (
        x.mean(), float(array_stats.mcse(x, method="mean")),
        x.std(), float(array_stats.mcse(x, method="sd")),
    )  # fmt: skip


@pytest.mark.parametrize(
    "transfer",
    [
        pytest.param(False, id="law alone"),
        pytest.param(True, id="transfer", marks=pytest.mark.slow),
    ],
)
def test_explicit_coefficients_have_the_posterior_of_the_marginalised_model(transfer):
    """Hyper-parameters and coefficients, within Monte-Carlo error."""
    data, priors = small_data(transfer), Priors()
    marginal = sample(
        data, priors, draws=1000, tune=500, chains=4, random_seed=1, progressbar=False
    )
    model = explicit_model(data, priors, 0)
    trace = nutpie.sample(
        nutpie.compile_pymc_model(model), draws=1000, tune=800, chains=4, seed=2,
        target_accept=0.95, progress_bar=False,
    )["posterior"]  # fmt: skip
    draws = marginal.draws
    pairs = {}
    for name, value in draws.hyper.items():
        other = trace[name].to_numpy().reshape(4, 1000, -1)
        for i in range(value.shape[1]):
            transform = (lambda x: x) if name == "noise_slope" else np.log
            a = transform(value[:, i].reshape(4, 1000))
            pairs[f"{name}[{i}]"] = a, transform(other[:, :, i])
    for i in range(5):
        pairs[f"beta[{i}]"] = draws.beta[:, i].reshape(4, 1000), trace["beta"].to_numpy()[..., i]
    if transfer:
        u = np.hstack([draws.fields.reshape(draws.n, -1), draws.local]).reshape(4, 1000, -1)
        for i in range(u.shape[2]):
            pairs[f"u[{i}]"] = u[:, :, i], trace["discrepancy"].to_numpy()[:, :, i]
    far = {}
    for name, (a, b) in pairs.items():
        assert float(array_stats.rhat(b)) < 1.02, name
        m1, e1, s1, f1 = mean_and_error(a)
        m2, e2, s2, f2 = mean_and_error(b)
        z = (m1 - m2) / np.hypot(e1, e2), (s1 - s2) / np.hypot(f1, f2)
        if np.abs(z).max() > 4.5:
            far[name] = z
    assert not far


@pytest.mark.slow
def test_pymc_samples_the_model_to_the_posterior_of_fit(pocket):
    """`fit` samples a density of its own; PyMC's sampler on `law.model` must find the same."""
    law = OptLaw(transfer=False, exponents=SMALL)
    law.fit(pocket, draws=1000, tune=500, random_seed=1, progressbar=False)
    trace = pm.sample(
        model=law.model, draws=1000, tune=1000, chains=4, cores=1, random_seed=2,
        nuts_sampler="pymc", target_accept=0.95, progressbar=False,
        compute_convergence_checks=False,
    )["posterior"]  # fmt: skip
    draws = law.fitted.draws
    far = {}
    for name, value in {**draws.hyper, **draws.divergence}.items():
        if name == "divergence_z":  # in directions that the fit and the model choose apart
            continue
        ours = value.reshape(4, 1000, -1)
        theirs = trace[name].to_numpy().reshape(4, 1000, -1)
        for i in range(ours.shape[2]):
            a, b = ours[:, :, i], theirs[:, :, i]
            if a.min() > 0:
                a, b = np.log(a), np.log(b)
            m1, e1, s1, f1 = mean_and_error(a)
            m2, e2, s2, f2 = mean_and_error(b)
            z = (m1 - m2) / np.hypot(e1, e2), (s1 - s2) / np.hypot(f1, f2)
            if np.abs(z).max() > 4.5:
                far[f"{name}[{i}]"] = z
    assert not far


@pytest.mark.parametrize("run_by_run", [False, True])
def test_naive_model_has_the_density_of_the_combinations_given_coefficients(
    pocket, rng, run_by_run
):
    law = prepared(pocket, False)
    data, priors = law.encoding.data, law.priors
    rows, y, _ = everything(law)
    n_slopes = int(data.statistics.n[-1])
    sds = np.where(np.arange(y.size) < y.size - n_slopes, np.hypot(0.01, RESOLUTION), 1.0)
    runs = slice(0, y.size - n_slopes)
    model = naive_model(data, priors, **({"rows": rows[runs], "y": y[runs]} if run_by_run else {}))
    n = data.tree.n_selected
    sd, scale, beta = 0.01, np.array([0.1, 0.2, 0.3, 0.4]), 0.05 * rng.standard_normal(n)
    at = {"noise_sd_log__": np.log(sd), "coefficient_sd_log__": np.log(scale), "beta": beta}
    value = model.compile_logp(vars=model.potentials)(at)
    by_k = []
    for k in range(data.tree.n_combinations):
        residual = (y - rows[:, data.tree.selected(k)] @ beta) / sds
        by_k.append(-0.5 * residual @ residual - np.log(sds * np.sqrt(2 * np.pi)).sum())
    np.testing.assert_allclose(value, logsumexp(by_k) - np.log(len(by_k)), rtol=1e-8)


def test_naive_model_run_by_run_refuses_noise_of_several_classes(pocket):
    data, priors = prepared(pocket, False).encoding.data, Priors()
    twice = SufficientStatistics(*(np.concatenate([v[:1], v]) for v in data.statistics.arrays))
    with pytest.raises(ValueError, match="one class, and it has 2"):
        naive_model(replace(data, statistics=twice), priors, rows=np.ones((2, 2)), y=np.ones(2))


def test_naive_model_refuses_a_discrepancy(pocket):
    law = prepared(pocket, True)
    with pytest.raises(ValueError, match="law alone"):
        naive_model(law.encoding.data, law.priors)


def test_prior_draws_have_the_stated_scales(law):
    data, priors = law.encoding.data, law.priors
    rng = np.random.default_rng(5)
    draws = [draw_prior(data, priors, rng) for _ in range(2000)]
    noise = np.log([d.hyper["noise_sd"][0, 0] for d in draws])
    assert abs(noise.mean() - np.log(priors.noise_sd.median)) < 4.5 * priors.noise_sd.log_sd / 44
    intercept = np.array([d.beta[0, 0] for d in draws])
    assert abs(intercept.std() / priors.intercept_sd - 1) < 4.5 / np.sqrt(2 * 2000)
    z = np.concatenate(
        [(d.beta[0] / d.hyper["coefficient_sd"][0][data.column_block])[d.beta[0] != 0][1:]
         for d in draws]
    )  # fmt: skip
    assert abs(z.std() - 1) < 4.5 / np.sqrt(2 * z.size)
    if law.encoding.transfer:
        level = np.array([d.fields[0, 0, 0] / d.hyper["level_sd"][0, 0] for d in draws])
        own = np.array([1 + d.hyper["cell_sd"][0, 0] ** 2 for d in draws])
        assert abs((level / np.sqrt(own)).std() - 1) < 4.5 / np.sqrt(2 * 2000)
