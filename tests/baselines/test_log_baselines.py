"""Baselines in logs: against closed forms, scikit-learn and simulated truths."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import approx_fprime
from scipy.stats import multivariate_normal
from sklearn.gaussian_process import GaussianProcessRegressor, kernels

from bayes_optlaws import baselines
from bayes_optlaws.baselines import process, quadratic, step_law
from bayes_optlaws.evaluation import scores
from bayes_optlaws.runs.readers import read_candidates

NAMES = ("gp-linear-scale", "gp-linear-settings", "quadratic", "step-law", "step-law-gp")


def settings(rng, n, *, lr=True, batch=True):
    """Runs over a decade of size and tokens, learning rates and batches crossed with them."""
    table = {
        "run_id": [f"r{i}" for i in range(n)],
        "n_params": 10 ** rng.uniform(7.5, 9, n),
        "tokens": 10 ** rng.uniform(9, 10.5, n),
        "batch_tokens": 2.0 ** rng.uniform(17, 20, n) if batch else 2.0**18,
        "peak_lr": 10 ** rng.uniform(-3.5, -2, n) if lr else 1e-3,
        "schedule": "cosine",
    }
    frame = pd.DataFrame(table)
    frame["warmup_steps"] = 0.05 * frame["tokens"] / frame["batch_tokens"]
    return read_candidates(frame)


def bowl(table, *, curve=0.03):
    """Log loss of a Step-Law truth."""
    n, d = np.log(table["n_params"]), np.log(table["tokens"])
    lr, batch = np.log(table["peak_lr"]), np.log(table["batch_tokens"])
    scale = np.log(1.8 + 400 * np.exp(-0.34 * n) + 900 * np.exp(-0.3 * d))
    best_lr = np.log(1.79) - 0.713 * n + 0.307 * d
    best_batch = np.log(0.58) + 0.571 * d
    return scale + curve * (lr - best_lr) ** 2 + 0.01 * (batch - best_batch) ** 2


def finished(table, log_loss):
    return table.assign(final_loss=np.exp(log_loss), diverged=False)


# Gaussian process -----------------------------------------------------------------------------


def test_evidence_gradient_and_predictions_are_those_of_scikit_learn(rng):
    x, new = rng.normal(size=(40, 3)), rng.normal(size=(6, 3))
    y = np.sin(x[:, 0]) + 0.3 * x[:, 1] + 0.1 * rng.normal(size=40)
    theta = np.log([0.7, 0.9, 1.7, 2.5, 0.15])
    trend_sd = 3.0
    trend = trend_sd**2 * (1 + x @ x.T)
    squares = process.squared_differences(x, x)
    value, gradient = process.log_marginal(theta, squares, trend, y)
    kernel = (
        kernels.ConstantKernel(0.7**2) * kernels.Matern([0.9, 1.7, 2.5], nu=2.5)
        + kernels.ConstantKernel(trend_sd**2, "fixed") * kernels.DotProduct(1.0, "fixed")
        + kernels.WhiteKernel(0.15**2)
    )
    oracle = GaussianProcessRegressor(kernel, alpha=process.JITTER, optimizer=None).fit(x, y)
    assert value == pytest.approx(oracle.log_marginal_likelihood_value_, rel=1e-9)
    numeric = approx_fprime(theta, lambda t: process.log_marginal(t, squares, trend, y)[0], 1e-6)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-4)
    covariance = np.exp(2 * theta[-1]) * np.eye(40) + trend
    covariance += 0.7**2 * process.matern(squares, np.exp(theta[1:-1]))[0]
    factor = np.linalg.cholesky(covariance)
    given = process.Process(theta, trend_sd, x, 0.0, factor, np.linalg.solve(covariance, y))
    mean, joint = given.predict(new)
    expected, expected_joint = oracle.predict(new, return_cov=True)
    np.testing.assert_allclose(mean, expected, rtol=1e-6)
    np.testing.assert_allclose(joint + 0.15**2 * np.eye(6), expected_joint, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(given.mean(new), mean)


def test_the_fit_is_no_worse_than_that_of_scikit_learn(rng):
    x = rng.normal(size=(60, 2))
    y = np.sin(1.5 * x[:, 0]) + 0.5 * x[:, 1] + 0.1 * rng.normal(size=60)
    y = (y - y.mean()) / y.std()
    found = process.fit_process(x, y, trend_sd=3.0, rng=np.random.default_rng(1))
    limits = {k: np.square(process.BOUNDS[k]) for k in ("amplitude", "noise")}
    kernel = (
        kernels.ConstantKernel(0.1, limits["amplitude"])
        * kernels.Matern([1.0, 1.0], process.BOUNDS["length"], nu=2.5)
        + kernels.ConstantKernel(9.0, "fixed") * kernels.DotProduct(1.0, "fixed")
        + kernels.WhiteKernel(0.01, limits["noise"])
    )
    oracle = GaussianProcessRegressor(
        kernel, alpha=process.JITTER, n_restarts_optimizer=4, random_state=0
    ).fit(x, y)
    assert found.log_evidence >= oracle.log_marginal_likelihood_value_ - 1e-3


def test_far_from_all_runs_the_prediction_is_a_power_law(rng):
    table = settings(rng, 80, lr=False, batch=False)
    n, d = np.log(table["n_params"]), np.log(table["tokens"])
    truth = 6.0 - 0.12 * n - 0.1 * d
    runs = finished(table, truth + 0.003 * rng.normal(size=80))
    law = baselines.get("gp-linear-scale").fit(runs)
    far = table.head(4).assign(n_params=table["n_params"].head(4) * 1e4)
    expected = 6.0 - 0.12 * np.log(far["n_params"]) - 0.1 * np.log(far["tokens"])
    log_draws = np.log(law.predict_draws(far, n=4000, random_seed=0))
    z = (expected - log_draws.mean(axis=0)) / log_draws.std(axis=0)
    assert np.abs(z).max() < 3
    near_sd = np.log(law.predict_draws(table.head(4), n=4000, random_seed=0)).std(axis=0)
    assert (log_draws.std(axis=0) > 1.5 * near_sd).all()


def test_cost_is_bounded_at_two_thousand_runs(rng, monkeypatch):
    """The kernel sees a subset, the predictions no more than the stated number of runs."""
    sizes = []
    original = process.log_marginal

    def spy(theta, squares, trend, y):
        sizes.append(y.size)
        return original(theta, squares, trend, y)

    monkeypatch.setattr(process, "log_marginal", spy)
    table = settings(rng, 400)
    law = baselines.LinearMeanProcess(n_hyper=60, n_max=150, n_starts=1)
    law.fit(finished(table, bowl(table)))
    assert set(sizes) == {60} and len(law._process.x) == 150


# Quadratic ------------------------------------------------------------------------------------


def test_linear_posterior_is_the_closed_form(rng):
    x, y = rng.normal(size=(25, 4)), rng.normal(size=25)
    sd, noise = np.array([3.0, 3.0, 0.2, 0.2]), 0.4
    found = quadratic.linear_posterior(x.T @ x, x.T @ y, y @ y, 25, sd, noise)
    covariance = x * sd**2 @ x.T + noise**2 * np.eye(25)
    assert found.log_evidence == pytest.approx(
        multivariate_normal(np.zeros(25), covariance).logpdf(y)
    )
    gain = (sd[:, None] ** 2 * x.T) @ np.linalg.inv(covariance)
    np.testing.assert_allclose(found.mean, gain @ y, rtol=1e-9)
    expected = np.diag(sd**2) - gain @ x * sd**2
    np.testing.assert_allclose(found.covariance, expected, rtol=1e-7, atol=1e-12)


def test_quadratic_recovers_a_quadratic_and_covers(rng):
    table = settings(rng, 300)
    n, lr = np.log(table["n_params"]) - 19, np.log(table["peak_lr"]) + 6
    truth = 1.2 - 0.1 * n + 0.004 * n**2 + 0.03 * (lr + 0.4 * n) ** 2
    law = baselines.get("quadratic").fit(
        finished(table, truth + 0.002 * rng.normal(size=300))[:200]
    )
    assert law.parameters["noise"] == pytest.approx(0.002, rel=0.25)
    error = np.log(law.predict(table[200:])) - truth[200:]
    assert error.std() < 0.001
    losses = np.exp(truth[200:] + 0.002 * rng.normal(size=100))
    inside = scores.coverage(
        losses, law.predict_draws(table[200:], n=2000, random_seed=1), prob=0.9
    )
    assert abs(inside - 0.9) < 4 * np.sqrt(0.09 / 100)


# Step Law -------------------------------------------------------------------------------------


def test_slopes_of_the_form_are_those_of_differences(rng):
    inputs = step_law._Inputs(*rng.normal(size=(4, 7)))
    p = rng.uniform(0.1, 0.9, 12)
    slopes = step_law._log_loss(p, inputs)[1]
    for i in range(7):
        numeric = approx_fprime(p, lambda q, i=i: step_law._log_loss(q, inputs)[0][i], 1e-7)
        np.testing.assert_allclose(slopes[i], numeric, rtol=1e-4, atol=1e-5)


def test_step_law_recovers_its_own_form(rng):
    table = settings(rng, 300)
    runs = finished(table, bowl(table) + 0.002 * rng.normal(size=300))
    law = baselines.get("step-law").fit(runs)
    found = law.parameters
    assert found["lr_curve"] == pytest.approx(0.03, rel=0.05)
    assert found["batch_curve"] == pytest.approx(0.01, rel=0.1)
    assert found["lr_n"] == pytest.approx(-0.713, abs=0.05)
    assert found["lr_d"] == pytest.approx(0.307, abs=0.05)
    beyond = settings(rng, 40).assign(n_params=3e9)
    assert np.abs(np.log(law.predict(beyond)) - bowl(beyond)).max() < 0.02
    assert 10 <= law.n_parameters <= 12


def test_a_setting_that_never_varies_gets_no_bowl(rng):
    table = settings(rng, 60, lr=False, batch=False)
    law = baselines.get("step-law").fit(finished(table, bowl(table, curve=0.0)))
    assert law.parameters[["lr_curve", "lr_at", "batch_curve", "batch_at"]].tolist() == [0.0] * 4
    moved = table.assign(peak_lr=3e-2)
    np.testing.assert_array_equal(law.predict(moved), law.predict(table))


def test_a_process_on_the_residuals_finds_what_the_form_leaves(rng):
    table = settings(rng, 200)
    extra = 0.03 * np.sin(2 * np.log(table["peak_lr"]))
    runs = finished(table, bowl(table) + extra + 0.001 * rng.normal(size=200))
    alone, both = (baselines.get(name).fit(runs[:150]) for name in ("step-law", "step-law-gp"))
    truth = np.log(runs["final_loss"][150:])
    error = [
        np.sqrt(np.mean((np.log(law.predict(runs[150:])) - truth) ** 2)) for law in (alone, both)
    ]
    assert error[1] < 0.3 * error[0]


# All ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_draws_are_centred_on_the_prediction_and_cover_new_runs(name, rng):
    table = settings(rng, 240)
    runs = finished(table, bowl(table) + 0.004 * rng.normal(size=240))
    law = baselines.get(name).fit(runs[:140])
    assert isinstance(law, baselines.Baseline)
    draws = law.predict_draws(runs[140:], n=150, random_seed=3)
    np.testing.assert_array_equal(draws, law.predict_draws(runs[140:], n=150, random_seed=3))
    assert (draws > 0).all() and draws.shape == (150, 100)
    gap = np.log(draws).mean(axis=0) - np.log(law.predict(runs[140:]))
    assert np.abs(gap / np.log(draws).std(axis=0)).mean() < 0.3
    if name != "gp-linear-scale":  # blind to the learning rate, its errors are not exchangeable
        inside = scores.coverage(runs["final_loss"][140:], draws, prob=0.9)
        assert abs(inside - 0.9) < 4 * np.sqrt(0.09 / 100)


@pytest.mark.parametrize("name", NAMES)
def test_units_do_not_matter(name, rng):
    table = settings(rng, 60)
    runs = finished(table, bowl(table) + 0.003 * rng.normal(size=60))
    scaled = runs.assign(
        n_params=1e3 * runs["n_params"], tokens=1e3 * runs["tokens"],
        batch_tokens=1e3 * runs["batch_tokens"], peak_lr=10 * runs["peak_lr"],
        plateau_lr=10 * runs["plateau_lr"],
    )  # fmt: skip
    one = baselines.get(name).fit(runs[:50]).predict(runs[50:])
    two = baselines.get(name).fit(scaled[:50]).predict(scaled[50:])
    np.testing.assert_allclose(one, two, rtol=1e-3)


def test_options_that_make_no_sense_are_refused():
    for call, message in (
        (lambda: baselines.LinearMeanProcess(inputs="all"), "must be 'scale' or 'settings'"),
        (lambda: baselines.LinearMeanProcess(n_max=3), "at least 10 runs"),
        (lambda: baselines.LinearMeanProcess(trend_sd=0.0), "must be positive"),
        (lambda: baselines.QuadraticRegression(trend_sd=-1.0), "must be positive"),
        (lambda: baselines.StepLaw(run_sd=0.0), "must be positive"),
        (lambda: baselines.QuadraticRegression().predict(None), "not fitted"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
