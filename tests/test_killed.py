"""Work that is killed at random moments and started again ends as work that was left in peace."""

import multiprocessing
import os
import signal
import sys
import time

import killable
import numpy as np
import pytest

from bayes_optlaws.law import OptLaw

KILLS = 20
PATIENCE = 600.0
"""Seconds after which work that was not disturbed is taken to hang."""


@pytest.fixture(scope="module")
def context():
    """Processes that begin with everything imported, so that a kill meets the work itself."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killable"])
    with pytest.MonkeyPatch.context() as patch:  # the server takes its path from there alone
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        yield context


def _finish(context, work, folder, result):
    """Do work that nothing disturbs; return its seconds."""
    process = context.Process(target=work, args=(folder, result))
    begin = time.monotonic()
    process.start()
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
    assert process.exitcode == 0
    return time.monotonic() - begin


def _kill(context, work, folder, result, *, after):
    """Start work and kill it; return whether it was still going on."""
    process = context.Process(target=work, args=(folder, result))
    process.start()
    process.join(after)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "work", [killable.evaluation, killable.calibration_study, killable.replayed]
)
def test_a_study_that_is_killed_again_and_again_has_the_same_result(work, context, tmp_path, rng):
    peace = tmp_path / "peace.csv"
    _finish(context, work, tmp_path / "compiles", peace)
    needed = _finish(context, work, tmp_path / "undisturbed", peace)
    kills = rounds = 0
    while kills < KILLS or not rounds:
        folder, result = tmp_path / f"round-{rounds}", tmp_path / f"result-{rounds}.csv"
        while not result.exists() and kills < KILLS:
            kills += _kill(context, work, folder, result, after=needed * rng.uniform(0.05, 0.9))
        if not result.exists():
            _finish(context, work, folder, result)
        assert result.read_text() == peace.read_text()
        rounds += 1
        assert rounds < 10 * KILLS, "it is never caught at work"


@pytest.mark.slow
def test_a_fit_that_is_killed_leaves_no_law_or_the_whole_one(context, tmp_path, rng):
    target = tmp_path / "laws" / "law.nc"
    _finish(context, killable.fit, tmp_path, tmp_path / "compiles.nc")
    needed = _finish(context, killable.fit, tmp_path, tmp_path / "peace.nc")
    beta = OptLaw.load(tmp_path / "peace.nc").fitted.draws.beta
    for _ in range(KILLS):
        _kill(context, killable.fit, tmp_path, target, after=needed * rng.uniform(0.05, 1.2))
        if target.exists():
            np.testing.assert_array_equal(OptLaw.load(target).fitted.draws.beta, beta)
            target.unlink()
    _finish(context, killable.fit, tmp_path, target)
    np.testing.assert_array_equal(OptLaw.load(target).fitted.draws.beta, beta)


@pytest.mark.slow
def test_a_save_that_is_killed_leaves_one_law_or_the_other(small_law, context, tmp_path, rng):
    small_law.save(tmp_path / "first.nc")
    _finish(context, killable.fit, tmp_path, tmp_path / "second.nc")
    known = [OptLaw.load(tmp_path / f"{n}.nc").fitted.draws.beta for n in ("first", "second")]
    target = small_law.save(tmp_path / "law.nc")
    for _ in range(KILLS):
        assert _kill(context, killable.saves, tmp_path, target, after=rng.uniform(0.2, 4))
        beta = OptLaw.load(target).fitted.draws.beta
        assert any(np.array_equal(beta, one) for one in known)
