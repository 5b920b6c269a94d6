"""Run kernels on several threads, numba's or those of PyTorch's pool, or on one thread."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import numba

from fastbn.parallel.choice import Choice

# Below this many elements a parallel region costs more than it saves. 0 forces parallel regions.
PARALLEL_ELEMENTS = 1 << 17

# From this many elements on, kernels run on all threads of PyTorch's pool, as its operations do.
POOL_ELEMENTS = 1 << 15

# One parallel region at a time: numba's workqueue layer aborts the process if a second thread
# enters it, and on every layer two regions at once only compete for the cores.
_region = threading.Lock()
_forked = False

# By kernel and bit length of the number of elements.
_choices: dict[tuple[Any, int], Choice] = {}


def _after_fork_in_child() -> None:
    # GNU OpenMP kills a forked child at its first parallel region, so children compute serially
    global _forked, _region
    _forked = True
    _region = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def uses_pool(n_elements: int) -> bool:
    """Return whether a kernel runs on PyTorch's pool: if that pays, and the process is no fork."""
    return n_elements >= POOL_ELEMENTS and not _forked


def dispatch(serial: Any, parallel: Any, n_elements: int, *args: Any) -> Any:
    """Call ``parallel(*args)`` if that is faster and safe, else ``serial(*args)``.

    Both give the same bits, because the number of threads does not change how the work is cut.
    """
    if n_elements < PARALLEL_ELEMENTS or _forked:
        return serial(*args)
    is_forced = PARALLEL_ELEMENTS == 0
    if not is_forced and numba.get_num_threads() == 1:
        return serial(*args)
    choice = _choices.setdefault((parallel, n_elements.bit_length()), Choice())
    is_alone = not is_forced and not choice.several(n_elements)
    if is_alone or not _region.acquire(blocking=False):
        start = time.perf_counter()
        result = serial(*args)
        if is_alone:
            choice.learn(False, n_elements, time.perf_counter() - start)
        return result
    try:
        start = time.perf_counter()
        result = parallel(*args)
        if not is_forced:
            choice.learn(True, n_elements, time.perf_counter() - start)
        return result
    finally:
        _region.release()
