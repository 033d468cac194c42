"""What an import loads: slow libraries come with the first call that needs them."""

import json
import subprocess
import sys

import pytest

import bayes_optlaws as bo

SLOW = ("arviz_stats", "matplotlib", "numba", "nutpie", "pymc", "scipy.stats")


def loaded(code: str) -> set[str]:
    """Modules that are loaded after the code has run in a fresh interpreter."""
    shown = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(json.loads(shown.stdout.splitlines()[-1]))


@pytest.mark.parametrize("use", ["OptLaw", "datasets.load('pocket')", "candidates"])
def test_slow_libraries_wait_for_their_use(use):
    assert not loaded(f"import bayes_optlaws\nbayes_optlaws.{use}") & set(SLOW)


def test_the_check_finds_what_it_is_for():
    assert {"numba", "scipy.stats"} <= loaded("import bayes_optlaws\nbayes_optlaws.OptLaw()")


def test_every_public_name_is_there():
    assert {"OptLaw", "read_runs", "__version__"} <= set(bo.__all__)
    assert [name for name in bo.__all__ if not hasattr(bo, name)] == []
    with pytest.raises(AttributeError, match="OptLaws"):
        _ = bo.OptLaws
