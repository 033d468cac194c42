"""The model with nothing integrated out has the density and the posterior of the fitted one."""

import importlib.util
import shutil

import numpy as np
import pymc as pm
import pytest
from arviz_stats.base import array_stats
from laws import encoded, with_draws
from scipy.special import logsumexp

from bayes_optlaws.inference import model_graph
from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.full_model import full_model
from bayes_optlaws.law import OptLaw
from bayes_optlaws.model.divergence import DivergencePriors
from bayes_optlaws.model.priors import CoefficientPrior, Priors

GRAPHVIZ = importlib.util.find_spec("graphviz") is not None and shutil.which("dot") is not None

FEW = {
    "model_size": (-0.2, 0.0), "data": (-0.2,), "settings": (0.3,), "mixed": (0.15, 0.5),
    "escape": (0.3,), "cross": (0.15,),
}  # fmt: skip
OWN = Priors(coefficients={"lr": (0.02, 0.01), "E/N": (-0.01, 0.03)}, exponents={"mixed": (1, 3)})


def unfitted(runs, **options):
    """A law that stands for its table and priors alone."""
    law = with_draws(encoded(runs, **options), None)
    object.__setattr__(law, "divergence_priors", DivergencePriors())
    return law


@pytest.fixture(scope="module")
def law(pocket):
    return unfitted(pocket.iloc[::12], exponents=FEW, priors=OWN)


def at(model, space, x):
    """A point of the model: hyper-parameters at x, all else at the model's start."""
    point = model.initial_point()
    for name, value in space.split(x).items():
        key = name if name in point else f"{name}_log__"
        value = value if name in point else np.log(value)
        point[key] = value.reshape(np.shape(point[key]))
    return point


def integrated(model, names, point):
    """Log integral over the named variables of a density that is normal in them, closed form."""
    value = model.compile_logp(mode="FAST_COMPILE")
    variables = [model.rvs_to_values[model[n]] for n in names]
    gradient = model.compile_dlogp(vars=[model[n] for n in names], mode="FAST_COMPILE")
    shapes = [np.shape(point[v.name]) for v in variables]
    ends = np.cumsum([int(np.prod(s)) for s in shapes])

    def moved(u):
        parts = np.split(u, ends[:-1])
        named = zip(variables, parts, shapes, strict=True)
        return point | {v.name: part.reshape(s) for v, part, s in named}

    def run(change):
        nonlocal point
        point = point | change
        zero = np.zeros(ends[-1])
        g = gradient(moved(zero))
        h = np.array([g - gradient(moved(e)) for e in np.eye(zero.size)])
        h = 0.5 * (h + h.T)
        # value + g u - u h u / 2, exactly
        half = 0.5 * g @ np.linalg.solve(h, g) + 0.5 * zero.size * np.log(2 * np.pi)
        return value(moved(zero)) + half - 0.5 * np.linalg.slogdet(h)[1]

    return run


GAUSSIAN = ("intercept", "coefficient", "field_normal", "local_normal", "drift_normal_0",
            "drift_normal_1")  # fmt: skip


def test_coefficients_and_exponents_integrated_out_leave_the_evidence_of_the_fit(law, rng):
    """By quadrature that is exact: the density is normal in all but hyper-parameters."""
    space = HyperSpace(law.encoding.data, law.priors)
    model = full_model(law, exponents="categorical")
    run = integrated(model, GAUSSIAN, model.initial_point())
    shape = tuple(law.encoding.data.tree.n_candidates)
    difference = []
    for x in space.mean + 0.7 * space.sd * rng.standard_normal((2, space.size)):
        point = at(model, space, x)
        by_k = [run(point | {"exponent_index": np.array(index)}) for index in np.ndindex(*shape)]
        difference.append(logsumexp(by_k) - space.log_density(x)[0])
    np.testing.assert_allclose(difference, difference[0], atol=1e-6)


def test_the_summed_model_is_the_sum_of_the_categorical_one(law, rng):
    summed, categorical = full_model(law), full_model(law, exponents="categorical")
    assert {v.name for v in categorical.free_RVs} - {v.name for v in summed.free_RVs} == {
        "exponent_index"
    }
    a, b = (m.compile_logp(mode="FAST_COMPILE") for m in (summed, categorical))
    weight = pm.compile(
        summed.value_vars,
        summed.replace_rvs_by_values([summed["exponent_weight"]])[0],
        mode="FAST_COMPILE",
        on_unused_input="ignore",
    )
    shape = tuple(law.encoding.data.tree.n_candidates)
    for _ in range(2):
        point = {k: v + 0.1 * rng.standard_normal(v.shape)
                 for k, v in summed.initial_point().items()}  # fmt: skip
        by_k = np.array([
            b(point | {"exponent_index": np.array(index)}) for index in np.ndindex(*shape)
        ])  # fmt: skip
        np.testing.assert_allclose(a(point), logsumexp(by_k), rtol=1e-9)
        box = np.exp(by_k - logsumexp(by_k)).reshape(shape)
        found = weight(*(point[v.name] for v in summed.value_vars))
        for g, n in enumerate(shape):
            others = tuple(i for i in range(len(shape)) if i != g)
            np.testing.assert_allclose(found[g, :n], box.sum(axis=others), atol=1e-9)


def test_every_unknown_has_a_name_and_dimensions(law):
    model = full_model(law)
    e = law.encoding
    assert model.named_vars_to_dims["coefficient"] == ("feature",)
    assert list(model.coords["feature"]) == [f.name for f in e.features.features]
    assert model.named_vars_to_dims["final_loss"] == ("run",)
    assert list(model.coords["run"]) == list(e.finished["run_id"])
    assert model.named_vars_to_dims["discrepancy"] == ("field", "cell")
    assert [v.name for v in model.observed_RVs] == ["final_loss", "diverged"]
    np.testing.assert_array_equal(
        model.rvs_to_values[model["diverged"]].eval().astype(bool), e.runs["diverged"]
    )
    assert model.named_vars_to_dims["R"] == ("started_run",)
    with pytest.raises(ValueError, match="'summed', 'categorical'"):
        full_model(law, exponents="both")


def test_signed_coefficients_keep_their_sign_wherever_nuts_goes(pocket, rng):
    priors = Priors(coefficients={
        "lr": CoefficientPrior(sign="negative"), "Ew": CoefficientPrior(0.01, 0.02, "positive"),
    })  # fmt: skip
    law = unfitted(pocket.iloc[::12], exponents=FEW, priors=priors, transfer=False)
    model = full_model(law)
    free = full_model(unfitted(pocket.iloc[::12], exponents=FEW, transfer=False, priors=Priors(
        coefficients={"Ew": (0.01, 0.02)})))  # fmt: skip
    names = list(model.coords["feature"])
    lr, ew = names.index("lr"), names.index("Ew")
    read = pm.compile(model.value_vars,
                      model.replace_rvs_by_values([model["coefficient"]])[0],
                      mode="FAST_COMPILE", on_unused_input="ignore")  # fmt: skip
    a, b = (m.compile_logp(mode="FAST_COMPILE") for m in (model, free))
    for _ in range(3):
        point = {k: rng.standard_normal(v.shape) for k, v in model.initial_point().items()}
        value = read(*(point[v.name] for v in model.value_vars))
        assert value[lr] < 0 < value[ew]
        jacobian = point["coefficient_signed__"][[lr, ew]].sum()
        other = {k: v for k, v in point.items() if k != "coefficient_signed__"}
        other["coefficient"] = value
        np.testing.assert_allclose(a(point), b(other) + jacobian, rtol=1e-9)


@pytest.mark.slow
def test_nuts_on_the_full_model_finds_the_posterior_of_fit(pocket):
    """Coefficients, exponents, scales and risk, within Monte-Carlo error."""
    law = OptLaw(transfer=False, exponents=FEW)
    law.fit(pocket.iloc[::3], draws=1000, tune=500, random_seed=1, progressbar=False)
    trace = pm.sample(
        model=law.full_model, draws=1500, tune=1500, chains=4, cores=1, random_seed=2,
        nuts_sampler="nutpie", target_accept=0.9, progressbar=False,
        compute_convergence_checks=False,
    )["posterior"]  # fmt: skip
    ours = law.fitted.draw_tree["posterior"]
    names = ["intercept", "coefficient", "noise_sd", "coefficient_sd", "divergence_c3",
             "divergence_slope", "divergence_gamma"]  # fmt: skip
    far = {}
    for name in names:
        a, b = (x[name].to_numpy().reshape(*x[name].shape[:2], -1) for x in (ours, trace))
        for i in range(a.shape[2]):
            x, y = a[:, :, i], b[:, :, i]
            if min(x.min(), y.min()) > 0:
                x, y = np.log(x), np.log(y)
            assert float(array_stats.rhat(y)) < 1.02, name
            for method, of in (("mean", np.mean), ("sd", np.std)):
                error = np.hypot(*(float(array_stats.mcse(v, method=method)) for v in (x, y)))
                z = (of(x) - of(y)) / error
                if abs(z) > 4.5:
                    far[f"{name}[{i}] {method}"] = z
    assert not far
    groups = law.fitted.encoding.features.groups
    for g, group in enumerate(groups):
        for c, p in enumerate(FEW[group]):
            chosen = (ours["exponent"].to_numpy()[:, :, g] == p).astype(float)
            weight = trace["exponent_weight"].to_numpy()[:, :, g, c]
            if chosen.std() > 0:
                error = np.hypot(float(array_stats.mcse(chosen, method="mean")),
                                 float(array_stats.mcse(weight, method="mean")))  # fmt: skip
                assert abs(chosen.mean() - weight.mean()) < 4.5 * error


def test_a_graph_without_graphviz_is_refused_in_one_line(law, monkeypatch):
    monkeypatch.setattr(model_graph.shutil, "which", lambda _: None)
    with pytest.raises(ImportError, match=r"bayes-optlaws\[graph\].*dot") as said:
        model_graph.graph(law)
    assert "\n" not in str(said.value)
    with pytest.raises(ValueError, match="'full', 'marginal'"):
        model_graph.graph(law, "other")


@pytest.mark.skipif(not GRAPHVIZ, reason="graphviz and its program dot are not installed")
@pytest.mark.parametrize("model", ["full", "marginal"])
def test_both_models_are_drawn(model, law):
    source = model_graph.graph(law, model).source
    for name in ("coefficient_sd", "noise_sd", "diverged"):
        assert name in source
    assert ("final_loss" in source) == ("exponent_index" in source) == (model == "full")
