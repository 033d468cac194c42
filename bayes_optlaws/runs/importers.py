"""Run tables straight from trackers: W&B, MLflow, Hugging Face Trainer, TensorBoard.

Each importer collects settings and curves with the tracker's own library (an extra) and hands them
to `bayes_optlaws.read_runs`, whose options it takes. Where the loss curve is there, ``final_loss``
is the mean over its last part and ``loss_sd`` the standard error of that mean.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bayes_optlaws.runs.curves import SHARE, final_loss
from bayes_optlaws.runs.faults import table_fault
from bayes_optlaws.runs.names import ROLES, normal, role_of
from bayes_optlaws.runs.readers import read_runs
from bayes_optlaws.runs.wandb_files import LoggedRun, read_offline_run

__all__ = ["from_mlflow", "from_tensorboard", "from_trainer", "from_wandb"]

_LOSSES = ("final_loss", "perplexity", "bits_per_token", "bits_per_byte")
# Of what was logged, only these are facts about a run; others, such as the LR, are last values.
_FACTS = (*_LOSSES, "tokens", "n_params", "diverged")


def from_wandb(
    source: str | PathLike,
    *,
    loss: str | None = None,
    share: float = SHARE,
    api: Any = None,
    filters: Mapping[str, object] | None = None,
    **options: object,
) -> pd.DataFrame:
    """Read the runs of a W&B project, or the run files that W&B wrote offline.

    Parameters
    ----------
    source : str or path
        ``"entity/project"``, or a folder with ``offline-run-*`` folders or ``run-*.wandb`` files,
        or one such file. Needs ``pip install 'bayes-optlaws[wandb]'``.
    loss : str, optional
        Name of the logged loss, such as ``"eval/loss"``; needed where there are several.
    share : float
        Part of the steps at the end over which the loss is averaged.
    api : wandb.Api, optional
        To be asked; one is made by default.
    filters : mapping, optional
        As in ``wandb.Api.runs``.
    **options
        Of `bayes_optlaws.read_runs`.

    Returns
    -------
    DataFrame
        Run table; ``loss_sd`` where the curve was logged.

    Raises
    ------
    ImportError
        When wandb is not installed.
    FileNotFoundError
        When the folder holds no run file.
    RunTableError
        As `bayes_optlaws.read_runs`.

    Examples
    --------
    >>> runs = from_wandb("wandb/", loss="eval/loss")  # doctest: +SKIP
    """
    path = Path(source)
    if api is None and path.exists():
        _library("wandb", "wandb")
        files = [path] if path.is_file() else sorted(path.rglob("run-*.wandb"))
        if not files:
            raise FileNotFoundError(f"{path} holds no run-*.wandb file")
        return _table(map(read_offline_run, files), loss, share, options)
    client = _library("wandb", "wandb").Api() if api is None else api
    found = client.runs(str(source), filters=dict(filters or {}))
    return _table((_of_api(run, loss) for run in found), loss, share, options)


def _of_api(run: Any, loss: str | None) -> LoggedRun:
    """Turn a run of W&B's public interface into ours."""
    summary = _flat(run.summary_metrics)
    logged = LoggedRun(run.name, run.id, run.state, _flat(run.config), summary)
    names = [loss] if loss else [k for k in logged.summary if _is_loss(k)]
    for name in names:
        for row in run.scan_history(keys=["_step", name]):
            logged.log(name, row["_step"], row[name])
    return logged


def from_mlflow(
    experiment: str,
    *,
    tracking_uri: str | None = None,
    loss: str | None = None,
    share: float = SHARE,
    **options: object,
) -> pd.DataFrame:
    """Read the runs of an MLflow experiment.

    Parameters
    ----------
    experiment : str
        Name or id.
    tracking_uri : str, optional
        Such as ``"sqlite:///mlflow.db"``; MLflow's own setting by default. Needs
        ``pip install 'bayes-optlaws[mlflow]'``.
    loss, share, **options
        As for `from_wandb`.

    Returns
    -------
    DataFrame
        Run table; ``loss_sd`` where the curve was logged.

    Raises
    ------
    ImportError
        When MLflow is not installed.
    ValueError
        When there is no such experiment.
    RunTableError
        As `bayes_optlaws.read_runs`.

    Examples
    --------
    >>> runs = from_mlflow("sweep", tracking_uri="sqlite:///mlflow.db")  # doctest: +SKIP
    """
    _library("mlflow", "mlflow")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri)
    found = client.get_experiment_by_name(experiment)
    if found is None and str(experiment).isdigit():
        found = client.get_experiment(str(experiment))
    if found is None:
        names = ", ".join(e.name for e in client.search_experiments(max_results=10))
        raise ValueError(f"no experiment {experiment!r}; there are {names}")

    def runs() -> Iterable[LoggedRun]:
        token = None
        while True:
            page = client.search_runs([found.experiment_id], max_results=1000, page_token=token)
            for run in page:
                yield _of_mlflow(client, run, loss)
            token = page.token
            if not token:
                return

    return _table(runs(), loss, share, options)


def _of_mlflow(client: Any, run: Any, loss: str | None) -> LoggedRun:
    name = run.info.run_name or ""
    state = str(run.info.status).lower()
    logged = LoggedRun(name, run.info.run_id, state, dict(run.data.params), dict(run.data.metrics))
    for key in logged.summary:
        if key == loss or (loss is None and _is_loss(key)):
            for point in client.get_metric_history(run.info.run_id, key):
                logged.log(key, point.step, point.value)
    return logged


def from_trainer(
    folder: str | PathLike,
    *,
    loss: str | None = None,
    share: float = SHARE,
    **options: object,
) -> pd.DataFrame:
    """Read folders of the Hugging Face Trainer: one ``trainer_state.json`` a run.

    Parameters
    ----------
    folder : path
        Searched to any depth. Of the checkpoints of one run the last counts. Settings are those of
        the state, of ``config.json`` and of every ``*.json`` with flat settings beside it
        (``training_args.json``, ``hparams.json``); what these files lack, such as ``n_params`` or
        the LR of an old run, goes into one of them, or comes by ``columns``.
    loss, share, **options
        As for `from_wandb`. ``training_args.bin`` is a pickle and is not opened.

    Returns
    -------
    DataFrame
        Run table; runs are named by their folder.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    RunTableError
        As `bayes_optlaws.read_runs`.

    Examples
    --------
    >>> runs = from_trainer("outputs/", sequence_length=2048)  # doctest: +SKIP
    """
    root = Path(folder)
    states: dict[Path, tuple[float, Path]] = {}
    for path in sorted(root.rglob("trainer_state.json")):
        inside = path.parent.name.startswith("checkpoint-")
        home = path.parent.parent if inside else path.parent
        step = float(_json(path).get("global_step") or 0)
        if home not in states or (step, not inside) >= (states[home][0], False):
            states[home] = (step, path)
    if not states:
        raise FileNotFoundError(f"{root} holds no trainer_state.json")
    return _table(
        (_of_trainer(root, home, path) for home, (_, path) in states.items()), loss, share, options
    )


def _of_trainer(root: Path, home: Path, path: Path) -> LoggedRun:
    state = _json(path)
    name = str(home.relative_to(root)) if home != root else home.name
    run = LoggedRun(name, name)
    done, planned = state.get("global_step"), state.get("max_steps")
    run.state = "crashed" if planned and done and done < planned else "finished"
    for file in sorted({*home.glob("*.json"), *path.parent.glob("*.json")}):
        if file.name != "trainer_state.json":
            run.config |= _flat(_json(file))
    simple = {k: v for k, v in state.items() if isinstance(v, int | float | str) and v is not None}
    run.config |= {k: v for k, v in simple.items() if k in ("max_steps", "train_batch_size")
                   and k not in run.config}  # fmt: skip
    seen = state.get("num_input_tokens_seen")
    if seen:
        run.summary["num_input_tokens_seen"] = seen
    rates = []
    for entry in state.get("log_history", []):
        for key, value in entry.items():
            if key in ("loss", "eval_loss"):
                run.log(key, entry.get("step", 0), value)
            elif key == "learning_rate":
                rates.append(float(value))
    if rates and not any((role_of(k) or ("",))[0] == "peak_lr" for k in run.config):
        run.config["peak_lr"] = max(rates)
    return run


def from_tensorboard(
    folder: str | PathLike,
    *,
    settings: pd.DataFrame | Mapping[str, Mapping[str, object]] | None = None,
    loss: str | None = None,
    share: float = SHARE,
    **options: object,
) -> pd.DataFrame:
    """Read TensorBoard event files: one folder a run.

    Parameters
    ----------
    folder : path
        Searched to any depth. Needs ``pip install 'bayes-optlaws[tensorboard]'``.
    settings : DataFrame or mapping, optional
        Settings of the runs, by the name of their folder below `folder`: event files hold curves
        and rarely settings. Without it, ``hparams.yaml`` (Lightning; needs PyYAML), ``*.json`` and
        scalars such as ``n_params`` beside the events are read.
    loss, share, **options
        As for `from_wandb`.

    Returns
    -------
    DataFrame
        Run table; runs are named by their folder.

    Raises
    ------
    ImportError
        When tensorboard is not installed.
    FileNotFoundError
        When there is no event file.
    RunTableError
        As `bayes_optlaws.read_runs`.

    Examples
    --------
    >>> runs = from_tensorboard("logs/", settings=pd.read_csv("sweep.csv", index_col="run"),
    ...                         loss="val_loss")  # doctest: +SKIP
    """
    _library("tensorboard", "tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    root = Path(folder)
    homes = sorted({p.parent for p in root.rglob("*tfevents*") if p.is_file()})
    if not homes:
        raise FileNotFoundError(f"{root} holds no event file of TensorBoard")
    table = _settings(settings)

    def runs() -> Iterable[LoggedRun]:
        for home in homes:
            name = str(home.relative_to(root)) if home != root else home.name
            run = LoggedRun(name, name)
            if table is not None:
                if name not in table:
                    raise table_fault(
                        "settings=", name, "every folder with event files needs its settings",
                        f"add it; there are {', '.join(list(table)[:5])}",
                    )  # fmt: skip
                run.config = dict(table[name])
            else:
                run.config = _beside(home)
            events = EventAccumulator(str(home), size_guidance={"scalars": 0, "tensors": 0})
            events.Reload()
            for tag in events.Tags()["scalars"]:
                for event in events.Scalars(tag):
                    run.log(tag, event.step, event.value)
            for tag in events.Tags()["tensors"]:
                _log_tensors(run, tag, events.Tensors(tag))
            run.summary = {tag: points[-1][1] for tag, points in run.history.items()}
            yield run

    return _table(runs(), loss, share, options)


def _log_tensors(run: LoggedRun, tag: str, events: Iterable[Any]) -> None:
    """Scalars that TensorFlow 2 writes as tensors without a shape."""
    from tensorboard.util.tensor_util import make_ndarray

    for event in events:
        if not event.tensor_proto.tensor_shape.dim and event.tensor_proto.dtype in (1, 2):
            run.log(tag, event.step, float(make_ndarray(event.tensor_proto)))


def _settings(given: Any) -> dict[str, Mapping[str, object]] | None:
    if given is None:
        return None
    if isinstance(given, pd.DataFrame):
        return {str(name): row.dropna().to_dict() for name, row in given.iterrows()}
    return {str(name): row for name, row in given.items()}


def _beside(home: Path) -> dict[str, object]:
    """Settings in files beside the events."""
    found: dict[str, object] = {}
    for file in sorted(home.glob("*.json")):
        found |= _flat(_json(file))
    book = home / "hparams.yaml"
    if book.is_file():
        yaml = _library("yaml", "tensorboard")
        values = yaml.safe_load(book.read_text(encoding="utf-8"))
        found |= _flat(values if isinstance(values, dict) else {})
    return found


def _table(
    found: Iterable[LoggedRun], loss: str | None, share: float, options: Mapping[str, Any]
) -> pd.DataFrame:
    """Settings and final losses of all runs, read as a run table."""
    runs = list(found)
    if not runs:
        raise table_fault("(rows)", 0, "there must be at least one run", "check the name")
    name = _which_loss(runs) if loss is None else loss
    ids = [run.name for run in runs]
    if len(set(ids)) < len(ids) or not all(ids):
        ids = [run.run_id for run in runs]
    rows = []
    for run_id, run in zip(ids, runs, strict=True):
        row: dict[str, object] = {"run_id": run_id}
        row |= {k: v for k, v in run.config.items() if not isinstance(v, list | dict)}
        row |= {k: v for k, v in run.summary.items() if _fact(k) and not _is_loss(k)}
        curve = np.array(run.history.get(name, []), dtype=float).reshape(-1, 2)
        value, sd, diverged = final_loss(curve[:, 0], curve[:, 1], share=share)
        last = value if len(curve) else run.summary.get(name, np.nan)
        row |= {name: last, "loss_sd": sd}
        if not any((role_of(k) or ("",))[0] == "diverged" for k in row):
            row["state"] = "diverged" if diverged else run.state or "finished"
        rows.append(row)
    frame = pd.DataFrame(rows)
    columns = dict(options.get("columns") or {})
    known = role_of(name)
    # said, not guessed: a column without one finite loss could not be known by its cells
    columns.setdefault(name, known[0] if known and known[0] in _LOSSES else "final_loss")
    table = read_runs(frame, **{**options, "columns": columns})
    if table["loss_sd"].isna().all():
        return table.drop(columns="loss_sd")
    table.attrs["notes"] = [
        *table.attrs["notes"],
        f"final_loss is the mean of {name} over the last {100 * share:g} % of the steps, loss_sd "
        "its standard error.",
    ]
    return table


def _which_loss(runs: list[LoggedRun]) -> str:
    """Return the one loss that was logged; ask where there are several."""
    names = list(dict.fromkeys(
        k for run in runs for k in (*run.history, *run.summary) if _is_loss(k)
    ))  # fmt: skip
    if not names:
        logged = sorted({k for run in runs for k in (*run.history, *run.summary)})
        raise table_fault(
            "loss=", "absent", "no logged value is known to be a loss",
            f"pass loss= one of {', '.join(logged[:20]) or '(nothing was logged)'}",
        )  # fmt: skip
    if len(names) > 1:
        order = {name: i for role in _LOSSES for i, name in enumerate(ROLES[role])}
        best = min(names, key=lambda k: (order.get(normal(k), 99), k))
        raise table_fault(
            "loss=", ", ".join(names[:5]), "several losses were logged", f"pass loss={best!r}"
        )
    return names[0]


def _is_loss(key: str) -> bool:
    known = role_of(key)
    return known is not None and known[0] in _LOSSES


def _fact(key: str) -> bool:
    known = role_of(key)
    return known is not None and known[0] in _FACTS


def _flat(values: Mapping[str, object], before: str = "") -> dict[str, object]:
    out: dict[str, object] = {}
    for key, value in values.items():
        name = f"{before}.{key}" if before else str(key)
        if isinstance(value, Mapping):
            out |= _flat(value, name)
        else:
            out[name] = value
    return out


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise table_fault(
            "(file)", str(path), f"must be JSON ({error})", "write it again, or move it away"
        ) from None
    return values if isinstance(values, dict) else {}


def _library(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(
            f"{name} is not installed: pip install 'bayes-optlaws[{extra}]'"
        ) from None
