"""Calls of the command line: help, wrong calls, inputs and outputs that cannot be, a process."""

import json
import os
import shlex
import subprocess
import sys

import pandas as pd
import pytest
from run_tables import write

from bayes_optlaws import __version__
from bayes_optlaws.cli import demo
from bayes_optlaws.cli.main import main
from bayes_optlaws.cli.parser import parser
from bayes_optlaws.datasets import load


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


@pytest.mark.parametrize("command", ["predict", "rank", "design", "report"])
def test_an_empty_candidate_table_is_refused_by_every_command(command, law_file, tmp_path, capsys):
    path = write(demo.candidates().iloc[:0], tmp_path / "no rows.csv")
    option = ["--candidates"] if command in ("report", "design") else []
    argv = [command, str(law_file), *option, path]
    assert main(argv) == 1
    text = capsys.readouterr().err
    assert "Traceback" not in text and "must have at least one row" in text


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


def test_datasets_are_listed_described_and_written(tmp_path, capsys):
    assert main(["datasets"]) == 0
    assert "pocket" in capsys.readouterr().out
    assert main(["datasets", "--json"]) == 0
    assert {"pocket", "steplaw"} <= {d["name"] for d in json.loads(capsys.readouterr().out)}
    target = tmp_path / "pocket.csv"
    assert main(["datasets", "pocket", "-o", str(target)]) == 0
    assert len(pd.read_csv(target)) == 260
    assert "pocket" in capsys.readouterr().out


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


def test_the_module_runs_as_a_process(tmp_path):
    """In a real process the exit code arrives, and JSON alone is on standard output."""
    path = write(load("pocket").assign(peak_lr=0), tmp_path / "runs.csv")
    call = [sys.executable, "-m", "bayes_optlaws.cli.main", "check", "--json", path]
    done = subprocess.run(call, capture_output=True, text=True, env=dict(os.environ), timeout=120)
    assert done.returncode == 1
    assert len(json.loads(done.stdout)["problems"]) == 260
    assert done.stderr == ""
