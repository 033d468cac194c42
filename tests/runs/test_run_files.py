"""Reading run tables from files."""

import json

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from run_tables import faults, good

from bayes_optlaws.runs.readers import RunTableError, read_runs


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("runs.csv", lambda t, p: t.to_csv(p, index=False)),
        ("my runs.csv", lambda t, p: t.to_csv(p, index=False, encoding="utf-8-sig")),
        ("runs.tsv", lambda t, p: t.to_csv(p, index=False, sep="\t")),
        ("german.csv", lambda t, p: t.to_csv(p, index=False, sep=";", decimal=",")),
        ("semicolon.csv", lambda t, p: t.to_csv(p, index=False, sep=";")),
        ("tabs.csv", lambda t, p: t.to_csv(p, index=False, sep="\t", decimal=",")),
        (
            "runs.jsonl",
            lambda t, p: t.to_json(p, orient="records", lines=True, double_precision=15),
        ),
        ("runs.parquet", lambda t, p: t.to_parquet(p)),
    ],
)
def test_files_give_what_the_table_gives(tmp_path, name, write):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    table = good().drop(columns="note").astype({c: float for c in ("tokens", "peak_lr")})
    table = table.astype({"diverged": bool}).assign(run_id=[f"{k:03d}" for k in range(12)], seed=7)
    write(table, tmp_path / name)
    for path in (tmp_path / name, str(tmp_path / name)):
        runs = read_runs(path)
        assert isinstance(runs.index, pd.RangeIndex)
        # Text keeps 15 to 17 digits, by the writer and the version of pandas.
        assert_frame_equal(runs, read_runs(table), check_dtype="jsonl" not in name, rtol=1e-13)


def test_decimal_commas_and_points_together_are_refused(tmp_path):
    path = tmp_path / "mixed.csv"
    text = good().drop(columns="note").to_csv(index=False, sep=";")
    path.write_text(text.replace("0.0001;", "0,0001;"))
    found = faults(path)
    assert found["column"].tolist() == ["peak_lr"] and found["value"].tolist() == ["0,0001"]
    assert "decimal point" in found["remedy"][0]


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("a.xlsx", b"PK", "ends in"),
        ("a.csv", b"", "at least one row"),
        ("a.csv", b"n_params,tokens\n", "at least one row"),
        ("a.csv", b"n_params,tokens\n1,2,3\n", "cells of the header"),
        ("a.csv", b"n_params,tokens\n1,2\n1,2,3,4\n", "cells of the header"),
        ("a.csv", b'n_params,tokens\n1,"2\n', "cells of the header"),
        ("a.csv", b"n_params,tokens,n_params\n1,2,3\n", "unique"),
        ("a.csv", b"n_params\xff\n", "UTF-8"),
        ("a.csv", "n_params,tokens\n1,2\n".encode("utf-16"), "UTF-8"),
        ("a.csv", "n_params,tokens\n1,2\n".encode("utf-16-le"), "UTF-16"),
        ("a.csv", b"# made by hand\nn_params,tokens\n1,2\n", "no comments"),
        ("a.csv", b"run_id,tokens\na,2\n# the last,\n", "no comments"),
        ("a.parquet", b"PAR1 broken", "Parquet"),
        ("a.parquet", b"", "Parquet"),
        ("a.jsonl", b'{"n_params": 1}\n{"n_params": \n', "JSON object"),
        ("a.jsonl", b"[1, 2]\n", "JSON object"),
        ("a.jsonl", b"\n", "at least one row"),
    ],
)
def test_unreadable_files_say_why(tmp_path, name, content, rule):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    path = tmp_path / name
    path.write_bytes(content)
    found = faults(path)
    assert rule in found["rule"][0] and found["remedy"][0]


def test_sources_that_are_no_table(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_runs(tmp_path / "absent.csv")
    with pytest.raises(TypeError, match=r"pd\.DataFrame"):
        read_runs(7)
    with pytest.raises(TypeError, match=r"pd\.DataFrame"):
        read_runs([1, 2])


def test_rows_and_columns_of_plain_python_are_tables():
    table = good().drop(columns="note")
    expected = read_runs(table)
    assert_frame_equal(read_runs(table.to_dict("records")), expected)
    assert_frame_equal(read_runs(table.to_dict("list")), expected)


def test_a_web_address_is_not_a_file():
    found = faults("https://example.org/runs.csv")
    assert "this machine" in found["rule"][0] and "download" in found["remedy"][0]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize("name", ["run_id", "Name"])
def test_names_of_runs_are_text(tmp_path, suffix, name):
    ids = ["1.1", "1.10", "01", "1", "1e3", "1000", "#N/A", "NA", "nan", "None", "0x1F", "1_0"]
    table = good().drop(columns="note").assign(run_id=ids).rename(columns={"run_id": name})
    path = tmp_path / f"runs{suffix}"
    if suffix == ".jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_csv(path, index=False, sep="," if suffix == ".csv" else "\t")
    assert read_runs(path)["run_id"].tolist() == ids


def test_cells_cannot_reach_the_terminal():
    bad = "\x1b]0;owned\x07\u202egnp"
    table = good().drop(columns="note").astype(object)
    table.loc[0, ["run_id", "schedule"]] = bad
    with pytest.raises(RunTableError) as caught:
        read_runs(table)
    message = str(caught.value)
    assert all(c.isprintable() or c == "\n" for c in message)
    assert r"\x1b]0;owned\x07\u202egnp" in message
    assert caught.value.problems["value"][0] == bad  # the table itself is not changed


def test_text_that_cannot_be_written_is_named(tmp_path):
    path = tmp_path / "runs.jsonl"
    rows = good().drop(columns="note").to_dict("records")
    rows[3]["schedule"] = "a\ud800"
    path.write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")
    for source in (path, rows):
        found = faults(source)
        assert "row 4" in found["value"][0] and "schedule" in found["rule"][0]


garbage_text = st.text(alphabet="019.,;\t\n\r\"'eE-+ nan_aé\x00", max_size=60)


@settings(max_examples=100, deadline=None)
@given(garbage_text, st.sampled_from([".csv", ".tsv", ".jsonl"]))
def test_garbage_files_give_the_one_error(tmp_path_factory, text, suffix):
    path = tmp_path_factory.mktemp("garbage") / f"table{suffix}"
    header = "n_params,tokens\n" if suffix == ".csv" else ""
    path.write_text(header + text, encoding="utf-8", newline="")
    with pytest.raises(RunTableError):
        read_runs(path)


def test_json_lines_keep_separators_inside_text(tmp_path):
    path = tmp_path / "runs.jsonl"
    rows = good().drop(columns="note").assign(remark="a\u2028b").to_dict("records")
    path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows), encoding="utf-8")
    assert read_runs(path)["remark"].tolist() == ["a\u2028b"] * 12
