import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp
from scipy.linalg import solve_continuous_lyapunov
from scipy.stats import chi2

from bayes_optlaws.schedules import Schedule
from bayes_optlaws.theory import sde

LINEAR = Schedule.linear(peak_lr=0.2, steps=300, warmup_steps=40)
POLYGON = Schedule.polygon(
    peak_lr=0.3, steps=240, warmup_steps=20, decay_end_step=90, plateau_lr=0.1,
    cooldown_start_step=180,
)  # fmt: skip
COSINE = Schedule.cosine(peak_lr=0.25, steps=200, warmup_steps=30, min_lr=0.02)
HESSIAN = np.array([[1.0, 0.4], [0.4, 0.5]])
NOISE = np.array([[0.6, -0.2], [-0.2, 0.9]])  # does not commute with the Hessian


def moments_by_ode(schedule, hessian, noise, x0, epsilon):
    """Mean and covariance at the end, and the weighted mean squared gradient, by solve_ivp."""
    d = len(hessian)

    def right(t, y):
        mean, cov = y[:d], y[d:-2].reshape(d, d)
        eta = schedule.lr(min(max(t, 0.0), schedule.steps))
        drift = -eta * (hessian @ cov + cov @ hessian) + epsilon * eta**2 * noise
        square = np.sum((hessian @ mean) ** 2) + np.trace(hessian @ cov @ hessian)
        return np.concatenate([-eta * hessian @ mean, drift.ravel(), [eta * square, eta]])

    y = np.concatenate([x0, np.zeros(d * d + 2)])
    corners = sorted(
        {0.0, schedule.warmup_steps, schedule.decay_end_step, schedule.cooldown_start_step,
         schedule.steps}
    )  # fmt: skip
    for a, b in zip(corners[:-1], corners[1:], strict=True):
        y = solve_ivp(right, (a, b), y, rtol=1e-10, atol=1e-12, method="DOP853").y[:, -1]
    return y[:d], y[d:-2].reshape(d, d), y[-2] / y[-1]


@pytest.mark.parametrize("schedule", [LINEAR, POLYGON, COSINE])
def test_covariance_solves_its_differential_equation(schedule):
    _, cov, _ = moments_by_ode(schedule, HESSIAN, NOISE, np.zeros(2), 0.3)
    found = sde.covariance(schedule, hessian=HESSIAN, noise=NOISE, epsilon=0.3)
    assert np.allclose(found, cov, rtol=1e-6, atol=0)
    array = Schedule.from_array(schedule.lr(np.arange(schedule.steps + 1)))
    tolerance = 1e-6 if schedule.kind != "cosine" else 1e-3
    again = sde.covariance(array, hessian=HESSIAN, noise=NOISE, epsilon=0.3)
    assert np.allclose(again, cov, rtol=tolerance, atol=0)


def test_constant_rate_gives_the_ornstein_uhlenbeck_moments():
    eta, h, s, x0, epsilon = 0.05, 2.0, 1.5, 3.0, 0.7
    schedule = Schedule.constant(peak_lr=eta, steps=40, warmup_steps=0)
    n, substeps = 40_000, 10
    paths = sde.simulate_sgd(
        sde.Quadratic([h]), schedule, noise=[s], x0=[x0], epsilon=epsilon, n_paths=n,
        substeps=substeps,
    )  # fmt: skip
    rate = eta * h
    last = 39.5  # the first step is the warm-up: half its learning rate
    mean = x0 * np.exp(-rate * last)
    var = epsilon * eta * s / (2 * h) * (1 - np.exp(-2 * rate * last))
    assert abs(paths.x.mean() - mean) < 5 * np.sqrt(var / n) + mean * rate / substeps * rate * last
    # Euler-Maruyama has the variance of a rate that is smaller by rate x dt / 2.
    bias = var * rate / substeps
    assert abs(paths.x.var() - var) < 5 * var * np.sqrt(2 / n) + bias


@pytest.mark.parametrize("schedule", [LINEAR, POLYGON, COSINE])
def test_simulated_moments_are_those_of_the_recursion_of_sgd(schedule):
    """With one step a unit of time the simulation is SGD, whose moments are a recursion."""
    x0, epsilon, n = np.array([1.0, -2.0]), 0.2, 20_000
    paths = sde.simulate_sgd(
        sde.Quadratic(HESSIAN), schedule, noise=NOISE, x0=x0, epsilon=epsilon, n_paths=n
    )
    mean, cov = x0, np.zeros((2, 2))
    for eta in paths.lr:
        step = np.eye(2) - eta * HESSIAN
        mean, cov = step @ mean, step @ cov @ step.T + eta**2 * epsilon * NOISE
    sd = np.sqrt(np.diag(cov))
    assert np.all(np.abs(paths.x.mean(axis=0) - mean) < 5 * sd / np.sqrt(n))
    error = np.sqrt((np.outer(sd, sd) ** 2 + cov**2) / n)
    assert np.all(np.abs(np.cov(paths.x.T) - cov) < 5 * error)
    # And the differential equation is near it.
    exact = sde.covariance(schedule, hessian=HESSIAN, noise=NOISE, epsilon=epsilon)
    assert np.allclose(cov, exact, rtol=0.2)


def test_double_well_settles_to_the_density_of_its_potential():
    loss = sde.DoubleWell(curvature=1.0, offset=1.0, sharpness=3.0)
    eta, s, n = 0.2, 2.0, 4000
    schedule = Schedule.constant(peak_lr=eta, steps=600, warmup_steps=0)
    paths = sde.simulate_sgd(loss, schedule, noise=[s], x0=[0.5], n_paths=n, substeps=5)
    density = lambda x: np.exp(-2 * loss.value(np.array([[x]]))[0] / (eta * s))  # noqa: E731
    total = quad(density, -8, 8)[0]
    for f in (lambda x: x**2, np.abs, np.cos):
        exact = quad(lambda x, f=f: f(x) * density(x), -8, 8, points=[0.0])[0] / total
        value = f(paths.x[:, 0])
        assert abs(value.mean() - exact) < 5 * value.std() / np.sqrt(n) + 0.02
    # Mixed over both wells, from a start in one of them.
    assert abs(np.mean(paths.x > 0) - 0.5) < 5 * 0.5 / np.sqrt(n)


@pytest.mark.parametrize(
    "loss", [sde.Quadratic(HESSIAN), sde.DoubleWell(curvature=2.0, sharpness=2.5, others=(0.7,))]
)
def test_gradient_smoothness_and_minimum_of_the_losses(loss, rng):
    x, step = rng.normal(scale=1.5, size=(50, 2)), 1e-6
    g = loss.gradient(x)
    for j in range(2):
        move = np.zeros(2)
        move[j] = step
        numeric = (loss.value(x + move) - loss.value(x - move)) / (2 * step)
        assert np.allclose(g[:, j], numeric, atol=1e-6)
    assert np.allclose(loss.gradient(loss.minimum[None]), 0, atol=1e-12)
    assert loss.value(loss.minimum[None])[0] == pytest.approx(0, abs=1e-12)
    assert loss.value(x).min() > 0
    y = x + rng.normal(scale=0.05, size=x.shape)
    ratio = np.linalg.norm(loss.gradient(y) - g, axis=1) / np.linalg.norm(y - x, axis=1)
    assert 0.5 * loss.smoothness < ratio.max() <= loss.smoothness * (1 + 1e-9)
    around = [loss.gradient(loss.minimum[None] + step * e)[0] / step for e in np.eye(2)]
    assert np.allclose(around, loss.hessian_at_minimum, atol=1e-5)


@st.composite
def from_zero_to_zero(draw):
    steps = draw(st.integers(50, 2000))
    peak = draw(st.floats(1e-3, 0.5))
    cuts = sorted(draw(st.lists(st.floats(0.05, 0.9), min_size=3, max_size=3)))
    a1, a2, a3 = (max(2.0, c * steps) for c in cuts)
    kind = draw(st.sampled_from(["linear", "cosine", "wsd", "polygon"]))
    common = {"peak_lr": peak, "steps": steps, "warmup_steps": a1}
    if kind == "wsd":
        return Schedule.wsd(**common, cooldown_start_step=a3)
    if kind == "polygon":
        a2, a3 = max(a2, a1 + 1), max(a3, a1 + 2)
        low = draw(st.floats(0.1, 0.9)) * peak
        return Schedule.polygon(
            **common, decay_end_step=min(a2, a3), plateau_lr=low, cooldown_start_step=a3
        )
    return getattr(Schedule, kind)(**common)


@settings(max_examples=40, deadline=None)
@given(schedule=from_zero_to_zero(), h=st.floats(0.05, 3), s=st.floats(0.1, 3), d=st.integers(1, 4))
def test_bounds_of_theorem_3_hold_in_their_order(schedule, h, s, d):
    cov = sde.covariance(schedule, hessian=np.full(d, h), noise=np.full(d, s))
    assert np.allclose(cov, cov[0, 0] * np.eye(d))
    for radius in np.sqrt(cov[0, 0]) * np.array([0.03, 0.3, 1.0]):
        exact = chi2.cdf(radius**2 / cov[0, 0], d)
        lemma = sde.stay_bound(cov, radius)
        theorem = sde.escape_bound(
            schedule, radius=radius, hessian=np.full(d, h), noise=np.full(d, s)
        )
        assert exact <= lemma * (1 + 1e-9)
        assert lemma <= theorem * (1 + 1e-6)


@settings(max_examples=15, deadline=None)
@given(schedule=from_zero_to_zero(), far=st.floats(0.1, 5), epsilon=st.floats(0.01, 1))
def test_bound_of_theorem_1_holds_for_exact_moments(schedule, far, epsilon):
    x0 = np.array([far, -far])
    _, _, average = moments_by_ode(schedule, HESSIAN, NOISE, x0, epsilon)
    loss = sde.Quadratic(HESSIAN)
    bound = sde.convergence_bound(
        schedule, gap=float(loss.value(x0[None])[0]), smoothness=loss.smoothness,
        noise_trace=np.trace(NOISE), epsilon=epsilon,
    )  # fmt: skip
    assert average <= bound * (1 + 1e-9)


def test_simulated_average_is_the_left_side_of_theorem_1():
    x0, epsilon = np.array([1.0, -2.0]), 0.2
    loss = sde.Quadratic(HESSIAN)
    paths = sde.simulate_sgd(
        loss, LINEAR, noise=NOISE, x0=x0, epsilon=epsilon, n_paths=4000, substeps=4
    )
    _, _, average = moments_by_ode(LINEAR, HESSIAN, NOISE, x0, epsilon)
    assert abs(paths.average - average) < 5 * paths.average_se + 0.02 * average
    well = sde.DoubleWell(curvature=1.0, sharpness=3.0)
    paths = sde.simulate_sgd(well, LINEAR, noise=[0.5], x0=[2.0], n_paths=1000)
    bound = sde.convergence_bound(
        LINEAR, gap=float(well.value(np.array([[2.0]]))[0]), smoothness=well.smoothness,
        noise_trace=0.5,
    )  # fmt: skip
    assert paths.average + 5 * paths.average_se < bound


def test_share_that_stays_is_below_the_bounds_and_that_of_the_normal():
    n, radius = 20_000, 0.05
    paths = sde.simulate_sgd(
        sde.Quadratic([1.0]), LINEAR, noise=[1.0], x0=[0.0], n_paths=n, substeps=4
    )
    var = sde.covariance(LINEAR, hessian=[1.0], noise=[1.0])[0, 0]
    share = paths.stay([0.0], radius)
    exact = chi2.cdf(radius**2 / var, 1)
    assert abs(share - exact) < 5 * np.sqrt(exact * (1 - exact) / n) + 0.03 * exact
    assert share < sde.escape_bound(LINEAR, radius=radius, hessian=[1.0], noise=[1.0])


def test_adam_with_a_steady_second_moment_has_the_covariance_of_lyapunov():
    eta, h, s, c1, epsilon, n = 0.05, 0.8, 1.3, 4.0, 1e-3, 8000
    schedule = Schedule.constant(peak_lr=eta, steps=600, warmup_steps=0)
    paths = sde.simulate_adam(
        sde.Quadratic([h]), schedule, noise=[s], x0=[0.0], epsilon=epsilon, momentum_rate=c1,
        variance_rate=0.5, delta=0.0, n_paths=n,
    )  # fmt: skip
    a = eta * np.array([[0.0, -1 / np.sqrt(s)], [c1 * h, -c1]])
    q = np.diag([0.0, (c1 * eta) ** 2 * epsilon * s])
    var = solve_continuous_lyapunov(a, -q)[0, 0]
    # v is the noise variance plus the squared gradient, here about 1e-4 of it.
    assert np.allclose(paths.v, s, rtol=2e-3)
    assert abs(paths.x.var() - var) < 5 * var * np.sqrt(2 / n) + var * eta * c1


def test_second_moment_of_adam_follows_the_area_under_the_schedule():
    """Where the gradient is steep and steady, v has a closed form in the integral of the rate."""
    g, s, c2 = 50.0, 4.0, 1.0

    class Slope(sde.Quadratic):
        def gradient(self, x):
            return np.full_like(x, g)

    class Start(Slope):
        """Level at first, so that v starts at the noise variance alone."""

        level = True

        def gradient(self, x):
            if self.level:
                self.level = False
                return np.zeros_like(x)
            return super().gradient(x)

    schedule = Schedule.linear(peak_lr=0.02, steps=200, warmup_steps=20)
    paths = sde.simulate_adam(
        Start([1.0]), schedule, noise=[s], x0=[0.0], variance_rate=c2, momentum_rate=1.0,
        n_paths=1, substeps=20,
    )  # fmt: skip
    area = 0.5 * 0.02 * 200
    exact = s + g**2 * (1 - np.exp(-c2 * area))
    assert paths.v[0, 0] == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"noise": np.ones((2, 3))}, "noise has shape"),
        ({"noise": [-1.0, 1.0]}, "eigenvalue -1"),
        ({"x0": [1.0]}, "x0 is"),
        ({"n_paths": 0}, "n_paths is 0"),
        ({"substeps": 1.5}, "substeps is 1.5"),
        ({"epsilon": -1.0}, "epsilon is -1"),
        ({"schedule": Schedule.linear(peak_lr=9, steps=100, warmup_steps=9)}, "take at least 11"),
    ],
)
def test_a_wrong_argument_of_a_simulation_is_named(options, said):
    given_ = {"schedule": LINEAR, "noise": NOISE, "x0": [1.0, 1.0], "n_paths": 2} | options
    with pytest.raises(ValueError, match=said):
        sde.simulate_sgd(sde.Quadratic(HESSIAN), **given_)


def test_wrong_arguments_of_the_rest_are_named():
    with pytest.raises(ValueError, match="ends at a learning rate of 0.02"):
        sde.escape_bound(COSINE, radius=0.1, hessian=[1.0], noise=[1.0])
    with pytest.raises(ValueError, match="radius is 0"):
        sde.stay_bound(np.eye(2), 0)
    with pytest.raises(ValueError, match="gap is -1"):
        sde.convergence_bound(LINEAR, gap=-1, smoothness=1, noise_trace=1)
    with pytest.raises(ValueError, match="two wells"):
        sde.DoubleWell(offset=1.0, sharpness=0.5)
    with pytest.raises(ValueError, match="must not be 0"):
        sde.simulate_adam(
            sde.Quadratic([1.0]), LINEAR, noise=0.0, x0=[0.0], delta=0.0, momentum_rate=1.0
        )
    with pytest.raises(ValueError, match="momentum_rate is 1000"):
        sde.simulate_adam(sde.Quadratic([1.0]), LINEAR, noise=1.0, x0=[0.0], momentum_rate=1000)
