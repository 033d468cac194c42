"""Threads leave BLAS as they found it, and nothing that a forked child would wait for."""

import multiprocessing
import sys
import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from bayes_optlaws.decision.design_value import expected_drop
from bayes_optlaws.kernels.threads import in_threads, one_blas_thread


def blas_threads():
    return [p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"]


@pytest.mark.parametrize("first_out", ["main", "other"])
def test_overlapping_holders_give_back_what_the_first_found(first_out):
    with threadpool_limits(2):
        before = blas_threads()
        entered, leave = threading.Event(), threading.Event()

        def second():
            with one_blas_thread():
                entered.set()
                leave.wait()

        thread = threading.Thread(target=second)
        with one_blas_thread():
            thread.start()
            entered.wait()
            assert set(blas_threads()) == {1}
            if first_out == "other":
                leave.set()
                thread.join()
                assert set(blas_threads()) == {1}
        leave.set()
        thread.join()
        assert blas_threads() == before
        with one_blas_thread():
            assert set(blas_threads()) == {1}
        assert blas_threads() == before


def test_parts_come_back_in_order(rng):
    rows = rng.normal(size=(1000, 3))
    np.testing.assert_array_equal(in_threads(lambda x: 2 * x, rows), 2 * rows)
    assert in_threads(lambda x: x, rows[:0]).shape == (0, 3)


def _drop(seed):
    rng = np.random.default_rng(seed)
    n, draws, candidates = 64, 8, 3
    f = np.float32
    return expected_drop(
        rng.normal(size=(n, 1, draws)).astype(f), np.ones((n, draws), f),
        rng.normal(size=(n, draws, candidates)).astype(f), np.full((1, draws), 1 / draws, f),
        rng.normal(size=(1, draws, candidates)).astype(f), np.zeros(1, int), 33,
    )  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="no fork there")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_pool_works_after_a_design_was_scored():
    here = _drop(0)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        there = pool.map_async(_drop, [0, 0]).get(timeout=60)
    for found in there:
        np.testing.assert_array_equal(found, here)
