"""Leave-one-out densities equal refits without the run."""

import warnings

import numpy as np
import pytest
from arviz_stats.base import array_stats
from laws import encoded, everything, with_draws
from scipy.special import logsumexp
from scipy.stats import norm

from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.draws import recover
from bayes_optlaws.inference.loo import loo_density, loo_moments, loo_pit, missed_variance
from bayes_optlaws.inference.reference import covariance
from bayes_optlaws.law import OptLaw
from bayes_optlaws.model import student_t

FEW = {"scale": (-0.3, 0.3), "mixed": (0.15,), "escape": (0.3, 0.5), "cross": (0.2,)}


@pytest.mark.parametrize("transfer", [False, True], ids=["law alone", "transfer"])
def test_density_equals_the_prediction_from_all_other_runs(pocket, transfer):
    rng = np.random.default_rng(6)
    law = encoded(pocket, transfer=transfer, exponents=FEW)
    data = law.encoding.data
    space = HyperSpace(data, law.priors)
    x = space.mode() + 0.2 * space.sd * rng.standard_normal((4, space.size))
    every = np.ones(data.tree.n_combinations, dtype=bool)
    draws, *_ = recover(space, space.split(x), every, rng)
    found = loo_density(with_draws(law, draws))
    rows, y, label = everything(law)
    n, missed = len(law.encoding.finished), missed_variance(law.encoding)
    for s in range(4):
        cov = covariance(
            data, law.priors, space.split(x[s]), int(draws.combination[s]), rows, label
        )
        for i in rng.choice(n, 6, replace=False):
            others = np.delete(np.arange(y.size), i)
            gain = np.linalg.solve(cov[np.ix_(others, others)], cov[others, i])
            sd = np.sqrt(cov[i, i] - cov[i, others] @ gain)
            own = space.split(x[s])["local_sd"][0] ** 2 * missed[i] if transfer else 0.0
            expected = norm(gain @ y[others], np.sqrt(sd**2 + own)).logpdf(y[i])
            np.testing.assert_allclose(found[s, i], expected, rtol=1e-6, atol=1e-6)


def test_loo_of_a_fit_is_reliable_and_below_the_fit_to_the_own_runs(small_law):
    with warnings.catch_warnings():  # ArviZ warns at the first run whose k is above the limit
        warnings.filterwarnings("ignore", message="Estimated shape parameter")
        result = small_law.loo()
    assert result.n_data_points == len(small_law.fitted.encoding.finished)
    assert np.isfinite(result.elpd)
    assert np.mean(np.asarray(result.pareto_k) < 0.7) > 0.95
    assert 0 < result.p < 60  # effective number of parameters


def test_pit_is_the_weighted_mean_of_what_each_draw_says(small_law):
    values = loo_pit(small_law.fitted)
    moments, df = loo_moments(small_law.fitted), small_law.fitted.noise_df
    density = np.exp(student_t.log_density_around(*moments, df))
    # plain importance weights without the smoothing of their tail: the harmonic-mean identity
    weight = 1.0 / density
    below = student_t.probability_below(*moments, df)
    plain = np.sum(weight * below, axis=0) / weight.sum(axis=0)
    assert ((values > 0) & (values < 1)).all()
    assert np.quantile(np.abs(values - plain), 0.95) < 0.02
    # a calibrated law is uniform; this one is somewhat wide, so only gross faults are excluded
    assert 0.35 < np.mean(np.abs(values - 0.5) < 0.25) < 0.85


def test_elpd_of_a_run_is_that_of_a_refit_without_it(pocket):
    """Whole refits: standardising, classes, local functions and hyper-parameters anew."""

    def fit(runs, seed):
        options = {"method": "importance", "random_seed": seed, "progressbar": False}
        return OptLaw(divergence=False).fit(runs, draws=100, **options).fitted

    law = fit(pocket, 0)
    density = loo_density(law)
    log_weight, k = array_stats.psislw(-density.T, axis=-1)
    log_weight = log_weight.T - logsumexp(log_weight.T, axis=0)
    elpd = logsumexp(log_weight + density, axis=0)
    table = law.encoding.finished.reset_index(drop=True)
    reliable = np.flatnonzero(np.asarray(k) < 0.7)
    assert reliable.size > 0.9 * len(table)
    differences, errors = [], []
    for i in reliable[:: reliable.size // 8][:8]:
        run = table.iloc[[i]]
        refit = fit(pocket[pocket["run_id"] != run["run_id"].iloc[0]], 1)
        predictor = refit.predictor()
        y = np.log(run["final_loss"].to_numpy(float))
        mean = predictor.mean(run, np.random.default_rng(2))
        sd = predictor.noise_sd(run)
        each = (student_t.log_density((y - mean) / sd, predictor.noise_df) - np.log(sd))[:, 0]
        value = logsumexp(each) - np.log(each.size)
        error = np.std(np.exp(each - value)) / np.sqrt(each.size)
        ratio = np.exp(log_weight[:, i]) * (np.exp(density[:, i] - elpd[i]) - 1)
        differences.append(elpd[i] - value)
        errors.append(np.hypot(error, np.sqrt(np.sum(ratio**2))))
    differences, errors = np.array(differences), np.array(errors)
    # beside the Monte-Carlo error: how far the basis learned without a run differs
    assert np.all(np.abs(differences) < 0.1 + 4.5 * errors)
