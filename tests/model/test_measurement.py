"""Unequal noise: known standard errors and means over seeds, against dense Gaussian algebra."""

import numpy as np
import pandas as pd
import pytest
from laws import encoded, with_draws
from run_tables import faults, good
from scipy.linalg import solve
from scipy.stats import multivariate_normal

from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.draws import recover
from bayes_optlaws.inference.loo import loo_moments
from bayes_optlaws.inference.reference import coefficient_sd, discrepancy_covariance
from bayes_optlaws.kernels.hyper import RESOLUTION
from bayes_optlaws.law import OptLaw
from bayes_optlaws.model.measurement import MAX_LEVELS, Measurement, measurement_sd, seeds
from bayes_optlaws.model.noise import NoiseClasses
from bayes_optlaws.runs.readers import read_runs

ONE = {"scale": (0.3,), "mixed": (0.15,), "escape": (0.3,), "cross": (0.2,)}


def measured(pocket, rng, every=4):
    """Pocket runs some of which are means over seeds, or have a standard error, or both."""
    table = pocket[~pocket["diverged"]].iloc[::every].reset_index(drop=True)
    n = len(table)
    return table.assign(
        n_seeds=rng.choice([1.0, 2.0, 5.0, np.nan], n),
        loss_sd=rng.choice([0.002, 0.01, np.nan], n) * table["final_loss"],
    )


def dense(law, hyper):
    """Covariance of the log losses and of the slopes, from the formula, run by run."""
    e, data = law.encoding, law.encoding.data
    table = e.finished
    log_loss = np.log(table["final_loss"].to_numpy())
    floor = hyper["noise_sd"][0] ** 2 + RESOLUTION**2
    one = np.full(len(table), floor)
    if data.noise_names:
        z = e.noise.at(table, e.discrepancy)
        one = one + (hyper["noise_growth"][0] * np.exp(z @ hyper["noise_slope"])) ** 2
    variance = measurement_sd(table, log_loss) ** 2 + one / seeds(table)
    rows = np.vstack([e.rows(), e.prior_rows])
    selected, q = data.tree.selected(0), data.column_block.size
    x = rows[:, selected] * coefficient_sd(data, law.priors, hyper)[selected]
    z = rows[:, q:]
    cov = x @ x.T + z @ discrepancy_covariance(data, hyper) @ z.T
    cov += np.diag(np.concatenate([variance, np.ones(len(e.prior_rows))]))
    return np.concatenate([e.response, e.prior_response]), cov


def near_mode(law):
    space = HyperSpace(law.encoding.data, law.priors)
    x = space.mean + 0.3 * space.sd * np.cos(np.arange(space.size))
    return space, x


@pytest.mark.parametrize("transfer", [False, True], ids=["law alone", "transfer"])
def test_evidence_is_that_of_the_dense_gaussian(pocket, rng, transfer):
    law = encoded(measured(pocket, rng), transfer=transfer, exponents=ONE)
    assert len(law.encoding.measurement.level) > 3
    space, x = near_mode(law)
    values = []
    for move in (0.0, 0.4):  # a constant (the Jacobian of the means) cancels in the difference
        at = x + move * space.sd * np.sin(np.arange(space.size))
        y, cov = dense(law, space.split(at))
        expected = multivariate_normal.logpdf(y, cov=cov, allow_singular=True)
        prior = -0.5 * np.sum(((at - space.mean) / space.sd) ** 2)
        values.append((space.log_density(at)[0] - prior, expected))
    (a, b), (c, d) = values
    assert abs(b - d) > 0.5
    np.testing.assert_allclose(a - c, b - d, atol=0.002)
    n = np.log(seeds(law.encoding.finished)).sum()
    np.testing.assert_allclose(a + 0.5 * n, b, atol=0.002)


def test_gradient_of_the_evidence_is_that_of_finite_differences(pocket, rng):
    law = encoded(measured(pocket, rng), exponents=ONE)
    space, x = near_mode(law)
    gradient, h = space.log_density(x)[1], 1e-5
    for i, name in enumerate(space.names):
        if not name.startswith("noise"):
            continue
        e = h * np.eye(space.size)[i]
        slope = (space.log_density(x + e)[0] - space.log_density(x - e)[0]) / (2 * h)
        np.testing.assert_allclose(gradient[i], slope, rtol=1e-4, atol=1e-3)


def test_leaving_one_out_is_the_conditional_of_the_dense_gaussian(pocket, rng):
    law = encoded(measured(pocket, rng), transfer=False, exponents=ONE)
    space, x = near_mode(law)
    hyper = space.split(np.tile(x, (1, 1)))
    draws = recover(space, hyper, np.ones(1, dtype=bool), rng)[0]
    moments = loo_moments(with_draws(law, draws))
    error, sd = moments.error, moments.sd
    y, cov = dense(law, space.split(x))
    inverse = np.linalg.inv(cov)
    n = len(law.encoding.finished)
    np.testing.assert_allclose(error[0], (solve(cov, y) / np.diag(inverse))[:n], rtol=1e-3)
    np.testing.assert_allclose(sd[0], np.diag(inverse)[:n] ** -0.5, rtol=1e-3)


def test_replicated_and_held_out_losses_have_the_noise_of_the_likelihood(pocket, rng):
    law = encoded(measured(pocket, rng), exponents=ONE)
    e = law.encoding
    space, x = near_mode(law)
    n = 4000
    draws = recover(space, space.split(np.tile(x, (n, 1))), np.ones(1, dtype=bool), rng)[0]
    fitted = with_draws(law, draws)
    _, cov = dense(law, space.split(x))
    shared = np.hstack([e.rows(), np.zeros((len(e.finished), 0))])
    hyper = space.split(x)
    selected, q = e.data.tree.selected(0), e.data.column_block.size
    a = shared[:, selected] * coefficient_sd(e.data, law.priors, hyper)[selected]
    b = shared[:, q:]
    of_mean = a @ a.T + b @ discrepancy_covariance(e.data, hyper) @ b.T
    noise = np.sqrt(np.diag(cov)[: len(a)] - np.diag(of_mean))
    mean, replicated = fitted.replicated(np.random.default_rng(1), max_draws=n)
    found = np.std(replicated - mean, axis=0)
    assert np.abs(found / noise - 1).max() < 4.5 / np.sqrt(2 * n)

    sd = e.measurement.sd(fitted.predictor().noise_sd(e.finished), e.finished, mean)
    plain = e.finished["loss_sd"].isna().to_numpy()
    np.testing.assert_allclose(sd[0][plain], noise[plain], rtol=1e-4)
    # a held-out loss is not looked at: its standard error is over the loss that is expected
    off = np.exp(np.log(e.finished["final_loss"].to_numpy()) - mean[0])
    assert np.abs(sd[0] / noise - 1).max() < 2 * np.abs(off - 1).max() + 1e-4


def test_a_plain_table_is_one_level_of_no_known_variance(pocket):
    law = encoded(pocket, exponents=ONE).encoding
    m = law.measurement
    assert not m.variance.any() and (m.seeds == 1).all()
    np.testing.assert_array_equal(m.label, law.noise.label)
    one = np.full((3, len(law.finished)), 0.01)
    assert m.sd(one, law.finished, one) is one


def test_many_standard_errors_are_merged_to_the_nearest(rng):
    table = pd.DataFrame({"final_loss": 3.0, "loss_sd": 10 ** rng.uniform(-3.5, -2, 500)})
    m = Measurement.fit(table, NoiseClasses((), np.zeros((1, 0)), np.zeros(500, dtype=int)))
    assert len(m.variance) == len(m.level) == MAX_LEVELS
    exact = (table["loss_sd"] / 3.0) ** 2
    np.testing.assert_allclose(m.variance[m.label].mean(), exact.mean(), rtol=1e-9)
    # a level holds a sixth of three and a half nats of standard error
    assert np.abs(np.log(m.variance[m.label] / exact)).max() < 1.0
    again = m.sd(0.001, table, np.log(table["final_loss"]))
    np.testing.assert_allclose(again**2, 1e-6 + m.variance[m.label], rtol=1e-9)
    apart = m.sd(0.0, table.assign(loss_sd=0.3), np.log(table["final_loss"]))
    np.testing.assert_allclose(apart, 0.1)


def simulated(pocket, rng, *, sd, loss_sd, n_seeds):
    """The pocket grid, each setting twice, with losses of a law and noise that is known."""
    table = pocket[~pocket["diverged"]].iloc[::3]
    x = encoded(table, transfer=False, exponents=ONE).encoding.rows()
    y = np.log(table["final_loss"].to_numpy())
    mean = x @ np.linalg.lstsq(x, y, rcond=1e-6)[0]
    both = pd.concat([table, table], ignore_index=True)
    n = len(both)
    runs, error = np.resize(n_seeds, n), np.resize(loss_sd, n)
    noise = np.sqrt(error**2 + sd**2 / runs) * rng.standard_normal(n)
    loss = np.exp(np.tile(mean, 2) + noise)
    seed = np.repeat([1, 2], len(table))
    return both.assign(
        final_loss=loss, seed=seed, run_id=[f"r{i}" for i in range(n)],
        n_seeds=runs.astype(float), loss_sd=error * loss,
    )  # fmt: skip


def test_replicates_teach_the_seed_noise_beside_the_standard_errors(pocket, rng):
    """The posterior holds the noise of one seed; where errors are kept from it, it does not."""
    sd = 0.004
    table = simulated(pocket, rng, sd=sd, loss_sd=[0.002, 0.008, 0.02], n_seeds=[1, 3, 1, 8])
    law = OptLaw(transfer=False, exponents=ONE, divergence=False)
    options = {"draws": 250, "random_seed": 2, "progressbar": False, "method": "importance"}
    log = np.log(law.fit(table, **options).fitted.draws.hyper["noise_sd"][:, 0])
    assert abs(log.mean() - np.log(sd)) < 3.5 * log.std()
    assert log.std() < 0.2
    blind = table.drop(columns=["n_seeds", "loss_sd"])
    wrong = np.log(law.fit(blind, **options).fitted.draws.hyper["noise_sd"][:, 0])
    assert wrong.mean() - np.log(sd) > 0.5


def test_what_no_standard_error_and_no_number_of_seeds_is_refused():
    table = good().assign(loss_sd=0.01, n_seeds=2)
    table["loss_sd"] = table["loss_sd"].astype(object)
    table.loc[1, "loss_sd"], table.loc[2, "loss_sd"] = -0.1, 7.0
    table["n_seeds"] = table["n_seeds"].astype(float)
    table.loc[3, "n_seeds"], table.loc[4, "n_seeds"] = 0.0, 2.5
    found = faults(table)
    assert sorted(zip(found["row"], found["column"], strict=True)) == [
        (1, "loss_sd"), (2, "loss_sd"), (3, "n_seeds"), (4, "n_seeds"),
    ]  # fmt: skip


def test_blank_cells_say_nothing_and_units_follow_the_loss():
    table = good().assign(loss_sd=0.01, n_seeds="")
    table["perplexity"] = np.exp(table.pop("final_loss").to_numpy(float))
    runs = read_runs(table)
    np.testing.assert_allclose(runs["loss_sd"], 0.01 / table["perplexity"])
    assert runs["n_seeds"].isna().all() and (seeds(runs) == 1).all()
