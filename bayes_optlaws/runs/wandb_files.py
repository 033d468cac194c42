"""The files that W&B writes offline: a log of records, each a protocol buffer of its library."""

from __future__ import annotations

import importlib
import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["LoggedRun", "read_offline_run"]

_BLOCK = 32768
_HEAD = 7  # of the file, and of every piece of a record


@dataclass
class LoggedRun:
    """One run as a tracker has it.

    Attributes
    ----------
    name, run_id, state : str
    config : dict
        Settings, nested names joined by dots.
    summary : dict
        Last values of what was logged.
    history : dict of str to list of (step, value)
    """

    name: str = ""
    run_id: str = ""
    state: str = ""
    config: dict[str, object] = field(default_factory=dict)
    summary: dict[str, object] = field(default_factory=dict)
    history: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def log(self, key: str, step: float, value: object) -> None:
        """Keep a number that was logged."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.history.setdefault(key, []).append((float(step), float(value)))


def read_offline_run(path: Path) -> LoggedRun:
    """Read a ``run-*.wandb`` file.

    Parameters
    ----------
    path : Path

    Returns
    -------
    LoggedRun
        What was written up to the end of the file: a run that was killed has no end.

    Raises
    ------
    ValueError
        When it is no such file.
    """
    proto = importlib.import_module("wandb.proto.wandb_internal_pb2")
    run = LoggedRun(run_id=path.stem.removeprefix("run-"), state="crashed")
    for raw in _records(path):
        record = proto.Record()
        record.ParseFromString(raw)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.name = record.run.display_name or run.name
            run.run_id = record.run.run_id or run.run_id
            _update(run.config, record.run.config.update)
        elif kind == "config":
            _update(run.config, record.config.update)
        elif kind == "summary":
            _update(run.summary, record.summary.update)
        elif kind == "history":
            values: dict[str, Any] = {}
            _update(values, record.history.item)
            step = float(values.get("_step", record.history.step.num))
            for key, value in values.items():
                if not key.startswith("_"):
                    run.log(key, step, value)
        elif kind == "exit":
            run.state = "finished" if record.exit.exit_code == 0 else "crashed"
    return run


def _update(target: dict[str, Any], items: Iterable[Any]) -> None:
    """Put JSON values under their names, nested ones joined by dots."""
    for item in items:
        name = ".".join(item.nested_key) if len(item.nested_key) else item.key
        if name.startswith("_wandb"):
            continue
        _flatten(target, name, json.loads(item.value_json))


def _flatten(target: dict[str, object], name: str, value: object) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _flatten(target, f"{name}.{key}", inner)
    elif isinstance(value, str) and value in ("NaN", "Infinity", "-Infinity"):
        target[name] = float(value)
    else:
        target[name] = value


def _records(path: Path) -> Iterator[bytes]:
    """Yield the records of the log: pieces in blocks of 32 kB, each with checksum, length, kind."""
    data = path.read_bytes()
    if data[:4] != b":W&B":
        raise ValueError(f"{path} is no run file of W&B: it must begin with ':W&B'")
    at, whole = _HEAD, b""
    while at + _HEAD <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEAD:  # the rest of a block is padding
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        piece = data[at + _HEAD : at + _HEAD + length]
        if len(piece) < length or kind == 0:  # cut off while it was written
            return
        at += _HEAD + length
        whole = piece if kind in (1, 2) else whole + piece
        if kind in (1, 4):
            yield whole
