"""Answers on the command line are those of the law: fit, predict, rank, design, report."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from run_tables import write

from bayes_optlaws.baselines import get
from bayes_optlaws.cli import demo
from bayes_optlaws.cli.main import main
from bayes_optlaws.datasets import load
from bayes_optlaws.law import OptLaw
from bayes_optlaws.runs.pools import default_pool
from bayes_optlaws.runs.readers import read_candidates


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
