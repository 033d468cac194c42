"""Features by hand on one row, the paper's counts, and what standardising promises."""

import numpy as np
import pandas as pd
import pytest
from laws import encoded

from bayes_optlaws.model.features import (
    BATCH_FEATURES,
    BLOCKS,
    EXPONENT_PRESETS,
    FEATURES,
    LEAST_SPREAD,
    PAPER_BATCH,
    PAPER_EXPONENTS,
    TAPER,
    FeatureSet,
    Standardizer,
    cooled,
    feature_bases,
    tapered,
)
from bayes_optlaws.runs.readers import read_candidates, read_runs

S = 4.194304e-3  # billions of tokens in a step of 2048 x 2048


@pytest.fixture(scope="module")
def polygon():
    """One run of the paper's four phases: round numbers in the paper's units."""
    row = {
        "run_id": "a", "n_params": 2e9, "tokens": 1000 * PAPER_BATCH, "batch_tokens": PAPER_BATCH,
        "peak_lr": 1.5e-2, "warmup_steps": 100, "schedule": "polygon", "decay_end_step": 300,
        "plateau_lr": 0.75e-2, "cooldown_start_step": 600, "min_lr": 0.0,
    }  # fmt: skip
    return read_candidates(pd.DataFrame([row]))


def test_fifteen_features_of_one_row_by_hand(polygon):
    # LR is 1 at the peak and 1/2 on the plateau; phases 0-100-300-600-1000 steps
    cw, cc = 50 * S, (150 + 100) * S
    ew = 1 / (100 * S) + 0.25 / (200 * S)
    ec = 0.25 / (400 * S)
    n = 2.0
    expected = {
        "N": 2.0,
        "S": 4.194304,
        "lr": 1.0,
        "1/Cw": 1 / 0.2097152,
        "1/Cc": 1 / 1.048576,
        "N/C": 2 / 1.2582912,
        "1/(Cw Cc)": 1 / (cw * cc),
        "Ew": 0.01125 / S,
        "Ec": 0.000625 / S,
        "E/N": 0.011875 / S / 2,
        "Ew Ec": 0.01125 * 0.000625 / S**2,
        "Ew/Cw": ew / cw,
        "Ec/Cc": ec / cc,
        "N Ew/Cw": n * ew / cw,
        "N Ec/Cc": n * ec / cc,
    }
    found = feature_bases(polygon)
    assert [f.name for f in FEATURES] == list(expected)
    for name, value in expected.items():
        assert found[name][0] == pytest.approx(value, rel=1e-12), name


def test_batch_columns_by_hand(polygon):
    found = feature_bases(polygon)
    assert [f.name for f in BATCH_FEATURES] == ["tokens", "batch", "lr/batch", "lr/sqrt(batch)"]
    assert found["tokens"][0] == pytest.approx(4.194304)
    assert found["batch"][0] == pytest.approx(S)
    assert found["lr/batch"][0] == pytest.approx(1 / S)
    assert found["lr/sqrt(batch)"][0] == pytest.approx(1 / np.sqrt(S))


def test_dictionary_holds_every_feature_at_every_candidate_exponent(polygon):
    law = FeatureSet.from_options("paper")
    row = law.dictionary(polygon)[0]
    base = feature_bases(polygon)
    assert row[0] == 1.0
    seen = set()
    for j, p, value in zip(law.column_feature[1:], law.column_exponent[1:], row[1:], strict=True):
        feature = law.features[j]
        assert p == 1.0 if feature.fixed else p in PAPER_EXPONENTS
        assert value == pytest.approx(base[feature.name][0] ** p, rel=1e-12)
        seen.add((feature.name, float(p)))
    assert len(seen) == 63 == 3 + 12 * 5


def test_counts_of_the_paper():
    """Sixteen coefficients in four blocks, three exponents fixed, 5^4 combinations."""
    law = FeatureSet.from_options("paper")
    count = [sum(f.block == b for f in FEATURES) for b in BLOCKS]
    assert dict(zip(BLOCKS, count, strict=True)) == {
        "scale": 3, "convergence": 4, "escape": 4, "mixed": 4,
    }  # fmt: skip
    fixed = [f for f in FEATURES if f.fixed]
    assert len(fixed) == 3 and {f.block for f in fixed} == {"convergence"}
    assert law.n_columns == 64
    assert law.tree.n_combinations == 625 == 5**4
    assert law.tree.n_selected == 16
    assert set(law.groups) == {"scale", "cross", "escape", "mixed"}
    assert list(law.column_block[:4]) == [-1, 1, 1, 1]


def test_every_combination_takes_each_feature_once_with_one_exponent_a_group():
    law = FeatureSet.from_options("paper")
    combinations = set()
    for k in range(law.tree.n_combinations):
        columns = law.tree.selected(k)
        assert sorted(law.column_feature[columns]) == list(range(-1, 15))
        exponent = {}
        for c in columns[1:]:
            group = law.group_of(law.features[law.column_feature[c]])
            exponent.setdefault(group, set()).add(float(law.column_exponent[c]))
        assert all(len(v) == 1 for v in exponent.values())
        assert exponent[None] == {1.0}
        combinations.add(tuple(sorted((g, *v) for g, v in exponent.items() if g)))
    assert len(combinations) == 625


@pytest.mark.parametrize("preset", EXPONENT_PRESETS)
@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("trends", [False, True])
def test_presets_give_each_feature_one_column_in_each_combination(preset, batch, trends):
    law = FeatureSet.from_options(preset, batch=batch, trends=trends)
    assert law.trends == (trends and preset not in ("paper", "signed"))
    assert law.tree.n_combinations == np.prod([len(c) for c in law.exponents.values()])
    own = 3 * law.trends
    assert law.tree.n_selected == 16 + 4 * batch + own
    for k in (0, law.tree.n_combinations // 2, law.tree.n_combinations - 1):
        features = law.column_feature[law.tree.selected(k)]
        assert sorted(features) == list(range(-1, 15 + 4 * batch + own))


def test_linear_and_cosine_share_convergence_and_differ_in_escape_by_pi_squared_over_eight():
    row = {
        "n_params": 1e9, "tokens": 1000 * PAPER_BATCH, "batch_tokens": PAPER_BATCH,
        "peak_lr": 1e-3, "warmup_steps": 100, "min_lr": 0.0,
    }  # fmt: skip
    both = [{**row, "run_id": s, "schedule": s} for s in ("linear", "cosine")]
    base = feature_bases(read_candidates(pd.DataFrame(both)))
    assert base["1/Cc"][0] == pytest.approx(base["1/Cc"][1], rel=1e-9)
    assert base["1/Cw"][0] == pytest.approx(base["1/Cw"][1], rel=1e-12)
    assert base["Ec"][1] / base["Ec"][0] == pytest.approx(np.pi**2 / 8, rel=1e-6)


def test_only_the_escape_features_change_their_time_unit_with_the_reference_batch(polygon):
    """In steps of twice the tokens everything that is time doubles, per time halves."""
    a, b = feature_bases(polygon), feature_bases(polygon, reference_batch=2 * PAPER_BATCH)
    power = {"S": 1, "N S": 1}
    power |= {"1/Cw": -1, "1/Cc": -1, "N/C": -1, "1/(Cw Cc)": -2, "Ew": -1, "Ec": -1,
             "E/N": -1, "Ew Ec": -2, "Ew/Cw": -2, "Ec/Cc": -2, "N Ew/Cw": -2,
             "N Ec/Cc": -2}  # fmt: skip
    for name in a:
        assert b[name][0] / a[name][0] == pytest.approx(2.0 ** power.get(name, 0)), name


def test_standardised_powers_do_not_depend_on_units(rng):
    raw = np.column_stack([np.ones(50), np.exp(rng.normal(size=(50, 3)))])
    exponent = np.array([1.0, -0.5, 0.15, 1.0])
    scale = np.array([1.0, 1e6, 1e-9, 42.0])
    a = Standardizer.fit(raw, exponent)(raw)
    b = Standardizer.fit(raw * scale, exponent)(raw * scale)
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    assert np.all(a[:, 0] == 1.0)  # the intercept stays what it is
    np.testing.assert_allclose(a[:, 1:].mean(axis=0), 0.0, atol=1e-12)


def test_a_constant_column_has_the_unit_of_a_least_spread():
    raw = np.full((10, 2), 8.0)
    standard = Standardizer.fit(raw, np.array([1.0, 0.5]))
    assert np.all(standard(raw)[:, 1] == 0.0)
    # a quantity e^LEAST_SPREAD times as large moves x^p by about p * LEAST_SPREAD, one unit
    moved = standard(raw * np.exp(0.5 * 0.01 * LEAST_SPREAD))[:, 1]
    np.testing.assert_allclose(moved, 0.01, rtol=0.01)


def test_a_column_that_is_zero_in_the_table_has_the_unit_that_is_given():
    raw = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    standard = Standardizer.fit(raw, np.ones(3), np.array([1.0, 0.02, 0.0]))
    np.testing.assert_allclose(standard(np.array([[1.0, 0.04, 3.0]])), [[1.0, 2.0, 3.0]])
    assert Standardizer.fit(raw, np.ones(3)).sd.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("preset", ["trend", "paper"])
def test_what_a_cooldown_does_is_of_ordinary_size_after_runs_without_one(pocket, preset):
    """No column of a candidate is further off than if the runs had cooled down."""
    keep = ["run_id", "n_params", "tokens", "batch_tokens", "peak_lr", "warmup_steps",
            "final_loss", "diverged"]  # fmt: skip
    flat = read_runs(pocket[keep].assign(schedule="constant", peak_lr=0.01))
    law = encoded(flat, exponents=preset, features="paper" if preset == "paper" else "auto")
    finished = law.encoding.finished
    assert not law.encoding.features.bases(finished)["Ec"].any()
    there = law.encoding.features.bases(cooled(finished))["Ec"]
    assert (there > 0).all()
    columns = law.encoding.standardizer(law.encoding.features.dictionary(cooled(finished)))
    assert np.abs(columns).max() < 50


@pytest.mark.parametrize(
    ("exponents", "message"),
    [
        ("papr", "exponents must be one of"),
        ({"scale": (0.1,)}, "exponent groups must be"),
        ({**EXPONENT_PRESETS["paper"], "scale": ()}, "'scale' must be finite"),
        ({**EXPONENT_PRESETS["paper"], "scale": (0.1, 0.0)}, "'scale' must not be zero"),
        ({**EXPONENT_PRESETS["paper"], "cross": (np.nan,)}, "'cross' must be finite"),
        ({**EXPONENT_PRESETS["paper"], "escape": (-0.1,)}, "'escape' must be positive"),
    ],
)
def test_wrong_exponents_are_refused(exponents, message):
    with pytest.raises(ValueError, match=message):
        FeatureSet.from_options(exponents)


def test_a_schedule_that_never_cools_down_has_finite_features(pocket):
    table = pocket.iloc[:3].copy()
    table["schedule"] = "constant"
    drop = [c for c in ("cooldown_start_step", "decay_end_step", "plateau_lr") if c in table]
    candidates = read_candidates(table.drop(columns=[*drop, "final_loss", "diverged"]))
    assert np.all(np.isfinite(FeatureSet.from_options(None).dictionary(candidates)))


def test_features_level_off_beyond_the_table_and_are_untouched_within(pocket):
    """Those of plain scale never do; in the paper's form none does."""
    law = FeatureSet.from_options(None, trends=True).levelled(pocket)
    plain, own = feature_bases(pocket, data_is_tokens=True), law.bases(pocket)
    for f in law.features:
        np.testing.assert_allclose(own[f.name], plain[f.name], rtol=1e-12)
    far = pocket.assign(n_params=1e6 * pocket["n_params"])
    grown = law.bases(far)
    assert grown["N"].max() == pytest.approx(1e6 * own["N"].max())
    for name in ("N/C", "N Ew/Cw", "N Ec/Cc"):
        assert grown[name].max() <= own[name].max() * np.exp(TAPER) * (1 + 1e-12)
    papers = FeatureSet.from_options("paper").levelled(pocket)
    assert papers.bases(far)["N/C"].max() == pytest.approx(1e6 * papers.bases(pocket)["N/C"].max())


def test_levelling_off_is_continuous_with_its_slope_and_rising():
    x = np.geomspace(0.1, 1e4, 4001)
    y = np.log(tapered(x, 1.0))
    slope = np.diff(y) / np.diff(np.log(x))
    assert np.all(slope >= 0) and np.all(slope < 1 + 1e-9)
    assert np.abs(np.diff(slope)).max() < 0.01


def test_an_exponent_of_zero_is_the_logarithm_the_limit_of_small_exponents(pocket):
    """Standardised columns of x**p and log x agree as p goes to zero."""
    groups = {**EXPONENT_PRESETS["trend"], "model_size": (-1e-5, 0.0)}
    law = FeatureSet.from_options(groups)
    raw = law.dictionary(pocket)
    columns = Standardizer.fit(raw, law.column_exponent)(raw)
    is_n = np.flatnonzero([j >= 0 and law.features[j].name == "N" for j in law.column_feature])
    power, log = columns[:, is_n].T
    np.testing.assert_allclose(power, -log, atol=1e-3)
