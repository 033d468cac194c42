"""Sums over the learning-rate curve that the annealing laws take, against steps and quadrature."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad

from bayes_optlaws.baselines.annealing import Curves
from bayes_optlaws.runs.readers import read_candidates
from bayes_optlaws.schedules import Schedule


def curves_of(*schedules):
    """Curves of runs of one size and batch."""
    rows = pd.DataFrame([s.to_row() for s in schedules]).assign(n_params=1e9, batch_tokens=2.0**18)
    return Curves.from_table(read_candidates(rows))


def curve_cases():
    common = {"peak_lr": 2e-3, "steps": 5000, "warmup_steps": 300}
    return {
        "linear": Schedule.linear(**common),
        "linear to a floor": Schedule.linear(**common, min_lr=5e-4),
        "cosine": Schedule.cosine(**common),
        "cosine to a floor": Schedule.cosine(**common, min_lr=2e-4),
        "wsd": Schedule.wsd(**common, cooldown_start_step=4200),
        "short wsd": Schedule.wsd(**common, cooldown_start_step=4950, min_lr=1e-4),
        "wsd-sqrt": Schedule.wsd(**common, cooldown_start_step=3000, shape="sqrt", min_lr=1e-4),
        "constant": Schedule.constant(**common),
        "polygon": Schedule.polygon(
            **common, decay_end_step=1500, plateau_lr=8e-4, cooldown_start_step=4000
        ),
    }


@pytest.mark.parametrize("name", curve_cases())
@pytest.mark.parametrize("decay_rate", [0.99, 0.999, 0.99995])
def test_areas_are_those_of_the_steps(name, decay_rate):
    """Oracle: the recursion over every step of arXiv 2408.11029, started at the peak."""
    schedule = curve_cases()[name]
    curves = curves_of(schedule)
    lr = schedule.lr(np.arange(5001))
    assert curves.area[0] == pytest.approx(lr[1:].sum(), rel=5e-4)
    after = lr[300:]
    momentum, total = 0.0, 0.0
    for before, now in itertools.pairwise(after):
        momentum = decay_rate * momentum + before - now
        total += momentum
    # The integral and the sum differ by a step in the memory and in the length of the cooldown.
    tol = 1.5 * (1 - decay_rate) + 1.5 / max(5000 - schedule.cooldown_start_step, 1)
    assert curves.annealing_area(decay_rate)[0] == pytest.approx(total, rel=tol, abs=1e-12)


@pytest.mark.parametrize("name", curve_cases())
def test_closed_forms_are_those_of_quadrature(name):
    s = curve_cases()[name]
    curves = curves_of(s)
    points = sorted({300.0, s.decay_end_step, s.cooldown_start_step, 5000.0})
    r = -np.log(0.999)

    def integrate(f):
        pieces = itertools.pairwise(points)
        return sum(quad(f, a, b, epsabs=0, epsrel=1e-10, limit=200)[0] for a, b in pieces)

    # By parts, so that no slope is needed: int -lr' g = lr(a) g(a) + int lr g', g(S) = 0.
    def g(t):
        return (1 - np.exp(-r * (5000 - t))) / r

    by_parts = s.lr(300.0) * g(300.0) - integrate(lambda t: s.lr(t) * np.exp(-r * (5000 - t)))
    assert curves.annealing_area(0.999)[0] == pytest.approx(by_parts, rel=1e-7, abs=1e-8)

    # The falls: the same integral and one of the Multi-Power-Law, on the curve's own steps.
    lr, left, weight = curves.falls()
    assert weight.sum() == pytest.approx(s.lr(300.0) - s.lr(5000.0), rel=1e-9, abs=1e-15)
    t = np.unique(np.concatenate([np.linspace(300, 5000, 200_001), points]))
    values = s.lr(t)
    area = np.concatenate([np.cumsum((0.5 * (values[1:] + values[:-1]) * np.diff(t))[::-1])[::-1]])
    middle_lr, middle_area = (
        0.5 * (values[1:] + values[:-1]),
        area - 0.25 * np.diff(t) * (values[1:] + values[:-1]),
    )

    def gain(lr, area):
        return 1 - (1 + 0.7 * (lr / 1e-3) ** -0.5 * area) ** -0.6

    steps = np.sum(-np.diff(values) * gain(middle_lr, middle_area))
    with np.errstate(divide="ignore", invalid="ignore"):
        nodes = np.where(weight > 0, weight * gain(lr, left), 0.0).sum()
    assert nodes == pytest.approx(steps, rel=2e-4, abs=1e-15)


def test_a_long_run_costs_no_more():
    long = Schedule.cosine(peak_lr=1e-3, steps=1.5e6, warmup_steps=2000)
    curves = curves_of(long)
    # A slow decay is forgotten but for its memory: S2 -> fall / r as r S grows.
    assert curves.annealing_area(0.999)[0] == pytest.approx(1e-3 / -np.log(0.999), rel=1e-5)
    assert curves.falls()[0].shape[1] < 100


def test_an_array_is_read_as_the_plateau_and_cooldown_of_its_area():
    same = Schedule.wsd(peak_lr=1e-3, steps=1000, warmup_steps=100, cooldown_start_step=700)
    array = Schedule.from_array(same.lr(np.arange(1001)))
    both = curves_of(same, array)
    for values in (both.area, both.annealing_area(0.999), both.cooldown):
        assert values[1] == pytest.approx(values[0], rel=1e-6)
