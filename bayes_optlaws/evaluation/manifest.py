"""What the results in a folder were made from, so that none is taken for those of another study.

A folder's ``manifest.json`` holds all inputs and options in words or as digests, and the digest of
the code. A study that asks for anything else is refused, with what differs.
"""

from __future__ import annotations

import functools
import hashlib
import json
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from bayes_optlaws.text import files
from bayes_optlaws.text.typed import to_text

__all__ = [
    "MANIFEST", "DamagedResultWarning", "FolderError", "code_digest", "open_folder", "read_result",
    "table_digest",
]  # fmt: skip

MANIFEST = "manifest.json"
_PACKAGE = Path(__file__).resolve().parents[1]
_NUMBERS_MADE_BY = ("numpy", "scipy", "pandas", "numba", "pymc", "pytensor", "nutpie")
_RESULTS = {".json", ".npz", ".nc"}
_NO_NUMBERS = {"cli", "report", "plots", "text"}  # folders whose code changes no result


class FolderError(ValueError):
    """A folder holds results of other inputs, options or code."""


class DamagedResultWarning(UserWarning):
    """A result file could not be read and is made again."""


@functools.cache
def code_digest() -> str:
    """Return a digest of the package's code that makes numbers, and of its libraries' versions."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        name = path.relative_to(_PACKAGE)
        if name.parts[0] not in _NO_NUMBERS:
            digest.update(f"{name.as_posix()}\0".encode() + path.read_bytes())
    for library in ("bayes-optlaws", *_NUMBERS_MADE_BY):
        digest.update(f"{library} {version(library)}\0".encode())
    return digest.hexdigest()


def table_digest(table: pd.DataFrame) -> str:
    """Return a digest of every cell, label and dtype of a table.

    Examples
    --------
    >>> one = pd.DataFrame({"lrs": [[0.1, 0.2]]})
    >>> table_digest(one) == table_digest(pd.DataFrame({"lrs": [[0.1, 0.3]]}))
    False
    """
    bare = table.copy(deep=False)
    bare.attrs = {}  # remarks on how it was read
    return hashlib.sha256(to_text(bare).encode()).hexdigest()


def open_folder(folder: str | Path, **made_from: Any) -> Path:
    """Make a folder for results, or make sure that those in it were made from the same.

    Parameters
    ----------
    folder : path
    **made_from
        All inputs and options: tables, which are kept as digests, and what JSON can hold; the
        rest by its ``repr``. The digest of the code is added.

    Raises
    ------
    FolderError
        When the folder's results were made from anything else; the message says what differs.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = open_folder(folder, random_seed=1)
    ...     open_folder(folder, random_seed=2)
    Traceback (most recent call last):
    ...
    bayes_optlaws.evaluation.manifest.FolderError: ... random_seed was 1, now 2...
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files.remove_leftovers(folder)
    now = json.loads(json.dumps({k: _plain(v) for k, v in made_from.items()}))
    now["code"] = code_digest()
    path = folder / MANIFEST
    if not path.exists():
        if any(p.suffix in _RESULTS for p in folder.iterdir()):
            raise FolderError(
                f"{folder} has results but no {MANIFEST} that says what they were made from: give "
                "another folder, or delete them"
            )
        files.write(path, json.dumps(now, indent=1) + "\n")
        return folder
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(before, dict):
            raise ValueError("no JSON object")
    except ValueError as error:
        raise FolderError(
            f"{path} is damaged ({error}): give another folder, or delete this one"
        ) from None
    differing = [k for k in sorted({*before, *now}) if before.get(k) != now.get(k)]
    if differing:
        what = "; ".join(
            f"{k} was {_short(before.get(k))}, now {_short(now.get(k))}" for k in differing
        )
        raise FolderError(
            f"{folder} has results of other inputs: {what}; give another folder, or delete this one"
        )
    return folder


def read_result[T](
    path: Path, read: Callable[[Path], T], *, fate: str = "is made again"
) -> T | None:
    """Read a result file; None, with a warning that names it, when it is damaged.

    Parameters
    ----------
    path : Path
    read : callable
        Reads the file.
    fate : str
        What becomes of a damaged file, for the warning.
    """
    try:
        return read(path)
    except Exception as error:  # a flipped bit of an npz file alone raises any of seven kinds
        warnings.warn(
            f"{path} is damaged ({type(error).__name__}: {error}) and {fate}",
            DamagedResultWarning,
            stacklevel=2,
        )
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, pd.DataFrame):
        return f"table {table_digest(value)}"
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return repr(value)


def _short(value: Any) -> str:
    text = json.dumps(value)
    if isinstance(value, str) and len(text) > 40:
        return f"{text[:20]}..."
    return text if len(text) <= 200 else f"{text[:200]}..."
