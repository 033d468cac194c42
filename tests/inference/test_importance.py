"""Importance sampling: against densities of known moments, against NUTS, and its gate."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from laws import encoded

from bayes_optlaws.inference import importance, nuts
from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.importance import importance_draws
from bayes_optlaws.law import OptLaw

BEND, SPREAD = 0.2, 1.0


class Density:
    """A density whose curvature is found by differences, as that of the package's own."""

    def __init__(self, value, gradient, size, width=4.0):
        self._value, self._gradient = value, gradient
        self.mean, self.sd = np.zeros(size), np.full(size, width)

    def mode(self, start=None):
        x = np.zeros(self.mean.size) if start is None else start
        for _ in range(200):
            x = x + 0.1 * self._gradient(x)
        return x

    def curvature_factor(self, x):
        h = 1e-4
        steps = h * np.eye(x.size)
        hessian = np.array(
            [(self._gradient(x - e) - self._gradient(x + e)) / (2 * h) for e in steps]
        )
        value, vector = np.linalg.eigh(0.5 * (hessian + hessian.T))
        return vector / np.sqrt(np.maximum(value, 1 / self.sd**2))

    def log_density(self, x):
        return float(self._value(x)), self._gradient(x)

    def log_densities(self, x):
        return np.array([self._value(row) for row in x])


def banana():
    """x0 ~ N(0, 1), x1 given x0 ~ N(BEND x0^2, SPREAD^2), x2 ~ N(1, 1): far from Gaussian."""

    def value(x):
        return -0.5 * (x[0] ** 2 + ((x[1] - BEND * x[0] ** 2) / SPREAD) ** 2 + (x[2] - 1.0) ** 2)

    def gradient(x):
        off = (x[1] - BEND * x[0] ** 2) / SPREAD**2
        return np.array([-x[0] + 2 * BEND * x[0] * off, -off, 1.0 - x[2]])

    return Density(value, gradient, 3)


FLAT, STEEP = 1.0, 8.0


def floored():
    """An entry with a steep upper and a long lower side, as the log of a noise floor has.

    exp(FLAT x - exp(STEEP x)) is, for t = exp(STEEP x), a gamma density of shape FLAT / STEEP:
    E x = digamma(FLAT / STEEP) / STEEP, var x = trigamma(FLAT / STEEP) / STEEP^2.  Its second
    entry follows the first along a bend.
    """

    def value(x):
        bend = x[1] - np.exp(0.5 * x[0])
        return FLAT * x[0] - np.exp(STEEP * x[0]) - 0.5 * (bend / 0.3) ** 2

    def gradient(x):
        bend = (x[1] - np.exp(0.5 * x[0])) / 0.3**2
        first = FLAT - STEEP * np.exp(STEEP * x[0]) + 0.5 * np.exp(0.5 * x[0]) * bend
        return np.array([first, -bend])

    return Density(value, gradient, 2)


def within(found, known):
    """Each estimate within four standard errors of the truth."""
    for name, (value, truth) in known.items():
        estimate = found.weight @ value
        error = np.sqrt(np.sum((found.weight * (value - estimate)) ** 2))
        assert abs(estimate - truth) < 4 * error, name


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_weighted_moments_are_those_of_the_density(seed):
    found = importance_draws(banana(), rng=np.random.default_rng(seed))
    assert found.weight.sum() == pytest.approx(1.0) and found.good
    x = found.x
    within(
        found,
        {
            "mean of x1": (x[:, 1], BEND),
            "mean of x2": (x[:, 2], 1.0),
            "variance of x0": (x[:, 0] ** 2, 1.0),
            "second moment of x1": (x[:, 1] ** 2, 3 * BEND**2 + SPREAD**2),
            "bend": (x[:, 1] * x[:, 0] ** 2, 3 * BEND),
            "P(x0 > 1)": (x[:, 0] > 1, 0.158655),
        },
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_long_tail_on_one_side_is_not_missed(seed):
    from scipy.special import gammainc, polygamma, psi

    shape = FLAT / STEEP
    found = importance_draws(floored(), rng=np.random.default_rng(seed))
    assert found.good
    x = found.x[:, 0]
    mean = psi(shape) / STEEP
    within(
        found,
        {
            "mean": (x, mean),
            "variance": ((x - mean) ** 2, polygamma(1, shape) / STEEP**2),
            "P(x < -2)": (x < -2, gammainc(shape, np.exp(-2 * STEEP))),
            "P(x < -4)": (x < -4, gammainc(shape, np.exp(-4 * STEEP))),
        },
    )


def test_resampled_draws_repeat_by_weight(rng):
    weight = rng.dirichlet(np.ones(50))
    found = importance.Weighted(np.zeros((50, 1)), weight, 0.1, 50)
    count = np.bincount(found.resample(200, rng), minlength=50)
    assert count.sum() == 200
    assert np.all(np.abs(count - 200 * weight) < 1 + 1e-9)
    assert found.ess == pytest.approx(1 / np.sum(weight**2))


def test_values_alone_are_those_of_the_density_with_gradient(pocket, rng):
    law = encoded(pocket)
    space = HyperSpace(law.encoding.data, law.priors)
    x = space.mean + space.sd * rng.uniform(-1, 1, size=(50, space.size))
    expected = [space.log_density(row)[0] for row in x]
    np.testing.assert_allclose(space.log_densities(x), expected, rtol=1e-10)


@pytest.fixture(scope="module")
def by_importance(pocket):
    return OptLaw().fit(pocket, draws=250, random_seed=3, progressbar=False, method="importance")


def test_a_law_by_importance_passes_its_own_gate_and_says_so(by_importance, tmp_path):
    law = by_importance
    assert law.fitted.method == "importance" and not law.fitted.failures
    assert law.diagnostics["pareto_k"] <= importance.MAX_PARETO_K
    assert law.diagnostics["effective_draws"] >= importance.MIN_EFFECTIVE
    assert "importance sampling" in repr(law) and "Pareto k" in law._repr_html_()
    again = OptLaw.load(law.save(tmp_path / "law.nc"))
    assert again.fitted.method == "importance"
    assert again.diagnostics == law.diagnostics


def test_same_seed_same_draws(pocket):
    runs = pocket[~pocket["diverged"]].head(30)
    law = encoded(runs, transfer=False)
    options = {"draws": 100, "tune": 50, "chains": 2, "progressbar": False}
    one, two = (
        nuts.sample(law.encoding.data, law.priors, random_seed=5, method="importance", **options)
        for _ in range(2)
    )
    assert one.method == "importance"
    np.testing.assert_array_equal(one.draws.beta, two.draws.beta)


def test_where_its_gate_fails_nuts_is_used_with_a_word(pocket, monkeypatch):
    runs = pocket[~pocket["diverged"]].head(30)
    law = encoded(runs, transfer=False)
    bad = importance.Weighted(np.zeros((9, 1)), np.full(9, 1 / 9), 0.93, 9)
    monkeypatch.setattr(nuts, "importance_draws", lambda *a, **k: bad)
    with pytest.warns(UserWarning, match=r"Pareto k 0.93 > 0.7; effective draws 9 < 400.*NUTS"):
        found = nuts.sample(
            law.encoding.data, law.priors, draws=100, tune=50, chains=2, random_seed=5,
            progressbar=False, method="importance",
        )  # fmt: skip
    assert found.method == "nuts" and "Pareto k 0.93" in found.note


def test_an_unknown_method_is_refused(pocket):
    with pytest.raises(ValueError, match="method must be one of"):
        OptLaw().fit(pocket, method="laplace")


REFERENCE = Path(__file__).with_name("reference.json")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["importance", "nuts"])
def test_posterior_is_that_of_long_chains(pocket, method):
    """Means, sds and tail quantiles of every hyper-parameter (see write_reference.py)."""
    stored = json.loads(REFERENCE.read_text())["pocket"]
    law = encoded(pocket)
    found = nuts.sample(
        law.encoding.data, law.priors, draws=1000, tune=300, chains=4, random_seed=11,
        progressbar=False, method=method,
    )  # fmt: skip
    assert found.method == method
    space = HyperSpace(law.encoding.data, law.priors)
    values = np.concatenate([np.atleast_2d(v.T) for v in found.draws.hyper.values()])
    values = np.where(
        space.is_log[:, None], np.log(np.where(space.is_log[:, None], values, 1)), values
    )
    assert list(stored) == space.names
    wanted = pd.DataFrame(stored).T
    sd = wanted["sd"].to_numpy()
    assert np.all(np.abs(values.mean(axis=1) - wanted["mean"]) < 0.1 * sd + 3 * sd / 20)
    assert np.all(np.abs(values.std(axis=1) / sd - 1) < 0.2)
    for q in ("0.05", "0.95"):
        off = np.quantile(values, float(q), axis=1) - wanted[q]
        assert np.all(np.abs(off) < 0.5 * sd), q
