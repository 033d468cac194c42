"""Work that is killed at random moments and started again ends as work that was left in peace."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from bayes_optlaws.law import OptLaw

KILLS = 20

HEAD = """
import sys, warnings
from pathlib import Path
import bayes_optlaws as bo
from bayes_optlaws import datasets
from bayes_optlaws.text import files
from studies import replay, sbc
folder, result = Path(sys.argv[1]), Path(sys.argv[2])
runs = bo.read_runs(datasets.load("pocket"))
print("ready", flush=True)
"""

RESUMED = {
    "evaluate": """
found = bo.evaluate(
    bo.baselines.Chinchilla(), runs, k=5, folder=folder, n_boot=5, baselines=["simplified"])
table = found.drop(columns=["seconds", "cpu_seconds"])
files.write(result, table.to_csv(float_format="%.9g"))
""",
    "sbc": """
few = {"scale": (-0.3, 0.3), "mixed": (0.15,), "escape": (0.3, 0.5), "cross": (0.2,)}
table = sbc.study(runs, 4, folder, draws=150, tune=150, chains=2,
    law_options={"transfer": False, "exponents": few})
columns = ["replication", "quantity", "truth", "rank", "lower", "upper"]
files.write(result, table[columns].to_csv(float_format="%.9g"))
""",
    "replay": """
table = replay.study("pocket", folder, objectives=("random",), shares=(0.02, 0.05), repeats=2,
    law_repeats=1, draws=100, tune=100)
measures = [m for m in replay.MEASURES if m != "seconds"]
files.write(result, table[measures].to_csv(float_format="%.9g"))
""",
}
FIT = """
law = bo.OptLaw(transfer=False, divergence=False)
law.fit(runs, draws=150, tune=100, chains=2, random_seed=3, progressbar=False)
law.save(result)
"""
SAVE = """
first = bo.OptLaw.load(folder / "first.nc")
second = bo.OptLaw.load(folder / "second.nc")
while True:
    first.save(result)
    second.save(result)
"""


def _start(script, *places):
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + script, *map(str, places)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    process.stdout.readline()
    return process


def _finish(script, *places):
    """Seconds that undisturbed work takes after its imports."""
    process = _start(script, *places)
    begin = time.monotonic()
    said = process.communicate(timeout=600)[1]
    assert process.returncode == 0, said
    return time.monotonic() - begin


def _killed(script, *places, after):
    process = _start(script, *places)
    time.sleep(after)
    process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("kind", RESUMED)
def test_a_study_that_is_killed_again_and_again_has_the_same_result(kind, tmp_path, rng):
    peace, folder = tmp_path / "peace.csv", tmp_path / "disturbed"
    needed = _finish(RESUMED[kind], tmp_path / "undisturbed", peace)
    for _ in range(KILLS):
        _killed(RESUMED[kind], folder, tmp_path / "out.csv", after=needed * rng.uniform(0, 0.7))
    _finish(RESUMED[kind], folder, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == peace.read_text()


@pytest.mark.slow
def test_a_fit_that_is_killed_leaves_no_law_or_the_whole_one(tmp_path, rng):
    needed = _finish(FIT, tmp_path, tmp_path / "peace.nc")
    beta = OptLaw.load(tmp_path / "peace.nc").fitted.draws.beta
    for _ in range(KILLS):
        target = tmp_path / "law.nc"
        target.unlink(missing_ok=True)
        _killed(FIT, tmp_path, target, after=needed * rng.uniform(0, 1.1))
        if target.exists():
            np.testing.assert_array_equal(OptLaw.load(target).fitted.draws.beta, beta)


@pytest.mark.slow
def test_a_save_that_is_killed_leaves_one_law_or_the_other(small_law, tmp_path, rng):
    small_law.save(tmp_path / "first.nc")
    _finish(FIT, tmp_path, tmp_path / "second.nc")
    known = [OptLaw.load(tmp_path / f"{n}.nc").fitted.draws.beta for n in ("first", "second")]
    target = small_law.save(tmp_path / "law.nc")
    for _ in range(KILLS):
        _killed(SAVE, tmp_path, target, after=rng.uniform(0, 8))
        beta = OptLaw.load(target).fitted.draws.beta
        assert any(np.array_equal(beta, one) for one in known)
