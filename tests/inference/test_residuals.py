"""What residuals tell: runs in the grid are predicted better, those far away as before."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from laws import dense_kriging, encoded, with_draws, with_neighbours
from scipy.stats import norm

import bayes_optlaws as bo
from bayes_optlaws.archive import load, save
from bayes_optlaws.inference import residuals
from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.describe import law_html
from bayes_optlaws.inference.draws import recover
from bayes_optlaws.inference.loo import loo_moments, missed_variance
from bayes_optlaws.inference.odd_runs import odd_runs
from bayes_optlaws.inference.reference import covariance
from bayes_optlaws.model.neighbours import Residuals
from bayes_optlaws.model.tails import Tails
from bayes_optlaws.runs.readers import read_candidates, read_runs

ONE = {"scale": (-0.3,), "mixed": (0.15,), "escape": (0.3,), "cross": (0.2,)}
COLUMNS = ["n_params", "tokens", "batch_tokens", "peak_lr", "warmup_steps"]


def rippled(seed=3, amplitude=0.006, noise=0.003):
    """A dense grid whose losses ripple over settings, finer than any function of the law."""
    rng = np.random.default_rng(seed)
    lr = 1e-3 * 2.0 ** np.linspace(-2, 2, 17)
    batch = 2.0 ** np.linspace(15, 18, 7)
    rows = []
    for n in (1e7, 4e7, 1.6e8):
        phase = rng.uniform(0, 2 * np.pi, 2)
        for b in batch:
            for x in lr:
                bowl = 0.02 * np.log(x / 1e-3) ** 2 + 0.01 * np.log(b / 6e4) ** 2
                wave = np.sin(4.5 * np.log(x) + phase[0]) * np.cos(3 * np.log(b) + phase[1])
                loss = 2.0 + 60 * n**-0.3 + bowl
                loss *= np.exp(amplitude * wave + noise * rng.standard_normal())
                rows.append((n, 20 * n, b, x, 50.0, "cosine", loss))
    table = pd.DataFrame(rows, columns=[*COLUMNS, "schedule", "final_loss"])
    table["diverged"] = False
    return read_runs(table)


@pytest.fixture(scope="module")
def runs():
    return rippled()


def fitted(runs, **options):
    given = {"method": "importance", "draws": 250, "random_seed": 0, "progressbar": False}
    return bo.OptLaw(divergence=False, **options).fit(runs, **given).fitted


@pytest.fixture(scope="module")
def halves(runs):
    """A law of one half of the grid, with and without neighbours, and the other half."""
    rng = np.random.default_rng(1)
    test = np.zeros(len(runs), bool)
    test[rng.choice(len(runs), len(runs) // 4, replace=False)] = True
    train = runs[~test].reset_index(drop=True)
    return fitted(train), fitted(train, residuals=False), runs[test].reset_index(drop=True)


def scores(law, table):
    """Error and log score of each held-out run."""
    predictor, y = law.predictor(), np.log(table["final_loss"].to_numpy())
    mean = predictor.mean(table, np.random.default_rng(0))
    density = norm.pdf(y, mean, predictor.noise_sd(table)).mean(axis=0)
    return np.abs(mean.mean(axis=0) - y), np.log(density), (y - mean) / predictor.noise_sd(table)


def test_inside_the_grid_runs_left_out_are_predicted_better(halves):
    with_them, without, test = halves
    assert with_them.neighbours is not None and without.neighbours is None
    assert with_them.neighbours.learned.share > 0.3
    error, score, z = scores(with_them, test)
    plain_error, plain_score, _ = scores(without, test)
    gain = score - plain_score
    assert gain.mean() > 3 * gain.std() / np.sqrt(gain.size)
    assert error.mean() < 0.9 * plain_error.mean()
    assert 0.8 < np.sqrt(np.mean(z**2)) < 1.25  # what is left is neither too little nor too much


def test_far_from_all_runs_nothing_changes(halves):
    """By less than a fiftieth of the noise."""
    with_them, _, test = halves
    without = replace(with_them, neighbours=None)
    far = test.assign(n_params=test["n_params"] * 1e3, tokens=test["tokens"] * 1e3)
    for table in (far, test.assign(peak_lr=test["peak_lr"] * 300)):
        table = read_candidates(table[[*COLUMNS, "schedule"]], warn=False)
        a, b = with_them.predictor(), without.predictor()
        x, y = (p.mean(table, np.random.default_rng(0)) for p in (a, b))
        noise = b.noise_sd(table)
        assert np.abs((x - y) / noise).max() < 0.02
        np.testing.assert_allclose(a.noise_sd(table), noise, rtol=1e-4)


def test_a_saved_law_predicts_the_same(halves, tmp_path):
    law, _, test = halves
    again = load(save(law, tmp_path / "law.nc"))
    assert again.neighbours.learned == law.neighbours.learned
    for one, other in ((law, again), (replace(law, neighbours=None), None)):
        if other is None:
            other = load(save(one, tmp_path / "plain.nc"))
            assert other.neighbours is None
        a, b = (x.predictor().mean(test, np.random.default_rng(0)) for x in (one, other))
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_the_order_of_the_runs_does_not_matter(halves):
    """The same draws, the runs of the encoding in another order."""
    law, _, test = halves
    known = law.neighbours
    order = np.random.default_rng(0).permutation(len(known.residuals.points))
    r = known.residuals
    moved = Residuals(*(x[order] for x in (r.points, r.single, r.known, r.weight)))
    found = replace(known, residuals=moved).at(test)
    a = known.at(test).matrix(np.arange(order.size)).toarray()
    b = found.matrix(np.arange(order.size)).toarray()
    np.testing.assert_allclose(found.left, known.at(test).left, atol=1e-9)
    np.testing.assert_allclose(b, a[:, order], atol=1e-9)


def test_odd_runs_make_the_tails_of_new_runs_heavy_and_the_fit_stays(runs, tmp_path):
    """One run in twelve has ten times the noise of the others."""
    rng = np.random.default_rng(4)
    odd = rng.random(len(runs)) < 1 / 12
    loss = runs["final_loss"] * np.exp(0.03 * rng.standard_normal(len(runs)) * odd)
    law = fitted(runs.assign(final_loss=loss))
    plain = fitted(runs.assign(final_loss=loss), residuals=False)
    assert law.tails is not None and law.noise_df <= 6 and np.isinf(plain.noise_df)
    for name, values in law.draws.hyper.items():
        np.testing.assert_allclose(values, plain.draws.hyper[name], rtol=1e-6, err_msg=name)
    kurtosis = [(x.replicated(np.random.default_rng(0), max_draws=500)) for x in (law, plain)]
    tails = [np.mean(((b - a) / (b - a).std(axis=0)) ** 4) for a, b in kurtosis]
    assert tails[0] > 4 and tails[1] == pytest.approx(3, abs=0.3)
    again = load(save(law, tmp_path / "law.nc"))
    assert again.tails == law.tails and again.noise_df == law.noise_df


def test_a_law_says_what_its_residuals_told(halves):
    law = replace(halves[0], tails=Tails(4.0, 9.0))
    share = f"share {100 * law.neighbours.learned.share:.0f} % of what the law does not explain"
    said = law_html(law.options, law)
    assert share in said and "Student-t noise of 4 degrees" in said
    plain = law_html(law.options, replace(law, neighbours=None, tails=None))
    assert "does not explain" not in plain and "Student-t" not in plain


def test_an_odd_run_does_not_make_its_neighbours_odd(halves):
    """One run 5 % off: it is named, as without a correction from neighbours, which moves theirs."""
    runs = halves[0].encoding.runs
    bad = len(runs) // 2
    loss = runs["final_loss"].to_numpy().copy()
    loss[bad] *= 1.05
    law = fitted(runs.assign(final_loss=loss))
    law = law if law.neighbours is not None else with_neighbours(law)
    plain, name = replace(law, neighbours=None), runs["run_id"].iloc[bad]
    near = [i for i in law.neighbours.leave_one_out(np.array([bad])).runs[0][:3] if i != bad]
    before, after = (np.abs(loo_moments(x).error.mean(axis=0))[near] for x in (plain, law))
    assert after.mean() > before.mean()
    assert list(odd_runs(law).index) == list(odd_runs(plain).index) == [name]


def test_stated_tails_are_not_learned_again(runs):
    law = fitted(runs, priors=bo.Priors(noise_df=5.0))
    assert law.tails is None and law.noise_df == 5.0


def test_a_law_without_discrepancy_or_with_few_runs_has_no_correction(runs):
    assert fitted(runs, transfer=False).neighbours is None
    law = fitted(runs.iloc[::20].reset_index(drop=True))
    assert len(law.encoding.finished) < residuals.FEWEST and law.neighbours is None


def made(pocket, seeds=False, **options):
    """A law of one combination of exponents at fixed hyper-parameters, corrected by neighbours."""
    table = pocket.copy()
    if seeds:
        table["n_seeds"] = np.where(np.arange(len(table)) % 3 == 0, 4, 1)
    law = encoded(read_runs(table), transfer=True, exponents=ONE, **options)
    space = HyperSpace(law.encoding.data, law.priors)
    rng = np.random.default_rng(6)
    x = space.mode() + 0.1 * space.sd * rng.standard_normal((3, space.size))
    every = np.ones(law.encoding.data.tree.n_combinations, dtype=bool)
    draws, *_ = recover(space, space.split(x), every, rng)
    return with_neighbours(with_draws(law, draws)), space.split(x)


@pytest.mark.parametrize("seeds", [False, True], ids=["single runs", "means over seeds"])
def test_leave_one_out_is_the_correction_from_the_others(pocket, seeds, rng):
    """Given hyper-parameters, by n x n algebra without the run.

    Its expected loss and those of the other runs are jointly normal given the others' losses; the
    correction is linear in them.
    """
    law, hyper = made(pocket, seeds)
    e, data = law.encoding, law.encoding.data
    found = loo_moments(law)
    rows = np.vstack([e.rows(), e.prior_rows])
    times = np.concatenate([e.measurement.times, np.ones(e.prior_response.size)])
    y = np.concatenate([e.response, e.prior_response])
    label = np.concatenate([e.measurement.label, np.full(e.prior_response.size, -1)])
    n, sds = len(e.finished), law.predictor().without_neighbours().unexplained_sd(e.finished)
    near = law.neighbours.residuals
    missed = missed_variance(e)
    for s in range(3):
        point = {k: v[s] for k, v in hyper.items()}
        whole = covariance(data, law.priors, point, 0, rows * times[:, None], label)
        noise = np.diag(covariance(data, law.priors, point, 0, 0 * rows, label))
        signal = (whole - np.diag(noise)) / np.outer(times, times)
        noise = noise / times**2
        for i in rng.choice(n, 5, replace=False):
            others = np.delete(np.arange(y.size), i)
            gain = np.linalg.solve(
                (signal + np.diag(noise))[np.ix_(others, others)], signal[others]
            )
            mean, cov = gain.T @ y[others], signal - signal[:, others] @ gain
            runs = law.neighbours.leave_one_out(np.array([i])).runs[0]
            assert i not in runs
            weight, left = dense_kriging(law, e.finished.iloc[[i]], runs)
            a = np.zeros(y.size)
            a[i], a[runs] = 1.0, -weight[0] * sds[s, i] / sds[s, runs]
            error = a @ (y - mean)
            share = law.neighbours.learned.share
            own = point["local_sd"][0] ** 2 * missed[i] * left[0]
            part = left[0] - (1 - share) + (1 - share) * near.single[i] + near.known[i]
            left = part / (near.single[i] + near.known[i])
            assert found.error[s, i] == pytest.approx(error, rel=1e-6)
            assert found.mean_sd[s, i] == pytest.approx(np.sqrt(a @ cov @ a + own), rel=1e-5)
            assert found.noise_sd[s, i] == pytest.approx(np.sqrt(noise[i] * left), rel=1e-6)


def test_seeds_average_a_run_s_own_part_and_nothing_averages_a_standard_error(pocket):
    """Leave-one-out and held-out rows have one noise; it is never below what is known of it."""
    table = pocket.assign(n_seeds=np.where(np.arange(len(pocket)) % 3 == 0, 4, 1))
    noisy = np.arange(len(table)) % 5 == 0
    table["loss_sd"] = np.where(noisy, 0.03 * table["final_loss"], np.nan)
    law, _ = made(table)
    e, r, share = law.encoding, law.neighbours.residuals, law.neighbours.learned.share
    np.testing.assert_allclose(r.single, 1 / e.measurement.seeds)
    said = e.finished["loss_sd"].notna().to_numpy()
    assert (r.known[said] > 0).all() and not r.known[~said].any()
    y = np.log(e.finished["final_loss"].to_numpy())
    known = np.where(said, 0.03, 0.0)
    predictor = law.predictor()
    for sd in (predictor.measured_sd(e.measurement, e.finished, y), loo_moments(law).noise_sd):
        assert (sd >= 0.99 * known).all()
    # of a row far from all runs: what is shared does not average over seeds
    far = e.finished.iloc[[0]].assign(n_params=1e12, tokens=1e15, n_seeds=4, loss_sd=np.nan)
    whole = predictor.whole_noise_sd(far)
    np.testing.assert_allclose(
        predictor.measured_sd(e.measurement, far, y[:1]) / whole,
        np.sqrt(share + (1 - share) / 4), rtol=1e-4,
    )  # fmt: skip
    plain = predictor.without_neighbours().measured_sd(e.measurement, far, y[:1])
    np.testing.assert_allclose(plain / whole, 0.5, rtol=1e-9)


def test_the_noise_of_a_run_left_out_does_not_hang_on_its_own_residual(pocket):
    """Under Student-t noise an odd run has a low weight, which the others must not know."""
    law, _ = made(pocket)
    known = law.neighbours
    r = known.residuals
    weight = np.where(np.arange(len(r.points)) == 5, 0.1, 1.0)
    odd = replace(known, residuals=replace(r, weight=weight))
    one, other = (loo_moments(replace(law, neighbours=k)) for k in (known, odd))
    np.testing.assert_allclose(other.noise_sd[:, 5], one.noise_sd[:, 5], rtol=1e-12)
    np.testing.assert_allclose(other.error[:, 5], one.error[:, 5], rtol=1e-12)
    assert np.abs(other.error / one.error - 1).max() > 0.01  # neighbours of the odd run


@pytest.mark.parametrize("transfer", [True, False])
@pytest.mark.parametrize("column", ["n_seeds", "loss_sd"])
def test_what_is_known_of_the_noise_does_not_look_like_heavy_tails(transfer, column):
    """Normal noise, some rows of which are means over many seeds or measured badly."""
    rng, found = np.random.default_rng(8), []
    table = rippled(amplitude=0.0).drop(columns="final_loss")
    for _ in range(3):
        seeds = np.where(rng.random(len(table)) < 0.5, 16, 1) if column == "n_seeds" else 1
        extra = 0.03 * (rng.random(len(table)) < 0.2) if column == "loss_sd" else 0.0
        base = 2.0 + 60 * table["n_params"] ** -0.3
        sd = np.sqrt(0.003**2 / seeds + extra**2)
        runs = table.assign(final_loss=base * np.exp(sd * rng.standard_normal(len(table))))
        told = seeds if column == "n_seeds" else np.where(extra > 0, extra * base, np.nan)
        found.append(fitted(read_runs(runs.assign(**{column: told})), transfer=transfer).noise_df)
    assert min(found) >= 6 and np.median(found) >= 10


def test_assumed_values_of_covariates_reach_the_correction(pocket):
    table = pocket.assign(optimizer=np.where(np.arange(len(pocket)) % 3 == 0, "muon", "adamw"))
    law, _ = made(table, covariates=["optimizer"])
    plan = law.encoding.finished.drop(columns="optimizer").iloc[:5]
    assumed = law.assuming({"optimizer": "muon"})
    both = [
        x.predictor().mean(t, np.random.default_rng(0))
        for x, t in ((assumed, plan), (law, plan.assign(optimizer="muon")))
    ]
    np.testing.assert_allclose(*both, rtol=1e-12)


def test_replicated_runs_are_those_of_the_fit(halves):
    """Not given each run's own residual, or the check of the fit would check nothing."""
    law = halves[0]
    y = np.log(law.encoding.finished["final_loss"].to_numpy())
    _, again = law.replicated(np.random.default_rng(0), max_draws=400)
    z = (y - again.mean(axis=0)) / again.std(axis=0)
    assert 0.85 < np.sqrt(np.mean(z**2)) < 1.15


def test_what_is_predicted_at_a_run_lies_between_the_law_and_what_was_measured(pocket):
    law, _ = made(pocket)
    table = law.encoding.finished
    plain = law.predictor().without_neighbours()
    before = plain.mean(table, np.random.default_rng(0)).mean(axis=0)
    after = law.predictor().mean(table, np.random.default_rng(0)).mean(axis=0)
    y = np.log(table["final_loss"].to_numpy())
    assert np.mean((after - y) ** 2) < 0.6 * np.mean((before - y) ** 2)
    assert (law.predictor().noise_sd(table) < plain.noise_sd(table)).all()
