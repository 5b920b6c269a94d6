"""Kernels on the threads of another library's OpenMP runtime."""

from __future__ import annotations

import threading

import numba
import numpy as np
import pytest
from cases import JIT_DISABLED

from fastbn.jit.compiler import njit
from fastbn.parallel.openmp import NO_POOL, find_pool, on_pool

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="Python has no pool")


@pytest.fixture(scope="module")
def pool():
    """Return the runtime that numba is linked to; another library could be, too."""
    try:
        from numba.np.ufunc import omppool
    except ImportError:
        pytest.skip("numba finds no OpenMP here")
    found = find_pool(omppool.__file__)
    if not found.all():
        pytest.skip("the OpenMP runtime here is not of GNU's kind")
    return found


@njit
def note(rank, size, seen, x, factor):
    """Note the thread, and do its share of the work."""
    seen[rank] = size
    for i in range(x.size * rank // size, x.size * (rank + 1) // size):
        x[i] *= factor


@njit
def note_all(pool, threads, seen, x, factor):
    on_pool(pool, threads, note, (seen, x, factor))
    on_pool(pool, threads, note, (seen, x, 10))  # an int instead of the other call's float


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_thread_has_its_share(pool, threads):
    seen, x = np.zeros(8, np.int64), np.arange(101.0)
    note_all(pool, threads, seen, x, 0.5)
    assert np.array_equal(x, 5 * np.arange(101.0))
    size = seen[0]
    assert 1 <= size <= threads
    assert list(seen) == [size] * size + [0] * (8 - size)
    if threads <= numba.config.NUMBA_NUM_THREADS:
        assert size == threads


@pytest.mark.parametrize("threads", [-3, 0, 1, 2])
def test_without_a_pool_it_is_a_plain_call(threads):
    seen, x = np.zeros(8, np.int64), np.ones(5)
    note_all(NO_POOL, threads, seen, x, 2.0)
    assert list(seen) == [1] + [0] * 7
    assert (x == 20).all()


def test_several_callers_at_once(pool):
    arrays = [np.ones(1000) for _ in range(8)]

    def work(x):
        for _ in range(100):
            note_all(pool, 2, np.zeros(8, np.int64), x, 0.1)

    callers = [threading.Thread(target=work, args=(x,)) for x in arrays]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for x in arrays:
        np.testing.assert_allclose(x, 1.0)


def test_libraries_without_openmp(tmp_path):
    import _ctypes

    text = tmp_path / "library.so"
    text.write_text("no library")
    for path in (_ctypes.__file__, str(text), str(tmp_path / "missing.so")):
        assert find_pool(path) is NO_POOL
