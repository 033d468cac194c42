import pickle
import time
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from run_tables import faults, good

from bayes_optlaws import schedules
from bayes_optlaws.runs import faults as fault_list
from bayes_optlaws.runs.readers import RunTableError, RunTableWarning, read_candidates, read_runs
from bayes_optlaws.text.printable import printable

NUMBERS = ("n_params", "tokens", "batch_tokens", "steps", "peak_lr", "warmup_steps", "min_lr")


# One entry a rule: column, bad value, part of the rule.
ROW_RULES = [
    ("n_params", 0.0, "positive"),
    ("n_params", -1e6, "positive"),
    ("n_params", np.inf, "positive"),
    ("n_params", 1e40, "positive"),
    ("n_params", 0.124, "at least 1"),
    ("n_params", np.nan, "empty"),
    ("n_params", "125X", "number"),
    pytest.param("n_params", Decimal("sNaN"), "number", id="signalling NaN"),
    pytest.param("n_params", "\ud800", "number", id="lone surrogate"),
    ("n_params", True, "number"),
    ("n_params", 1 + 2j, "number"),
    ("n_params", [1e6], "number"),
    pytest.param("n_params", 10**5000, "number", id="huge integer"),
    ("n_params", pd.Timestamp("2024-01-01"), "number"),
    ("tokens", 0.0, "positive"),
    ("tokens", "1,00,000", "number"),
    ("peak_lr", "1,000", "number"),
    ("batch_tokens", -4.0, "positive"),
    ("batch_tokens", 1e12, "at least 1, from tokens and batch_tokens"),
    ("tokens", np.nan, "two of tokens"),
    ("peak_lr", 0, "positive"),
    ("peak_lr", "fast", "number"),
    ("peak_lr", None, "empty"),
    ("warmup_steps", -1, "not negative"),
    ("warmup_steps", np.inf, "not negative"),
    ("warmup_steps", 1000, "before the run"),
    ("warmup_steps", np.nan, "empty"),
    ("warmup_steps", "ten", "number"),
    ("schedule", "inverse", "unknown schedule"),
    ("schedule", 3, "unknown schedule"),
    ("schedule", "", "empty"),
    ("min_lr", -1e-5, "not negative"),
    ("min_lr", 1.0, "below peak_lr"),
    ("min_lr", "low", "number"),
    ("decay_end_step", 50, "in order"),
    ("decay_end_step", 800, "in order"),
    ("decay_end_step", np.nan, "schedule needs it"),
    ("decay_end_step", "x", "number"),
    ("plateau_lr", 1.0, "at most peak_lr"),
    ("plateau_lr", 0.0, "at most peak_lr"),
    ("plateau_lr", 1e-6, "above min_lr"),
    ("plateau_lr", np.nan, "schedule needs it"),
    ("cooldown_start_step", 1000, "in order"),
    ("cooldown_start_step", 200, "in order"),
    ("cooldown_start_step", np.inf, "in order"),
    ("cooldown_start_step", np.nan, "schedule needs it"),
    ("final_loss", 0.0, "positive"),
    ("final_loss", -2.0, "positive"),
    ("final_loss", -np.inf, "positive"),
    ("final_loss", np.nan, "did not diverge"),
    ("final_loss", np.inf, "did not diverge"),
    ("final_loss", "low", "number"),
    ("diverged", "maybe", "true or false"),
    ("diverged", 2, "true or false"),
    ("diverged", None, "every row or in none"),
    ("run_id", "r3", "unique"),
    pytest.param("run_id", "r\udc80", "can be written", id="unwritable name"),
    ("run_id", None, "every row or in none"),
]


@pytest.mark.parametrize(("column", "value", "rule"), ROW_RULES)
def test_each_rule_names_row_value_and_remedy(column, value, rule):
    table = good()
    table.index = [f"line {k}" for k in range(len(table))]
    cells = table[column].to_list()
    cells[7] = value
    table[column] = pd.Series(cells, index=table.index, dtype=object)
    found = faults(table)
    mine = found[(found["row"] == "line 7") & found["rule"].str.contains(rule, regex=False)]
    assert len(mine) == 1
    only = mine.iloc[0]
    assert only["remedy"]
    if column == "run_id":
        assert only["run_id"] == (value or "")
    elif not isinstance(value, Decimal):  # at a signalling NaN nothing else is looked at
        assert only["run_id"] == "r7"
    # Nothing else is reported, but for the second column or row that is part of the same rule.
    assert set(found["rule"]) == {only["rule"]}
    assert set(found["row"]) == ({"line 3", "line 7"} if value == "r3" else {"line 7"})
    message = str(RunTableError(found))
    assert "line 7" in message and only["rule"] in message and only["remedy"] in message
    if isinstance(value, str) and value.strip():
        assert only["value"] == value and printable(value) in message
        message.encode()  # fit for any terminal


def test_ten_faults_in_one_error():
    table = good(40)
    wrong = {
        3: ("n_params", -5.0),
        5: ("batch_tokens", "big"),
        7: ("peak_lr", np.nan),
        9: ("warmup_steps", 5000),
        11: ("schedule", "zigzag"),
        13: ("min_lr", 2.0),
        15: ("decay_end_step", 10),
        17: ("plateau_lr", -1.0),
        19: ("final_loss", np.nan),
        21: ("diverged", "perhaps"),
    }
    for row, (column, value) in wrong.items():
        table[column] = table[column].astype(object)
        table.at[row, column] = value
    found = faults(table)
    assert dict(zip(found["row"], found["column"], strict=True)) == {
        r: c for r, (c, _) in wrong.items()
    }
    assert list(found.columns) == ["row", "run_id", "column", "value", "rule", "remedy"]
    message = str(RunTableError(found))
    assert "10 problems in 10 rows" in message
    assert all(f"r{row} " in message for row in wrong)


def test_a_row_with_several_faults_reports_each():
    table = good()
    table["final_loss"] = table["final_loss"].astype(object)
    table.loc[4, ["n_params", "peak_lr", "final_loss", "schedule"]] = [-1, "x", -2, "saw"]
    found = faults(table)
    assert sorted(found["column"]) == ["final_loss", "n_params", "peak_lr", "schedule"]
    assert set(found["row"]) == {4}


def test_disagreeing_budget():
    table = good().assign(steps=1000.0)
    table.loc[2, "steps"] = 1005.0
    assert read_runs(table).loc[2, "steps"] == 1005.0
    table.loc[2, "steps"] = 1020.0
    found = faults(table)
    assert found[["row", "column", "value"]].values.tolist() == [[2, "steps", 1020.0]]
    assert "within 1 %" in found["rule"][0]


@pytest.mark.parametrize("left_out", ["tokens", "batch_tokens", "steps"])
def test_any_two_of_the_budget(left_out):
    table = good().assign(steps=1000.0)
    runs = read_runs(table.drop(columns=left_out))
    assert runs[["tokens", "batch_tokens", "steps"]].iloc[0].tolist() == [4e8, 4e5, 1000.0]
    table.loc[3, left_out] = np.nan
    assert read_runs(table).loc[3, left_out] == runs.loc[3, left_out]


def test_missing_columns_are_in_the_same_error():
    table = good().drop(columns=["n_params", "tokens", "schedule", "final_loss"])
    table.loc[1, "peak_lr"] = -1
    found = faults(table)
    absent = found[found["row"] == "(table)"]
    assert set(absent["column"]) == {"n_params", "tokens", "schedule", "final_loss"}
    assert found[found["row"] == 1]["column"].tolist() == ["peak_lr"]
    bare = faults(pd.DataFrame({"a": [1]}), min_runs=0)
    assert set(bare["column"]) == {
        "n_params", "tokens", "batch_tokens", "peak_lr", "schedule", "final_loss",
    }  # fmt: skip


def test_empty_and_small_tables():
    for empty in (pd.DataFrame(), good().iloc[:0]):
        assert "at least one row" in faults(empty)["rule"][0]
        assert "at least one row" in faults(empty, read_candidates)["rule"][0]
    few = faults(good(4))
    assert "at least 5 runs" in few["rule"][0] and few["value"][0] == 4
    assert len(read_runs(good(4), min_runs=4)) == 4
    table = good(6)
    table.loc[[0, 1], "diverged"] = True
    assert faults(table)["value"][0] == 4
    assert len(read_candidates(good(1))) == 1


def test_groups():
    table = good().assign(group=["a", "b"] * 6)
    found = faults(table)
    assert found["row"].tolist() == ["(table)"]
    assert "mixed groups" in found["rule"][0] and "group='a'" in found["remedy"][0]
    assert read_runs(table, group="b").index.tolist() == [1, 3, 5, 7, 9, 11]
    assert "one of a, b" in faults(table, group="c")["rule"][0]
    assert "group column" in faults(good(), group="a")["rule"][0]
    assert len(read_runs(table.assign(group=[1.0, 2.0] * 6), group=2)) == 6
    table.loc[3, "group"] = None
    assert "every row or in none" in " ".join(faults(table.replace("b", "a"))["rule"])
    assert len(read_runs(good().assign(group=None))) == 12


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([True, False], [True, False]),
        ([1, 0], [True, False]),
        ([1.0, 0.0], [True, False]),
        (["true", "FALSE "], [True, False]),
        (["Yes", "no"], [True, False]),
        (["1", "0"], [True, False]),
    ],
)
def test_ways_to_write_diverged(given, expected):
    table = good()
    table["diverged"] = given * 6
    runs = read_runs(table)
    assert runs["diverged"].dtype == bool
    assert runs["diverged"].tolist() == expected * 6


def test_loss_of_divergent_runs_is_kept_or_nan():
    table = good()
    table.loc[[0, 1, 2], "diverged"] = True
    table.loc[0, "final_loss"], table.loc[1, "final_loss"] = np.inf, np.nan
    runs = read_runs(table)
    assert runs["final_loss"].isna().tolist()[:3] == [True, True, False]
    assert runs.loc[2, "final_loss"] == table.loc[2, "final_loss"]
    finite = read_runs(good().drop(columns="diverged"))
    assert finite["diverged"].tolist() == [False] * 12
    found = faults(table.drop(columns="diverged"))
    assert found["row"].tolist() == [0, 1] and set(found["column"]) == {"final_loss"}


def test_schedule_names_and_filled_phase_points():
    rows = [
        ("Linear", None, None, None, (100, 100, "peak")),
        ("COSINE ", 100, None, 100, (100, 100, "peak")),
        ("wsd", None, None, 600, (100, 600, "peak")),
        ("WSD-linear", None, None, 600, (100, 600, "peak")),
        ("wsd_sqrt", None, None, 600, (100, 600, "peak")),
        ("constant", None, None, None, (100, 1000, "peak")),
        ("constant", None, None, 999, (100, 1000, "peak")),
        ("polygon", 300, 5e-5, 700, (300, 700, 5e-5)),
    ]
    table = good(len(rows)).drop(columns=["decay_end_step", "plateau_lr", "cooldown_start_step"])
    table["schedule"] = [r[0] for r in rows]
    table["decay_end_step"] = [r[1] for r in rows]
    table["plateau_lr"] = [r[2] for r in rows]
    table["cooldown_start_step"] = [r[3] for r in rows]
    runs = read_runs(table)
    assert runs["schedule"].tolist() == [
        "linear", "cosine", "wsd", "wsd", "wsd-sqrt", "constant", "constant", "polygon",
    ]  # fmt: skip
    for i, (*_, (a2, a3, plateau)) in enumerate(rows):
        row = runs.iloc[i]
        expected = row["peak_lr"] if plateau == "peak" else plateau
        assert (row["decay_end_step"], row["cooldown_start_step"]) == (a2, a3)
        assert row["plateau_lr"] == expected
    assert np.isfinite(schedules.integrals(runs).escape_cooldown).all()


def test_phase_points_that_the_schedule_lacks_are_refused():
    table = good().assign(schedule="cosine", decay_end_step=None, plateau_lr=None)
    found = faults(table)  # cooldown_start_step = 700 says that this is no cosine
    assert set(found["column"]) == {"cooldown_start_step"} and len(found) == 12
    assert "use schedule wsd" in found["remedy"][0]
    found = faults(table.assign(schedule="wsd", cooldown_start_step=None))
    assert "where the cool-down starts" in found["rule"][0]
    assert "cooldown=0.2" in found["remedy"][0]


def test_min_lr():
    plain = (
        good()
        .assign(schedule="linear", min_lr=None)
        .drop(columns=["decay_end_step", "plateau_lr", "cooldown_start_step"])
    )
    assert read_runs(plain)["min_lr"].tolist() == [0.0] * 12
    assert read_runs(plain.drop(columns="min_lr"))["min_lr"].tolist() == [0.0] * 12
    same = plain.assign(min_lr=plain["peak_lr"])
    assert len(faults(same)) == 12
    assert len(read_runs(same.assign(schedule="constant"))) == 12


def test_assumed_warmup_warns_once():
    table = (
        good()
        .assign(schedule="linear")
        .drop(columns=["decay_end_step", "plateau_lr", "cooldown_start_step"])
    )
    table.loc[0, "tokens"] = 4e9
    for absent in (table.drop(columns="warmup_steps"), table.assign(warmup_steps=None)):
        with pytest.warns(RunTableWarning, match="add a warmup_steps column") as caught:
            runs = read_runs(absent)
        assert len(caught) == 1 and caught[0].filename == __file__
        assert runs["warmup_steps"].tolist() == [500.0] + [50.0] * 11
        assert runs["cooldown_start_step"].tolist() == [500.0] + [50.0] * 11
    short = table.drop(columns="warmup_steps").assign(tokens=4e5 * 1.5)
    assert "at least 2 steps" in faults(short)["rule"][0]
    early = good().drop(columns="warmup_steps").assign(decay_end_step=20)
    found = faults(early)  # decay ends before the assumed warm-up
    assert "or give warmup_steps" in found["remedy"][0]
    assert read_runs(table.assign(warmup_steps=0))["warmup_steps"].tolist() == [0.0] * 12


def test_run_ids():
    made = read_runs(good().drop(columns="run_id"))
    assert made["run_id"].tolist()[:2] == ["run-000", "run-001"]
    assert read_runs(good().assign(run_id=None))["run_id"].tolist()[11] == "run-011"
    numbered = read_runs(good().assign(run_id=np.arange(12.0)))
    assert numbered["run_id"].tolist() == [str(k) for k in range(12)]


def test_array_schedules():
    curve = schedules.Schedule.from_array(
        schedules.Schedule.cosine(peak_lr=1e-3, steps=1000, warmup_steps=50).lr(np.arange(1001))
    )
    row = curve.to_row() | {"n_params": 1e6, "tokens": 4e8}
    table = pd.DataFrame([row] * 2)
    runs = read_candidates(table)
    assert runs["batch_tokens"].tolist() == [4e5, 4e5]
    assert schedules.integrals(runs).conv_cooldown[1] == curve.integrals().conv_cooldown
    table.loc[1, "conv_cooldown"] = 0.0
    found = faults(table, read_candidates)
    assert found["column"].tolist() == ["conv_cooldown"] and "from_array" in found["remedy"][0]
    bare = table.drop(columns=list(schedules.INTEGRAL_COLUMNS))
    assert len(faults(bare, read_candidates)) == 8


@pytest.mark.parametrize("kind", ["linear", "cosine", "wsd", "wsd-sqrt", "polygon", "constant"])
def test_rows_made_by_schedules_are_valid(kind):
    common = {"peak_lr": 1e-3, "steps": 1000, "warmup_steps": 0}
    s = {
        "linear": lambda: schedules.Schedule.linear(**common),
        "cosine": lambda: schedules.Schedule.cosine(**common, min_lr=1e-4),
        "wsd": lambda: schedules.Schedule.wsd(**common, cooldown_start_step=0),
        "wsd-sqrt": lambda: schedules.Schedule.wsd(**common, cooldown_start_step=500, shape="sqrt"),
        "polygon": lambda: schedules.Schedule.polygon(
            **common, decay_end_step=9, plateau_lr=1e-4, cooldown_start_step=99
        ),
        "constant": lambda: schedules.Schedule.constant(**common),
    }[kind]()
    table = read_candidates(pd.DataFrame([s.to_row() | {"n_params": 1e6, "tokens": 1e9}]))
    for name in schedules.INTEGRAL_COLUMNS:
        assert getattr(schedules.integrals(table), name)[0] == getattr(s.integrals(), name)


def test_nothing_is_lost_or_changed():
    table = good()[::-1]
    table.index = pd.MultiIndex.from_product([["x", "y"], range(6)], names=["a", "b"])
    table["seed"] = range(12)
    before = table.copy(deep=True)
    runs = read_runs(table)
    assert_frame_equal(table, before)
    assert runs.index.equals(table.index)
    assert list(runs.columns) == [*table.columns[:-2], "note", "seed", "steps"]
    assert runs["note"].tolist() == table["note"].tolist()
    assert runs["seed"].dtype == table["seed"].dtype
    assert all(runs[c].dtype == float for c in NUMBERS)
    table.iloc[7, table.columns.get_loc("peak_lr")] = -1
    assert faults(table)["row"][0] == ("y", 1)


def test_reading_twice_changes_nothing():
    once = read_runs(good())
    assert_frame_equal(read_runs(once), once)
    assert_frame_equal(read_candidates(once), once)


def test_candidates_need_no_outcome_and_keep_it():
    table = good(3).assign(final_loss="?", diverged="who knows")
    runs = read_candidates(table)
    assert runs["final_loss"].tolist() == ["?"] * 3
    assert len(read_candidates(good(3).drop(columns=["final_loss", "diverged"]))) == 3
    table.loc[1, "peak_lr"] = "?"
    assert faults(table, read_candidates)["row"].tolist() == [1]


def test_column_names():
    spaced = good().rename(columns={"peak_lr": " peak_lr ", "note": " note "})
    assert {"peak_lr", " note "} < set(read_runs(spaced).columns)
    twice = pd.concat([good(), good()[["peak_lr"]]], axis="columns")
    assert "unique" in faults(twice)["rule"][0]
    levels = good()
    levels.columns = pd.MultiIndex.from_product([["a"], levels.columns])
    assert "one level" in faults(levels)["rule"][0]


@pytest.mark.parametrize("dtype", ["Float64", "float32", "string", "category", "object"])
def test_column_types(dtype):
    table = good()
    table["n_params"] = table["n_params"].astype(dtype)
    assert read_runs(table)["n_params"].tolist() == good()["n_params"].tolist()


def test_words_for_missing_cells_mean_the_same_as_in_a_file():
    table = good().assign(schedule="linear", decay_end_step="NA", plateau_lr=" nan ")
    table["cooldown_start_step"] = pd.NA
    table["final_loss"] = table["final_loss"].astype(object)
    table.loc[0, ["final_loss", "diverged"]] = ["NaN", "true"]
    runs = read_runs(table)
    assert np.isnan(runs.loc[0, "final_loss"]) and runs.loc[3, "plateau_lr"] == 4e-4


def test_equal_faults_share_a_line():
    table = good(300)
    table.loc[:199, "n_params"] = -1.0
    table.loc[100:, "final_loss"] = 0.0
    table.loc[7, "schedule"] = "saw"
    found = faults(table)
    assert len(found) == 401
    lines = str(RunTableError(found)).splitlines()
    assert len(lines) == 1 + 1 + 3
    assert lines[2].startswith("200 rows: 0, 1, 2, ...") and "n_params" in lines[2]
    assert lines[3].startswith("7 ") and "saw" in lines[3]
    assert lines[4].startswith("200 rows: 100, 101, 102, ...") and "final_loss" in lines[4]
    # different remedies stay apart, and very many lines are cut
    many = faults(good(300).assign(schedule=[f"s{k}" for k in range(300)]))
    assert "300 rows" in str(RunTableError(many))
    many["rule"] = [f"rule {k}" for k in range(300)]
    assert "and 250 more lines" in str(RunTableError(many))


def test_the_error_survives_pickling():
    with pytest.raises(RunTableError) as caught:
        read_runs(good(2))
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert_frame_equal(again.problems, caught.value.problems)
    assert (
        isinstance(again, ValueError) and again.__class__.__module__ == "bayes_optlaws.runs.readers"
    )


cell = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=6),
    st.sampled_from(["1e3", "linear", "wsd", "array", "true", "nan", "inf", "-1", "1_0", " 7 "]),
    st.sampled_from([pd.NA, pd.NaT, pd.Timestamp("2024-01-01"), pd.Timedelta(1), b"1", 10**400]),
    st.lists(st.integers(), max_size=2),
    st.sampled_from([np.float32(3), np.array([1.0]), np.array([1, 2]), np.bool_(True)]),
)


@pytest.mark.filterwarnings("ignore::bayes_optlaws.runs.RunTableWarning")
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(fault_list.TEMPLATE_COLUMNS), cell),
        max_size=6,
    ),
    st.sampled_from([read_runs, read_candidates]),
)
def test_garbage_gives_a_valid_table_or_the_one_error(cells, read):
    table = good(6).drop(columns="note").astype(object)
    for row, column, value in cells:
        if column not in table:
            table[column] = pd.Series([None] * 6, dtype=object)
        table.at[row, column] = value
    try:
        runs = read(table)
    except RunTableError as error:
        problems = error.problems
        assert len(problems) and problems["rule"].all() and problems["remedy"].all()
        assert set(problems["row"]) <= {"(table)", *range(6)}
        return
    assert runs.index.equals(table.index)
    assert np.isfinite(runs[list(NUMBERS)].to_numpy()).all()
    found = schedules.integrals(runs)
    assert all(np.isfinite(getattr(found, n)).all() for n in schedules.INTEGRAL_COLUMNS)
    assert (found.conv_cooldown > 0).all() and (found.conv_warmup > 0).all()
    if read is read_runs:
        assert runs["diverged"].dtype == bool
        assert (runs["final_loss"].notna() | runs["diverged"]).all()
    assert_frame_equal(read(runs), runs)


@pytest.mark.parametrize("bad", [0.0, 0.3])
def test_a_hundred_thousand_rows_are_quick(bad):
    n = 100_000
    table = good(12).drop(columns=["note", "run_id"])
    table = pd.concat([table] * (n // 12 + 1), ignore_index=True).iloc[:n].copy()
    table["run_id"] = [f"run {k}" for k in range(n)]
    table["final_loss"] = table["final_loss"] + np.linspace(0, 0.01, n)
    table["peak_lr"] = table["peak_lr"].astype(str)
    wrong = np.random.default_rng(0).random(n) < bad
    table.loc[wrong, "peak_lr"] = "oops"
    table.loc[wrong, "final_loss"] = -1.0
    seconds = []
    for _ in range(2):
        start = time.process_time()
        if bad:
            with pytest.raises(RunTableError) as caught:
                read_runs(table)
            assert len(caught.value.problems) == 2 * wrong.sum()
            assert len(str(caught.value)) < 20_000
        else:
            assert len(read_runs(table)) == n
        seconds.append(time.process_time() - start)
    assert min(seconds) < 2.0
