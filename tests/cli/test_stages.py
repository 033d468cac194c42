"""Later stages on the command line: rank, predict, report, design."""

import json

import pytest
from run_tables import write

from bayes_optlaws.cli.main import main
from bayes_optlaws.datasets import load
from bayes_optlaws.inference.stages import history
from bayes_optlaws.runs.readers import read_candidates


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
