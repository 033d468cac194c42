"""The commands of a budget and of a run in progress."""

import json

import pandas as pd
import pytest

from bayes_optlaws import datasets
from bayes_optlaws.cli.main import main


@pytest.fixture(scope="module")
def law_file(small_law, tmp_path_factory):
    return str(small_law.save(tmp_path_factory.mktemp("law") / "law.nc"))


@pytest.fixture(scope="module")
def run_files(pocket, tmp_path_factory):
    """Plan of three runs, and the first half of the curve of the first."""
    folder = tmp_path_factory.mktemp("runs")
    names = ["d64_3600-010", "d64_3600-005", "d64_3600-036"]
    plan = pocket.set_index("run_id", drop=False).loc[names]
    plan.drop(columns=["final_loss", "diverged"]).to_csv(folder / "plan.csv", index=False)
    c = datasets.load_curves("pocket")
    c = c[(c["run_id"] == names[0]) & (c["step"] <= 1800)]
    c.to_csv(folder / "curve.csv", index=False)
    return str(folder / "curve.csv"), str(folder / "plan.csv")


def test_watch_says_what_the_library_says(small_law, law_file, run_files, tmp_path, capsys):
    curve, plan = run_files
    argv = ["watch", law_file, curve, "--candidate", plan, "--run", "d64_3600-010", "--others",
            plan, "--shift", "0.018", "0.012", "--figure", str(tmp_path / "w.png")]  # fmt: skip
    assert main([*argv, "--json", "-o", str(tmp_path / "rank.csv")]) == 0
    found = json.loads(capsys.readouterr().out)
    table = pd.read_csv(plan, index_col="run_id")
    expected = small_law.watch(
        curve, table.iloc[[0]], others=table.iloc[1:], shift=(0.018, 0.012)
    )  # fmt: skip
    assert found["stop"] is False and found["p_stop"] == pytest.approx(expected.p_stop, abs=0.02)
    assert found["table"][0]["loss_mean"] == pytest.approx(
        expected.table["loss_mean"].iloc[0], abs=1e-3
    )
    assert len(pd.read_csv(tmp_path / "rank.csv")) == 3 and (tmp_path / "w.png").stat().st_size
    assert main([*argv, "--force"]) == 0
    said = capsys.readouterr().out
    assert "Let it run" in said and "law and curve" in said and "P(best)" in said


def test_wrong_calls_of_watch_are_refused(law_file, run_files, capsys):
    curve, plan = run_files
    base = ["watch", law_file, curve, "--candidate", plan]
    for more, said in (
        ([], "has 3 rows: name the one that is running by --run"),
        (["--run", "nobody"], "--run nobody"),
        (["--run", "d64_3600-010", "--shift", "1", "2", "3"], "--shift takes nats, and their sd"),
        (["--run", "d64_3600-010", "--loss-column", "val"], "the curve has no column 'val'"),
    ):
        assert main([*base, *more]) == 1
        assert said in capsys.readouterr().err


def test_allocate_says_what_the_library_says(law_file, tmp_path, capsys):
    argv = ["allocate", law_file, "--flops", "7.2e12", "--n-params", "3e4", "1.1e5", "4e5",
            "--families", "linear", "--figure", str(tmp_path / "iso.png"), "--frontier",
            str(tmp_path / "front.png"), "--max-risk", "0.2"]  # fmt: skip
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["profile"]) == 3 and set(found["exponents"]) == {"n_params", "tokens"}
    assert (tmp_path / "iso.png").stat().st_size and (tmp_path / "front.png").stat().st_size
    assert main(["allocate", law_file, "--tokens", "1e6", "--frontier", "x.png"]) == 1
    assert "--frontier with --tokens" in capsys.readouterr().err
    assert main(["allocate", law_file, "--flops", "1"]) == 1
    assert "flops is 1: it pays for fewer than 10 steps" in capsys.readouterr().err
    assert main(["allocate", law_file, "--gpu-hours", "3"]) == 1
    assert "flops_per_second" in capsys.readouterr().err
