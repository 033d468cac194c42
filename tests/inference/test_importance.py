"""Draws by importance sampling: against a density of known moments, and against NUTS."""

import numpy as np
import pytest
from arviz_stats.base import array_stats
from laws import encoded

from bayes_optlaws.evaluation.refits import refit
from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.importance import importance_draws, laplace_sample
from bayes_optlaws.law import OptLaw
from studies.replay import problem

BEND, SPREAD = 0.2, 1.0


class Banana:
    """x0 ~ N(0, 1), x1 given x0 ~ N(BEND x0^2, SPREAD^2), x2 ~ N(1, 1): far from Gaussian."""

    size = 3
    mean, sd = np.zeros(3), np.full(3, 3.0)

    def mode(self):
        return np.array([0.0, 0.0, 1.0])

    def curvature_factor(self, x):
        return np.diag([1.0, SPREAD, 1.0])

    def log_density(self, x):
        value = -0.5 * (x[0] ** 2 + ((x[1] - BEND * x[0] ** 2) / SPREAD) ** 2 + (x[2] - 1.0) ** 2)
        return value, None


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_weighted_moments_are_those_of_the_density(seed):
    x, weight, k = importance_draws(Banana(), draws=500, rng=np.random.default_rng(seed))
    assert weight.sum() == pytest.approx(1.0)
    assert k < 0.7
    known = {
        "mean of x1": (x[:, 1], BEND),
        "mean of x2": (x[:, 2], 1.0),
        "variance of x0": (x[:, 0] ** 2, 1.0),
        "second moment of x1": (x[:, 1] ** 2, 3 * BEND**2 + SPREAD**2),
        "bend": (x[:, 1] * x[:, 0] ** 2, 3 * BEND),
        "P(x0 > 1)": (x[:, 0] > 1, 0.158655),
    }
    for name, (value, truth) in known.items():
        estimate = weight @ value
        error = np.sqrt(np.sum((weight * (value - estimate)) ** 2))
        assert abs(estimate - truth) < 4 * error, name


def test_a_law_without_chains_is_not_taken_for_a_converged_one(pocket):
    runs = pocket[~pocket["diverged"]].head(12)
    law = refit(OptLaw(), runs, posterior="importance", draws=64, random_seed=0)
    assert not law.fitted.require_converged(True)
    with pytest.raises(RuntimeError, match="did not converge"):
        law.require_converged(False)


def test_same_seed_same_draws(pocket):
    law = encoded(pocket[~pocket["diverged"]].head(30), transfer=False, divergence=False)
    space = HyperSpace(law.encoding.data, law.priors)
    one, two = (laplace_sample(space, draws=64, rng=np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one.draws.beta, two.draws.beta)
    assert (one.draws.n, one.ess) == (64, two.ess)
    assert 1.0 <= one.ess


@pytest.mark.slow
def test_predictions_agree_with_nuts():
    """Mean and spread of the expected log loss at every run of the largest block."""
    runs, target = problem("pocket")
    train = runs[~target].sample(80, random_state=1)
    goal = runs[target]
    chains, draws = 4, 500
    nuts = OptLaw(divergence=False).fit(
        train, draws=draws, tune=300, chains=chains, random_seed=1, progressbar=False
    )
    reference = nuts.predictor.mean(goal, np.random.default_rng(0))
    laws = [
        refit(OptLaw(), train, posterior="importance", draws=1000, random_seed=s) for s in range(4)
    ]
    found = np.array([law.predictor.mean(goal, np.random.default_rng(0)) for law in laws])

    def compare(statistic):
        # the error of importance sampling is seen between repeats, that of NUTS from its chains
        each = statistic(found.mean(axis=1, keepdims=True), found).mean(axis=1)
        chain = statistic(reference.mean(axis=0), reference)
        ess = [float(array_stats.ess(c.reshape(chains, draws), method="mean")) for c in chain.T]
        spread = chain.var(axis=0)
        between = np.mean(each.var(axis=0, ddof=1) / spread) / len(laws)
        error = np.sqrt(spread * (between + 1.0 / np.array(ess)))
        return (each.mean(axis=0) - chain.mean(axis=0)) / error

    assert np.abs(compare(lambda centre, x: x)).max() < 4
    assert np.abs(compare(lambda centre, x: (x - centre) ** 2)).max() < 4
