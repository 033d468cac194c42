import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar

import bayes_optlaws as bo
from bayes_optlaws.theory import scaling_rules as rules
from bayes_optlaws.theory.exponent_prior import implied_exponent

UNIT = rules.Problem(gap=2.0, noise=3.0, smoothness=0.5)


def lowest(problem, tokens, *, alpha=None, batch=None):
    """Numerical minimum of F in logs of what is not given: lr, alpha, batch, F."""

    def terms(a, b):
        """1/lr coefficient, lr coefficient and the rest: the best lr of a/x + c x is known."""
        k = tokens / b
        rest = 2 * problem.noise * (1 / (a * np.sqrt(b) * k) + np.sqrt(a / b))
        return problem.gap / k, problem.smoothness * (1.5 + 2 / a), rest

    def best_over_lr(a, b):
        up, down, rest = terms(a, b)
        found = minimize_scalar(
            lambda z: np.exp(-z) * up + np.exp(z) * down,
            bracket=(0.5 * np.log(up / down) - 1, 0.5 * np.log(up / down) + 1.5),
            tol=1e-12,
        )
        return np.exp(found.x), found.fun + rest

    def best_over_alpha(b):
        if alpha is not None:
            return alpha
        values = np.linspace(-40, 0, 400)
        at = values[np.argmin([best_over_lr(np.exp(v), b)[1] for v in values])]
        found = minimize_scalar(
            lambda v: best_over_lr(np.exp(min(v, 0.0)), b)[1],
            bounds=(at - 0.2, min(at + 0.2, 0.0)),
            method="bounded",
            options={"xatol": 1e-10},
        )
        return np.exp(found.x)

    if batch is None:

        def cost(z):
            a = alpha if alpha is not None else np.exp(z[1])
            return np.log(best_over_lr(a, np.exp(z[0]))[1])

        start = [0.5 * np.log(tokens) - 2]
        if alpha is None:
            # On the ridge alpha / batch is known to leading order; only the place on it is open.
            ratio = np.sqrt(2 * problem.gap * problem.smoothness / tokens) / problem.noise
            start = [np.log(tokens) / 6, np.log(ratio) + np.log(tokens) / 6]
        found = minimize(
            cost, start, method="Nelder-Mead",
            options={"xatol": 1e-7, "fatol": 1e-16, "maxiter": 4000, "maxfev": 4000},
        )  # fmt: skip
        batch = np.exp(found.x[0])
        a = alpha if alpha is not None else np.exp(found.x[1])
    else:
        a = best_over_alpha(batch)
    lr, value = best_over_lr(a, batch)
    return lr, a, batch, value


FIXED = {"A": {"alpha": 0.05, "batch": 100.0}, "B": {"batch": 100.0}, "C": {"alpha": 0.05}, "D": {}}


@pytest.mark.parametrize("regime", "ABCD")
def test_closed_form_is_the_numerical_minimum_of_the_bound(regime):
    tokens = 1e18
    fixed = FIXED[regime]
    at = rules.optimum(UNIT, regime, tokens=tokens, **fixed)
    lr, alpha, batch, value = lowest(UNIT, tokens, **fixed)
    assert at.limited == ()
    assert at.bound >= value * (1 - 1e-9)
    assert at.bound == pytest.approx(value, rel=1e-9 if regime == "A" else 2e-4)
    # D is a ridge: its place is of second order, the ratio on it is of first.
    loose = 0.1 if regime == "D" else 0.01
    assert at.lr == pytest.approx(lr, rel=1e-6 if regime == "A" else loose)
    assert at.alpha == pytest.approx(alpha, rel=loose)
    assert at.batch == pytest.approx(batch, rel=loose)
    assert at.alpha / at.batch == pytest.approx(alpha / batch, rel=0.01)
    assert at.tokens == pytest.approx(tokens)


@pytest.mark.parametrize("regime", "ABCD")
def test_exponents_are_the_slopes_of_numerical_minima(regime):
    low, high = 1e16, 1e19
    found = [lowest(UNIT, t, **FIXED[regime]) for t in (low, high)]
    slope = np.log(np.array(found[1]) / np.array(found[0])) / np.log(high / low)
    steps = slope[0:3] / (1 - slope[2])
    for i, name in enumerate(("lr", "alpha", "batch")):
        assert slope[i] == pytest.approx(rules.exponent(regime, name), abs=0.02)
        assert steps[i] == pytest.approx(rules.exponent(regime, name, of="steps"), abs=0.02)
    if regime != "A":  # whose bound has a floor
        assert slope[3] == pytest.approx(-0.25, abs=0.01)


@settings(max_examples=60, deadline=None)
@given(
    gap=st.floats(0.1, 10),
    noise=st.floats(0.1, 10),
    smooth=st.floats(0.1, 10),
    tokens=st.floats(1e2, 1e15),
    regime=st.sampled_from("ABCD"),
)
def test_optimum_keeps_its_limits_and_no_neighbour_in_lr_is_better(
    gap, noise, smooth, tokens, regime
):
    problem = rules.Problem(gap, noise, smooth)
    fixed = {k: min(v, 1e2) for k, v in FIXED[regime].items()}
    at = rules.optimum(problem, regime, tokens=tokens, **fixed)
    assert 0 < at.alpha <= 1 and 1 <= at.batch <= tokens and at.lr > 0
    again = rules.bound(problem, lr=at.lr, alpha=at.alpha, batch=at.batch, steps=at.steps)
    assert again == pytest.approx(at.bound)
    if regime in "AC" or at.limited:
        for factor in (0.97, 1.03):
            near = rules.bound(
                problem, lr=at.lr * factor, alpha=at.alpha, batch=at.batch, steps=at.steps
            )
            assert near >= at.bound * (1 - 1e-12)


def test_limits_take_the_place_of_what_the_rule_points_beyond():
    few = rules.Problem(gap=10.0, noise=0.1, smoothness=10.0)
    at = rules.optimum(few, "B", tokens=1e4, batch=1e3)
    assert at.limited == ("alpha",) and at.momentum == 0.0
    same = rules.optimum(few, "A", tokens=1e4, batch=1e3, alpha=1.0)
    assert (at.lr, at.bound) == (same.lr, same.bound)
    at = rules.optimum(few, "C", tokens=1e2, alpha=0.01)
    assert at.limited == ("batch",) and at.batch == 1.0


def test_ridge_is_flat_to_leading_order_and_bends_to_second():
    found = rules.ridge(UNIT, tokens=1e18, batch=np.geomspace(1, 1e6, 25))
    assert found["excess"].max() < 0.02
    for name in ("alpha", "lr"):
        assert np.allclose(found[name] / found["batch"], found[name][0] / found["batch"][0])
    best = found.loc[found["excess"].idxmin(), "batch"]
    closed = rules.optimum(UNIT, "D", tokens=1e18).batch
    assert abs(np.log(best / closed)) < np.log(1e6) / 24
    # Across the ridge, at one batch, the bound rises much faster than along it.
    row = found.iloc[12]
    off = rules.bound(UNIT, lr=4 * row.lr, alpha=row.alpha, batch=row.batch, steps=row.steps)
    assert off / row.bound - 1 > 10 * found["excess"].max()


def test_transfer_agrees_with_the_closed_forms_at_both_budgets():
    for regime in "ABC":
        fixed = FIXED[regime]
        start = rules.optimum(UNIT, regime, tokens=1e12, **fixed)
        goal = rules.optimum(UNIT, regime, tokens=1e15, **fixed)
        now = rules.transfer(
            {"lr": start.lr, "alpha": start.alpha, "batch": start.batch},
            regime, start=1e12, target=1e15,
        )  # fmt: skip
        assert now == pytest.approx({"lr": goal.lr, "alpha": goal.alpha, "batch": goal.batch})
    back = rules.transfer({"momentum": 0.9}, "B", start=1e12, target=1.0)
    assert back["momentum"] == 0.0  # alpha is at most 1


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: rules.optimum(UNIT, "E", tokens=1e9), "regime is 'E'"),
        (lambda: rules.optimum(UNIT, "A", tokens=1e9, alpha=0.1), "batch is missing"),
        (lambda: rules.optimum(UNIT, "B", tokens=1e9, alpha=0.1, batch=1), "alpha is 0.1"),
        (lambda: rules.optimum(UNIT, "C", steps=1e9, alpha=0.1), "budget as tokens"),
        (lambda: rules.optimum(UNIT, "B", batch=10), "one of them"),
        (lambda: rules.optimum(UNIT, "A", tokens=1e9, batch=10, alpha=2.0), "alpha is 2"),
        (lambda: rules.Problem(gap=-1.0), "gap is -1"),
        (lambda: rules.bound(UNIT, lr=0.1, alpha=1.5, batch=1, steps=1), "alpha is 1.5"),
        (lambda: rules.transfer({"wd": 1.0}, "A", start=1, target=2), "'wd'"),
        (lambda: rules.transfer({"lr": 1.0}, "A", start=0, target=2), "start is 0"),
        (lambda: rules.exponent("A", "momentum"), "name is 'momentum'"),
        (lambda: rules.ridge(UNIT, tokens=1e2, batch=[1e3]), "at most the budget"),
    ],
)
def test_a_wrong_argument_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_implied_exponent_finds_the_best_batch_first():
    rates, budgets = np.geomspace(1e-4, 1e-1, 31), np.array([1e9, 4e9, 1.6e10])
    best = 3e-3 * (budgets / 4e9) ** 0.3
    good = np.log(rates / best[:, None]) ** 2
    bad = np.log(rates / 1e-3) ** 2 + 1.0 + np.zeros_like(good)
    slope, edge = implied_exponent(np.stack([bad, good], axis=1)[None], rates, budgets)
    assert slope[0] == pytest.approx(0.3, abs=1e-9) and not edge[0]
    assert implied_exponent(good[None, :, None, :4], rates[:4], budgets)[1][0]


@pytest.fixture(scope="module")
def ahead():
    return pd.DataFrame(
        {
            "n_params": 246_240, "tokens": 4 * 3_686_400, "batch_tokens": 1024,
            "peak_lr": [0.006, 0.012, 0.024], "warmup_steps": 700, "schedule": "linear",
        },
        index=["low", "middle", "high"],
    )  # fmt: skip


def test_weigh_moves_the_exponent_as_importance_weights_must(small_law, ahead):
    plain = rules.weigh(small_law, ahead, regime="A", enabled=False)
    said = plain.summary()
    assert np.allclose(plain.weights, 1 / plain.weights.size)
    loose = rules.weigh(small_law, ahead, regime="A", sd=1e3)
    assert loose.ess > 0.999 * loose.weights.size
    sd = 2 * said["law_sd"]
    tight = rules.weigh(small_law, ahead, regime="A", sd=sd, min_ess=20, max_k=5)
    assert np.array_equal(tight.exponent, plain.exponent)
    now = tight.summary()
    assert abs(now["weighed_mean"] + 0.5) < abs(said["law_mean"] + 0.5)
    # Without smoothing the weights are the normal density; the tail's 20 % may be smoothed.
    raw = np.exp(-0.5 * ((tight.exponent + 0.5) / sd) ** 2)
    low = raw < np.quantile(raw, 0.7)
    ratio = tight.weights[low] / raw[low]
    assert np.allclose(ratio, ratio[0], rtol=1e-6)
    # Resampling keeps weighted means up to the spread of systematic resampling.
    mean = rules.weigh(
        small_law, ahead, regime="A", sd=sd, min_ess=20, max_k=5, kind="mean"
    )  # fmt: skip
    direct = small_law.predict_draws(ahead, "mean", finished=True).to_numpy()
    gap = mean.predict()["loss_mean"].to_numpy() - tight.weights @ direct
    assert np.all(np.abs(gap) < 5 * direct.std(axis=0) / np.sqrt(tight.ess))


def test_weigh_refuses_a_rule_that_the_runs_contradict(small_law, ahead):
    with pytest.raises(ValueError, match="draws count"):
        rules.weigh(small_law, ahead, regime="A", sd=0.003)
    with pytest.raises(ValueError, match="sd is -1"):
        rules.weigh(small_law, ahead, sd=-1)
    with pytest.raises(ValueError, match="two or more"):
        rules.weigh(small_law, ahead, tokens=[1e9])


def test_weighed_draws_make_a_ranking(small_law, ahead):
    found = rules.weigh(small_law, ahead, regime="A", enabled=False)
    table = bo.Ranking.from_draws(found.draws, tie=0.01).table
    assert sorted(table.index) == sorted(ahead.index)
    plain = small_law.predict(ahead)
    shown = found.predict()
    se = plain["loss_sd"] / np.sqrt(found.weights.size)
    assert np.all(np.abs(shown["loss_mean"] - plain["loss_mean"]) < 5 * se)
    assert np.allclose(shown["p_diverge"], plain["p_diverge"], atol=0.05)
