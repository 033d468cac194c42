"""Allocation of a budget: the closed form in the Chinchilla limit, invariances, bad input."""

from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from laws import encoded, with_draws

from bayes_optlaws.decision.allocate import allocate, best_size, budget_in_flops
from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.draws import recover

matplotlib.use("agg")
LAW = {"scale": (-0.3,), "mixed": (0.15,), "escape": (0.3,), "cross": (0.2,)}
OPTIONS = {"families": "linear", "allow_unconverged": True}


@pytest.fixture(scope="module")
def chinchilla(pocket):
    """A law of two terms, log L = c + A N^-0.3 + B S^-0.3, with known A and B by draw."""
    given = encoded(pocket, transfer=False, exponents=LAW)
    e = given.encoding
    space = HyperSpace(e.data, given.priors)
    every = np.ones(e.data.tree.n_combinations, dtype=bool)
    draws, *_ = recover(
        space, space.split(np.tile(space.mode(), (200, 1))), every, np.random.default_rng(0)
    )
    rng = np.random.default_rng(1)
    a, b = np.exp(0.1 * rng.standard_normal((2, 200)) + np.log([[2.0], [3.0]]))
    beta = np.zeros_like(draws.beta)
    names = [f.name for f in e.features.features]
    column = {n: int(np.flatnonzero(e.features.column_feature == names.index(n))[0]) for n in "NS"}
    for name, value in (("N", a), ("S", b)):
        beta[:, column[name]] = 0.01 * value * e.standardizer.sd[column[name]]
    return with_draws(given, replace(draws, beta=beta)), a, b


def test_the_optimum_is_that_of_the_closed_form(chinchilla):
    """A N^-p + B (C / 6N)^-p is lowest where A N^-p = B D^-p: N = sqrt(C / 6 (A / B)^(1/p))."""
    law, a, b = chinchilla
    flops = 6 * 2e5 * 1e7
    sizes = np.geomspace(1e4, 1e7, 15)
    found = allocate(law, flops=flops, n_params=sizes, **OPTIONS)
    tokens = flops / 6 / 1e9
    n = 1e9 * np.sqrt(tokens / 1e9 * (a / b) ** (1 / 0.3))
    q = np.quantile(n, [0.5, 0.05, 0.95])
    o = found.optimum
    grid = np.log(found.profile["n_params"].iloc[1] / found.profile["n_params"].iloc[0])
    got = np.log([o["n_params_median"], o["n_params_lower"], o["n_params_upper"]])
    np.testing.assert_allclose(got, np.log(q), atol=0.1 * grid)
    np.testing.assert_allclose(found.profile["n_params"] * found.profile["tokens"] * 6, flops)
    # equal exponents: both grow as the square root of compute
    np.testing.assert_allclose(found.exponents["mean"], 0.5, atol=0.02)


def test_more_compute_is_never_worse_and_sizes_grow(chinchilla):
    law = chinchilla[0]
    found = allocate(law, flops=6 * 2e5 * 1e7, **OPTIONS)
    assert found.frontier["loss_mean"].is_monotonic_decreasing
    assert found.frontier["n_params_median"].is_monotonic_increasing
    assert found.profile.loc[found.candidate.index[0], "excess"] == 0
    assert found.profile["p_optimal"].sum() == pytest.approx(1.0)


def test_gpu_hours_are_flops(chinchilla):
    law = chinchilla[0]
    a = allocate(law, flops=3.6e13, frontier=False, **OPTIONS)
    b = allocate(law, gpu_hours=10, flops_per_second=1e9, frontier=False, **OPTIONS)
    np.testing.assert_allclose(a.profile["loss_mean"], b.profile["loss_mean"])


def test_at_given_tokens_the_largest_model_is_best_and_the_edge_is_said(chinchilla):
    found = allocate(chinchilla[0], tokens=5e6, **OPTIONS)
    assert found.profile["tokens"].eq(5e6).all() and np.isnan(found.flops)
    assert found.profile["loss_mean"].is_monotonic_decreasing
    assert found.at_edge == 1.0 and "not bracketed" in found.answer()


def test_best_size_of_a_parabola_between_uneven_sizes():
    sizes = np.array([1e8, 3e8, 5e8, 2e9, 9e9])
    centre = np.array([4e8, 1.1e9, 5e7])
    loss = np.log(sizes / centre[:, None]) ** 2
    size, edge = best_size(loss, sizes)
    np.testing.assert_allclose(size, [4e8, 1.1e9, 1e8], rtol=1e-9)
    assert edge.tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "state one budget"),
        ({"flops": 1e15, "tokens": 1e9}, "state one budget"),
        ({"flops": 1e15, "gpu_hours": 1}, "state the budget once"),
        ({"gpu_hours": 3}, "flops_per_second="),
        ({"flops": -1}, "flops is -1"),
        ({"flops": "1e21"}, "flops is '1e21': it must be a number"),
        ({"flops": float("nan")}, "flops is nan: it must be a number, positive and finite"),
        ({"tokens": float("inf")}, "tokens is inf"),
        ({"flops": 1e3}, "flops is 1000: it pays for fewer than 10 steps of"),
        ({"tokens": 1e3}, "tokens is 1000: a run has at least 10 steps"),
        ({"flops": 1e13, "n_params": [1e5]}, "three or more"),
    ],
)
def test_bad_budgets_are_refused(chinchilla, options, message):
    with pytest.raises(ValueError, match=message):
        allocate(chinchilla[0], **options, **OPTIONS)
    assert budget_in_flops(None, None, None) is None


def test_a_budget_below_any_run_is_said(chinchilla):
    law = chinchilla[0]
    least = (6 * law.runs["n_params"] * law.runs["tokens"]).min()
    for flops, said in ((least / 3, True), (3 * least, False)):
        found = allocate(law, flops=flops, n_params=[3e3, 1e4, 3e4], frontier=False, **OPTIONS)
        assert ("is less than any run had" in found.answer()) is said


def test_it_is_said_and_drawn(chinchilla):
    found = allocate(chinchilla[0], flops=6 * 2e5 * 1e7, **OPTIONS)
    assert "are not shown to be worse" in found.answer() and "FLOP^0.5" in found.answer()
    assert "<table" in found._repr_html_() and "n_params" in repr(found)
    (ax,) = found.plot().axes
    assert ax.get_xscale() == "log"
    (ax,) = found.plot_frontier().axes
    assert "FLOP^0.5" in ax.get_title()
