"""Decorators of numba with a cache that cannot be stale.

numba keys the compiled code of a function by the text of the file that the function stands in.
Code of another file that the function calls is compiled into it, and a change there, an edit or a
new release, would go on running the old one.  Here all compiled code lies in a folder named by a
digest of every source that is compiled and of the versions of what compiles it: whatever changes,
the folder is another one.

The folder is private to the user (what lies in it is run), and is sought in
``$BAYES_OPTLAWS_CACHE``, the user's cache folder and the temporary folder.  Where none of them can
be written, kernels are compiled anew in each process.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numba
import numba.core.config

PACKAGE = Path(__file__).resolve().parents[1]

UNUSED_DAYS = 60
"""Folders of other digests are removed when nothing was compiled or loaded there for so long."""

_MARK = b"bayes_optlaws.kernels.compiled import"


def sources() -> list[Path]:
    """Files of the package whose functions are compiled, or that those read constants from."""
    kernels = (PACKAGE / "kernels").glob("*.py")
    others = (p for p in PACKAGE.rglob("*.py") if _MARK in p.read_bytes())
    return sorted({*kernels, *others})


def digest() -> str:
    """Short hash of `sources` and of the versions of interpreter, compiler and arrays."""
    found = hashlib.sha256()
    for name in ("numba", "llvmlite", "numpy", "scipy"):
        found.update(f"{name} {version(name)}\n".encode())
    found.update(f"{sys.implementation.cache_tag} {platform.machine()}\n".encode())
    for path in sources():
        found.update(f"{path.relative_to(PACKAGE).as_posix()}\n".encode())
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def _places() -> Iterator[Path]:
    """Folders in which the cache may lie, the best first."""
    named = os.environ.get("BAYES_OPTLAWS_CACHE")
    if named:
        yield Path(named)
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        home = Path(local) if local else None
    elif sys.platform == "darwin":
        home = Path("~/Library/Caches").expanduser()
    else:
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    if home is not None and home.is_absolute():
        yield home / "bayes_optlaws"
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    yield Path(tempfile.gettempdir()) / f"bayes_optlaws-{user}"


def _private(folder: Path) -> bool:
    """Make a folder that nobody else can write to; whether that is what it is now."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode):
            return False  # a link may lead anywhere
        if hasattr(os, "getuid"):
            if found.st_uid != os.getuid():
                return False
            folder.chmod(0o700)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


@cache
def folder() -> Path | None:
    """Folder of the compiled code, or None where nothing can be written."""
    name = digest()
    for place in _places():
        if _private(place) and _private(place / name):
            _remove_unused(place, name)
            return place / name
    return None


def _remove_unused(place: Path, name: str) -> None:
    """Remove folders of other digests that were not used for long, and note the use of this."""
    try:
        os.utime(place / name)
        for other in place.iterdir():
            age = time.time() - other.lstat().st_mtime
            if other.name != name and other.is_dir() and age > UNUSED_DAYS * 86400:
                shutil.rmtree(other, ignore_errors=True)
    except OSError:
        pass  # another process was quicker


def _cached(decorator: Callable[..., Any], *args: Any, **options: Any) -> Callable[..., Any]:
    """Decorate with the cache in `folder`: numba settles the place when it decorates."""
    place = folder()

    def decorate(function: Callable[..., Any]) -> Any:
        if place is None:
            return decorator(*args, **options)(function)
        config: Any = numba.core.config  # its names are set when it is imported
        before = config.CACHE_DIR
        config.CACHE_DIR = str(place)
        try:
            return decorator(*args, cache=True, **options)(function)
        finally:
            config.CACHE_DIR = before

    return decorate


def njit(**options: Any) -> Callable[..., Any]:
    """`numba.njit` with floating-point rules of NumPy, its result kept on disk.

    Parameters
    ----------
    **options
        Of `numba.njit`, but for ``cache``.
    """
    return _cached(numba.njit, **({"error_model": "numpy"} | options))


def cfunc(signature: Any) -> Callable[..., Any]:
    """`numba.cfunc`, its result kept on disk."""
    return _cached(numba.cfunc, signature)
