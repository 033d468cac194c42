"""Limits of the laws: powers of N and D, broken power laws, Chinchilla, converging families."""

import numpy as np
import pandas as pd
import pytest

from bayes_optlaws import baselines
from bayes_optlaws.runs.readers import read_candidates
from bayes_optlaws.theory import limits

# limits are taken at sizes and budgets that no one trains, which reading doubts
pytestmark = pytest.mark.filterwarnings("ignore::bayes_optlaws.runs.readers.RunTableWarning")

PLANS = (
    {"schedule": "linear"},
    {"schedule": "cosine"},
    {"schedule": "wsd", "cooldown": 0.7},
    {"schedule": "polygon", "decay": 0.4, "plateau": 0.5, "cooldown": 0.8},
    {"schedule": "constant"},
)


def plan(n, d, *, schedule, cooldown=np.nan, decay=np.nan, plateau=np.nan, lr=0.02, warmup=0.2):
    """One-row table whose phases are shares of the steps."""
    steps = d / 1024
    return pd.DataFrame(
        [
            {
                "n_params": n, "tokens": d, "batch_tokens": 1024, "peak_lr": lr, "min_lr": 0.0,
                "warmup_steps": warmup * steps, "schedule": schedule,
                "decay_end_step": decay * steps, "plateau_lr": plateau * lr,
                "cooldown_start_step": cooldown * steps,
            }
        ]
    ).dropna(axis=1)  # fmt: skip


@pytest.fixture(scope="module")
def law(pocket):
    """Least squares with exponents of both signs, so that every kind of term occurs."""
    return baselines.GeneralizedOptLaw(exponents="signed").fit(pocket)


@pytest.fixture(scope="module")
def simplified(pocket):
    return baselines.SimplifiedOptLaw(n_starts=3).fit(pocket)


@pytest.mark.parametrize("shape", PLANS, ids=lambda s: s["schedule"])
def test_the_law_is_a_sum_of_powers_of_size_and_tokens(law, shape):
    n0, d0 = 1e5, 2_000_000.0
    terms = limits.scale_terms(law.parameters, law.exponents, plan(n0, d0, **shape))
    for n, d in ((n0, d0), (3e4, d0), (2.5e5, 1e6), (1.3e5, 8e6)):
        log_loss = terms.attrs["constant"] + np.sum(
            terms["value"] * (n / n0) ** terms["n_power"] * (d / d0) ** terms["d_power"]
        )
        expected = law.predict(read_candidates(plan(n, d, **shape)))[0]
        assert np.exp(log_loss) == pytest.approx(expected, rel=1e-9)


def test_scale_terms_refuse_what_is_no_power(law):
    two = pd.concat([plan(1e5, 2e6, schedule="linear")] * 2, ignore_index=True)
    with pytest.raises(ValueError, match="2 rows"):
        limits.scale_terms(law.parameters, law.exponents, two)
    root = plan(1e5, 2e6, schedule="wsd-sqrt", cooldown=0.8)
    with pytest.raises(ValueError, match="logarithm"):
        limits.scale_terms(law.parameters, law.exponents, root)


def size_curve(law, n0=1e5):
    """Constant and terms in N alone of a fitted law at one schedule."""
    terms = limits.scale_terms(law.parameters, law.exponents, plan(n0, 2e6, schedule="linear"))
    alone = terms["n_power"] != 0
    constant = terms.attrs["constant"] + terms.loc[~alone, "value"].sum()
    return constant, list(terms.loc[alone, ["value", "n_power"]].itertuples(index=False, name=None))


def test_at_a_fixed_schedule_the_law_is_the_limit_of_a_broken_power_law(law):
    """The error against the fitted law itself falls within its bound, as (x/d)^p does."""
    n0 = 1e5
    constant, terms = size_curve(law, n0)
    assert len({np.sign(p) for _, p in terms}) == 2
    sizes = np.geomspace(2e4, 5e5, 7)
    table = pd.concat([plan(n, 2e6, schedule="linear") for n in sizes], ignore_index=True)
    log_loss = np.log(law.predict(read_candidates(table)))
    errors = []
    for far in (1e24, 1e36, 1e48):
        broken = limits.broken_power_law(constant, terms, at=n0, far=far)
        error = np.abs(np.log(broken(sizes)) - log_loss)
        bound = sum(
            np.abs(k) * (sizes / n0) ** p * (sizes / n0) ** p * far ** -abs(p) / 2 for k, p in terms
        )
        assert np.all(error <= bound * (1 + 1e-9) + 1e-9)
        errors.append(error.max())
    assert errors[0] > 2 * errors[1] and errors[2] < 1e-5


def test_broken_power_law_is_the_published_formula():
    law = limits.BrokenPowerLaw(2.0, ((0.7, 30.0, 0.5), (-0.2, 4.0, 2.0)), slope=0.3, limit=0.1)
    x = 7.0
    expected = 0.1 + 2.0 * x**-0.3 * (1 + (x / 30) ** 2) ** (-0.35) * (1 + (x / 4) ** 0.5) ** 0.4
    assert law(x) == pytest.approx(expected, rel=1e-13)
    # Far beyond a break the log slope has changed by c.
    one = limits.BrokenPowerLaw(1.0, ((0.7, 30.0, 0.5),))
    slope = np.log(one(1e9) / one(1e8)) / np.log(10)
    assert slope == pytest.approx(-0.7, abs=1e-6)


def test_a_broken_power_law_far_below_its_breaks_is_an_opt_law():
    law = limits.BrokenPowerLaw(3.0, ((0.8, 50.0, 2.5), (0.3, 200.0, 3.0)))
    constant, terms = limits.opt_law_terms(law)
    errors = []
    for x in (1e-2, 1e-4, 1e-6):
        log_limit = constant + sum(k * x**p for k, p in terms)
        errors.append(abs(float(np.log(law(x))) - log_limit))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-4
    with pytest.raises(ValueError, match="slope"):
        limits.opt_law_terms(limits.BrokenPowerLaw(1.0, (), slope=0.1))
    with pytest.raises(ValueError, match="power 0"):
        limits.broken_power_law(0.0, [(1.0, 0.0)])
    with pytest.raises(ValueError, match="far"):
        limits.broken_power_law(0.0, [], far=1.0)


def test_small_terms_give_chinchillas_law_within_the_bound():
    constant, n_term, d_term = np.log(1.7), (2.0, -0.34), (3.0, -0.28)
    c = limits.chinchilla_limit(constant, n_term, d_term)
    n, d = np.geomspace(1e2, 1e12, 6), np.geomspace(1e3, 1e14, 6)
    h = n_term[0] * n ** n_term[1] + d_term[0] * d ** d_term[1]
    loss = np.exp(constant + h)
    excess = loss - (c["E"] + c["A"] / n ** c["alpha"] + c["B"] / d ** c["beta"])
    assert np.all(excess >= -1e-12) and np.all(excess <= c["E"] * h**2 * np.exp(h) / 2)
    # Small against the terms themselves, more so the larger the scale.
    share = excess / (loss - c["E"])
    assert np.all(np.diff(share) < 0) and share[-1] < 1e-3
    with pytest.raises(ValueError, match="saturating"):
        limits.chinchilla_limit(constant, (1.0, 0.3), d_term)


def test_a_fitted_law_of_large_data_is_chinchillas_law(pocket):
    """Beyond every schedule term the saturating law at fixed N has floor and power of D."""
    law = baselines.GeneralizedOptLaw(exponents="saturating").fit(pocket)
    n, d = 1e5, 1e6
    terms = limits.scale_terms(law.parameters, law.exponents, plan(n, d, schedule="linear"))
    flat = terms["d_power"] == 0
    constant = terms.attrs["constant"] + terms.loc[flat, "value"].sum()
    falling = terms[~flat].groupby("d_power")["value"].sum()
    slowest = falling.index.max()
    c = limits.chinchilla_limit(constant, (0.0, -1.0), (falling[slowest], slowest))
    far = d * np.array([1e16, 1e20, 1e24])
    table = pd.concat([plan(n, x, schedule="linear") for x in far], ignore_index=True)
    loss = law.predict(read_candidates(table))
    gap = loss - c["E"]
    expected = c["B"] / (far / d) ** c["beta"]
    np.testing.assert_allclose(gap[-1] / expected[-1], 1.0, rtol=0.05)
    assert abs(gap[-1] / expected[-1] - 1) < abs(gap[0] / expected[0] - 1)


@pytest.mark.parametrize(("warmup", "cooldown"), [(0.1, 0.9), (0.05, 0.5), (0.2, 0.2)])
def test_gap_of_the_simplified_law_is_that_of_its_predictions(simplified, warmup, cooldown):
    p = simplified.parameters
    assert p["a1"] > 0 and p["a3"] > 0
    steps = np.array([1e4, 1e6, 1e8])
    pairs = [
        plan(1e5, s * 1024, schedule=kind, warmup=warmup,
             cooldown=cooldown if kind == "wsd" else np.nan)
        for s in steps for kind in ("cosine", "wsd")
    ]  # fmt: skip
    loss = simplified.predict(read_candidates(pd.concat(pairs, ignore_index=True)))
    gap = limits.cosine_less_wsd(
        p, peak_lr=0.02, steps=steps, warmup=warmup, cooldown_start=cooldown
    )
    np.testing.assert_allclose(gap, loss[::2] - loss[1::2], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("g1", "g3", "warmup", "cooldown", "rate"),
    [(0.2, 0.5, 0.1, 0.9, 0.2), (0.6, 0.25, 0.1, 0.9, 0.25), (0.2, 0.5, 0.3, 0.3, 0.5)],
)
def test_proposition_1_the_gap_vanishes_at_its_rate(g1, g3, warmup, cooldown, rate):
    law = {"a1": 0.8, "g1": g1, "a3": 0.3, "g3": g3}
    shares = {"warmup": warmup, "cooldown_start": cooldown}
    assert limits.cosine_less_wsd_rate(law, **shares) == rate
    steps = np.array([1e40, 1e42])
    gap = np.abs(limits.cosine_less_wsd(law, peak_lr=1e-3, steps=steps, **shares))
    assert np.log(gap[1] / gap[0]) / np.log(1e2) == pytest.approx(-rate, abs=2e-3)


def test_shares_and_terms_that_do_not_differ():
    law = {"a1": 0.0, "g1": 0.2, "a3": 0.0, "g3": 0.5}
    assert limits.cosine_less_wsd_rate(law, warmup=0.1, cooldown_start=0.9) == np.inf
    # Equal escape terms: 8 (1 - r_a) = pi^2 (1 - r_ac).
    law["a3"] = 1.0
    equal = 1 - 8 * 0.9 / np.pi**2
    assert limits.cosine_less_wsd_rate(law, warmup=0.1, cooldown_start=equal) == np.inf
    for warmup, cooldown in ((0.0, 0.5), (0.6, 0.5), (0.1, 1.0)):
        with pytest.raises(ValueError, match="shares of the steps"):
            limits.cosine_less_wsd_rate(law, warmup=warmup, cooldown_start=cooldown)


def test_families_converge_for_the_generalized_law_at_the_slowest_power(pocket):
    law = baselines.GeneralizedOptLaw(exponents="saturating").fit(pocket)
    where = {"n_params": 1e5, "batch_tokens": 1024, "peak_lr": 0.02}
    found = limits.family_losses(law.predict, tokens=[1e12, 1e14, 1e18, 1e20], **where)
    assert found["spread"].is_monotonic_decreasing and found["spread"].iloc[-1] < 1e-4
    terms = limits.scale_terms(law.parameters, law.exponents, plan(1e5, 1e6, schedule="linear"))
    slowest = terms.drop(["N", "S", "lr"])["d_power"].max()
    slope = np.log(found["spread"].iloc[-1] / found["spread"].iloc[-2]) / np.log(1e2)
    assert slope == pytest.approx(slowest, abs=0.02)


def test_family_losses_are_the_predictions(law):
    found = limits.family_losses(
        law.predict, n_params=1e5, tokens=[2e6, 4e6], batch_tokens=1024, peak_lr=0.02,
        warmup=0.2, cooldown_start=0.7,
    )  # fmt: skip
    one = law.predict(read_candidates(plan(1e5, 4e6, schedule="wsd", cooldown=0.7)))[0]
    assert found.loc[4e6, "wsd"] == pytest.approx(one, rel=1e-12)
    row = found.loc[2e6, ["linear", "cosine", "wsd"]]
    assert found.loc[2e6, "spread"] == pytest.approx(np.log(row.max() / row.min()))
