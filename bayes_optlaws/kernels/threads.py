"""Work in threads: a few of Python's over compiled code, none of BLAS beside them.

Compiled kernels release the interpreter's lock, so Python's own threads use the cores, and end
before the call returns: a process that forks later finds none. (numba's own parallel loops leave
a pool of GNU OpenMP behind, with which a forked child hangs.)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock

import numpy as np
from threadpoolctl import threadpool_limits

MOST_THREADS = 8
LEAST_ROWS = 16
"""Rows that are worth a thread of their own."""

_lock = Lock()
_limits: threadpool_limits | None = None


def n_threads() -> int:
    """Cores that this process may use, at most `MOST_THREADS`."""
    count = getattr(os, "process_cpu_count", os.cpu_count)  # the former from Python 3.13 on
    return min(count() or 1, MOST_THREADS)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS at one thread until the first of those inside leaves.

    The limit belongs to the process.  Whoever finds none sets it and takes it back, in the same
    thread (OpenBLAS ignores others); the others do nothing.  Were each to restore what it had
    found, the last would leave the limit set.  Who stays longer than the first has more threads,
    which costs time only.
    """
    global _limits
    with _lock:
        mine = threadpool_limits(1) if _limits is None else None
        _limits = mine or _limits
    try:
        yield
    finally:
        if mine is not None:
            with _lock:
                mine.restore_original_limits()
                _limits = None


def in_threads(work: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Apply ``work`` to parts of the rows in threads, and join what it returns.

    Parameters
    ----------
    work : callable
        From (m, ...) rows to an array of m rows; compiled code that releases the lock.
    rows : array, shape (n, ...)

    Returns
    -------
    array, shape (n, ...)

    Examples
    --------
    >>> in_threads(lambda x: 2 * x, np.arange(3))
    array([0, 2, 4])
    """
    parts = max(1, min(n_threads(), len(rows) // LEAST_ROWS))
    with one_blas_thread():
        if parts == 1:
            return work(rows)
        with ThreadPoolExecutor(parts) as pool:
            return np.concatenate(list(pool.map(work, np.array_split(rows, parts))))
