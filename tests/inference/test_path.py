"""The forecast of a curve's end: gain, closed form, calibration; signs of divergence."""

import numpy as np
import pytest

from bayes_optlaws.inference import path as module
from bayes_optlaws.inference.path import EndForecast, Path, PathPrior, forecast
from bayes_optlaws.inference.trouble import likelihood_ratio, rise, updated_risk
from bayes_optlaws.schedules import Schedule

LINEAR = Schedule.linear(peak_lr=1e-3, steps=10_000, warmup_steps=200)
WSD = Schedule.wsd(peak_lr=1e-3, steps=10_000, warmup_steps=200, cooldown_start_step=8000)


def test_the_gain_of_a_fall_is_the_sum_over_steps():
    """Against the sum over single optimizer steps, of a cosine."""
    cosine = Schedule.cosine(peak_lr=2e-3, steps=3000, warmup_steps=100)
    lr = cosine.lr(np.arange(3001))
    area = np.cumsum(lr) / lr.sum()
    p, tau, t = 0.6, 0.03, 2000
    fall = -np.diff((lr / lr.max()) ** p)[100:t]
    since = area[t] - area[101 : t + 1]
    left = (np.arange(20_000) + 0.5) / 20_000
    weight = p * left ** (p - 1)
    whole = np.sum(weight * (1 - (1 + left**2 / tau) ** -0.5)) / weight.sum()
    expected = np.sum((1 - (1 + since / tau) ** -0.5) * fall) / whole
    found = Path.of(cosine).gain(np.array([float(t)]), p, tau)[0]
    assert found == pytest.approx(expected, rel=0.01)


def test_a_linear_decay_to_zero_gains_one_and_a_constant_nothing():
    for shape in module.SHAPES:
        end = Path.of(LINEAR).gain(np.array([1e4]), *shape)[0]
        assert end == pytest.approx(1.0, abs=0.06)
    flat = Schedule.constant(peak_lr=1e-3, steps=1000, warmup_steps=10)
    assert Path.of(flat).gain(np.array([500.0, 1000.0]), 0.6, 0.03).tolist() == [0.0, 0.0]


def one_shape(monkeypatch):
    monkeypatch.setattr(module, "ALPHAS", (0.35,))
    monkeypatch.setattr(module, "SHAPES", ((0.6, 5e-4),))
    monkeypatch.setattr(module, "MISFITS", (1.0,))
    monkeypatch.setattr(module, "MISFIT_WEIGHTS", (1.0,))


def test_with_one_shape_it_is_generalised_least_squares(monkeypatch):
    """Against the information form of the normal equations; the bins hold one point each."""
    one_shape(monkeypatch)
    monkeypatch.setattr(module, "BINS", 4000)
    path, prior = Path.of(LINEAR), PathPrior()
    t = np.linspace(500.0, 6000.0, 40)
    rng = np.random.default_rng(3)
    y = 1.0 + 0.1 * (path.share_at(t) ** -0.35 - 1) + 0.004 * rng.standard_normal(t.size)
    found = forecast(path, t, np.exp(y))
    jump = np.diff(y)
    noise = np.median((jump - np.median(jump)) ** 2) / (2 * 0.455) + prior.floor**2
    share = path.share_at(t)
    g = path.gain(np.append(t, 1e4), 0.6, 5e-4)
    x = np.column_stack([np.ones(40), np.expm1(-0.35 * np.log(share)) / 0.35, g[-1] - g[:-1]])
    slow = path.gain(np.append(t, 1e4), *module.SETTLING)
    left = slow[-1] - slow[:-1]
    far = -np.log(share)
    c = prior.gain_at(1e-3)
    w = prior.misfit**2 * np.minimum.outer(far, far) + noise * np.eye(40)
    w += (prior.annealing_misfit * c) ** 2 * np.minimum.outer(left, left)
    centre = np.array([0.0, prior.slope, c])
    precision = np.diag([30.0**-2, prior.slope_sd**-2, (prior.gain_spread * c) ** -2])
    information = x.T @ np.linalg.solve(w, x) + precision
    mean = np.linalg.solve(information, x.T @ np.linalg.solve(w, y) + precision @ centre)
    cov = np.linalg.inv(information)
    np.testing.assert_allclose(found.mean, mean[0], rtol=1e-6)
    np.testing.assert_allclose(found.variance, cov[0, 0], rtol=1e-5)
    assert found.gain == pytest.approx(mean[2], rel=1e-5)
    assert found.gain_sd == pytest.approx(np.sqrt(cov[2, 2]), rel=1e-4)


@pytest.mark.parametrize("schedule", [LINEAR, WSD])
def test_ends_drawn_from_the_prior_are_covered(schedule, monkeypatch):
    """90 % intervals of 60 simulated runs: at least 46 cover (binomial, p < .001 below)."""
    monkeypatch.setattr(module, "ALPHAS", (0.25, 0.45))
    monkeypatch.setattr(module, "SHAPES", ((0.6, 5e-4), (1.0, 0.03)))
    rng = np.random.default_rng(5)
    path, prior = Path.of(schedule), PathPrior()
    t = np.arange(400.0, 6001.0, 100.0)
    far = -np.log(path.share_at(t))
    slow = path.gain(np.append(t, 1e4), *module.SETTLING)
    left = slow[-1] - slow[:-1]
    inside = 0
    for _ in range(60):
        a, shape = rng.choice((0.25, 0.45)), module.SHAPES[rng.integers(2)]
        end = 1.0 + 0.1 * rng.standard_normal()
        slope = prior.slope + prior.slope_sd * rng.standard_normal()
        c = prior.gain_at(1e-3) * (1 + prior.gain_spread * rng.standard_normal())
        size = rng.choice(module.MISFITS, p=module.MISFIT_WEIGHTS)
        cov = prior.misfit**2 * np.minimum.outer(far, far)
        cov += (prior.annealing_misfit * prior.gain_at(1e-3)) ** 2 * np.minimum.outer(left, left)
        g = path.gain(np.append(t, 1e4), *shape)
        y = end + slope * np.expm1(a * far) / a + c * (g[-1] - g[:-1])
        y = y + size * rng.multivariate_normal(np.zeros(t.size), cov, method="eigh")
        seen = forecast(path, t, np.exp(y + 0.003 * rng.standard_normal(t.size)))
        low, high = np.quantile(seen.draw(2000, rng), [0.05, 0.95])
        inside += low <= end <= high
    assert inside >= 46


def test_the_law_as_prior_is_bayes_on_a_grid():
    seen = EndForecast(np.array([0.3, 0.7]), np.array([1.0, 1.1]), np.array([4e-4, 1e-4]), 0, 0)
    x = np.linspace(0.9, 1.2, 1501)
    density = np.exp([seen.log_density(v) for v in x])
    density = density * np.exp(-0.5 * (x - 1.03) ** 2 / 9e-4)
    density /= density.sum()
    mean = density @ x
    given = seen.given(1.03, 9e-4)
    found, variance = given.moments
    assert found == pytest.approx(mean, abs=1e-5)
    assert variance == pytest.approx(density @ (x - mean) ** 2, rel=1e-3)


def test_a_shift_is_taken_off_and_its_doubt_added():
    seen = EndForecast(np.ones(1), np.array([np.log(3.0)]), np.array([1e-4]), 0, 0)
    less = seen.shifted(0.1, 0.03)
    assert np.exp(less.mean[0]) == pytest.approx(2.9)
    assert less.variance[0] == pytest.approx(1e-4 + 0.01**2)
    with pytest.raises(ValueError, match="shift is 3.5"):
        seen.shifted(3.5, 0.0)


def test_a_curve_within_the_warm_up_says_nothing():
    t = np.arange(10.0, 200.0, 10.0)
    assert forecast(Path.of(LINEAR), t, 5 - t / 200) is None


def test_constants_of_a_path_are_positive():
    with pytest.raises(ValueError, match=r"PathPrior.misfit must be positive and finite, got 0"):
        PathPrior(misfit=0.0)


def test_a_rise_is_seen_above_noise_and_raises_the_risk():
    rng = np.random.default_rng(1)
    falling = 3.0 * np.exp(-np.linspace(0, 0.3, 500)) * np.exp(0.03 * rng.standard_normal(500))
    jumped = falling.copy()
    jumped[300:] *= 1.2
    assert rise(falling) == 0.0 and rise(jumped) == pytest.approx(np.log(1.2), abs=0.06)
    early, late = (likelihood_ratio(jumped, u) for u in (0.1, 0.6))
    assert 1 < early < late and likelihood_ratio(falling, 0.6) < 1
    assert likelihood_ratio(jumped, 0.0) == 1.0
    risk = updated_risk(np.array([0.0, 0.2, 1.0]), late)
    assert risk[0] == 0.0 and risk[2] == 1.0 and risk[1] > 0.5
