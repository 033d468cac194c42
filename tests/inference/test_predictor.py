"""Exact draws against quadrature and against the textbook Gaussian-process formulas."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from laws import ONE, check_moments, dense_prediction, encoded, everything, repeated, with_draws
from scipy.special import logsumexp

from bayes_optlaws.inference.draws import Draws
from bayes_optlaws.inference.nuts import sample
from bayes_optlaws.inference.reference import coefficient_sd, covariance, discrepancy_covariance
from bayes_optlaws.model.priors import LogNormal, Priors
from bayes_optlaws.runs.readers import read_candidates

FOUR = {"scale": (-0.3, 0.3), "mixed": (0.15,), "escape": (0.3, 0.5), "cross": (0.2,)}


@pytest.mark.parametrize("transfer", [False, True], ids=["law alone", "transfer"])
def test_recovered_coefficients_have_the_closed_form_moments(pocket, rng, transfer):
    law = encoded(pocket, transfer=transfer, exponents=ONE)
    data = law.encoding.data
    hyper, draws = repeated(law, 8000, rng)
    rows, y, label = everything(law)
    selected = data.tree.selected(0)
    q = data.column_block.size
    prior = np.zeros((selected.size + rows.shape[1] - q,) * 2)
    s = selected.size
    prior[:s, :s] = np.diag(coefficient_sd(data, law.priors, hyper)[selected] ** 2)
    prior[s:, s:] = discrepancy_covariance(data, hyper)
    x = np.hstack([rows[:, selected], rows[:, q:]])
    gain = np.linalg.solve(covariance(data, law.priors, hyper, 0, rows, label), x @ prior)
    mean, cov = gain.T @ y, prior - prior @ x.T @ gain
    found = np.hstack([draws.beta[:, selected], draws.fields.reshape(draws.n, -1), draws.local])
    # where the runs decide almost everything, what is left of the prior is rounding
    seen = np.diag(cov) > 1e-7 * np.diag(prior)
    assert seen[:s].all()
    check_moments(found[:, seen], mean[seen], cov[np.ix_(seen, seen)])


def new_candidates(pocket):
    """Two schedules in a cell that was seen and three at a larger scale, one LR unseen."""
    big = pocket.loc[pocket["n_params"].idxmax()]
    same = {"batch_tokens": big["batch_tokens"], "schedule": "linear", "min_lr": 0.0}
    seen = {"n_params": big["n_params"], "tokens": big["tokens"]}
    rows = [
        {**seen, "peak_lr": 0.008, "warmup_steps": 256},
        {**seen, "peak_lr": 0.03, "warmup_steps": 300},
        {"n_params": 5e5, "tokens": 6e6, "peak_lr": 0.008, "warmup_steps": 256},
        {"n_params": 5e5, "tokens": 6e6, "peak_lr": 0.03, "warmup_steps": 300},
        {"n_params": 9e5, "tokens": 6e6, "peak_lr": 0.02, "warmup_steps": 512},
    ]  # fmt: skip
    return read_candidates(
        pd.DataFrame([{**same, **row, "run_id": f"c{i}"} for i, row in enumerate(rows)])
    )


def other_family(pocket):
    """The same, three of them with cosine cooldown, which no run has: at three scales."""
    table = new_candidates(pocket)[
        ["n_params", "tokens", "batch_tokens", "peak_lr", "warmup_steps"]
    ]
    return read_candidates(
        table.assign(schedule=["linear", "cosine", "linear", "cosine", "cosine"])
    )


def many_candidates(pocket):
    """A hundred schedules at one larger scale: what they share must not be drawn apart."""
    big = pocket.loc[pocket["n_params"].idxmax()]
    row = {"n_params": 5e5, "tokens": 6e6, "batch_tokens": big["batch_tokens"], "min_lr": 0.0}
    table = pd.DataFrame([{**row, "schedule": "linear", "warmup_steps": 256}] * 100)
    return read_candidates(table.assign(peak_lr=np.geomspace(0.004, 0.04, 100)))


@pytest.mark.parametrize("new_candidates", [new_candidates, other_family, many_candidates])
def test_predictive_mean_is_the_gaussian_process_formula(pocket, rng, new_candidates):
    """At a seen cell and at new scales, from the n x n covariance of the runs."""
    law = encoded(pocket, exponents=ONE)
    hyper, draws = repeated(law, 8000, rng)
    table = new_candidates(pocket)
    found = with_draws(law, draws).predictor().mean(table, rng) - law.encoding.centre
    assert (np.abs(law.encoding.discrepancy.unseen(table)).max() > 0.1) == (
        new_candidates is other_family
    )
    check_moments(found, *dense_prediction(law, hyper, table))


def test_any_number_of_neighbouring_candidates_is_drawn_from_one_function(pocket, rng):
    """Differences of neighbours are as smooth at index 1,023 as anywhere, and nearly exact."""
    law = encoded(pocket, exponents=ONE)
    _, draws = repeated(law, 400, rng)
    big = pocket.loc[pocket["n_params"].idxmax()]
    row = {"n_params": 5e5, "tokens": 6e6, "batch_tokens": big["batch_tokens"], "min_lr": 0.0}
    many = pd.DataFrame([{**row, "schedule": "linear", "warmup_steps": 256}] * 1200)
    many = read_candidates(many.assign(peak_lr=np.geomspace(0.004, 0.04, 1200)))
    drawn = with_draws(law, draws).predictor().mean(many, np.random.default_rng(1))
    step = np.diff(drawn, axis=1).std(axis=0)
    assert np.all(np.abs(np.diff(np.log(step))) < 0.05)
    few = with_draws(law, draws).predictor().mean(many.iloc[:1000], np.random.default_rng(1))
    exact = np.diff(few, axis=1).std(axis=0)
    np.testing.assert_allclose(step[:999], exact, rtol=0.35)


def test_no_finished_run_ends_above_an_untrained_model(pocket, rng):
    """Also where the law is read far outside the table."""
    law = encoded(pocket, exponents=ONE, priors=Priors(untrained_loss=np.log(256)))
    _, draws = repeated(law, 200, rng)
    far = new_candidates(pocket).assign(peak_lr=50.0)
    found = with_draws(law, draws).predictor().mean(far, rng)
    assert found.max() <= np.log(np.log(256)) + 1e-12
    assert np.isfinite(found).all()


def test_predictive_noise_adds_the_noise_of_the_settings(pocket, rng):
    law = encoded(pocket, exponents=ONE)
    hyper, draws = repeated(law, 10, rng)
    table = new_candidates(pocket)
    covariates = law.encoding.noise.at(table, law.encoding.discrepancy)
    growth = hyper["noise_growth"][0] * np.exp(covariates @ hyper["noise_slope"])
    expected = np.sqrt(hyper["noise_sd"][0] ** 2 + growth**2)
    np.testing.assert_allclose(
        with_draws(law, draws).predictor().noise_sd(table), np.tile(expected, (10, 1)), rtol=1e-12
    )


def test_a_setting_that_never_varied_adds_its_own_uncertainty(pocket, rng):
    law = encoded(pocket, exponents=ONE)
    _, draws = repeated(law, 4000, rng)
    linear = new_candidates(pocket).iloc[[0]]
    doubled = linear.assign(batch_tokens=2048.0, steps=linear["steps"] / 2)
    predictor = with_draws(law, draws).predictor()
    effect = law.encoding.discrepancy.unseen(doubled)[0]
    assert np.abs(effect).max() > 0.1
    sd = [predictor.mean(t, np.random.default_rng(1)).std() for t in (linear, doubled)]
    assert sd[1] > 0.9 * law.priors.unseen_sd * np.linalg.norm(effect) > 0
    assert sd[1] > sd[0]


def test_posterior_equals_quadrature_over_the_hyper_parameters(pocket):
    """Exponent weights, coefficients and noise of the whole sampler, four combinations."""
    priors = Priors(coefficient_sd=LogNormal(0.05, 0.1))
    law = encoded(pocket.iloc[::3].reset_index(drop=True), transfer=False, exponents=FOUR,
                   priors=priors)  # fmt: skip
    data = law.encoding.data
    chains, n = 4, 2000
    found = sample(
        data, priors, draws=n, tune=300, chains=chains, random_seed=3, progressbar=False
    ).draws
    # Gauss-Hermite in the four tight log sds, a fine grid in the log noise sd
    node, weight = np.polynomial.hermite_e.hermegauss(3)
    nodes = np.array(list(product(node, repeat=4)))
    log_node = np.log(np.array(list(product(weight, repeat=4)))).sum(axis=1)
    sds = priors.coefficient_sd.median * np.exp(priors.coefficient_sd.log_sd * nodes)
    centre = np.log(found.hyper["noise_sd"]).mean()
    grid = centre + np.linspace(-0.6, 0.6, 31)
    p = priors.noise_sd
    log_noise = -0.5 * ((grid - np.log(p.median)) / p.log_sd) ** 2
    gram, xy = data.statistics.gram[0], data.statistics.xy[0]
    yy, runs = data.statistics.yy[0], data.statistics.n[0]
    log_p = np.empty((4, len(grid), len(nodes)))
    mean = np.zeros((4, len(grid), len(nodes), 16))
    for k in range(4):
        selected = data.tree.selected(k)
        block = data.column_block[selected]
        prior_sd = np.where(block < 0, priors.intercept_sd, sds[:, block])
        for g, log_sd in enumerate(grid):
            w = np.exp(-2 * log_sd)
            a = w * gram[np.ix_(selected, selected)] + np.einsum(
                "ni,ij->nij", prior_sd**-2.0, np.eye(16)
            )
            b = w * xy[selected]
            m = np.linalg.solve(a, np.broadcast_to(b[:, None], (len(nodes), 16, 1)))[..., 0]
            log_p[k, g] = (
                0.5 * runs * np.log(w) - 0.5 * w * yy + 0.5 * m @ b
                - 0.5 * np.linalg.slogdet(a)[1] - np.log(prior_sd).sum(axis=1)
                + log_node + log_noise[g]
            )  # fmt: skip
            mean[k, g] = m
    share = np.exp(log_p - logsumexp(log_p))
    by_k = share.sum(axis=(1, 2))
    assert 0.01 < np.sort(by_k)[-2]  # more than one combination matters
    # exponents are drawn afresh for each draw: the ESS is near the number of draws
    frequency = np.bincount(found.combination, minlength=4) / found.n
    assert np.all(np.abs(frequency - by_k) < 4.5 * np.sqrt(by_k * (1 - by_k) / found.n) + 2e-3)
    expected = np.zeros(data.column_block.size)
    for k in range(4):
        expected[data.tree.selected(k)] += np.einsum("gn,gni->i", share[k], mean[k])
    used = found.beta.std(axis=0) > 0
    error = found.beta[:, used].std(axis=0) / np.sqrt(found.n / 2)
    z = (found.beta.mean(axis=0) - expected)[used] / error
    np.testing.assert_allclose(expected[~used], 0.0, atol=1e-4)
    assert np.abs(z).max() < 4.5
    log_sd = np.log(found.hyper["noise_sd"][:, 0])
    quadrature = share.sum(axis=(0, 2)) @ grid
    assert abs(log_sd.mean() - quadrature) < 4.5 * log_sd.std() / np.sqrt(found.n / 4)


def test_draws_are_taken_and_thinned_row_by_row(rng):
    n = 10
    draws = Draws(
        {"noise_sd": np.arange(n)[:, None]}, np.arange(n), np.arange(n)[:, None],
        np.arange(n)[:, None, None], np.zeros((n, 0)),
    )  # fmt: skip
    few = draws.thin(4)
    assert few.n == 4 and few.combination[0] == 0 and few.combination[-1] == n - 1
    for value in (few.hyper["noise_sd"][:, 0], few.beta[:, 0], few.fields[:, 0, 0]):
        np.testing.assert_array_equal(value, few.combination)
    assert draws.thin(10) is draws
