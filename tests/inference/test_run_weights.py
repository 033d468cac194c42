"""Weights of runs under Student-t noise, against a sampler that has the precisions as unknowns."""

import numpy as np
import pandas as pd
import pytest
from laws import encoded
from scipy import stats
from scipy.integrate import quad

import bayes_optlaws as bo
from bayes_optlaws.inference import run_weights
from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.draws import recover
from bayes_optlaws.inference.loo import loo_density, loo_moments, missed_variance
from bayes_optlaws.inference.odd_runs import OddRunWarning
from bayes_optlaws.inference.reference import covariance, noise_sd
from bayes_optlaws.model import student_t
from bayes_optlaws.model.priors import Priors

ONE = {"scale": (0.3,), "mixed": (0.15,), "escape": (0.3,), "cross": (0.2,)}


STUDENT = Priors(noise_df=4.0)


@pytest.fixture(scope="module")
def student_law(pocket):
    """A fit with Student-t noise to part of the pocket grid, whose run 40 is 20 % off."""
    table = pocket.iloc[::2].copy()
    where = table.index[~table["diverged"]][40]
    table.loc[where, "final_loss"] *= 1.2
    law = bo.OptLaw(priors=STUDENT, exponents=ONE, divergence=False)
    with pytest.warns(OddRunWarning, match=table.loc[where, "run_id"]):
        return law.fit(table, draws=200, method="importance", random_seed=0, progressbar=False)


def test_normal_noise_leaves_every_run_its_weight(pocket):
    law = encoded(pocket, transfer=False, exponents=ONE)
    same, start = run_weights.weighted(law.encoding, Priors())
    assert same is law.encoding and start is None
    assert (same.measurement.weight == 1).all() and np.isinf(same.measurement.df)


def test_one_wrong_run_widens_normal_noise_and_not_student_noise(pocket):
    spoilt = pocket.copy()
    spoilt.loc[pocket.index[~pocket["diverged"]][100], "final_loss"] *= 1.3
    noise, weight = {}, {}
    for df in (4.0, np.inf):
        for name, table in (("right", pocket), ("wrong", spoilt)):
            law = encoded(table, exponents=ONE, priors=Priors(noise_df=df))
            e, mode = run_weights.weighted(law.encoding, law.priors)
            space = HyperSpace(e.data, law.priors)
            sd = noise_sd(e.data, space.split(space.mode(mode)))[e.measurement.label]
            noise[df, name], weight[df, name] = np.median(sd), e.measurement.weight
    assert weight[4.0, "wrong"][100] < 0.02 < 0.3 < weight[4.0, "right"][100]
    moved = np.abs(np.log(weight[4.0, "wrong"] / weight[4.0, "right"]))
    assert np.median(np.delete(moved, 100)) < 0.05
    assert noise[4.0, "wrong"] < 1.1 * noise[4.0, "right"]
    assert noise[np.inf, "wrong"] > 1.3 * noise[np.inf, "right"]


def test_weights_are_those_of_a_gibbs_sampler(pocket):
    """Precisions drawn run by run, given all else and in turn: the posterior without approximation.

    Hyper-parameters are held at the mode, so that what differs is the weights alone.
    """
    law = encoded(pocket.iloc[::2], transfer=False, exponents=ONE, priors=STUDENT)
    df = law.priors.noise_df
    e, mode = run_weights.weighted(law.encoding, law.priors)
    sd = noise_sd(e.data, HyperSpace(e.data, law.priors).split(mode))[e.measurement.label]
    rng, rows, precision = np.random.default_rng(0), e.rows(), e.measurement.weight
    total, n = 0.0, 1500
    for _ in range(n):
        space = HyperSpace(e.weighted(precision, df, rows).data, law.priors)
        draws, *_ = recover(space, space.split(mode[None]), np.ones(1, dtype=bool), rng)
        z = (e.response - draws.beta[0] @ rows.T) / sd
        shape, rate = 0.5 * (df + 1), 0.5 * (df - 2 + z**2)
        precision = rng.gamma(shape, 1 / rate)
        total = total + shape / rate
    gap = np.log(e.measurement.weight / (total / n))
    assert np.abs(gap).mean() < 0.05 and np.abs(gap).max() < 0.3


def test_leave_one_out_density_is_that_of_the_dense_gaussian_plus_student_noise(student_law):
    """Given the weights of the others: conditional moments of the dense Gaussian, by quadrature."""
    law = student_law.fitted
    e, moments = law.encoding, loo_moments(law, max_draws=3)
    density = loo_density(law, max_draws=3)
    draws, rows = law.draws.thin(3), np.vstack([e.rows(), e.prior_rows])
    y = np.concatenate([e.response, e.prior_response])
    label = np.concatenate([e.measurement.label, np.full(len(e.prior_rows), -1)])
    times = np.concatenate([e.measurement.times, np.ones(len(e.prior_rows))])
    for s in range(3):
        hyper = {k: v[s] for k, v in draws.hyper.items()}
        k = int(draws.combination[s])
        # noise divided by the weights: that of rows times their roots is as stated
        cov = covariance(e.data, law.priors, hyper, k, rows * times[:, None], label)
        cov = cov / np.outer(times, times)
        for i in (0, 40, 77):
            others = np.delete(np.arange(y.size), i)
            gain = np.linalg.solve(cov[np.ix_(others, others)], cov[others, i])
            noise = noise_sd(e.data, hyper)[label[i]]
            mean_var = cov[i, i] - cov[i, others] @ gain - (noise / times[i]) ** 2
            mean_var += hyper["local_sd"][0] ** 2 * missed_variance(e)[i]
            error = y[i] - gain @ y[others]
            assert moments.error[s, i] == pytest.approx(error, rel=1e-4, abs=1e-7)
            student = stats.t(4, scale=noise * np.sqrt(0.5))
            expected = quad(
                lambda m: student.pdf(error - m) * stats.norm.pdf(m, 0, np.sqrt(mean_var)),  # noqa: B023
                -9 * np.sqrt(mean_var), 9 * np.sqrt(mean_var), points=[0], limit=300,
            )[0]  # fmt: skip
            assert density[s, i] == pytest.approx(np.log(expected), abs=2e-3)


def test_a_saved_law_has_its_weights(student_law, tmp_path):
    back = bo.OptLaw.load(student_law.save(tmp_path / "law.nc"))
    old, new = (law.fitted.encoding.measurement for law in (student_law, back))
    np.testing.assert_array_equal(old.weight, new.weight)
    assert old.df == new.df == 4.0 and old.weight[40] < 0.05
    table = student_law.fitted.encoding.finished.head(3)
    candidates = table.drop(columns=["final_loss", "diverged"])
    pd.testing.assert_frame_equal(student_law.predict(candidates), back.predict(candidates))


def test_one_run_scatters_as_the_noise_does(student_law):
    fitted = student_law.fitted
    predictor = fitted.predictor()
    table = fitted.encoding.finished.head(40)
    rng = np.random.default_rng(0)
    sd = predictor.noise_sd(table)
    z = predictor.noise_draws(sd, rng) / sd
    for prob in (0.9, 0.99):
        limit = student_t.quantile(0.5 + prob / 2, predictor.noise_df)
        inside = np.mean(np.abs(z) < limit)
        assert inside == pytest.approx(prob, abs=4.5 * np.sqrt(prob * (1 - prob) / z.size))
