"""Shipped and public tables of training runs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

_HERE = Path(__file__).resolve().parent
_SHIPPED = {"pocket": "pocket/runs.csv", "pocket-replicates": "pocket/replicates.csv"}


def available() -> list[str]:
    """Return the names that `load` accepts."""
    return list(_SHIPPED)


def load(name: str) -> pd.DataFrame:
    """Return one table of runs."""
    root = _HERE / "_data" if (_HERE / "_data").is_dir() else _HERE.parent / "data"
    return pd.read_csv(root / _SHIPPED[name])
