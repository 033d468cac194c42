"""A curve given as an array has the setting coordinates, and the prediction, of its family."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_optlaws.model.discrepancy import settings as coordinates
from bayes_optlaws.runs.readers import read_candidates
from bayes_optlaws.schedules import Schedule

STEPS, WARM, COOL, PEAK = 4000, 200, 3200, 0.01
NAMED = {
    "linear": Schedule.linear(peak_lr=PEAK, steps=STEPS, warmup_steps=WARM),
    "linear to a tenth": Schedule.linear(
        peak_lr=PEAK, steps=STEPS, warmup_steps=WARM, min_lr=0.1 * PEAK
    ),
    "cosine": Schedule.cosine(peak_lr=PEAK, steps=STEPS, warmup_steps=WARM),
    "wsd": Schedule.wsd(peak_lr=PEAK, steps=STEPS, warmup_steps=WARM, cooldown_start_step=COOL),
    "wsd-sqrt": Schedule.wsd(
        peak_lr=PEAK, steps=STEPS, warmup_steps=WARM, cooldown_start_step=COOL, shape="sqrt"
    ),
    "constant": Schedule.constant(peak_lr=PEAK, steps=STEPS, warmup_steps=WARM),
}


def table_of(schedules):
    rows = [s.to_row() for s in schedules]
    scale = {"n_params": 115_008, "tokens": STEPS * 1024, "batch_tokens": 1024}
    names = [f"c{i}" for i in range(len(rows))]
    return read_candidates(pd.DataFrame([scale | r for r in rows]).assign(run_id=names))


@pytest.mark.parametrize("name", NAMED)
def test_an_array_has_the_coordinates_of_the_same_curve_in_its_family(name):
    named = NAMED[name]
    array = Schedule.from_array(named.lr(np.arange(STEPS + 1)))
    z = coordinates(table_of([named, array]))
    # the square root's slope integral has no bound at its start, so steps count there
    tolerance = {"cooldown": 0.02, "shape": 0.25 if name == "wsd-sqrt" else 0.02}
    for key, (a, b) in z.items():
        assert a == pytest.approx(b, abs=tolerance.get(key, 1e-6)), key


@st.composite
def curves(draw):
    """A schedule of a named family with any peak, warm-up, cool-down and final rate."""
    steps = draw(st.integers(1000, 20_000))
    peak = draw(st.floats(1e-4, 0.1))
    warm = draw(st.integers(1, steps // 4))
    last = peak * draw(st.sampled_from([0.0, 0.1, 0.3]))
    same = {"peak_lr": peak, "steps": steps, "warmup_steps": warm}
    family = draw(st.sampled_from(["linear", "cosine", "wsd", "constant"]))
    if family == "wsd":
        start = draw(st.integers(steps // 2, steps - steps // 20))
        return Schedule.wsd(**same, min_lr=last, cooldown_start_step=start)
    if family == "constant":
        return Schedule.constant(**same)
    return getattr(Schedule, family)(**same, min_lr=last)


@settings(deadline=None, max_examples=40)
@given(curves())
def test_any_curve_has_one_place_among_the_settings(named):
    """Whether it is named or written out step by step."""
    array = Schedule.from_array(named.lr(np.arange(named.steps + 1)))
    scale = {"n_params": 115_008, "tokens": named.steps * 1024, "batch_tokens": 1024}
    rows = pd.DataFrame(
        [scale | s.to_row() | {"run_id": f"c{i}"} for i, s in enumerate((named, array))]
    )
    for key, (a, b) in coordinates(read_candidates(rows)).items():
        assert a == pytest.approx(b, abs={"cooldown": 0.02, "shape": 0.02}.get(key, 1e-6)), key


def test_a_staircase_stays_near_the_straight_cooldown_that_it_follows():
    t = np.arange(STEPS + 1)
    u = np.clip((t - COOL) / (STEPS - COOL), 0, 1)
    lr = np.where(t < WARM, PEAK * t / WARM, PEAK) * (1 - np.floor(40 * u) / 40)
    z = coordinates(table_of([NAMED["wsd"], Schedule.from_array(lr)]))
    assert abs(np.diff(z["cooldown"])[0]) < 0.1 and abs(np.diff(z["shape"])[0]) <= 1.5


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_an_array_is_predicted_as_its_family(small_law, name):
    named = NAMED[name]
    array = Schedule.from_array(named.lr(np.arange(STEPS + 1)))
    p = small_law.predict(table_of([named, array]))
    width = p["loss_upper"] - p["loss_lower"]
    assert p["loss_mean"].iloc[1] == pytest.approx(p["loss_mean"].iloc[0], rel=2e-3)
    assert width.iloc[1] == pytest.approx(width.iloc[0], rel=0.1)
    assert not any("array" in note for note in p.attrs["notes"])
