"""Held-out evaluation: protocols, metrics, simulation-based calibration."""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {
    "evaluate": "protocols",
    "held_out": "protocols",
    "held_out_by": "protocols",
    "tabulate": "protocols",
    "Judge": "nulls",
    "cell_scores": "nulls",
    "make_splits": "splits",
    "summarize": "metrics",
}

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
