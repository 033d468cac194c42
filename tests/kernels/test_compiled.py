"""Compiled code is never stale, lies in a private folder, and does without one."""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bayes_optlaws.kernels import compiled

PACKAGE = compiled.PACKAGE

CALLEE = """
from bayes_optlaws.kernels.compiled import njit

@njit()
def callee(x):
    return x + {}
"""
CALLER = """
from bayes_optlaws.kernels.callee import callee
from bayes_optlaws.kernels.compiled import njit

@njit()
def caller(x):
    return 2.0 * callee(x)
"""
PROGRAM = (
    "from bayes_optlaws.kernels.caller import caller; print(caller(1.0));"
    "print(len(caller.stats.cache_hits))"
)


@pytest.fixture
def package(tmp_path):
    """A copy of the kernels' package with two functions of two files, one calling the other."""
    kernels = tmp_path / "src" / "bayes_optlaws" / "kernels"
    kernels.mkdir(parents=True)
    (kernels.parent / "__init__.py").touch()
    (kernels / "__init__.py").touch()
    shutil.copy(PACKAGE / "kernels" / "compiled.py", kernels)
    (kernels / "callee.py").write_text(CALLEE.format(1.0))
    (kernels / "caller.py").write_text(CALLER)
    return kernels


def run(package, **environment):
    """Value of the caller, and how often its code came from the cache."""
    env = os.environ | {"PYTHONPATH": str(package.parents[1])} | environment
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True,
        cwd=package.parents[1],
    )  # fmt: skip
    value, hits = done.stdout.split()
    return float(value), int(hits)


def test_a_changed_callee_changes_the_result(package, tmp_path):
    cache = tmp_path / "cache"
    named = {"BAYES_OPTLAWS_CACHE": str(cache)}
    assert run(package, **named) == (4.0, 0)
    assert run(package, **named) == (4.0, 1)  # from disk
    (package / "callee.py").write_text(CALLEE.format(400.0))
    assert run(package, **named) == (802.0, 0)
    folders = sorted(cache.iterdir())
    assert len(folders) == 2
    assert all(stat.S_IMODE(f.stat().st_mode) == 0o700 for f in (cache, *folders))
    # what the old kernels left is found again when they come back
    (package / "callee.py").write_text(CALLEE.format(1.0))
    assert run(package, **named) == (4.0, 1)


def test_unused_folders_go_after_a_while(package, tmp_path):
    cache = tmp_path / "cache"
    old, recent = cache / "0123456789abcdef", cache / "fedcba9876543210"
    for f in (old, recent):
        f.mkdir(parents=True)
    past = 1_000_000_000
    os.utime(old, (past, past))
    run(package, BAYES_OPTLAWS_CACHE=str(cache))
    assert recent.exists() and not old.exists()


def test_where_nothing_can_be_written_kernels_still_run(package, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    nowhere = {
        "BAYES_OPTLAWS_CACHE": str(blocked / "a"), "XDG_CACHE_HOME": str(blocked / "b"),
        "HOME": str(blocked / "c"), "TMPDIR": str(blocked / "d"),
    }  # fmt: skip
    program = (
        f"import tempfile; tempfile.tempdir = {str(blocked / 'd')!r};"
        "from bayes_optlaws.kernels import compiled; assert compiled.folder() is None;" + PROGRAM
    )
    env = os.environ | nowhere | {"PYTHONPATH": str(package.parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, cwd=package
    )
    assert not done.stderr
    assert done.stdout.split()[0] == "4.0"


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners there")
def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert not compiled._private(tmp_path / "link")
    assert compiled._private(tmp_path / "real")


def test_the_digest_covers_every_file_that_compiles():
    """A decorator of numba's own would keep its code where it can become stale."""
    own = {p.relative_to(PACKAGE).as_posix() for p in compiled.sources()}
    for path in PACKAGE.rglob("*.py"):
        name, text = path.relative_to(PACKAGE).as_posix(), path.read_text()
        if re.search(r"^\s*@njit|^\s*@cfunc|[^.]cfunc\(", text, flags=re.MULTILINE):
            assert name in own, name
        if name != "kernels/compiled.py":
            assert not re.search(r"from numba import .*\b(njit|jit|cfunc|prange)\b", text), name
            assert not re.search(r"cache=True|parallel=True", text), name
    assert "kernels/marginal.py" in own and "inference/draws.py" in own


def test_the_folder_is_that_of_the_digest():
    found = compiled.folder()
    assert found is None or (isinstance(found, Path) and found.name == compiled.digest())
