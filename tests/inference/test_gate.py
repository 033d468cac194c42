"""A gate that fails on anything it cannot judge."""

import numpy as np
import pytest
import xarray as xr

from bayes_optlaws.inference import gate

GOOD = {"rhat": 1.005, "ess_bulk": 900.0, "ess_tail": 500.0, "divergent": 0.0, "bfmi": 0.9}


def test_the_gate_passes_good_figures():
    assert gate.failures(GOOD) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("rhat", 1.011), ("ess_bulk", 399.0), ("ess_tail", 399.0), ("divergent", 1.0), ("bfmi", 0.29)],
)
def test_the_gate_fails_on_each_figure_and_on_nan(name, value):
    for bad in (value, np.nan):
        assert len(gate.failures({**GOOD, name: bad})) == 1


@pytest.mark.parametrize(("name", "value"), [("pareto_k", 0.71), ("effective_draws", 399.0)])
def test_so_does_the_gate_of_importance_sampling(name, value):
    good = {"pareto_k": 0.5, "effective_draws": 450.0}
    assert gate.failures(good) == gate.failures(GOOD | good) == []
    for bad in (value, np.nan):
        assert len(gate.failures(good | {name: bad})) == 1


@pytest.mark.parametrize("figures", [{}, {"rhat": 1.0}, {**GOOD, "pareto_k": 0.1}])
def test_the_gate_does_not_pass_what_it_was_not_told(figures):
    with pytest.raises(ValueError, match="not all of them"):
        gate.failures(figures)


def test_diagnosis_sees_a_chain_that_is_elsewhere_and_a_constant_one(rng):
    stats = xr.Dataset(
        {
            "energy": (("chain", "draw"), rng.normal(size=(4, 200))),
            "diverging": (("chain", "draw"), np.zeros((4, 200), dtype=bool)),
        }
    )
    x = rng.normal(size=(4, 200, 2))
    assert gate.diagnose({"x": x}, stats)["rhat"] < 1.05
    away = x.copy()
    away[0, :, 1] += 3
    figures = gate.diagnose({"x": away}, stats)
    assert figures["rhat"] > 1.2 and figures["ess_bulk"] < 100
    stuck = np.ones((4, 200))
    with np.errstate(all="ignore"):  # what cannot be computed comes back as nan
        assert gate.failures(gate.diagnose({"x": stuck}, stats))
    stats["diverging"][1, 7] = True
    assert gate.diagnose({"x": x}, stats)["divergent"] == 1


def test_importance_sampling_is_judged_by_its_own_figures():
    stats = xr.Dataset({"pareto_k": 0.6, "effective_draws": 450.0, "evaluations": 4096})
    assert gate.diagnose({}, stats) == {"pareto_k": 0.6, "effective_draws": 450.0}


def test_two_parts_together_are_as_bad_as_the_worse():
    k = {"pareto_k": 0.6, "effective_draws": 900.0}
    both = gate.worst(k, {"pareto_k": 0.2, "effective_draws": 450.0})
    assert both == {"pareto_k": 0.6, "effective_draws": 450.0}
    bad = {"rhat": 1.001, "ess_bulk": 500.0, "ess_tail": 900.0, "divergent": 2.0, "bfmi": 0.5}
    assert gate.worst(GOOD | {"divergent": 1.0}, bad) == {
        "rhat": 1.005, "ess_bulk": 500.0, "ess_tail": 500.0, "divergent": 3.0, "bfmi": 0.5
    }  # fmt: skip
    assert gate.worst(k, GOOD) == k | GOOD
