"""Evaluation, calibration and replay on a Dask cluster: as on one machine, also when a worker dies.

Needs the extra ``distributed``; each test starts two worker processes of its own.
"""

import json
import os
import signal
import threading
import time

import joblib
import numpy as np
import pandas as pd
import pytest

import bayes_optlaws as bo
from bayes_optlaws import baselines
from studies import replay, sbc

distributed = pytest.importorskip("distributed")

pytestmark = [
    pytest.mark.slow,
    # What Dask warns of on its way up and down is not this package's.
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture
def client():
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.wait_for_workers(2)
        yield client


def figures(table):
    """A table of `evaluate` without the time it took."""
    return table.drop(columns="seconds")


def test_evaluate_on_two_workers_is_identical(client, pocket, tmp_path):
    law = bo.OptLaw(transfer=False, divergence=False)
    options = {
        "protocol": "hold-out-largest-n", "baselines": ["chinchilla", "linear", "constant"],
        "draws": 100, "tune": 50, "chains": 2, "n_boot": 20,
    }  # fmt: skip
    here = bo.evaluate(law, pocket, **options)
    with joblib.parallel_config(backend="dask"):
        there = bo.evaluate(law, pocket, n_jobs=2, folder=tmp_path, **options)
    pd.testing.assert_frame_equal(figures(here), figures(there))
    assert len(list(tmp_path.iterdir())) == 4


def test_work_is_finished_when_a_worker_dies(client, pocket, tmp_path):
    law = baselines.GaussianProcess()
    options = {"protocol": "kfold-within-block", "k": 12, "n_boot": 20}
    pids = client.run(os.getpid)
    assert len(set(pids.values()) | {os.getpid()}) == 3
    found = []

    def run():
        with joblib.parallel_config(backend="dask"):
            found.append(bo.evaluate(law, pocket, n_jobs=2, folder=tmp_path, **options))

    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive() and len(list(tmp_path.glob("[!.]*"))) < 2:
        time.sleep(0.02)
    done_before = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("[!.]*")}
    victim = next(iter(pids.values()))
    os.kill(victim, signal.SIGKILL)
    assert len(done_before) < 12, "all was done before a worker could be killed"
    thread.join(timeout=300)
    assert not thread.is_alive()
    files = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("[!.]*")}
    assert len(files) == 12  # one a task: none lost, none twice
    assert all(files[name] == when for name, when in done_before.items())
    folds = found[0].attrs["folds"]
    assert sorted(f["split"] for f in folds) == sorted(f"fold {i + 1} of 12" for i in range(12))
    pd.testing.assert_frame_equal(figures(found[0]), figures(bo.evaluate(law, pocket, **options)))


def test_calibration_study_on_two_workers_is_identical(client, pocket, tmp_path):
    options = {"law_options": {"transfer": False}, "draws": 100, "tune": 50, "chains": 2}
    here = sbc.study(pocket, 2, tmp_path / "here", **options)
    with joblib.parallel_config(backend="dask"):
        there = sbc.study(pocket, 2, tmp_path / "there", n_jobs=2, **options)
    pd.testing.assert_frame_equal(here.drop(columns="seconds"), there.drop(columns="seconds"))


def test_replay_on_two_workers_is_identical_and_resumes(client, tmp_path):
    options = {
        "objectives": ["cheapest", "random"], "shares": (0.05,), "repeats": 1,
        "law_repeats": 1, "draws": 100,
    }  # fmt: skip
    with joblib.parallel_config(backend="dask"):
        there = replay.study("pocket", tmp_path / "there", n_jobs=2, **options)
    names = sorted(p.name for p in (tmp_path / "there" / "pocket").iterdir())
    assert names == ["cheapest_5_0.json", "random_5_0.json"]
    kept = tmp_path / "here" / "pocket"
    kept.mkdir(parents=True)
    text = (tmp_path / "there" / "pocket" / names[0]).read_text()
    kept.joinpath(names[0]).write_text(text)  # is not done again
    here = replay.study("pocket", tmp_path / "here", **options)
    assert kept.joinpath(names[0]).read_text() == text
    assert np.isfinite(json.loads(text)["regret"])
    drop = ["seconds", "seconds_se"]
    pd.testing.assert_frame_equal(here.drop(columns=drop), there.drop(columns=drop))
