"""BLAS and LAPACK in compiled code, in place on blocks of row-major matrices.

numba offers whole-array products and factorisations, each with copies.  The matrices here are of
a hundred columns, where copies cost as much as arithmetic, and only half of a symmetric one need be
computed.  So the routines that SciPy brings are called by name, on blocks that are given by the
address of their first entry and the length of a row of the matrix that they lie in.  (Compiled
code that calls by name can be kept on disk: no address is in it.)

Fortran reads a row-major matrix as its transpose, a lower triangle as an upper one: hence the
codes below.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numpy as np
from numba import types
from numba.extending import get_cython_function_address

from bayes_optlaws.kernels.compiled import njit

_CODES = np.frombuffer(b"LRUNT", dtype=np.uint8)
_L, _R, _U, _N, _T = range(5)


def _routine(name: str, n_arguments: int, library: str = "blas") -> Any:
    symbol = f"bayes_optlaws_{name}"
    address = get_cython_function_address(f"scipy.linalg.cython_{library}", name)
    llvmlite.binding.add_symbol(symbol, address)
    return types.ExternalFunction(symbol, types.void(*([types.intp] * n_arguments)))


_dgemm = _routine("dgemm", 13)
_dsyrk = _routine("dsyrk", 10)
_dtrmm = _routine("dtrmm", 11)
_dtrsm = _routine("dtrsm", 11)
_dpotrf = _routine("dpotrf", 5, "lapack")


@njit()
def at(A, i, j):
    """Address of an entry of a row-major matrix."""
    return A.ctypes.data + 8 * (i * A.shape[1] + j)


@njit()
def multiply(rows, columns, inner, alpha, a, lda, a_transposed, b, ldb, beta, c, ldc):
    """C = alpha A B + beta C, for A (rows, inner), or given as its transpose, and B."""
    code, n, x = _CODES.ctypes.data, np.empty(6, np.int32), np.empty(2)
    n[0], n[1], n[2], n[3], n[4], n[5] = columns, rows, inner, ldb, lda, ldc
    x[0], x[1] = alpha, beta
    i, f = n.ctypes.data, x.ctypes.data
    of_a = code + (_T if a_transposed else _N)
    _dgemm(code + _N, of_a, i, i + 4, i + 8, f, b, i + 12, a, i + 16, f + 8, c, i + 20)
    keep(n[0], x[0])


@njit()
def add_square(size, inner, alpha, a, lda, a_transposed, c, ldc):
    """C += alpha A A', or alpha A' A, of shape (size, size); only the lower triangle of C."""
    code, n, x = _CODES.ctypes.data, np.empty(4, np.int32), np.empty(2)
    n[0], n[1], n[2], n[3] = size, inner, lda, ldc
    x[0], x[1] = alpha, 1.0
    i, f = n.ctypes.data, x.ctypes.data
    of_a = code + (_N if a_transposed else _T)
    _dsyrk(code + _U, of_a, i, i + 4, f, a, i + 8, f + 8, c, i + 12)
    keep(n[0], x[0])


@njit()
def times_lower(rows, size, factor, low, ld_low, transposed, b, ldb):
    """B = factor B L, or factor B L', for a lower triangular L (size, size) and B (rows, size)."""
    code, n, x = _CODES.ctypes.data, np.empty(4, np.int32), np.empty(1)
    n[0], n[1], n[2], n[3] = size, rows, ld_low, ldb
    x[0] = factor
    i, f = n.ctypes.data, x.ctypes.data
    op = code + (_T if transposed else _N)
    _dtrmm(code + _L, code + _U, op, code + _N, i, i + 4, f, low, i + 8, b, i + 12)
    keep(n[0], x[0])


@njit()
def lower_times(size, columns, factor, low, ld_low, transposed, b, ldb):
    """B = factor L B, or factor L' B, for a lower triangular L (size, size)."""
    code, n, x = _CODES.ctypes.data, np.empty(4, np.int32), np.empty(1)
    n[0], n[1], n[2], n[3] = columns, size, ld_low, ldb
    x[0] = factor
    i, f = n.ctypes.data, x.ctypes.data
    op = code + (_T if transposed else _N)
    _dtrmm(code + _R, code + _U, op, code + _N, i, i + 4, f, low, i + 8, b, i + 12)
    keep(n[0], x[0])


@njit()
def solve_rows(rows, size, low, ld_low, b, ldb):
    """B = B L'^-1: every row of B (rows, size) becomes the solution x of L x = row."""
    code, n, x = _CODES.ctypes.data, np.empty(4, np.int32), np.empty(1)
    n[0], n[1], n[2], n[3] = size, rows, ld_low, ldb
    x[0] = 1.0
    i, f = n.ctypes.data, x.ctypes.data
    _dtrsm(
        code + _L, code + _U, code + _T, code + _N, i, i + 4, f, low, i + 8, b, i + 12
    )  # fmt: skip
    keep(n[0], x[0])


@njit()
def solve_columns(size, columns, low, ld_low, b, ldb):
    """B = L^-1 B, for a lower triangular L (size, size) and B (size, columns)."""
    code, n, x = _CODES.ctypes.data, np.empty(4, np.int32), np.empty(1)
    n[0], n[1], n[2], n[3] = columns, size, ld_low, ldb
    x[0] = 1.0
    i, f = n.ctypes.data, x.ctypes.data
    _dtrsm(
        code + _R, code + _U, code + _N, code + _N, i, i + 4, f, low, i + 8, b, i + 12
    )  # fmt: skip
    keep(n[0], x[0])


@njit()
def factorise(size, a, lda):
    """Cholesky factor in place of the lower triangle; LinAlgError if not positive definite."""
    code, n = _CODES.ctypes.data, np.empty(3, np.int32)
    n[0], n[1], n[2] = size, lda, 0
    i = n.ctypes.data
    _dpotrf(code + _U, i, a, i + 4, i + 8)
    if n[2] != 0:
        raise np.linalg.LinAlgError("Matrix is not positive definite.")


@njit()
def keep(i, x):
    """Read both: numba frees an array after its last use, and an address is none."""
    return i + x
