"""The command line: exit codes, messages, files; mostly by calls of `main` in this process."""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace

import nbformat
import numpy as np
import pandas as pd
import pytest

from bayes_optlaws import __version__
from bayes_optlaws.baselines import get
from bayes_optlaws.cli import demo
from bayes_optlaws.cli.law import candidates_of
from bayes_optlaws.cli.main import main
from bayes_optlaws.cli.parser import parser
from bayes_optlaws.datasets import load
from bayes_optlaws.inference.stages import history
from bayes_optlaws.law import OptLaw
from bayes_optlaws.runs.candidates import candidates
from bayes_optlaws.runs.pools import default_pool
from bayes_optlaws.runs.readers import read_candidates, read_runs


@pytest.fixture(scope="session")
def law_file(small_law, tmp_path_factory):
    return small_law.save(tmp_path_factory.mktemp("a folder with spaces") / "my law.nc")


@pytest.fixture
def plan(tmp_path):
    """Four candidates inside the pocket grid, in a file whose path has a space."""
    rows = [
        {"run_id": f"lr {lr:g} {kind}", "n_params": 115008, "tokens": 3686400,
         "batch_tokens": 1024, "peak_lr": lr, "warmup_steps": 300, "schedule": kind}
        for lr in (0.003, 0.02)
        for kind in ("linear", "cosine")
    ]  # fmt: skip
    path = tmp_path / "the plan.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def write(table, path):
    table.to_csv(path, index=False)
    return str(path)


def test_help_teaches_and_names_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    commands = ("demo", "init", "check", "candidates", "fit", "predict", "rank", "design",
                "report", "evaluate", "allocate", "watch", "explore", "datasets")  # fmt: skip
    for word in (*commands, "peak_lr", "exit codes"):
        assert word in text
    assert main(["fit", "--help"]) == 0
    assert "cooldown_start_step" in capsys.readouterr().out
    for command in commands:
        assert main([command, "--help"]) == 0
        text = capsys.readouterr().out
        assert f"usage: bayes-optlaws {command}" in text
        assert "exit codes: 0 done" in text.split("example:")[1]
        example = text.split("example:")[1].split("\n\n")[0].strip()
        example = example.removeprefix("bayes-optlaws ")
        parsed = parser().parse_args(shlex.split(example))  # the example is one that works
        assert parsed.command == command
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nonsense"],
        ["fit", "runs.csv"],
        ["rank", "law.nc"],
        ["rank", "law.nc", "plan.csv", "--prob", "1"],
        ["fit", "runs.csv", "-o", "x.nc", "--draws", "ten"],
        ["demo", "--seed", "-1"],
        ["design", "law.nc"],
        ["design", "law.nc", "--decide", "plan.csv", "--budget", "-3"],
        ["design", "law.nc", "--decide", "plan.csv", "--objective", "luck"],
        ["evaluate", "runs.csv", "--protocol", "guess"],
        ["report"],
    ],
)
def test_a_wrong_call_ends_with_2_and_the_usage(argv, capsys):
    assert main(argv) == 2
    assert "usage: bayes-optlaws" in capsys.readouterr().err


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


def test_init_writes_tables_and_a_notebook_that_run(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "a sweep"
    assert main(["init", str(folder)]) == 0
    out = capsys.readouterr().out
    assert main(["init", str(folder)]) == 1  # never over what is there
    capsys.readouterr()
    runs, book = read_runs(folder / "runs.csv"), folder / "first-ranking.ipynb"
    assert len(runs) == 260 and len(read_candidates(folder / "candidates.csv")) == 9
    line = next(x for x in out.splitlines() if "bayes-optlaws check" in x)
    assert main(shlex.split(line)[1:]) == 0
    nbformat.validate(nbformat.read(book, as_version=4))
    code = [c["source"] for c in json.loads(book.read_text())["cells"] if c["cell_type"] == "code"]
    monkeypatch.chdir(folder)
    names = {}
    for source in code[:2]:
        exec(source, names)
    assert len(names["runs"]) == 260
    for source in code[2:]:
        compile(source, "cell", "exec")


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


def test_what_was_assumed_of_a_table_travels_with_every_answer(
    small_law, law_file, plan, tmp_path, capsys
):
    fitted = small_law.fitted
    runs = fitted.runs.copy()
    runs.attrs["notes"] = [
        "lr was taken as peak_lr.",
        "one-cycle has two meanings and was read as linear; if yours decays like a cosine, pass "
        "schedules={'one-cycle': 'cosine'}.",
    ]
    assumed = replace(fitted, encoding=replace(fitted.encoding, runs=runs))
    path = OptLaw.from_fitted(assumed).save(tmp_path / "law.nc")
    words = "Run table as read: one-cycle has two meanings and was read as linear"
    for command in (
        ["rank", str(path), str(plan), "--no-search"], ["predict", str(path), str(plan)],
        ["design", str(path), "--decide", str(plan), "--n-runs", "1"],
    ):  # fmt: skip
        assert main(command) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert words in said and "pass --schedules one-cycle=cosine" in said
        assert "taken as peak_lr" not in said
        assert main([*command, "--json"]) == 0
        assert any(words in note for note in json.loads(capsys.readouterr().out)["notes"])
    page = tmp_path / "report.html"
    assert main(["report", str(path), "--candidates", str(plan), "--no-search", "--n-runs", "0",
                 "--quiet", "-o", str(page)]) == 0  # fmt: skip
    assert words in page.read_text()
    assert capsys.readouterr().err == ""  # quiet: nothing of progress


def test_inputs_that_are_not_there_or_no_law(tmp_path, plan, capsys):
    assert main(["check", str(tmp_path / "none.csv")]) == 1
    assert "none.csv" in capsys.readouterr().err
    assert main(["rank", str(tmp_path / "none.nc"), str(plan)]) == 1
    assert "no such file" in capsys.readouterr().err
    broken = tmp_path / "broken.nc"
    broken.write_text("not a law")
    assert main(["predict", str(broken), str(plan)]) == 1
    assert "is not a law written by OptLaw.save" in capsys.readouterr().err
    assert main(["datasets", "nothing"]) == 1
    assert "choose from pocket" in capsys.readouterr().err


def test_an_empty_candidate_table_is_refused_before_anything_is_fitted(tmp_path, law_file, capsys):
    empty = tmp_path / "empty.csv"
    empty.write_text("n_params,tokens,batch_tokens,peak_lr,warmup_steps,schedule\n")
    for command in ("rank", "predict"):
        assert main([command, str(law_file), str(empty)]) == 1
        assert "the table must have at least one row" in capsys.readouterr().err
    runs = write(load("pocket"), tmp_path / "runs.csv")
    assert main(["rank", runs, str(empty)]) == 1
    assert "fitting" not in capsys.readouterr().err


def test_predict_prints_what_the_law_says(law_file, plan, small_law, tmp_path, capsys):
    target = tmp_path / "new folder" / "losses.csv"
    argv = ["predict", str(law_file), str(plan), "--prob", "0.8"]
    assert main([*argv, "-o", str(target)]) == 0
    said = capsys.readouterr()
    assert "lr 0.02 cosine" in said.out and "80 % interval" in said.out
    table = pd.read_csv(plan)
    expected = small_law.predict(table.set_index("run_id", drop=False), prob=0.8)
    written = pd.read_csv(target, index_col="candidate")
    np.testing.assert_allclose(written["loss_mean"], expected["loss_mean"], rtol=1e-9)
    assert f"{expected['loss_mean'].iloc[0]:.4f}" in said.out
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["candidate"] for row in found["table"]] == list(table["run_id"])
    np.testing.assert_allclose([r["loss_upper"] for r in found["table"]], expected["loss_upper"])


def test_rank_answers_in_words_table_file_and_figure(law_file, plan, small_law, tmp_path, capsys):
    table, figure = tmp_path / "ranking.csv", tmp_path / "a figure.png"
    argv = ["rank", str(law_file), str(plan), "-o", str(table), "--figure", str(figure)]
    assert main(argv) == 0
    out = capsys.readouterr().out
    candidates = pd.read_csv(plan).set_index("run_id", drop=False)
    expected = small_law.rank(candidates)
    assert " ".join(out.split()).startswith(expected.headline)
    written = pd.read_csv(table, index_col="candidate")
    assert list(written.index) == list(expected.table.index)
    # A probability of divergence that the law does not give is nowhere shown as a small one.
    modelled = small_law.predict(candidates)["p_diverge"].notna().all()
    assert written["p_diverge"].notna().all() == modelled
    assert ("risk of divergence is not modelled" in out) != modelled
    assert figure.read_bytes()[:4] == b"\x89PNG"

    before = table.read_bytes()
    assert main(argv) == 1
    assert "exists: give another name, or --force" in capsys.readouterr().err
    assert table.read_bytes() == before
    assert main([*argv, "--force"]) == 0

    capsys.readouterr()
    assert main(["rank", str(law_file), str(plan), "--json", "--tie", "0.5"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tie"] == 0.5 and len(found["flips"]) == 3
    assert sum(row["p_best"] for row in found["table"]) == pytest.approx(1)


def test_outputs_that_make_no_sense_are_refused(law_file, plan, tmp_path, capsys):
    for output, words in (
        (tmp_path, "is a folder"),
        (plan, "is also an input"),
    ):
        argv = ["rank", str(law_file), str(plan), "-o", str(output), "--force"]
        assert main(argv) == 1
        assert words in capsys.readouterr().err
    argv = ["rank", str(law_file), str(plan), "--figure", str(tmp_path / "x.docx")]
    assert main(argv) == 1
    assert "a figure ends in .png" in capsys.readouterr().err
    assert main(["datasets", "-o", "x.csv"]) == 1


def test_fit_too_short_is_said_and_refused_later(tmp_path, plan, capsys):
    """100 draws of 2 chains cannot reach an effective sample size of 400."""
    runs = write(load("pocket"), tmp_path / "runs.csv")
    law = tmp_path / "short.nc"
    argv = ["fit", runs, "-o", str(law), "--no-transfer", "--draws", "100", "--tune", "100",
            "--chains", "2", "--seed", "1"]  # fmt: skip
    assert main(argv) == 3
    said = capsys.readouterr()
    assert "did not converge" in said.err and law.exists()
    assert main(["rank", str(law), str(plan)]) == 3
    said = capsys.readouterr()
    assert "Traceback" not in said.err and not said.out
    assert main(["rank", str(law), str(plan), "--allow-unconverged"]) == 0
    said = capsys.readouterr()
    assert "UNCONVERGED" in said.err and "UNCONVERGED" in said.out
    assert main(argv) == 1, "an existing law is not replaced"


def test_assumptions_about_a_table_are_said(law_file, plan, tmp_path, capsys):
    path = write(pd.read_csv(plan).drop(columns="warmup_steps"), tmp_path / "no warmup.csv")
    assert main(["predict", str(law_file), path]) == 0
    assert "warning: warmup_steps is not given" in capsys.readouterr().err


def test_design_proposes_the_runs_of_the_plan(law_file, plan, small_law, tmp_path, capsys):
    pool = tmp_path / "the pool.csv"
    rows = default_pool(small_law.runs, read_candidates(plan)).iloc[::8]
    write(rows, pool)
    figure, out = tmp_path / "a plan.svg", tmp_path / "next runs.csv"
    argv = ["design", str(law_file), "--decide", str(plan), "--pool", str(pool), "--n-runs", "2"]
    assert main([*argv, "--figure", str(figure), "-o", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    named = read_candidates(plan)
    expected = small_law.design(
        rows, named.set_axis(named["run_id"], axis=0), n_runs=2, progressbar=False
    )
    assert found["answer"] == expected.answer() and found["pool"] == len(rows)
    assert [row["run_id"] for row in found["table"]] == list(expected.table["run_id"])
    written = pd.read_csv(out)
    np.testing.assert_allclose(written["value"], expected.table["value"], rtol=1e-6)
    assert figure.read_text().startswith("<?xml")
    assert main(argv) == 0
    text = capsys.readouterr().out
    if len(expected.table):
        assert str(expected.table.index[0]) in text and "FLOP" in text
    assert main([*argv, "--budget", "1"]) == 0  # one floating-point operation pays for nothing
    assert "No run is proposed" in capsys.readouterr().out


def test_design_says_what_it_chose_from_when_no_pool_is_given(law_file, tmp_path, capsys):
    near = demo.candidates().iloc[[1, 5, 7]].assign(peak_lr=[0.012, 0.012, 0.014])
    path = write(near, tmp_path / "near.csv")
    assert main(["design", str(law_file), "--decide", path, "--n-runs", "1"]) == 0
    out = capsys.readouterr().out
    assert "Chosen among 360 runs like those that were made" in out
    assert "cost in FLOP; worth in nats of expected regret" in out


def test_report_is_written_and_never_over_a_file(law_file, plan, tmp_path, capsys):
    page = tmp_path / "my page.html"
    argv = ["report", str(law_file), "--candidates", str(plan), "-o", str(page), "--n-runs", "0"]
    sliders = tmp_path / "my page-explore.html"
    assert main([*argv, "--explore", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = {"report": str(page), "bytes": page.stat().st_size, "explore": str(sliders)}
    assert found == expected and 'type="range"' in sliders.read_text(encoding="utf-8")
    assert "lr 0.003 linear" in page.read_text(encoding="utf-8")
    page.unlink()
    assert main([*argv, "--explore"]) == 1 and not page.exists()  # refused before any work
    assert "my page-explore.html exists" in capsys.readouterr().err
    page.write_text("mine")
    assert main(argv) == 1
    assert "exists: give another name, or --force" in capsys.readouterr().err
    assert main(["report", str(law_file), "-o", str(tmp_path / "page.pdf")]) == 1
    assert "ends in .html" in capsys.readouterr().err


def test_evaluate_prints_what_evaluate_says(tmp_path, capsys, monkeypatch):
    from bayes_optlaws import evaluation

    asked = {}

    def instead(law, runs, protocol, n_jobs, *, baselines, **options):
        asked.update(options, protocol=protocol, transfer=law.transfer)
        return real(get("linear"), runs, protocol, baselines=baselines, n_boot=20)

    real = evaluation.evaluate
    monkeypatch.setattr(evaluation, "evaluate", instead)
    runs = write(load("pocket"), tmp_path / "runs.csv")
    out = tmp_path / "all metrics.csv"
    argv = ["evaluate", runs, "--baselines", "constant", "--no-transfer", "--draws", "300"]
    assert main([*argv, "-o", str(out)]) == 0
    text = capsys.readouterr().out
    assert "linear" in text and "constant" in text and "1 block of model size" in text
    assert asked["protocol"] == "hold-out-largest-n" and asked["draws"] == 300
    assert not asked["transfer"]
    assert set(pd.read_csv(out)["block"]) == {"all", "N=2.462e+05 D=2.458e+06"}
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["method"] for row in found["table"]} == {"linear", "constant"}
    monkeypatch.setattr("bayes_optlaws.cli.plan.find_spec", lambda name: None)
    assert main(["evaluate", runs, "--no-transfer", "--json"]) == 0
    streams = capsys.readouterr()
    assert {row["method"] for row in json.loads(streams.out)["table"]} == {"linear", "chinchilla"}
    assert "scikit-learn is not installed" in streams.err
    assert main(["evaluate", runs, "--baselines", "tea-leaves"]) == 1
    assert "no baseline tea-leaves: there are constant" in capsys.readouterr().err


def test_evaluate_ends_with_3_when_a_refit_did_not_converge(tmp_path, capsys):
    runs = write(load("pocket"), tmp_path / "runs.csv")
    argv = ["evaluate", runs, "--baselines", "--no-transfer", "--draws", "100", "--tune", "50",
            "--chains", "2", "--seed", "1", "--method", "nuts"]  # fmt: skip
    assert main(argv) == 3
    streams = capsys.readouterr()
    assert "opt-law" in streams.out and "did not pass the convergence gate" in streams.err


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


@pytest.mark.parametrize("command", ["predict", "rank", "design", "report"])
def test_an_empty_candidate_table_is_refused_by_every_command(command, law_file, tmp_path, capsys):
    path = write(demo.candidates().iloc[:0], tmp_path / "no rows.csv")
    option = ["--candidates"] if command in ("report", "design") else []
    argv = [command, str(law_file), *option, path]
    assert main(argv) == 1
    text = capsys.readouterr().err
    assert "Traceback" not in text and "must have at least one row" in text


@pytest.mark.slow
@pytest.mark.parametrize("locale", ["de_DE.UTF-8", "C"])
def test_another_locale_changes_no_number(locale, law_file, plan, tmp_path, capsys):
    """Decimal points stay points; in the C locale, names that are not ASCII still pass."""
    table = pd.read_csv(plan)
    table.loc[0, "run_id"] = "Größe α"
    path = tmp_path / "Pläne für später.csv"
    table.to_csv(path, index=False, encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG"))}
    environment |= {"LC_ALL": locale, "PYTHONWARNINGS": "error::EncodingWarning"}
    argv = ["predict", str(law_file), str(path)]
    done = subprocess.run(
        [sys.executable, "-m", "bayes_optlaws.cli.main", *argv, "--json"],
        capture_output=True, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode("utf-8")
    assert main([*argv, "--json"]) == 0
    assert json.loads(done.stdout.decode("utf-8")) == json.loads(capsys.readouterr().out)


def test_datasets_are_listed_described_and_written(tmp_path, capsys):
    assert main(["datasets"]) == 0
    assert "pocket" in capsys.readouterr().out
    assert main(["datasets", "--json"]) == 0
    assert {"pocket", "steplaw"} <= {d["name"] for d in json.loads(capsys.readouterr().out)}
    target = tmp_path / "pocket.csv"
    assert main(["datasets", "pocket", "-o", str(target)]) == 0
    assert len(pd.read_csv(target)) == 260
    assert "pocket" in capsys.readouterr().out


def test_the_demo_asks_about_a_scale_that_the_grid_lacks(pocket):
    plan = demo.candidates()
    assert plan.index.is_unique and set(plan["schedule"]) == {"linear", "cosine", "wsd"}
    assert plan["tokens"].min() >= 4 * pocket["tokens"].max()
    assert plan["peak_lr"].between(pocket["peak_lr"].min(), pocket["peak_lr"].max()).all()


def test_demo_figures(small_law, tmp_path):
    names = []
    ranking = small_law.rank(demo.candidates())
    demo.write_figures(small_law, ranking, tmp_path, lambda path: names.append(path.name))
    assert "ranking.png" in names and len(names) == len(list(tmp_path.glob("*.png")))


@pytest.mark.slow
def test_the_demo_writes_what_it_names(small_law, tmp_path, capsys, monkeypatch):
    """The whole command save the fit, which takes a minute."""
    from bayes_optlaws import law as module

    monkeypatch.setattr(module, "OptLaw", lambda: small_law)
    monkeypatch.setattr(type(small_law), "fit", lambda self, *args, **options: self)
    folder = tmp_path / "a demo"
    assert main(["demo", "--report", "-o", str(folder)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    written = {path.name for path in folder.iterdir()}
    assert {
        "report.html",
        "candidates.csv",
        "ranking.csv",
        "plan.csv",
        "law.nc",
        "ranking.png",
    } <= written
    assert all(name in out for name in written)
    assert "Choose" in out and "bayes-optlaws report runs.csv" in out
    assert main(["demo", "-o", str(folder / "law.nc")]) == 1


def test_the_module_runs_as_a_process(tmp_path):
    """In a real process the exit code arrives, and JSON alone is on standard output."""
    path = write(load("pocket").assign(peak_lr=0), tmp_path / "runs.csv")
    call = [sys.executable, "-m", "bayes_optlaws.cli.main", "check", "--json", path]
    done = subprocess.run(call, capture_output=True, text=True, env=dict(os.environ), timeout=120)
    assert done.returncode == 1
    assert len(json.loads(done.stdout)["problems"]) == 260
    assert done.stderr == ""


@pytest.fixture
def later(tmp_path):
    """Candidates of a later stage, the stage before it, and the measured table, as files."""
    runs = load("pocket-stages")
    own = (runs["block"] == "weak_d64_4000") & (runs["seed"] == 0)
    outcome = ["final_loss", "train_loss", "diverged"]
    candidates = write(runs[own].drop(columns=outcome), tmp_path / "later.csv")
    past = write(history(runs, "families_d64_12000-003"), tmp_path / "history.csv")
    return candidates, past, write(runs, tmp_path / "stages.csv")


@pytest.mark.parametrize("measured", [False, True])
def test_a_later_stage_is_ranked_and_predicted(measured, later, law_file, small_law, capsys):
    candidates, past, runs = later
    more = ["--history", past] + (["--stage-runs", runs] if measured else [])
    assert main(["rank", str(law_file), candidates, "--json", *more]) == 0
    found = json.loads(capsys.readouterr().out)
    table = read_candidates(candidates)
    table = table.set_index(table["run_id"].to_numpy())
    expected = small_law.rank(table, history=past, stage_runs=runs if measured else None)
    assert found["answer"] == expected.answer()
    assert not found["divergence_modelled"]
    assert all(row["p_diverge"] is None for row in found["table"])
    for command in ("rank", "predict"):
        assert main([command, str(law_file), candidates, *more]) == 0
        text = capsys.readouterr().out
        assert "Whether a later stage diverges is not known" in " ".join(text.split())
        assert "nan" not in text
        heads = next(line for line in text.splitlines() if line.split()[:1] == ["candidate"])
        assert ("score" in heads) != measured and ("loss" in heads) == measured


def test_a_report_of_a_later_stage(later, law_file, tmp_path, capsys):
    candidates, past, runs = later
    page = tmp_path / "page.html"
    argv = ["report", str(law_file), "--candidates", candidates, "-o", str(page), "--force"]
    for more in ([], ["--stage-runs", runs]):
        assert main([*argv, "--history", past, *more]) == 0
        text = page.read_text()
        assert "Whether a later stage diverges is not known" in text
        assert "cost is counted from there" in text
        assert ("no losses" in text) == (not more)
        assert ">nan" not in text


def test_runs_of_a_later_stage_are_planned(later, law_file, small_law, tmp_path, capsys):
    candidates, past, runs = later
    argv = ["design", str(law_file), "--decide", candidates, "--history", past, "--n-runs", "2"]
    own = load("pocket-stages")
    kept = own[(own["block"] != "weak_d64_4000") | own["run_id"].eq("weak_d64_4000-000")]
    known = write(kept, tmp_path / "known.csv")
    planned: list[int] = []
    for more in ([], ["--stage-runs", known]):
        assert main([*argv, *more, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["cost_unit"] == "FLOP from the checkpoint"
        planned.append(len(found["table"]))
        table = read_candidates(candidates)
        table = table.set_index(table["run_id"].to_numpy())
        plan = small_law.design(
            None, table, n_runs=2, history=past, stage_runs=more[1] if more else None
        )
        assert found["answer"] == plan.answer()
        assert all(row["p_diverge"] is None for row in found["table"])
        assert main([*argv, *more]) == 0
        text = " ".join(capsys.readouterr().out.split())
        words = "runs from the checkpoint: the candidates, whole and over a half"
        assert (words in text) == bool(found["table"])
        assert "nan" not in text
    assert any(planned)


def test_stage_runs_without_history_are_a_wrong_call(later, law_file, capsys):
    candidates, past, runs = later
    assert main(["rank", str(law_file), candidates, "--stage-runs", runs]) != 0
    assert "--history" in capsys.readouterr().err
    assert main(["report", str(law_file), "--history", past]) != 0
    assert "--candidates" in capsys.readouterr().err
