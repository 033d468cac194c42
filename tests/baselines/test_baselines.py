"""Baseline laws: own data recovered, optima that do not depend on the start, honest draws."""

import itertools
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import differential_evolution, minimize

from bayes_optlaws import baselines
from bayes_optlaws.baselines.annealing import Curves
from bayes_optlaws.baselines.descent import descend, huber
from bayes_optlaws.baselines.generalized import squared_errors
from bayes_optlaws.evaluation import metrics
from bayes_optlaws.model.features import EXPONENT_PRESETS, feature_bases
from bayes_optlaws.runs.readers import read_candidates
from bayes_optlaws.schedules import Schedule

POWER_LAWS = ("chinchilla", "tissue", "simplified", "multi-power-law")
BATCH = 2.0**18


def table(schedules, n_params, batch=BATCH):
    """Validated candidates from schedules and model sizes."""
    rows = [s.to_row() | {"n_params": n} for s, n in zip(schedules, n_params, strict=True)]
    frame = pd.DataFrame(rows)
    frame["batch_tokens"] = batch
    frame["tokens"] = frame["steps"] * frame["batch_tokens"]
    return read_candidates(frame)


def finished(frame, loss):
    return frame.assign(final_loss=loss, diverged=False)


def varied_schedule(kind, rng):
    steps = rng.uniform(2e3, 6e4)
    peak = np.exp(rng.uniform(np.log(2e-4), np.log(6e-3)))
    common = {"peak_lr": peak, "steps": steps, "warmup_steps": steps * rng.uniform(0.01, 0.3)}
    low, start = peak * rng.choice([0.0, 0.1]), steps * rng.uniform(0.4, 0.95)
    if kind == 0:
        return Schedule.linear(**common, min_lr=low)
    if kind == 1:
        return Schedule.cosine(**common, min_lr=low)
    if kind == 2:
        return Schedule.wsd(**common, min_lr=low, cooldown_start_step=start)
    if kind == 3:
        return Schedule.wsd(**common, cooldown_start_step=start, shape="sqrt")
    if kind == 4:
        return Schedule.constant(**common)
    return Schedule.polygon(
        **common, decay_end_step=0.35 * steps, plateau_lr=0.5 * peak, cooldown_start_step=start
    )


@pytest.fixture(scope="module")
def design():
    """400 varied runs: sizes, lengths, peaks, warm-ups and all schedules of the template."""
    rng = np.random.default_rng(5)
    schedules = [varied_schedule(k % 6, rng) for k in range(400)]
    return table(schedules, 1e8 * np.exp(rng.uniform(0, np.log(30), 400)))


# Fits of the power laws ----------------------------------------------------------------------

TRUTH = {
    "chinchilla": {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28},
    "tissue": {
        "L0": 1.6,
        "A": 0.9,
        "B": 300.0,
        "C": 2e-3,
        "alpha": 0.45,
        "beta": 0.33,
        "gamma": 0.12,
    },
    "simplified": {
        "E": 1.5,
        "A": 200.0,
        "B": 600.0,
        "a1": 0.5,
        "a2": 40.0,
        "a3": 60.0,
        "alpha": 0.3,
        "beta": 0.3,
        "g1": 0.6,
        "g2": 0.35,
        "g3": 0.3,
    },
    "multi-power-law": {
        "L0": 1.6,
        "A": 0.9,
        "F": 300.0,
        "B": 120.0,
        "alpha": 0.45,
        "phi": 0.33,
        "C": 0.4,
        "beta": 0.5,
        "gamma": 0.5,
    },
}


def true_loss(name, frame):
    """The laws written out, independent of the package's columns."""
    p = TRUTH[name]
    n, d = frame["n_params"].to_numpy(), frame["tokens"].to_numpy()
    curves = Curves.from_table(frame)
    if name == "chinchilla":
        return p["E"] + p["A"] / n ** p["alpha"] + p["B"] / d ** p["beta"]
    if name == "tissue":
        gain = p["C"] * curves.annealing_area(0.999) * n ** p["gamma"]
        return p["L0"] + p["A"] * curves.area ** -p["alpha"] + p["B"] * n ** -p["beta"] - gain
    if name == "simplified":
        from bayes_optlaws.schedules import integrals

        found = integrals(frame)
        scale = p["E"] + p["A"] / n ** p["alpha"] + p["B"] / d ** p["beta"]
        escape = p["a2"] * found.escape_warmup ** p["g2"]
        escape += p["a3"] * found.escape_cooldown ** p["g3"]
        return scale + p["a1"] * curves.area ** -p["g1"] + escape
    lr, left, weight = curves.falls()
    with np.errstate(divide="ignore", invalid="ignore"):
        x = p["C"] * lr ** -p["gamma"] * left
    gain = np.where(weight > 0, weight * (1 - (1 + x) ** -p["beta"]), 0.0).sum(axis=1)
    base = p["L0"] + p["A"] * curves.area ** -p["alpha"] + p["F"] * n ** -p["phi"]
    return base - p["B"] * gain


@pytest.mark.parametrize("name", POWER_LAWS)
def test_a_law_recovers_its_own_parameters(name, design):
    loss = true_loss(name, design)
    assert loss.min() > 1 and np.ptp(loss) > 0.3
    law = baselines.get(name, delta=np.inf).fit(finished(design, loss))
    np.testing.assert_allclose(law.predict(design), loss, rtol=2e-5)
    found, truth = law.parameters, pd.Series(TRUTH[name])
    assert list(found.index) == list(truth.index) and law.n_parameters == truth.size
    # Coefficients of small exponents trade off with them; exponents are sharper.
    np.testing.assert_allclose(found, truth, rtol=0.05)


@pytest.mark.parametrize("name", POWER_LAWS)
def test_outliers_do_not_move_the_fit(name, design, rng):
    loss = true_loss(name, design)
    noisy = loss * np.exp(1e-4 * rng.normal(size=loss.size))
    noisy[rng.choice(loss.size, 25, replace=False)] *= 1.5
    law = baselines.get(name).fit(finished(design, noisy))
    assert np.max(np.abs(law.predict(design) / loss - 1)) < 1e-3
    squares = baselines.get(name, delta=np.inf).fit(finished(design, noisy))
    assert np.mean(np.abs(squares.predict(design) / loss - 1)) > 1e-2


@pytest.mark.parametrize("name", POWER_LAWS)
def test_the_optimum_does_not_depend_on_the_seed(name, pocket):
    kept = pocket[~pocket["diverged"]]
    target, ones = np.log(kept["final_loss"].to_numpy()), np.ones(len(kept))
    found = []
    for seed, starts in ((0, 8), (1, 8), (2, 3)):
        law = baselines.get(name, random_seed=seed, n_starts=starts).fit(pocket)
        found.append((huber(law.predict(kept), target, ones, 1e-3), law.predict(kept)))
    values = [value for value, _ in found]
    assert max(values) < min(values) * (1 + 1e-5)
    for _, predicted in found[1:]:
        np.testing.assert_allclose(predicted, found[0][1], rtol=2e-3)


def test_no_global_search_finds_a_better_chinchilla_law(pocket):
    kept = pocket[~pocket["diverged"]]
    target, ones = np.log(kept["final_loss"].to_numpy()), np.ones(len(kept))
    law = baselines.get("chinchilla").fit(pocket)
    n, d = kept["n_params"].to_numpy() / 5e4, kept["tokens"].to_numpy() / 2e6

    def objective(theta):
        e, a, b, alpha, beta = theta
        return huber(e + a * n**-alpha + b * d**-beta, target, ones, 1e-3)

    box = [(0, 2), (1e-6, 3), (1e-6, 3), (0.01, 3), (0.01, 3)]
    best = differential_evolution(objective, box, seed=3, maxiter=300, tol=1e-12)
    assert huber(law.predict(kept), target, ones, 1e-3) <= best.fun * (1 + 1e-5)


@pytest.mark.parametrize("name", POWER_LAWS)
def test_no_local_search_improves_a_fit(name, pocket):
    """Oracle: Nelder-Mead on the objective, from the optimum found."""
    kept = pocket[~pocket["diverged"]]
    target, ones = np.log(kept["final_loss"].to_numpy()), np.ones(len(kept))
    law = baselines.get(name).fit(pocket)
    inputs, state = law._inputs(kept), law._state
    low, high = law._bounds(law._scaled(inputs))

    def objective(theta):
        return huber(law._curve(inputs, np.clip(theta, low, high)), target, ones, 1e-3)

    found = minimize(objective, state, method="Nelder-Mead", options={"maxfev": 1500})
    assert found.fun > objective(state) * (1 - 1e-4)


@pytest.mark.parametrize("name", POWER_LAWS)
def test_slopes_are_the_derivatives_of_the_columns(name, design, rng):
    law = baselines.get(name).fit(finished(design, true_loss(name, design)))
    x = law._scaled(law._inputs(design))
    q = np.array(
        [rng.uniform(max(a, -1) + 0.1, min(b, 2) - 0.1) for a, b in law.exponents.values()]
    )
    base = law._design(x, q)
    expected = np.zeros((len(design), len(law.terms), q.size))
    for j, k, slope in base.slopes:
        expected[:, j, k] = slope
    for k in range(q.size):
        step = np.zeros(q.size)
        step[k] = 1e-5
        numeric = (law._design(x, q + step).columns - law._design(x, q - step).columns) / 2e-5
        np.testing.assert_allclose(expected[:, :, k], numeric, rtol=1e-6, atol=1e-8)


def test_descent_stays_in_its_bounds_and_never_rises():
    x = np.linspace(0, 1, 30)
    values = []

    def model(theta):
        fitted = theta[0] + theta[1] * x
        values.append(huber(fitted, np.log(3 - x), np.ones(30), 1e-2))
        return fitted, np.column_stack([np.ones(30), x])

    theta, value = descend(
        model,
        np.array([1.0, 0.5]),
        np.array([0.0, -0.4]),
        np.array([9.0, 9.0]),
        np.log(3 - x),
        np.ones(30),
        1e-2,
    )
    assert theta[1] == -0.4 and value == min(values)
    grid = [huber(a - 0.4 * x, np.log(3 - x), np.ones(30), 1e-2) for a in np.linspace(2, 3, 4001)]
    assert value <= min(grid) * (1 + 1e-6)
    fixed, _ = descend(
        model,
        np.array([2.0, 5.0]),
        np.array([2.0, 0.1]),
        np.array([2.0, 0.1]),
        np.log(3 - x),
        np.ones(30),
        1e-2,
    )
    assert fixed.tolist() == [2.0, 0.1]


@pytest.mark.parametrize("name", POWER_LAWS)
def test_units_do_not_matter(name, pocket):
    other = pocket.assign(n_params=pocket["n_params"] * 1e4)
    a, b = baselines.get(name).fit(pocket), baselines.get(name).fit(other)
    np.testing.assert_allclose(a.predict(pocket), b.predict(other), rtol=1e-4)


@pytest.mark.parametrize("name", baselines.available())
def test_one_model_size_is_enough(name, pocket):
    """What the runs say nothing about is left out, not made up."""
    one = pocket[pocket["block"] == "d64_3600"]
    law = baselines.get(name).fit(one)
    predicted = law.predict(pocket)
    assert np.all(np.isfinite(predicted)) and np.all(predicted > 0)
    if name in POWER_LAWS:
        twin = one.assign(n_params=one["n_params"] * 10)
        if name != "chinchilla":
            assert np.ptp(law.predict(one)) > 0.01
        np.testing.assert_allclose(law.predict(twin), law.predict(one), rtol=1e-12)


# The other laws ------------------------------------------------------------------------------


def test_constant_is_the_mean_of_the_block_or_of_the_nearest_one(pocket):
    law = baselines.get("constant").fit(pocket)
    kept = pocket[~pocket["diverged"]]
    expected = kept.groupby("block")["final_loss"].mean()
    np.testing.assert_allclose(law.predict(pocket), pocket["block"].map(expected), rtol=1e-12)
    near = pocket[:1].assign(n_params=11_000.0, tokens=1.3e6)
    assert law.predict(near)[0] == pytest.approx(expected["d16_1200"])
    # Budgets that differ by rounding are one block.
    jitter = pocket.assign(tokens=pocket["tokens"] * (1 + 1e-3 * (np.arange(260) % 5)))
    assert baselines.get("constant").fit(jitter).n_parameters == 7
    assert baselines.get("constant", tolerance=0.0).fit(jitter).n_parameters > 7


def test_linear_regression_is_least_squares(pocket):
    law = baselines.get("linear").fit(pocket)
    kept = pocket[~pocket["diverged"]]
    columns = np.column_stack(
        [np.ones(len(kept))] + [kept[c] for c in ("n_params", "peak_lr", "warmup_steps")]
    )
    best = np.linalg.lstsq(columns, kept["final_loss"], rcond=None)[0]
    np.testing.assert_allclose(law.predict(kept), columns @ best, rtol=1e-9)
    top = np.concatenate([[1.0], np.abs(columns[:, 1:]).max(axis=0)])
    np.testing.assert_allclose(law.parameters, best * top, rtol=1e-8)
    far = pocket[:1].assign(n_params=1e12)
    assert law.predict(far)[0] == law.least_loss


SMALL = {"scale": (0.2, 0.5), "mixed": (0.15, 0.3), "escape": (0.1, 0.3), "cross": (0.15, 0.5)}


def brute_force(frame, candidates, level2):
    """The paper's search with numpy's lstsq on the raw features, term by term."""
    bases = feature_bases(frame)
    group = dict.fromkeys(("N", "S", "lr"), "scale") | {"1/(Cw Cc)": "cross"}
    group |= dict.fromkeys(("Ew", "Ec", "E/N", "Ew Ec"), "escape")
    group |= dict.fromkeys(("Ew/Cw", "Ec/Cc", "N Ew/Cw", "N Ec/Cc"), "mixed")
    names = list(bases)[:15]
    y = np.log(frame["final_loss"].to_numpy())

    def fit(powers):
        columns = [bases[f] ** powers[f] for f in names]
        spread = [max(c.std(), 1e-12) for c in columns]
        columns = [(c - c.mean()) / s for c, s in zip(columns, spread, strict=True)]
        x = np.column_stack([np.ones(len(y)), *(c for c in columns if np.ptp(c) > 1e-6)])
        c = np.linalg.lstsq(x, y, rcond=None)[0]
        return np.sum((y - x @ c) ** 2), x @ c

    best = (np.inf,)
    for combination in itertools.product(*candidates.values()):
        of_group = dict(zip(candidates, combination, strict=True))
        powers = {f: of_group[group[f]] if f in group else 1.0 for f in names}
        error, fitted = fit(powers)
        if error < best[0]:
            best = error, powers, fitted
    for g in ("mixed", "cross", "escape", "scale") if level2 else ():
        level1 = best[1]
        for f in (f for f in names if group.get(f) == g):
            for p in candidates[g]:
                error, fitted = fit(level1 | {f: p})
                if error < best[0] * (1 - 1e-9):
                    best = error, level1 | {f: p}, fitted
    return best


@pytest.mark.parametrize("one_block", [False, True])
@pytest.mark.parametrize("level2", [False, True])
def test_generalized_law_is_the_brute_force_search(level2, one_block, pocket):
    kept = pocket[~pocket["diverged"]][::2]
    if one_block:  # model size and steps do not vary: their columns are none
        kept = pocket[pocket["block"] == "d16_3600"]
    law = baselines.get("generalized", exponents=SMALL, level2=level2).fit(kept)
    error, powers, fitted = brute_force(kept, SMALL, level2)
    assert law.exponents.to_dict() == powers
    np.testing.assert_allclose(np.log(law.predict(kept)), fitted, atol=1e-8)
    assert np.sum((np.log(law.predict(kept)) - np.log(kept["final_loss"])) ** 2) == pytest.approx(
        error, rel=1e-8
    )


def test_generalized_coefficients_are_in_the_papers_units(pocket):
    law = baselines.get("generalized").fit(pocket)
    bases = feature_bases(pocket)
    columns = [np.ones(len(pocket))] + [bases[f] ** p for f, p in law.exponents.items()]
    by_hand = np.column_stack(columns) @ law.parameters.to_numpy()
    np.testing.assert_allclose(np.log(law.predict(pocket)), by_hand, atol=1e-7)
    assert law.n_parameters == law.parameters.size == 16


def test_generalized_law_recovers_its_own_exponents(pocket, rng):
    bases = feature_bases(pocket)
    truth = {"scale": 0.3, "mixed": 0.15, "escape": 0.5, "cross": 0.2}
    law = baselines.get("generalized", level2=False)
    log_loss = np.full(len(pocket), 0.6)
    for f in law.features.features:
        group = law.features.group_of(f)
        column = bases[f.name] ** (truth[group] if group else 1.0)
        log_loss += rng.choice([-0.05, 0.05]) * (column - column.mean()) / column.std()
    noise = 1e-5 * rng.normal(size=len(pocket))
    law.fit(pocket.assign(final_loss=np.exp(log_loss + noise), diverged=False))
    for f in law.features.features:
        group = law.features.group_of(f)
        assert law.exponents[f.name] == (truth[group] if group else 1.0)
    assert np.max(np.abs(np.log(law.predict(pocket)) - log_loss)) < 1e-4


def test_squared_errors_survive_collinear_columns(rng):
    x = rng.normal(size=(40, 4))
    x[:, 3] = x[:, 0] + x[:, 1]
    y = rng.normal(size=40)
    choices = np.array([[0, 1, 2], [0, 1, 3], [1, 2, 3]])
    factor = np.linalg.qr(np.column_stack([x, y]), mode="r")
    expected = [
        np.sum((y - x[:, c] @ np.linalg.lstsq(x[:, c], y, rcond=None)[0]) ** 2) for c in choices
    ]
    np.testing.assert_allclose(squared_errors(factor, choices), expected, rtol=1e-10)


def test_batch_columns_are_an_option(pocket):
    law = baselines.get("generalized", exponents=EXPONENT_PRESETS["paper"], batch=True)
    assert law.fit(pocket).n_parameters == 20


# Gaussian process ----------------------------------------------------------------------------


def matern(x, z, length):
    d = np.sqrt((((x[:, None] - z[None]) / length) ** 2).sum(-1)) * np.sqrt(5)
    return (1 + d + d**2 / 3) * np.exp(-d)


def test_gaussian_process_is_its_textbook_formula(pocket, rng):
    train, new = pocket[::3], pocket[1::9]
    law = baselines.get("gaussian-process", n_starts=1).fit(train)
    kept = train[~train["diverged"]]
    p, y = law.parameters, np.log(kept["final_loss"].to_numpy())
    lengths = p.filter(like="length_").to_numpy()

    def cov(a, b):
        linear = p["trend"] ** 2 * (1 + a @ b.T)
        return p["amplitude"] ** 2 * matern(a, b, lengths) + linear

    x, z = law._points(kept), law._points(new)
    noise = p["noise"] ** 2
    inverse = np.linalg.inv(cov(x, x) + noise * np.eye(len(x)))
    mean = y.mean() + cov(z, x) @ inverse @ (y - y.mean())
    covariance = cov(z, z) + noise * np.eye(len(z)) - cov(z, x) @ inverse @ cov(x, z)
    np.testing.assert_allclose(np.log(law.predict(new)), mean, atol=1e-6)
    draws = np.log(law.predict_draws(new, n=20_000, random_seed=1))
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(draws.mean(0), mean, atol=5 * sd.max() / np.sqrt(20_000))
    np.testing.assert_allclose(
        np.cov(draws.T), covariance, atol=6 * sd.max() ** 2 / np.sqrt(20_000)
    )


def test_gaussian_process_kernel_is_a_maximum_whatever_the_seed(pocket):
    found = [baselines.get("gaussian-process", random_seed=s).fit(pocket)._process for s in (0, 1)]
    a, b = (f.log_marginal_likelihood_value_ for f in found)
    assert a == pytest.approx(b, abs=0.05)


def test_gaussian_process_uses_subsamples_of_large_tables(pocket):
    law = baselines.get("gaussian-process", n_hyper=60, n_max=120, n_starts=1).fit(pocket)
    assert law._process.X_train_.shape[0] == 120
    kernel = law._process.kernel_
    only = baselines.get("gaussian-process", n_hyper=60, n_max=60, n_starts=1).fit(pocket)
    np.testing.assert_array_equal(kernel.theta, only._process.kernel_.theta)
    again = baselines.get("gaussian-process", n_hyper=60, n_max=120, n_starts=1).fit(pocket)
    np.testing.assert_array_equal(again.predict(pocket), law.predict(pocket))


def test_gaussian_process_learns_the_noise_and_covers(design, rng):
    centre = np.log(true_loss("simplified", design))
    frame = finished(design, np.exp(centre + 0.02 * rng.normal(size=len(design))))
    law = baselines.get("gaussian-process", n_starts=1).fit(frame[:200])
    assert law.parameters["noise"] == pytest.approx(0.02, rel=0.25)
    draws = law.predict_draws(frame[200:], n=400, random_seed=0)
    inside = metrics.coverage(frame["final_loss"][200:], draws, prob=0.8)
    assert abs(inside - 0.8) < 4 * np.sqrt(0.16 / 200)


def test_without_scikit_learn_the_extra_is_named(pocket, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.gaussian_process", None)
    with pytest.raises(ImportError, match=r"bayes-optlaws\[ml\]"):
        baselines.get("gaussian-process").fit(pocket)


# Draws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", baselines.available())
def test_every_baseline_keeps_the_interface(name, pocket):
    law = baselines.get(name)
    assert isinstance(law, baselines.Baseline) and law.name == name
    assert law.fit(pocket) is law
    shuffled = pocket.sample(frac=1, random_state=1)
    predicted = law.predict(pocket)
    assert predicted.shape == (260,) and np.all(np.isfinite(predicted)) and np.all(predicted > 0)
    np.testing.assert_allclose(
        law.predict(shuffled), pd.Series(predicted, pocket.index)[shuffled.index], rtol=1e-9
    )
    plan = read_candidates(pocket.drop(columns=["final_loss", "diverged"]))
    np.testing.assert_allclose(law.predict(plan), predicted, rtol=1e-12)
    draws = law.predict_draws(pocket[:20], n=7, random_seed=3)
    assert draws.shape == (7, 20) and np.all(np.isfinite(draws)) and np.all(draws > 0)
    np.testing.assert_array_equal(draws, law.predict_draws(pocket[:20], n=7, random_seed=3))
    assert not np.allclose(draws, law.predict_draws(pocket[:20], n=7, random_seed=4))
    assert law.parameters.dtype == float and law.n_parameters > 0
    if not name.startswith(
        ("gp-", "step-law")
    ):  # those count what is free, or all they condition on
        assert law.parameters.size == law.n_parameters


@pytest.mark.parametrize("name", baselines.available())
def test_diverged_runs_are_left_out(name, pocket):
    kept = pocket[~pocket["diverged"]]
    wild = pocket.assign(final_loss=pocket["final_loss"].where(~pocket["diverged"]))
    a, b = (baselines.get(name).fit(t).predict(pocket) for t in (kept, wild))
    np.testing.assert_array_equal(a, b)


def test_bootstrap_of_least_squares_is_the_sandwich(design, rng):
    x = design[["n_params", "peak_lr", "warmup_steps"]].to_numpy()
    x = np.column_stack([np.ones(400), x / x.max(axis=0)])
    sd = 0.02 + 0.2 * x[:, 2]  # noise that varies, so that the classical formula is wrong
    loss = 3 - x[:, 1] + 0.5 * x[:, 2] + sd * rng.normal(size=400)
    law = baselines.get("linear").fit(finished(design, loss))
    inverse = np.linalg.inv(x.T @ x)
    residual = loss - law.predict(design)
    sandwich = inverse @ (x.T * residual**2) @ x @ inverse
    boot = law.bootstrap(n=2000, random_seed=0)
    assert list(boot.columns) == list(law.parameters.index)
    np.testing.assert_allclose(boot.std(), np.sqrt(np.diag(sandwich)), rtol=0.12)
    classical = np.sqrt(np.diag(inverse) * residual.var())
    assert np.any(np.abs(boot.std() / classical - 1) > 0.2)


@pytest.mark.parametrize("name", ["chinchilla", "tissue", "simplified", "generalized"])
def test_draws_cover_new_runs_of_the_law(name, design, rng):
    source = name if name in TRUTH else "simplified"
    centre = np.log(true_loss(source, design))
    losses = np.exp(centre + 0.01 * rng.normal(size=(2, 400)))
    small = design[:80]
    law = baselines.get(name).fit(finished(small, losses[0, :80]))
    draws = law.predict_draws(design[80:], n=60, random_seed=0)
    inside = metrics.coverage(losses[1, 80:], draws, prob=0.8)
    # 80 runs fitted: the noise level itself is known to 8 %, so about 5 % of coverage.
    assert abs(inside - 0.8) < 0.12


def test_parameter_error_is_shared_by_all_runs_of_a_draw(pocket):
    law = baselines.get("chinchilla").fit(pocket)
    twin = pd.concat([pocket[:1]] * 2)
    law._residual = np.zeros(2)  # only the refits are left
    draws = law.predict_draws(twin, n=20, random_seed=0)
    np.testing.assert_array_equal(draws[:, 0], draws[:, 1])
    assert draws[:, 0].std() > 0
    np.testing.assert_allclose(
        draws[:, 0].mean(), law.predict(twin)[0], atol=4 * draws[:, 0].std() / np.sqrt(20)
    )


# Errors --------------------------------------------------------------------------------------


def test_names_are_those_of_the_list():
    assert len(set(baselines.available())) == len(baselines.available()) == 13
    for name in baselines.available():
        assert baselines.get(name).name == name
    assert baselines.Chinchilla is type(baselines.get("chinchilla"))
    assert "TissueAnnealing" in dir(baselines)
    with pytest.raises(AttributeError, match="no attribute 'Kaplan'"):
        _ = baselines.Kaplan


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: baselines.get("kaplan"), "name = 'kaplan' is no baseline; choose from constant"),
        (lambda p: baselines.get("chinchilla", delta=0), "delta = 0"),
        (lambda p: baselines.get("chinchilla", n_starts=0), "n_starts = 0"),
        (lambda p: baselines.get("tissue", decay_rate=1.0), "decay_rate = 1.0"),
        (lambda p: baselines.get("constant", tolerance=2), "tolerance = 2"),
        (lambda p: baselines.get("linear", inputs="n_params"), "inputs = 'n_params'"),
        (lambda p: baselines.get("gaussian-process", n_max=3), "n_max = 3"),
        (lambda p: baselines.get("gaussian-process", n_starts=0), "n_starts = 0"),
        (lambda p: baselines.get("generalized", exponents="none"), "exponents must be one of"),
        (lambda p: baselines.get("tissue").predict(p), "'tissue' is not fitted"),
        (lambda p: baselines.get("tissue").parameters, "'tissue' is not fitted"),
        (lambda p: baselines.get("gaussian-process").predict(p), "is not fitted"),
        (lambda p: baselines.get("chinchilla").fit(p[:4]), "4 finished runs for the 5 parameters"),
        (lambda p: baselines.get("gaussian-process").fit(p[:4]), "4 finished runs"),
        (lambda p: baselines.get("linear").fit(p[p["diverged"]]), "all 28 runs diverged"),
        (lambda p: baselines.get("linear").fit(p.drop(columns="final_loss")), "final_loss is miss"),
        (lambda p: baselines.get("linear").fit(p.drop(columns="peak_lr")), "peak_lr are missing"),
    ],
)
def test_errors_say_what_to_do(call, message, pocket):
    with pytest.raises(ValueError, match=message):
        call(pocket)


@pytest.mark.parametrize("name", baselines.available())
def test_a_fit_that_fails_leaves_no_law_behind(name, pocket):
    law = baselines.get(name).fit(pocket)
    with pytest.raises(ValueError):
        law.fit(pocket[pocket["diverged"]])
    assert law.predict(pocket).shape == (260,)  # refused before anything changed
