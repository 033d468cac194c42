"""What a decision means: ties, regret, irrelevant candidates, risk, the setting beside them."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_optlaws.decision.rank import effective_draws, rank
from bayes_optlaws.decision.rank_inputs import Outcomes, priced
from bayes_optlaws.decision.ranking import Ranking
from bayes_optlaws.decision.suggest import suggest
from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.model.risk import divergence_price
from bayes_optlaws.runs.readers import read_candidates

SAME = {
    "n_params": 246_240.0,
    "tokens": 7_372_800.0,
    "batch_tokens": 1024.0,
    "warmup_steps": 400.0,
    "schedule": "linear",
}


def candidates(lr, **settings):
    """Candidates of one scale that differ in peak LR, and in what else is given."""
    names = [f"c{i}" for i in range(len(lr))]
    columns = SAME | {"run_id": names, "peak_lr": lr} | settings
    return read_candidates(pd.DataFrame(columns, index=names))


def ranked(law, table, **options):
    return rank(law.fitted, table, **{"search": False, "max_draws": 1600} | options)


# A tie can be said


def test_identical_candidates_tie_with_probability_one_and_cost_nothing(small_law):
    r = ranked(small_law, candidates([0.02] * 9))
    assert (r.table["p_best_or_tied"] == 1).all() and (r.table["expected_regret"] == 0).all()
    assert (r.table["tie_group"] == 1).all() and (r.flips["verdict"] == "tie").all()
    np.testing.assert_allclose(r.table["p_best"], 1 / 9)
    assert r.headline.startswith("The 9 candidates are a tie") and "Choose" not in r.answer()


@settings(deadline=None, max_examples=12)
@given(
    n=st.integers(2, 12),
    lr=st.floats(0.002, 0.3),
    warmup=st.integers(16, 3000),
    schedule=st.sampled_from(["linear", "cosine", "constant"]),
    kind=st.sampled_from(["mean", "new_run"]),
)
def test_any_candidate_beside_itself_is_a_tie(small_law, n, lr, warmup, schedule, kind):
    table = candidates([lr] * n, warmup_steps=float(warmup), schedule=schedule)
    r = ranked(small_law, table, kind=kind, max_draws=200)
    assert (r.table["p_best_or_tied"] == 1).all() and (r.table["tie_group"] == 1).all()
    assert "Choose" not in r.answer() and r.headline.startswith(f"The {n} candidates are a tie")


@pytest.mark.parametrize("kind", ["mean", "new_run"])
def test_ties_are_judged_on_expected_losses_whatever_is_counted(small_law, kind):
    r = ranked(small_law, candidates([0.02, 0.02, 0.021]), kind=kind)
    assert r.table["p_best_or_tied"][["c0", "c1"]].min() > 0.9
    assert (r.flips["p_tie"] > 0.9).all() and (r.flips["verdict"] == "tie").all()
    if kind == "new_run":  # one run of each differs by its noise
        assert (r.table["expected_regret"] > 0).all()


def test_a_ranking_counts_expected_losses_and_shows_the_interval_of_one_run(small_law):
    table = candidates([0.01, 0.02, 0.03])
    r = small_law.rank(table, search=False)
    assert r.kind == "mean"
    mean, run = (small_law.predict(table, kind=k) for k in ("mean", "new_run"))
    width = (r.table["loss_upper"] - r.table["loss_lower"]).loc[run.index]
    np.testing.assert_allclose(width, run["loss_upper"] - run["loss_lower"], rtol=0.1)
    assert (width > 1.05 * (mean["loss_upper"] - mean["loss_lower"])).all()
    assert "A single run of" in r.answer() and "expected loss" in r.answer()


def test_the_tie_zone_is_the_noise_of_one_run(small_law):
    table = candidates([0.01, 0.02])
    noise = np.median(small_law.predictor.noise_sd(table))
    assert ranked(small_law, table).tie == pytest.approx(noise * 1.1, rel=0.2)


def test_no_clear_pair_shares_a_tie_group(small_law):
    r = ranked(small_law, candidates(np.geomspace(0.004, 0.1, 25)))
    group = r.table["tie_group"]
    clear = r.flips[r.flips["verdict"] == "clear"]
    assert len(clear)
    assert (group[clear["first"]].to_numpy() != group[clear["second"]].to_numpy()).all()


def test_the_first_of_a_pair_stands_higher_in_the_table(small_law):
    r = ranked(small_law, candidates(np.geomspace(0.004, 0.1, 9)))
    assert list(r.flips["first"]) == list(r.table.index[:-1])
    assert list(r.flips["second"]) == list(r.table.index[1:])
    assert (r.flips["gap"] >= 0).all()


# Nothing irrelevant moves an order


@st.composite
def outcomes(draw):
    """Finite outcomes of 2 to 5 candidates with a risk, as a law gives them."""
    seed = draw(st.integers(0, 2**31))
    n = draw(st.integers(2, 5))
    rng = np.random.default_rng(seed)
    loss = 2.5 + rng.normal(0, 0.05, n) + rng.normal(0, rng.uniform(0, 0.05, n), (600, n))
    risk = rng.beta(0.5, 6.0, n) * rng.uniform(0.5, 1.5, (600, n))
    return np.abs(loss), np.clip(risk, 0, 1), rng


def of(loss, risk, price=4.0):
    value = priced(loss, risk, price)
    names = np.arange(loss.shape[1])
    counted = xr.DataArray(value, dims=("sample", "candidate"), coords={"candidate": names})
    o = Outcomes(counted, value, loss, loss, risk.mean(axis=0))
    return Ranking.from_outcomes(o, prob=0.9, tie=0.002, divergence_loss=price, kind="mean")


@settings(deadline=None, max_examples=40)
@given(outcomes())
def test_adding_a_dominated_candidate_changes_no_other(data):
    loss, risk, rng = data
    worse = loss.max(axis=1) + 0.5 + rng.exponential(2.0, len(loss))  # wide, and never the lowest
    one = of(loss, risk)
    two = of(np.column_stack([loss, worse]), np.column_stack([risk, np.full(len(loss), 0.5)]))
    rest = two.table.drop(index=loss.shape[1])
    assert list(rest.index) == list(one.table.index)
    same = ["p_best", "p_best_or_tied", "expected_regret", "p_diverge", "loss_mean"]
    pd.testing.assert_frame_equal(rest[same], one.table[same], rtol=1e-12)


@settings(deadline=None, max_examples=40)
@given(outcomes(), st.data())
def test_permuting_candidates_changes_no_number(data, more):
    loss, risk, _ = data
    order = more.draw(st.permutations(range(loss.shape[1])))
    one, two = of(loss, risk), of(loss[:, order], risk[:, order])
    back = two.table.rename(index=dict(enumerate(order)))
    drop = ["tie_group", "rank_without_risk"]
    pd.testing.assert_frame_equal(
        back.drop(columns=drop), one.table.drop(columns=drop).loc[back.index], check_names=False
    )


@settings(deadline=None, max_examples=40)
@given(outcomes())
def test_doubling_the_draws_changes_no_number_but_the_errors(data):
    loss, risk, _ = data
    one, two = of(loss, risk), of(np.tile(loss, (2, 1)), np.tile(risk, (2, 1)))
    keep = [c for c in one.table if not c.endswith("_se") and c not in ("loss_lower", "loss_upper")]
    pd.testing.assert_frame_equal(one.table[keep], two.table[keep], rtol=1e-9)
    ratio = one.table["expected_regret_se"] / two.table["expected_regret_se"]
    np.testing.assert_allclose(ratio.dropna(), np.sqrt(2), rtol=1e-6)


@pytest.mark.parametrize("kind", ["mean", "new_run"])
def test_a_diverged_run_costs_the_same_whatever_is_asked(small_law, kind):
    table = candidates([0.01, 0.05, 0.3])
    price = divergence_price(small_law.runs)
    for some, draws in ((table, 1600), (table.iloc[:2], 400), (table.iloc[[0]], 100)):
        assert ranked(small_law, some, kind=kind, max_draws=draws).divergence_cost == price
    assert ranked(small_law, table, kind=kind, divergence_loss=7.0).divergence_cost == 7


@settings(deadline=None, max_examples=12)
@given(lr=st.floats(1e-3, 0.5), warmup=st.integers(16, 3000), scale=st.floats(0.3, 10.0))
def test_no_third_candidate_turns_two_others_around(small_law, lr, warmup, scale):
    """What the second costs more than the first is the same with any third beside them."""
    third = {"peak_lr": lr, "warmup_steps": float(warmup)}
    both = candidates([0.02, 0.06], warmup_steps=64.0)
    other = candidates([lr], warmup_steps=float(warmup)).assign(**third)
    other = other.assign(n_params=scale * SAME["n_params"]).rename(index={"c0": "third"})
    apart = []
    for table in (both, pd.concat([both, other])):
        regret = ranked(small_law, table).table
        apart.append(regret.loc["c1", "expected_regret"] - regret.loc["c0", "expected_regret"])
    loss = small_law.predict_draws(both, kind="mean", max_draws=1600).to_numpy()
    loss = np.where(np.isfinite(loss), loss, divergence_price(small_law.runs))
    error = np.std(loss[:, 1] - loss[:, 0]) * np.sqrt(2 / 400)  # a few hundred effective draws
    assert apart[1] == pytest.approx(apart[0], abs=4 * error)


# What is not modelled is not said


@pytest.fixture
def silent(small_law):
    """The shared law without its divergence part."""
    f = small_law.fitted
    return FittedLaw(f.encoding, f.priors, f.sample, f.random_seed, None, options=f.options)


def test_a_risk_that_is_not_modelled_is_not_said(silent):
    r = rank(silent, candidates([0.01, 0.05]), max_draws=400)
    assert not r.divergence_modelled and r.table["p_diverge"].isna().all()
    assert "rank_without_risk" not in r.table
    said = r.answer()
    assert "diverges with probability" not in said
    assert "the risk of divergence is not modelled" in said.lower()
    assert ">–</td>" in r._repr_html_()


# Monte-Carlo error


def test_monte_carlo_errors_are_those_of_repeated_rankings(small_law):
    """Over 40 seeds P(best) and regret scatter as their stated errors say."""
    rng = np.random.default_rng(0)
    p, regret, p_se, regret_se = [], [], [], []
    for _ in range(200):
        draws = 2.4 + rng.normal([0.0, 0.002, 0.004], 0.004, size=(500, 3))
        row = Ranking.from_draws(draws, kind="mean").table.loc[0]
        p.append(row["p_best"])
        regret.append(row["expected_regret"])
        p_se.append(row["p_best_se"])
        regret_se.append(row["expected_regret_se"])
    # the sd of 200 values is known to 5 %
    assert np.std(p) == pytest.approx(np.mean(p_se), rel=0.2)
    assert np.std(regret) == pytest.approx(np.mean(regret_se), rel=0.2)


def test_effective_draws_see_autocorrelation():
    rng = np.random.default_rng(1)
    n, rho = 4000, 0.8
    x = np.zeros((n, 2))
    noise = rng.normal(size=(n, 2))
    for t in range(1, n):
        x[t] = rho * x[t - 1] + np.sqrt(1 - rho**2) * noise[t]
    gap = np.column_stack([np.zeros(n), 1.0 + 0.1 * x[:, 0]])
    want = n * (1 - rho) / (1 + rho)
    assert effective_draws(gap, 4) == pytest.approx(want, rel=0.3)


def test_no_digit_is_printed_beyond_its_error(small_law):
    r = ranked(small_law, candidates([0.01, 0.02]), max_draws=100)
    error = r.table["expected_regret_se"].iloc[0]
    text = re.search(r"choosing it costs (?:under )?([\d.]+) nats", r.answer()).group(1)
    digits = len(text.split(".")[1]) if "." in text else 0
    assert 10.0**-digits > 0.1 * error


# Order with and without risk


def test_the_order_without_risk_is_said_where_it_differs(small_law):
    """A price so high that the least risk decides, and one that counts nothing."""
    table = candidates([0.02, 0.05, 0.12, 0.3], warmup_steps=64.0)
    by_risk = ranked(small_law, table, divergence_loss=200.0)
    places = by_risk.table["rank_without_risk"]
    assert sorted(places) == [1, 2, 3, 4]
    mean = small_law.predict(table, kind="mean", max_draws=1600)["loss_mean"]
    want = mean.sort_values().index
    assert list(places.sort_values().index) == list(want)
    if places.iloc[0] != 1:
        assert f"Without the risk of divergence {want[0]} would be first" in by_risk.answer()
        assert "prior" in by_risk.answer() or "runs diverged" in by_risk.answer()


# The best may not be a candidate


def test_a_better_setting_than_all_candidates_is_named(small_law):
    """Candidates far above the best LR: the search finds it, and is right on fresh draws."""
    table = candidates([0.08, 0.1])
    r = small_law.rank(table)
    assert r.better is not None and r.better.matters
    both = pd.concat([table[r.better.setting.columns], r.better.setting])
    mean = small_law.predict(both, kind="mean", random_seed=5)["loss_mean"]
    assert mean.iloc[-1] < mean.iloc[:-1].min()
    said = r.answer()
    assert "A better setting than all candidates is expected at" in said
    assert 0.5 < r.better.p_better <= 1


def test_no_better_setting_is_claimed_beside_the_best(small_law):
    first = small_law.rank(candidates([0.02, 0.05]))
    setting = first.better.setting.rename(index={"better-setting": "best"})
    again = small_law.rank(setting.assign(run_id="best"))
    assert not again.better.matters
    assert "No setting within the ranges that were run is expected to be better" in again.answer()


def test_the_search_can_be_switched_off(small_law):
    r = small_law.rank(candidates([0.08, 0.1]), search=False)
    assert r.better is None and "better setting" not in r.answer()


def test_an_optimum_at_the_edge_asks_for_the_run_beyond_it(small_law):
    """The search box cut to its lower half: the optimum lies at an end, and a run is proposed."""
    from bayes_optlaws.decision.search_space import at_edge, run_beyond

    runs = small_law.runs
    low, high = (f(runs.loc[~runs["diverged"], "peak_lr"]) for f in (min, max))
    assert (at_edge((low, high), low), at_edge((low, high), high)) == ("lower", "higher")
    setting = candidates([low])
    for edge, ratio, end in (("lower", 0.5, low), ("higher", 2.0, high)):
        row = run_beyond(runs, setting, edge).iloc[0]
        assert row["peak_lr"] == pytest.approx(ratio * end, rel=1e-2)
        assert row["n_params"] * row["tokens"] == (runs["n_params"] * runs["tokens"]).max()


@pytest.mark.parametrize("ask", ["rank", "suggest"])
def test_the_answer_says_run_lower_first_where_the_best_is_the_lowest_that_was_run(small_law, ask):
    """The shared law told that only its hot runs were made: the best lies at their lowest LR."""
    f = small_law.fitted
    hot = f.runs[f.runs["peak_lr"] >= 0.05]
    law = replace(f, encoding=replace(f.encoding, runs=hot))
    if ask == "rank":
        found = rank(law, candidates([0.08, 0.1]), search=True).better
        said = " ".join(found.sentences())
    else:
        found = suggest(law, SAME["n_params"], SAME["tokens"], SAME["batch_tokens"])
        said = found.answer()
    low = hot.loc[~hot["diverged"], "peak_lr"].min()
    assert found.edge == "lower"
    assert found.next_run["peak_lr"].iloc[0] == pytest.approx(low / 2, rel=1e-2)
    assert "run lower first" in said and f"peak LR {low / 2:.3g}" in said


# Caveats travel with the answer


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_params": 246_240.0 * 15}, "model size is 15 x above the largest fitted"),
        (
            {"n_params": 1e12, "tokens": 1e13, "batch_tokens": 1e9},
            "too far for any interval to be trusted",
        ),
        ({"schedule": "cosine"}, "No fitted run has the schedule cosine"),
        ({"peak_lr": 1.0}, "Peak LR 1 lies above all fitted runs"),
        ({"warmup_steps": 5000.0}, "Warm-up in steps 5e3 lies above all fitted runs"),
        ({"batch_tokens": 4096.0}, "Batch in tokens never varied among the fitted runs"),
    ],
)
def test_the_same_caveat_travels_with_every_answer(small_law, change, words):
    table = candidates([0.01, 0.02], **change)
    r = small_law.rank(table, search=False)
    for said in (
        " ".join(r.notes), r.answer(), repr(r).replace("\n", " "), r._repr_html_(),
        " ".join(small_law.predict(table).attrs["notes"]),
    ):  # fmt: skip
        assert words in said


def test_candidates_among_the_runs_have_no_caveat(small_law):
    runs = small_law.runs[~small_law.runs["diverged"]].iloc[:4]
    table = runs.drop(columns=["final_loss", "diverged"])
    assert small_law.rank(table, search=False).notes == ()


def test_one_model_size_says_that_its_effect_is_prior(pocket):
    from bayes_optlaws.inference.caveats import setting_notes

    runs = pocket[~pocket["diverged"]]
    one = runs[runs["n_params"] == runs["n_params"].max()]
    said = setting_notes(one, one.head(1).assign(n_params=15 * one["n_params"].max()))
    assert "All fitted runs have one model size" in said[0] and "is prior" in said[0]


def test_an_unconverged_ranking_is_marked_wherever_it_is_shown(small_law):
    kept = small_law.diagnostics
    bad = dict.fromkeys(kept, np.nan)
    small_law.fitted.__dict__["diagnostics"] = bad
    try:
        r = small_law.rank(candidates([0.01, 0.02]), search=False, allow_unconverged=True)
    finally:
        small_law.fitted.__dict__["diagnostics"] = kept
    for said in (r.answer(), repr(r), r._repr_html_(), r.plot().get_suptitle()):
        assert "UNCONVERGED" in said
