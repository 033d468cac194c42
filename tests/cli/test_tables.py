"""Tables on the command line: check, candidates, and what is said of bad rows."""

import json
import shlex

import numpy as np
import pandas as pd
from run_tables import write

from bayes_optlaws.cli.law import candidates_of
from bayes_optlaws.cli.main import main
from bayes_optlaws.cli.parser import parser
from bayes_optlaws.datasets import load
from bayes_optlaws.runs.candidates import candidates
from bayes_optlaws.runs.readers import read_candidates, read_runs


def test_check_describes_a_good_table(tmp_path, capsys):
    path = write(load("pocket"), tmp_path / "runs of mine.csv")
    assert main(["check", path]) == 0
    out = capsys.readouterr().out
    assert "260 runs, 28 diverged: the table is valid." in out
    assert "7 (n_params, tokens) cells" in out
    assert "Varies among finished runs: n_params, tokens, peak_lr, warmup_steps." in out
    assert main(["check", path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs"] == 260 and found["diverged"] == 28 and found["cells"] == 7


def test_check_says_what_cannot_be_learned(tmp_path, capsys):
    table = load("pocket").query("block == 'd16_1200' and warmup_steps == 64")
    assert main(["check", write(table, tmp_path / "runs.csv")]) == 0
    assert "Nothing can be learned about warmup_steps" in capsys.readouterr().out


EXPORT = """\
Name,State,params,tokens (B),global_batch_size,seq_len,lr,warmup,lr_scheduler_type,train/loss,note
a,finished,0.1B,2.0,256,2048,1e-3,100,cosine,3.41,x
b,finished,0.1B,2.0,256,2048,2e-3,100,cosine,3.39,
c,crashed,0.1B,2.0,256,2048,8e-3,100,cosine,,
d,finished,50M,1.0,256,2048,1e-3,100,WSD,3.81,
e,finished,50M,1.0,256,2048,2e-3,100,WSD,3.79,
f,finished,50M,1.0,256,2048,4e-3,100,WSD,3.80,
"""


def test_check_shows_and_asks_and_writes_the_clean_table(tmp_path, capsys):
    path, clean = tmp_path / "export.csv", tmp_path / "runs.csv"
    path.write_text(EXPORT)
    assert main(["check", str(path), "-o", str(clean)]) == 1
    said = capsys.readouterr()
    assert "global_batch_size" in said.out and "batch_tokens" in said.out and "95 %" in said.out
    assert "3 wsd rows do not say where" in said.err and "Traceback" not in said.err
    add = said.err.splitlines()[-1].removeprefix("To read it as proposed, add: ")
    assert add == "--cooldown 0.2 --status crashed=diverged" and not clean.exists()
    assert main(["check", str(path), "-o", str(clean), *shlex.split(add)]) == 0
    said = capsys.readouterr()
    for words in (
        "6 runs, 1 diverged: the table is valid.", "50M and 100M", "1e-3 to 8e-3 (4 rates)",
        "2.62 to 5.24 % of the run", "cosine 3, wsd 3", "3.39 to 3.81 nats per token; lowest: b",
        "Columns that play no part: note.", f"next: bayes-optlaws rank {clean}",
    ):  # fmt: skip
        assert words in said.out, words
    expected = read_runs(path, cooldown=0.2, status={"crashed": "diverged"})
    again = read_runs(clean)
    pd.testing.assert_frame_equal(again[expected.columns], expected, check_dtype=False)
    assert again.attrs["notes"] == []
    assert main(["check", str(clean)]) == 0
    assert "your column" not in capsys.readouterr().out  # nothing had to be converted
    assert main(["check", str(path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["answers"] == {"cooldown": 0.2, "status": {"crashed": "diverged"}}


def test_options_of_reading_are_checked(tmp_path, capsys):
    path = tmp_path / "export.csv"
    path.write_text(EXPORT)
    assert main(["check", str(path), "--columns", "lr"]) == 2
    assert "NAME=VALUE" in capsys.readouterr().err
    assert main(["check", str(path), "--units", "nothing=B"]) == 1
    assert "must name a column" in capsys.readouterr().err
    assert main(["fit", str(path), "-o", str(tmp_path / "law.nc"), "--status", "crashed=dead"]) == 1
    assert "'drop'" in capsys.readouterr().err


def test_candidates_are_read_with_the_same_options(tmp_path):
    path = tmp_path / "plan.csv"
    path.write_text("Name,params,tokens,bs,my-lr,warmup,sched\na,1B,20,512,1e-3,0.02,WSD\n")
    argv = ["rank", "law.nc", str(path), "--units", "tokens=B", "--columns", "my-lr=peak_lr",
            "--sequence-length", "2048", "--cooldown", "0.1",
            "--status", "crashed=drop"]  # fmt: skip
    plan = candidates_of(str(path), parser().parse_args(argv))
    assert plan.index.tolist() == ["a"]
    row = plan.iloc[0]
    assert (row["tokens"], row["batch_tokens"], row["peak_lr"]) == (20e9, 512 * 2048, 1e-3)
    assert row["cooldown_start_step"] == round(0.9 * row["steps"])


def test_a_bad_table_ends_with_1_and_one_report(tmp_path, capsys):
    """Three rows in ten are bad: each is listed, with no traceback."""
    table = load("pocket").iloc[:50].copy()
    bad = table.index[::10].union(table.index[1::10]).union(table.index[2::10])
    table.loc[bad, "peak_lr"] = -0.1
    path = write(table, tmp_path / "runs.csv")
    for argv in (["check", path], ["fit", path, "-o", str(tmp_path / "law.nc")]):
        assert main(argv) == 1
        said = capsys.readouterr()
        assert "error: the table has 15 problems in 15 rows; nothing was read." in said.err
        assert "15 rows: 0, 1, 2, ..." in said.err and str(table["run_id"][0]) in said.err
        assert len(said.err.splitlines()) < 6
        assert "Traceback" not in said.err and said.out == ""
    assert not (tmp_path / "law.nc").exists()
    assert main(["check", path, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["ok"] and len(found["problems"]) == 15
    assert found["problems"][0]["column"] == "peak_lr"


def test_a_third_of_bad_rows_is_one_readable_report(tmp_path, capsys):
    table = load("pocket").astype(object)
    rng = np.random.default_rng(7)
    finished = np.flatnonzero(~table["diverged"].astype(bool))  # a diverged run needs no loss
    bad = rng.choice(finished, int(0.3 * len(table)), replace=False)
    faults = [
        ("peak_lr", -1.0),
        ("final_loss", "n/a"),
        ("n_params", 0),
        ("tokens", "many"),
        ("schedule", "lineer"),
        ("warmup_steps", 1e9),
        ("run_id", table["run_id"].iloc[0]),
    ]
    for k, row in enumerate(bad):
        column, value = faults[k % len(faults)]
        table.iloc[row, table.columns.get_loc(column)] = value
    path = write(table, tmp_path / "third bad.csv")
    assert main(["check", path]) == 1
    text = capsys.readouterr().err
    assert "Traceback" not in text and len(text.splitlines()) < 120
    for column, _ in faults:
        assert column in text
    assert main(["check", path, "--json"]) == 1
    problems = pd.DataFrame(json.loads(capsys.readouterr().out)["problems"])
    broken = set(table["run_id"].iloc[bad].astype(str))
    assert broken <= set(problems["run_id"].astype(str))
    assert problems[["rule", "remedy"]].notna().all(axis=None)
    for command in (
        ["fit", path, "-o", str(tmp_path / "x.nc")],
        ["report", path],
        ["evaluate", path],
    ):
        assert main(command) == 1
        assert "Traceback" not in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["third bad.csv"]


def test_candidates_are_crossed_written_and_read_back(tmp_path, capsys):
    path, runs = tmp_path / "candidates.csv", tmp_path / "export.csv"
    runs.write_text(EXPORT)
    asked = ["--n-params", "1.5B", "--tokens", "30B", "--batch-tokens", "1M", "--warmup", "2%"]
    varied = ["--peak-lr", "5e-4", "1e-3", "--schedule", "cosine", "wsd"]
    assert main(["candidates", *asked, *varied, "-o", str(path)]) == 0
    said = capsys.readouterr()
    assert "wsd lr 1e-3" in said.out and f"next: bayes-optlaws rank runs.csv {path}" in said.out
    expected = candidates(
        {"n_params": "1.5B", "tokens": "30B", "batch_tokens": "1M"}, warmup="2%",
        peak_lr=["5e-4", 1e-3], schedule=["cosine", "wsd"],
    )  # fmt: skip
    pd.testing.assert_frame_equal(
        read_candidates(path)[expected.columns], expected, check_dtype=False, check_names=False
    )
    edited = pd.read_csv(path).assign(peak_lr=7e-4)  # nothing in the file contradicts it then
    assert len(read_candidates(edited)) == 4
    assert main(["candidates", *varied]) == 1
    assert "give --n-params, --tokens, --batch-tokens, --warmup" in capsys.readouterr().err
    settled = ["--status", "crashed=diverged", "--cooldown", "0.2"]
    assert main(["candidates", "--base", str(runs), *settled, *varied, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["candidates"]
    assert {row["n_params"] for row in rows} == {100_000_000} and len(rows) == 4
    assert main(["candidates", "--base", str(runs), *settled, "--run", "z", *varied]) == 1
    assert "0 runs named z" in capsys.readouterr().err


def test_assumptions_about_a_table_are_said(law_file, plan, tmp_path, capsys):
    path = write(pd.read_csv(plan).drop(columns="warmup_steps"), tmp_path / "no warmup.csv")
    assert main(["predict", str(law_file), path]) == 0
    assert "warning: warmup_steps is not given" in capsys.readouterr().err
