"""Run tables from trackers: real stores and files, written here by the trackers' own libraries."""

import json
import math
import sys

import numpy as np
import pandas as pd
import pytest

import bayes_optlaws as bo
from bayes_optlaws.runs.curves import final_loss
from bayes_optlaws.runs.readers import RunTableError
from bayes_optlaws.runs.wandb_files import read_offline_run

POINTS = 400
RATES = [5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 6.4e-2]


def sweep():
    """Settings and loss curves of six runs; the last one ends in NaN."""
    rng = np.random.default_rng(4)
    for i, lr in enumerate(RATES):
        steps = 5 * np.arange(1, POINTS + 1)
        floor = 3.0 + 0.05 * math.log(lr / 2e-3) ** 2
        curve = floor + 4 * np.exp(-steps / 200) + rng.normal(0, 0.01, POINTS)
        if i == 5:
            curve[300:] = np.nan
        settings = {
            "n_params": 50_000_000, "max_steps": 2000, "global_batch_size": 256, "seq_len": 2048,
            "lr": lr, "warmup_ratio": 0.05, "lr_scheduler_type": "cosine", "min_lr_ratio": 0.1,
        }  # fmt: skip
        yield f"run-{i}", settings, steps, curve


def check_sweep(runs, *, loss_tolerance=1e-6):
    """Assert that a run table holds the sweep."""
    assert sorted(runs["run_id"]) == [f"run-{i}" for i in range(6)]
    runs = runs.sort_values("run_id")
    assert runs["peak_lr"].tolist() == RATES
    assert (runs["batch_tokens"] == 256 * 2048).all() and (runs["warmup_steps"] == 100).all()
    assert runs["diverged"].tolist() == [False] * 5 + [True]
    for (_, _, steps, curve), row in zip(sweep(), runs.itertuples(), strict=True):
        tail = curve[steps > 2000 - 0.02 * (2000 - 5)]
        if np.isnan(curve[-1]):
            assert np.isnan(row.final_loss) and np.isnan(row.loss_sd)
        else:
            assert row.final_loss == pytest.approx(tail.mean(), rel=loss_tolerance)
            assert 0 < row.loss_sd < 0.02
    assert any("mean of" in note for note in runs.attrs["notes"])


# The mean of the last part of a curve.
@pytest.mark.parametrize("r", [0.0, 0.6])
def test_the_standard_error_of_the_final_loss_is_that_of_simulated_curves(r):
    """Spread of the mean over 2,000 curves of a stationary AR(1) noise, against the mean sd."""
    rng = np.random.default_rng(7)
    n, share, count = 1000, 0.1, 2000
    noise = np.empty((count, n))
    noise[:, 0] = rng.normal(size=count)
    for t in range(1, n):
        noise[:, t] = r * noise[:, t - 1] + math.sqrt(1 - r * r) * rng.normal(size=count)
    found = np.array([final_loss(np.arange(n), 3 + 0.1 * x, share=share)[:2] for x in noise])
    spread = found[:, 0].std(ddof=1)
    assert abs(found[:, 0].mean() - 3) < 4 * spread / math.sqrt(count)
    # the sd of a spread of 2,000 means is 1.6 %; r is estimated from 100 points, hence the rest
    assert found[:, 1].mean() == pytest.approx(spread, rel=0.12)


def test_final_losses_of_odd_curves():
    steps = np.arange(100.0)
    assert math.isnan(final_loss([], [])[0])
    assert final_loss([5], [2.5])[0] == 2.5
    mean, sd, diverged = final_loss(steps, np.full(100, 2.0))
    assert (mean, diverged) == (2.0, False) and math.isnan(sd)  # two points tell no spread
    shuffled = np.random.default_rng(0).permutation(100)
    assert final_loss(steps[shuffled], steps[shuffled] / 50)[0] == final_loss(steps, steps / 50)[0]
    again = final_loss(np.r_[steps, 99.0], np.r_[steps / 50, 7.0])  # a restart logs a step twice
    assert again[0] == pytest.approx((98 / 50 + 7) / 2)
    for end in (np.nan, np.inf):
        assert final_loss(steps, np.r_[steps[:-1], end])[2]
    with pytest.raises(ValueError, match="share"):
        final_loss(steps, steps, share=2)
    with pytest.raises(ValueError, match="shape"):
        final_loss(steps, steps[1:])


# Hugging Face Trainer: files of plain JSON, no library needed.
def write_trainer(root):
    for name, settings, steps, curve in sweep():
        home = root / name
        for done in (200, POINTS):
            folder = home / f"checkpoint-{5 * done}"
            folder.mkdir(parents=True)
            log = [
                {"step": int(s), "loss": float(v), "learning_rate": 1e-5}
                for s, v in zip(steps[:done], curve[:done], strict=True)
            ]
            state = {"global_step": 5 * done, "max_steps": 2000, "log_history": log}
            (folder / "trainer_state.json").write_text(json.dumps(state))
        (home / "training_args.json").write_text(json.dumps(settings))


def test_folders_of_the_trainer(tmp_path):
    write_trainer(tmp_path)
    check_sweep(bo.from_trainer(tmp_path))
    with pytest.raises(FileNotFoundError, match="trainer_state"):
        bo.from_trainer(tmp_path / "none")
    (tmp_path / "run-0" / "training_args.json").write_text("{broken")
    with pytest.raises(RunTableError, match="must be JSON"):
        bo.from_trainer(tmp_path)


def test_several_losses_are_asked_about(tmp_path):
    write_trainer(tmp_path)
    for path in tmp_path.rglob("checkpoint-2000/trainer_state.json"):
        state = json.loads(path.read_text())
        state["log_history"].append({"step": 2000, "eval_loss": 3.3})
        path.write_text(json.dumps(state))
    with pytest.raises(RunTableError, match="pass loss='eval_loss'"):
        bo.from_trainer(tmp_path)
    runs = bo.from_trainer(tmp_path, loss="eval_loss")
    assert (runs["final_loss"] == 3.3).all() and "loss_sd" not in runs
    check_sweep(bo.from_trainer(tmp_path, loss="loss"))


def test_peak_rate_from_the_log_where_no_setting_says_it(tmp_path):
    write_trainer(tmp_path)
    for path in tmp_path.rglob("training_args.json"):
        settings = json.loads(path.read_text())
        del settings["lr"]
        path.write_text(json.dumps(settings))
    assert (bo.from_trainer(tmp_path)["peak_lr"] == 1e-5).all()


# MLflow: a real store in SQLite.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's use of SQLAlchemy
def test_an_mlflow_store(tmp_path):
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.create_experiment("sweep", artifact_location=str(tmp_path))
    for name, settings, steps, curve in sweep():
        run = client.create_run(experiment, run_name=name).info.run_id
        params = [Param(k, str(v)) for k, v in settings.items()]
        pairs = zip(steps.tolist(), curve.tolist(), strict=True)
        points = [Metric("train_loss", v, 0, s) for s, v in pairs]
        points += [Metric("learning_rate", 1e-9, 0, 2000)]
        client.log_batch(run, metrics=points, params=params)
        client.set_terminated(run)
    check_sweep(bo.from_mlflow("sweep", tracking_uri=uri))
    check_sweep(bo.from_mlflow(experiment, tracking_uri=uri))
    with pytest.raises(ValueError, match="there are .*sweep"):
        bo.from_mlflow("sweeep", tracking_uri=uri)
    killed = client.create_run(experiment, run_name="killed").info.run_id
    client.log_batch(killed, params=[Param(k, str(v)) for k, v in settings.items()])
    client.set_terminated(killed, status="KILLED")
    with pytest.raises(RunTableError) as caught:
        bo.from_mlflow("sweep", tracking_uri=uri)
    assert caught.value.answers == {"status": {"killed": "diverged"}}
    check_sweep(bo.from_mlflow("sweep", tracking_uri=uri, status={"killed": "drop"}))


# W&B: run files written offline, and a stand-in for the public interface.
def test_offline_runs_of_wandb(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    for name, settings, steps, curve in sweep():
        config = {"model": {"n_params": settings["n_params"]}, "optimizer": {"lr": settings["lr"]}}
        config |= {k: v for k, v in settings.items() if k not in ("n_params", "lr")}
        run = wandb.init(
            project="sweep", dir=tmp_path, name=name, config=config,
            settings=wandb.Settings(console="off", x_disable_stats=True),
        )  # fmt: skip
        for s, v in zip(steps, curve, strict=True):
            run.log({"train/loss": float(v), "train/lr": 1e-9}, step=int(s))
        run.finish()
    check_sweep(bo.from_wandb(tmp_path))
    only = next(p for p in tmp_path.rglob("*.wandb") if read_offline_run(p).name == "run-0")
    with pytest.raises(RunTableError, match="at least 5 runs"):
        bo.from_wandb(only)
    cut = tmp_path / "cut" / "run-cut.wandb"  # a run that was killed has no end
    cut.parent.mkdir()
    cut.write_bytes(only.read_bytes()[:-2000])
    with pytest.raises(RunTableError, match="crashed"):
        bo.from_wandb(cut.parent, min_runs=1)
    cut.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="no run file"):
        bo.from_wandb(cut)
    with pytest.raises(FileNotFoundError, match="holds no"):
        bo.from_wandb(empty(tmp_path))


def empty(folder):
    (folder / "empty").mkdir()
    return folder / "empty"


class StandInApi:
    """The part of wandb.Api that is used, over the sweep."""

    def runs(self, path, filters):
        assert path == "team/sweep" and filters == {"state": "finished"}
        return [StandInRun(*run) for run in sweep()]


class StandInRun:
    def __init__(self, name, settings, steps, curve):
        self.name, self.id, self.state, self.config = name, f"id-{name}", "finished", settings
        self.summary_metrics = {"train/loss": float(curve[-1]), "_step": 2000, "lr": 0.0}
        self._points = list(zip(steps, curve, strict=True))

    def scan_history(self, keys):
        return [dict(zip(keys, point, strict=True)) for point in self._points]


def test_the_public_interface_of_wandb():
    found = bo.from_wandb("team/sweep", api=StandInApi(), filters={"state": "finished"})
    check_sweep(found)


# TensorBoard: event files written by its own writer.
def write_events(root):
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    for name, settings, steps, curve in sweep():
        writer = EventFileWriter(str(root / name))
        for s, v in zip(steps, curve, strict=True):
            value = Summary.Value(tag="train/loss", simple_value=float(v))
            writer.add_event(Event(step=int(s), summary=Summary(value=[value])))
        writer.close()
        yield name, settings


def test_event_files_of_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    settings = dict(write_events(tmp_path))
    given = pd.DataFrame.from_dict(settings, orient="index")
    check_sweep(bo.from_tensorboard(tmp_path, settings=given), loss_tolerance=1e-6)
    with pytest.raises(RunTableError, match="needs its settings"):
        bo.from_tensorboard(tmp_path, settings=given.iloc[:3])
    for name, values in settings.items():
        (tmp_path / name / "hparams.json").write_text(json.dumps(values))
    check_sweep(bo.from_tensorboard(tmp_path), loss_tolerance=1e-6)
    with pytest.raises(FileNotFoundError, match="no event file"):
        bo.from_tensorboard(empty(tmp_path))


def test_a_library_that_is_absent_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ImportError, match=r"pip install 'bayes-optlaws\[mlflow\]'"):
        bo.from_mlflow("sweep")
