"""Files written whole or not at all.

What is written is held in memory, goes to a file beside the target, is forced to disk and is then
moved over the target: whoever is killed, or meets a full disk, leaves the old file as it was.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

__all__ = ["csv_text", "remove_leftovers", "require_target", "write"]

LEFTOVER_AGE = 600.0
"""Seconds after which an unfinished file is nobody's: it is written from memory in one go."""

_PART = ".part"


def require_target(path: str | os.PathLike) -> Path:
    """Return the file that a path stands for, links followed.

    Parameters
    ----------
    path : path

    Raises
    ------
    OSError
        When what is there is no regular file, or may not be written.

    Examples
    --------
    >>> require_target("/dev/null")
    Traceback (most recent call last):
    ...
    OSError: /dev/null is a device: give the name of a file
    """
    target = Path(path).resolve()
    if not target.exists():
        return target
    mode = target.stat().st_mode
    if not stat.S_ISREG(mode):
        kinds = {
            "folder": stat.S_ISDIR, "pipe": stat.S_ISFIFO, "socket": stat.S_ISSOCK,
            "device": lambda m: stat.S_ISCHR(m) or stat.S_ISBLK(m),
        }  # fmt: skip
        kind = next((name for name, is_kind in kinds.items() if is_kind(mode)), "special file")
        raise OSError(f"{path} is a {kind}: give the name of a file")
    if not os.access(target, os.W_OK):
        raise PermissionError(f"{path} may not be written: its permissions forbid it")
    return target


def write(path: str | os.PathLike, content: bytes | str) -> Path:
    """Write a file whole; one that was there keeps its mode, and its content until the end.

    Parameters
    ----------
    path : path
        Folders are made. A link is followed; what is no regular file is refused.
    content : bytes or str
        Text is written in UTF-8.

    Returns
    -------
    Path
        As given.

    Raises
    ------
    OSError
        When the file cannot be written; nothing has changed then.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(f"{folder}/a.txt", "one").read_text()
    'one'
    """
    data = content.encode() if isinstance(content, str) else content
    target = require_target(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{_prefix(target)}{secrets.token_hex(8)}{_PART}")
    # Made by open, not by mkstemp, so that the mode follows the umask.
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        if target.exists():
            os.chmod(part, stat.S_IMODE(target.stat().st_mode))
        now = part.stat().st_mtime  # by the clock of the file system
        os.replace(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _force_folder(target.parent)
    _remove_old(target.parent.glob(f"{_glob(_prefix(target))}*{_PART}"), now)
    return Path(path)


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Remove what killed writers have left in a folder, older than `LEFTOVER_AGE`."""
    folder = Path(folder)
    if folder.is_dir():
        probe = folder / f".{secrets.token_hex(8)}{_PART}"
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
        shape = re.compile(r"\..*\.[0-9a-f]{16}\.part")
        _remove_old((p for p in folder.glob(f".*{_PART}") if shape.fullmatch(p.name)), now)


def csv_text(table: pd.DataFrame, **options: object) -> str:
    """Return a table as CSV whose text no spreadsheet takes for a formula.

    Text that begins with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return, and is no
    number, gets a single quote in front: cells, labels of rows and names of columns.

    Parameters
    ----------
    table : DataFrame
    **options
        Of `pandas.DataFrame.to_csv`.

    Examples
    --------
    >>> print(csv_text(pd.DataFrame({"a": ["=1+1", "-3", "x"]}), index=False))
    a
    '=1+1
    -3
    x
    """
    safe = table.copy(deep=False)
    for i in range(table.shape[1]):
        column = table.iloc[:, i]
        if column.dtype.kind == "O":
            safe.isetitem(i, column.astype(object).map(_not_formula))
    safe.index = _safe_labels(table.index)
    safe.columns = _safe_labels(table.columns)
    return str(safe.to_csv(None, lineterminator="\n", **options))


def _safe_labels(labels: pd.Index) -> pd.Index:
    if isinstance(labels, pd.MultiIndex):
        return labels.map(lambda names: tuple(_not_formula(n) for n in names))
    return labels.map(_not_formula) if labels.dtype.kind == "O" else labels


def _not_formula(cell: object) -> object:
    if not isinstance(cell, str) or not cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def _prefix(target: Path) -> str:
    name = target.name.encode()[:150].decode(errors="ignore")  # file systems allow 255 bytes
    return f".{name}."


def _glob(text: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", text)


def _remove_old(parts: Iterable[Path], now: float) -> None:
    for part in parts:
        try:
            if now - part.stat().st_mtime > LEFTOVER_AGE:
                part.unlink()
        except OSError:  # another process was quicker, or it is not ours
            continue


def _force_folder(folder: Path) -> None:
    """Force the new name to disk, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
