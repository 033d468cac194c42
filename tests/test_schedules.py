import time

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from bayes_optlaws.schedules import INTEGRAL_COLUMNS, SCHEDULES, Schedule, integrals

NAMES = ("conv_warmup", "conv_cooldown", "escape_warmup", "escape_cooldown")
COMMON = {"peak_lr": 1e-3, "steps": 1000, "warmup_steps": 100}


def as_tuple(found):
    return tuple(float(getattr(found, name)) for name in NAMES)


@st.composite
def schedules(draw):
    """Any schedule of the template whose phases last at least one step."""
    steps = draw(st.floats(20, 1e6))
    cuts = sorted(draw(st.lists(st.floats(0.05, 0.95), min_size=3, max_size=3)))
    a1, a2, a3 = (c * steps for c in cuts)
    assume(a2 - a1 > 1 and a3 - a2 > 1)
    peak = draw(st.floats(1e-6, 10))
    low = draw(st.floats(0, 0.9)) * peak
    common = {"peak_lr": peak, "steps": steps, "warmup_steps": a1}
    kind = draw(st.sampled_from(["linear", "cosine", "wsd", "sqrt", "polygon", "constant"]))
    if kind == "constant":
        return Schedule.constant(**common)
    common["min_lr"] = low
    if kind in ("wsd", "sqrt"):
        shape = "linear" if kind == "wsd" else "sqrt"
        return Schedule.wsd(**common, cooldown_start_step=a3, shape=shape)
    if kind == "polygon":
        plateau = low + draw(st.floats(0.01, 1)) * (peak - low)
        return Schedule.polygon(
            **common, decay_end_step=a2, plateau_lr=plateau, cooldown_start_step=a3
        )
    return getattr(Schedule, kind)(**common)


def integrate(f, a, b):
    return quad(f, a, b, epsabs=0, epsrel=1e-11, limit=100)[0] if b > a else 0.0


def slope_of_cooldown(s):
    """The derivative of s.lr on its cooldown, in closed form."""
    span, delta = s.steps - s.cooldown_start_step, s.plateau_lr - s.min_lr
    if s.kind == "cosine":
        return lambda t: (
            -0.5 * np.pi * delta / span * np.sin(np.pi * (t - s.cooldown_start_step) / span)
        )
    if s.kind == "wsd-sqrt":
        return lambda t: -0.5 * delta / np.sqrt(span * (t - s.cooldown_start_step))
    return lambda t: -delta / span


@settings(max_examples=60, deadline=None)
@given(schedules())
def test_closed_forms_equal_quadrature(s):
    a1, a2, a3, end = s.warmup_steps, s.decay_end_step, s.cooldown_start_step, s.steps
    found, slope = s.integrals(), slope_of_cooldown(s)
    assert found.conv_warmup == pytest.approx(integrate(s.lr, 0, a1), rel=1e-10)
    # t = a3 + z^2 makes the square-root cooldown smooth.
    cooldown = integrate(lambda z: 2 * z * s.lr(min(a3 + z * z, end)), 0, np.sqrt(end - a3))
    assert found.conv_cooldown == pytest.approx(integrate(s.lr, a2, a3) + cooldown, rel=1e-10)
    decay = (s.lr(a2) - s.lr(a1)) / max(a2 - a1, 1)
    e_w = integrate(lambda t: (s.lr(a1) / a1) ** 2, 0, a1) + integrate(lambda t: decay**2, a1, a2)
    assert found.escape_warmup == pytest.approx(e_w, rel=1e-10)
    if s.kind == "wsd-sqrt":  # one discrete step, then the slope of the curve with t = a3 + e^z
        e_c = (s.lr(a3) - s.lr(a3 + 1)) ** 2
        e_c += integrate(lambda z: slope(a3 + np.exp(z)) ** 2 * np.exp(z), 0, np.log(end - a3))
    else:
        e_c = integrate(lambda t: slope(t) ** 2, a3, end)
    assert found.escape_cooldown == pytest.approx(e_c, rel=1e-10)


@settings(max_examples=60, deadline=None)
@given(schedules())
def test_slopes_used_by_the_quadrature_are_those_of_the_curve(s):
    a3, span = s.cooldown_start_step, s.steps - s.cooldown_start_step
    slope, h = slope_of_cooldown(s), 1e-5 * span
    for t in a3 + span * np.linspace(0.1, 0.9, 5) if span else []:
        difference = (s.lr(t + h) - s.lr(t - h)) / (2 * h)
        assert difference == pytest.approx(slope(t), rel=1e-5, abs=1e-8 * s.peak_lr / span)


@settings(max_examples=30, deadline=None)
@given(st.lists(schedules(), min_size=1, max_size=12))
def test_a_table_gives_what_its_schedules_give(many):
    found = integrals(pd.DataFrame([s.to_row() for s in many]))
    for name in NAMES:
        expected = [getattr(s.integrals(), name) for s in many]
        assert getattr(found, name).shape == (len(many),)
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-14)


@settings(max_examples=30, deadline=None)
@given(schedules())
def test_the_curve_is_continuous_and_meets_its_phase_points(s):
    points = {
        0.0: 0.0,
        s.warmup_steps: s.peak_lr,
        s.decay_end_step: s.plateau_lr,
        s.cooldown_start_step: s.plateau_lr,
        s.steps: s.min_lr,
    }
    for t, expected in points.items():
        assert s.lr(t) == pytest.approx(expected, rel=1e-12, abs=1e-15 * s.peak_lr)
    t = np.linspace(0, s.steps, 501)
    assert np.all((s.lr(t) >= 0) & (s.lr(t) <= s.peak_lr * (1 + 1e-12)))
    np.testing.assert_array_equal(s.lr(t), [s.lr(float(x)) for x in t])


def test_paper_linear_and_cosine_share_convergence_and_differ_in_escape():
    line, cosine = Schedule.linear(**COMMON).integrals(), Schedule.cosine(**COMMON).integrals()
    assert line.conv_warmup == cosine.conv_warmup
    assert line.conv_cooldown == pytest.approx(cosine.conv_cooldown, rel=1e-14)
    assert line.escape_warmup == cosine.escape_warmup
    assert cosine.escape_cooldown / line.escape_cooldown == pytest.approx(np.pi**2 / 8, rel=1e-14)
    assert as_tuple(line) == pytest.approx((0.05, 0.45, 1e-8, 1e-6 / 900))


def test_special_cases_agree():
    line = Schedule.linear(**COMMON, min_lr=1e-4)
    wsd = Schedule.wsd(**COMMON, min_lr=1e-4, cooldown_start_step=100)
    polygon = Schedule.polygon(
        **COMMON, min_lr=1e-4, decay_end_step=100, plateau_lr=1e-3, cooldown_start_step=100
    )
    assert as_tuple(line.integrals()) == as_tuple(wsd.integrals()) == as_tuple(polygon.integrals())
    constant = Schedule.constant(**COMMON).integrals()
    assert (constant.conv_cooldown, constant.escape_cooldown) == (0.9, 0.0)
    late = Schedule.wsd(**COMMON, cooldown_start_step=999).integrals()
    assert late.conv_cooldown == pytest.approx(constant.conv_cooldown - 0.5e-3)


def test_no_warmup_counts_as_one_step():
    none = Schedule.linear(peak_lr=1e-3, steps=1000, warmup_steps=0)
    one = Schedule.linear(peak_lr=1e-3, steps=1000, warmup_steps=1)
    assert as_tuple(none.integrals()) == as_tuple(one.integrals())
    assert none.lr([0, 1]).tolist() == [0.0, 1e-3]
    assert none.integrals().escape_warmup == 1e-6
    drop = Schedule.polygon(**COMMON, decay_end_step=100, plateau_lr=4e-4, cooldown_start_step=800)
    assert drop.integrals().escape_warmup == pytest.approx(1e-6 / 100 + 6e-4**2)
    assert drop.lr([100, 101]).tolist() == [1e-3, 4e-4]
    short = Schedule.wsd(peak_lr=1e-3, steps=1000.3, warmup_steps=10, cooldown_start_step=1000)
    assert short.integrals().escape_cooldown == pytest.approx(1e-6)


def one_of_each(kind, steps):
    common = {"peak_lr": 0.02, "steps": steps, "warmup_steps": steps / 10}
    if kind == "constant":
        return Schedule.constant(**common)
    common["min_lr"] = 0.002
    if kind == "wsd":
        common["cooldown_start_step"] = 0.8 * steps
    if kind == "polygon":
        common |= {"decay_end_step": 0.3 * steps, "plateau_lr": 0.01}
        common["cooldown_start_step"] = 0.7 * steps
    return getattr(Schedule, kind)(**common)


@pytest.mark.parametrize("kind", ["linear", "cosine", "wsd", "polygon", "constant"])
def test_from_array_converges_to_the_closed_form(kind):
    errors = []
    for steps in (500, 1000, 2000, 4000):
        exact = one_of_each(kind, steps)
        values = exact.lr(np.arange(steps + 1))
        array = Schedule.from_array(values, decay_end_step=exact.decay_end_step)
        assert array.warmup_steps == exact.warmup_steps
        got, want = np.array(as_tuple(array.integrals())), np.array(as_tuple(exact.integrals()))
        errors.append(np.max(np.abs(got - want) / np.where(want == 0, 1, want)))
        t = np.linspace(0, steps, 333)
        np.testing.assert_allclose(array.lr(t), exact.lr(t), atol=2e-5 * 500 / steps * 0.02)
    if kind == "cosine":
        assert errors[-1] < 1e-6 and errors[-1] < errors[0] / 30  # second order
    else:
        assert max(errors) < 1e-10


def test_from_array_of_sqrt_cooldown_supports_the_discrete_first_step():
    s = Schedule.wsd(**{**COMMON, "steps": 20_000}, cooldown_start_step=10_000, shape="sqrt")
    a = Schedule.from_array(s.lr(np.arange(20_001)))
    # sum_k (sqrt(k+1) - sqrt(k))^2 against 1 + log(T)/4: they differ by a bounded constant.
    ratio = a.integrals().escape_cooldown / s.integrals().escape_cooldown
    assert 0.95 < ratio < 1.05
    assert a.integrals().conv_cooldown == pytest.approx(s.integrals().conv_cooldown, rel=1e-5)


def test_from_array_takes_fractional_and_given_splits():
    v = np.array([0.0, 1.0, 2.0, 1.0, 1.0, 0.0])
    s = Schedule.from_array(v, warmup_steps=1.5, decay_end_step=2.5)
    c_w, c_c, e_w, e_c = as_tuple(s.integrals())
    assert c_w == pytest.approx(quad(s.lr, 0, 1.5, points=[1])[0])
    assert c_c == pytest.approx(quad(s.lr, 2.5, 5, points=[3, 4])[0])
    assert (e_w, e_c) == pytest.approx((2.5, 1.5))


def test_from_array_without_warmup_gets_one_step_and_wobble_is_ignored():
    down = Schedule.from_array(np.linspace(1.0, 0.1, 100))
    assert (down.warmup_steps, down.steps, down.lr(0), down.lr(1)) == (1.0, 100.0, 0.0, 1.0)
    wobble = np.concatenate([np.linspace(0, 1, 11), np.ones(50), np.linspace(1, 0, 11)])
    wobble[40] += 1e-15
    assert Schedule.from_array(wobble).warmup_steps == 10


def test_array_rows_use_the_integrals_they_carry():
    array = Schedule.from_array(Schedule.cosine(**COMMON).lr(np.arange(1001)))
    rows = pd.DataFrame([Schedule.linear(**COMMON).to_row(), array.to_row()])
    found = integrals(rows)
    for name in NAMES:
        assert getattr(found, name)[1] == getattr(array.integrals(), name)
        assert getattr(found, name)[0] == getattr(Schedule.linear(**COMMON).integrals(), name)
    with pytest.raises(ValueError, match="conv_warmup.*from_array"):
        integrals(rows.drop(columns=list(INTEGRAL_COLUMNS)))


def test_unvalidated_tables_are_refused():
    row = Schedule.linear(**COMMON).to_row()
    with pytest.raises(ValueError, match="cooldown_start_step.*read_runs"):
        integrals(pd.DataFrame([row]).drop(columns="cooldown_start_step"))
    with pytest.raises(ValueError, match="'warp' is unknown: choose from linear"):
        integrals(pd.DataFrame([{**row, "schedule": "warp"}]))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Schedule.linear(peak_lr=-1, steps=100, warmup_steps=1), "peak_lr"),
        (lambda: Schedule.linear(peak_lr=np.nan, steps=100, warmup_steps=1), "peak_lr"),
        (lambda: Schedule.linear(peak_lr="fast", steps=100, warmup_steps=1), "peak_lr"),
        (lambda: Schedule.linear(peak_lr=1, steps=100, warmup_steps=100), "warmup_steps"),
        (lambda: Schedule.linear(peak_lr=1, steps=100, warmup_steps=-1), "warmup_steps"),
        (lambda: Schedule.linear(peak_lr=1, steps=1, warmup_steps=0), "warmup_steps"),
        (lambda: Schedule.cosine(peak_lr=1, steps=100, warmup_steps=1, min_lr=1), "min_lr"),
        (lambda: Schedule.cosine(peak_lr=1, steps=100, warmup_steps=1, min_lr=-0.1), "min_lr"),
        (lambda: Schedule.wsd(**COMMON, cooldown_start_step=50), "cooldown_start_step"),
        (lambda: Schedule.wsd(**COMMON, cooldown_start_step=1000), "cooldown_start_step"),
        (lambda: Schedule.wsd(**COMMON, cooldown_start_step=500, shape="cubic"), "shape"),
        (
            lambda: Schedule.polygon(
                **COMMON, decay_end_step=50, plateau_lr=1e-4, cooldown_start_step=500
            ),
            "decay_end_step",
        ),
        (
            lambda: Schedule.polygon(
                **COMMON, decay_end_step=200, plateau_lr=1, cooldown_start_step=500
            ),
            "plateau_lr",
        ),
        (lambda: Schedule.from_array([0.0, 0.0, 0.0]), "lr_values"),
        (lambda: Schedule.from_array([0.0, -1.0, 0.0]), "lr_values"),
        (lambda: Schedule.from_array([1.0, 2.0]), "lr_values"),
        (lambda: Schedule.from_array("abc"), "lr_values"),
        (lambda: Schedule.from_array([0.0, 1.0, 2.0]), "warmup_steps"),
        (lambda: Schedule.from_array([0.0, 1.0, 0.5, 0.2], decay_end_step=9), "decay_end_step"),
        (lambda: Schedule.from_array([0.0, 1.0, 0.5, 0.2], decay_end_step="x"), "decay_end_step"),
    ],
)
def test_errors_name_the_argument(make, name):
    with pytest.raises(ValueError, match=rf"^{name} = .*; "):
        make()


def test_steps_outside_the_run_are_refused():
    with pytest.raises(ValueError, match="step = 1001.*1000"):
        Schedule.linear(**COMMON).lr([0, 1001])
    with pytest.raises(ValueError, match="step = nan"):
        Schedule.linear(**COMMON).lr(np.nan)


@pytest.mark.parametrize("kind", ["linear", "cosine", "wsd", "wsd-sqrt", "polygon", "constant"])
def test_repr_makes_the_same_schedule(kind):
    extra = {"min_lr": 1e-4} if kind != "constant" else {}
    if kind in ("wsd", "wsd-sqrt", "polygon"):
        extra["cooldown_start_step"] = 800
    if kind == "wsd-sqrt":
        extra["shape"] = "sqrt"
    if kind == "polygon":
        extra |= {"decay_end_step": 300, "plateau_lr": 5e-4}
    s = getattr(Schedule, kind.removesuffix("-sqrt"))(**COMMON, **extra)
    assert s.kind == kind and kind in SCHEDULES
    assert eval(repr(s)).to_row() == s.to_row()


def test_plot_returns_the_figure_and_uses_the_axes():
    fig, ax = plt.subplots()
    assert Schedule.cosine(**COMMON).plot(ax=ax) is fig
    t, lr = ax.lines[0].get_data()
    np.testing.assert_allclose(lr, Schedule.cosine(**COMMON).lr(t))
    assert Schedule.constant(**COMMON).plot().axes[0].get_xlabel() == "step"
    plt.close("all")


def test_a_hundred_thousand_rows_take_well_under_a_second():
    rows = [Schedule.linear(**COMMON).to_row(), Schedule.cosine(**COMMON).to_row()]
    table = pd.concat([pd.DataFrame(rows)] * 50_000, ignore_index=True)
    start = time.perf_counter()
    assert integrals(table).conv_warmup.shape == (100_000,)
    assert time.perf_counter() - start < 1.0
