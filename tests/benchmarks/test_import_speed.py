"""CPU seconds of importing the package, beside those of what it is built on."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.benchmark

ROUNDS = 5
TARGET = 0.7


def cpu_seconds(code: str) -> float:
    """Least CPU seconds of a fresh interpreter that runs the code, its own start included."""
    timed = f"{code}\nimport time\nprint(time.process_time())"
    return min(
        float(subprocess.check_output([sys.executable, "-c", timed], text=True))
        for _ in range(ROUNDS)
    )


def test_the_import_costs_about_what_pandas_costs():
    figures = {
        code: cpu_seconds(code)
        for code in (
            "pass",
            "import numpy",
            "import pandas",
            "import bayes_optlaws; bayes_optlaws.OptLaw",
            "import scipy.stats",
            "import arviz_stats",
            "import pymc",
        )
    }
    print()
    for code, seconds in figures.items():
        print(f"{seconds:6.2f} CPU s  {code}")
    ours = figures["import bayes_optlaws; bayes_optlaws.OptLaw"]
    assert ours < TARGET
    assert ours < 2 * figures["import pandas"]
