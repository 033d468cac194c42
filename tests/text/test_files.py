"""Outputs are written whole or not at all, and spreadsheets run nothing of them."""

import errno
import os
import resource
import socket
import subprocess
import sys

import pandas as pd
import pytest

from bayes_optlaws.text import files


def test_a_new_file_has_the_mode_of_the_umask_and_an_old_one_keeps_its_own(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    new = files.write(tmp_path / "deep" / "new.txt", "a")
    assert new.stat().st_mode == plain.stat().st_mode
    new.chmod(0o640)
    files.write(new, "b")
    assert (new.read_text(), new.stat().st_mode & 0o777) == ("b", 0o640)


def test_a_link_is_followed(tmp_path):
    target, link, dangling = tmp_path / "target", tmp_path / "link", tmp_path / "dangling"
    target.write_text("old")
    link.symlink_to(target)
    dangling.symlink_to(tmp_path / "not-yet")
    for name in (link, dangling):
        files.write(name, "new")
        assert name.is_symlink() and name.read_text() == "new"


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "sock"))
    for path, kind in [
        (tmp_path, "folder"), (tmp_path / "pipe", "pipe"), (tmp_path / "sock", "socket"),
        ("/dev/null", "device"),
    ]:  # fmt: skip
        with pytest.raises(OSError, match=f"is a {kind}: give the name of a file"):
            files.write(path, "x")


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_a_fault_at_any_step_leaves_the_old_file_alone(tmp_path, monkeypatch, step, fault):
    path = files.write(tmp_path / "a.csv", "old")

    def stop(*args):
        raise fault

    monkeypatch.setattr(os, step, stop)
    with pytest.raises(type(fault)):
        files.write(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("name", ["ranking.csv", "law.nc"])
def test_a_file_system_that_takes_no_more_leaves_the_old_file(tmp_path, name):
    """A limit on the size of files fails in the write itself, as a full disk does."""
    path = files.write(tmp_path / name, "old")
    code = (
        "import resource, signal, sys\n"
        "from bayes_optlaws.text import files\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "try:\n    files.write(sys.argv[1], b'x' * 100_000)\n"
        "except OSError as error:\n    print('refused', error.errno)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["refused", str(errno.EFBIG)]
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 5000


def test_parts_of_killed_writers_are_swept_and_those_of_live_ones_are_not(tmp_path):
    old, young = tmp_path / f".a.csv.{'0' * 16}.part", tmp_path / f".a.csv.{'1' * 16}.part"
    other, foreign = tmp_path / f".b.csv.{'2' * 16}.part", tmp_path / "movie.part"
    for path in (old, young, other, foreign):
        path.write_text("half")
    for path in (old, other, foreign):
        os.utime(path, (1e9, 1e9))
    files.write(tmp_path / "a.csv", "x")
    assert not old.exists()
    assert young.exists() and other.exists() and foreign.exists()
    files.remove_leftovers(tmp_path)
    assert not other.exists()
    assert young.exists() and foreign.exists()


def test_names_as_long_as_the_file_system_allows(tmp_path):
    assert files.write(tmp_path / ("é" * 125 + ".csv"), "x").read_text() == "x"


def test_a_csv_holds_no_formula_and_the_numbers_are_as_they_were():
    table = pd.DataFrame(
        {"=cmd": ["=1+1", "@x", "-x", "+y", "\tz", "-1.5", "a=b"], "n": [-1.0, 2, 3, 4, 5, 6, 7]},
        index=["=a", *"bcdefg"],
    )
    lines = files.csv_text(table, index_label="candidate").splitlines()
    assert lines[0] == "candidate,'=cmd,n"
    assert [line.split(",")[1] for line in lines[1:]] == [
        "'=1+1", "'@x", "'-x", "'+y", "'\tz", "-1.5", "a=b",
    ]  # fmt: skip
    assert lines[1] == "'=a,'=1+1,-1.0"
    assert table.iloc[0, 0] == "=1+1"
