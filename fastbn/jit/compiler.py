"""The decorators of all kernels, and the options of numba behind them.

Nothing is compiled on import. A kernel is compiled when it is first called with some dtypes, and
the machine code is kept on disk, so that a later process loads it in milliseconds.

Much of that uses numba's internals (`fastbn.jit.numba_internals`). If numba has changed them,
`INTERNALS_PROBLEM` says what is missing, and kernels are plain ``numba.njit(cache=True)``: results
are right, but their last bits may depend on which kernels a process has used before. Compiling then
takes longer and is not announced, and Ctrl-C during it, or a fork by another thread, may leave a
process that cannot compile any more.
"""

from __future__ import annotations

import pathlib
from types import FunctionType
from typing import Any

import numba
import numpy.ma  # noqa: F401 (else numba imports it at the first call; a forked child may hang)

from fastbn.jit import cache, numba_probe
from fastbn.jit.listeners import logger

# Sums may be reordered and products contracted, which vectorizing needs. No `nnan` and no `ninf`:
# a NaN or an infinity in the data gives one, or an error, and never a number.
FASTMATH = {"reassoc", "contract", "arcp", "nsz"}

DISABLED = bool(getattr(numba.config, "DISABLE_JIT", False))

# Which of numba's internals is missing, if one is.
INTERNALS_PROBLEM = None if DISABLED else numba_probe.problem()

_internals: Any = None
if INTERNALS_PROBLEM is not None:
    logger.warning(numba_probe.advice(numba.__version__, INTERNALS_PROBLEM))
elif not DISABLED:
    from fastbn.jit import numba_internals

    _internals = numba_internals


def njit(function: Any, *, allocates: bool = False, **options: Any) -> Any:
    """Compile a serial kernel (nogil, cached).

    Kernels that call it share a second version, without the code that unpacks Python's arguments:
    that takes long to compile, and few kernels are called from Python.

    The kernel does not count references to its arrays, which its caller holds. Counting takes an
    atomic instruction for every slice, on a cache line that all threads share, and it waits for
    stores that go past the caches. So it can neither make an array nor return one, unless it
    `allocates`.
    """
    if _internals is None:
        return _dispatcher(function, **options)
    if not allocates:
        options = {**_internals.UNCOUNTED, **options}
    kernel = _dispatcher(function, **options)
    inner = _dispatcher(_renamed(function, "inner"), **_internals.INNER, **options)
    _internals.delegate_to(kernel, inner)
    return kernel


def njit_allocating(function: Any) -> Any:
    """Compile a serial kernel that makes arrays."""
    return njit(function, allocates=True)


def njit_strict(function: Any) -> Any:
    """Compile a serial kernel whose every operation is rounded as it is written.

    A loop over elements vectorizes without fast-math, too, and gives the same bits wherever it is
    cut: its remainder, computed number by number, is rounded as its vectors are.
    """
    return njit(function, fastmath=False)


def njit_inlined(function: Any) -> Any:
    """Compile into each caller: for long functions that are called once.

    Otherwise it is optimized by itself, and again with every caller that it is linked into.
    """
    return _dispatcher(function, inline="always")


def njit_parallel(function: Any) -> Any:
    """Compile a driver that runs ``prange`` over serial kernels.

    Call it through `fastbn.parallel.dispatch`.
    """
    return _dispatcher(function, parallel=True)


def parallel_twin(kernel: Any) -> Any:
    """Compile the same source once more, its ``prange`` loops now on several threads."""
    return njit_parallel(_renamed(getattr(kernel, "py_func", kernel), "parallel"))


def cache_folder(kernel: Any) -> pathlib.Path | None:
    """Return the folder that holds a kernel's machine code; None if none is writable."""
    path = getattr(getattr(kernel, "_cache", None), "cache_path", None)
    return pathlib.Path(path) if path else None


def _dispatcher(function: Any, **options: Any) -> Any:
    compiler: Any = numba.njit
    options = {"nogil": True, "error_model": "numpy", "fastmath": FASTMATH, **options}
    if DISABLED:
        return function
    if _internals is None:
        # numba's cache goes by the function's name and its file alone, and cannot read the index
        # of `numba_internals`. So the name contains the stamp of all sources
        function = _renamed(function, f"plain_{cache.stamp(function.__module__)[:16]}")
        try:
            return compiler(cache=True, **options)(function)
        except RuntimeError:  # no folder is writable
            return compiler(**options)(function)
    dispatcher = compiler(**_internals.OPTIONS, **options)(function)
    _internals.prepare(dispatcher)
    return dispatcher


def _renamed(function: Any, suffix: str) -> Any:
    """Return the same function under another name, for an entry of its own in the cache."""
    name = f"{function.__name__}_{suffix}"
    twin = FunctionType(function.__code__, function.__globals__, name)
    twin.__qualname__, twin.__doc__ = name, function.__doc__
    return twin
