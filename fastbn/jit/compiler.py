"""The one place that knows how to compile: decorators, and the options behind them.

Nothing is compiled on import. A kernel is compiled for the dtypes it is first called with and the
machine code is kept on disk, so that a later process loads it in milliseconds.

Much of that uses numba's internals (`fastbn.jit.numba_internals`). With a numba that has changed
them, `INTERNALS_PROBLEM` says what is missing, and kernels are plain ``numba.njit(cache=True)``.
Results are right then, but their last bits may depend on which kernels a process has used before.
Compiling takes longer and is not announced. Ctrl-C in the middle of it may leave a process that
compiles nothing more, and so may a fork by another thread.
"""

from __future__ import annotations

import pathlib
from types import FunctionType
from typing import Any

import numba
import numpy.ma  # noqa: F401 (numba would at the first call, where a forked child would wait for it)

from fastbn.jit import cache, numba_probe
from fastbn.jit.listeners import logger

# Sums may be reordered and products contracted, which is what vectorizing needs. Not `nnan` and not
# `ninf`: a NaN or an infinity in the data comes out as one, or as an error, never as a number.
FASTMATH = {"reassoc", "contract", "arcp", "nsz"}

DISABLED = bool(getattr(numba.config, "DISABLE_JIT", False))

# Which of numba's internals is missing; None where all are there.
INTERNALS_PROBLEM = None if DISABLED else numba_probe.problem()

_internals: Any = None
if INTERNALS_PROBLEM is not None:
    logger.warning(numba_probe.advice(numba.__version__, INTERNALS_PROBLEM))
elif not DISABLED:
    from fastbn.jit import numba_internals

    _internals = numba_internals


def njit(function: Any, *, allocates: bool = False, **options: Any) -> Any:
    """Compile a serial kernel (nogil, cached).

    Kernels that call it share a version of their own, without what unpacks Python's arguments: that
    takes long to compile, and few kernels are called from Python.

    The kernel does not count references to its arrays: whoever calls it holds them. Counting takes
    an atomic instruction for every slice, on a line that all threads share, and stores that go past
    the caches have to arrive before it. So it can neither make an array nor return one, unless it
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

    A loop over elements vectorizes without fast-math too, and gives the same bits wherever it is
    cut: where its last numbers are computed one by one, nothing is contracted in another way.
    """
    return njit(function, fastmath=False)


def njit_inlined(function: Any) -> Any:
    """Compile as a part of whatever calls it: for long functions that are called once.

    A function by itself is optimized again with every caller that it is linked into.
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
    """Return the folder that holds a kernel's machine code; None where none can be written."""
    path = getattr(getattr(kernel, "_cache", None), "cache_path", None)
    return pathlib.Path(path) if path else None


def _dispatcher(function: Any, **options: Any) -> Any:
    compiler: Any = numba.njit
    options = {"nogil": True, "error_model": "numpy", "fastmath": FASTMATH, **options}
    if DISABLED:
        return function
    if _internals is None:
        # Numba's cache goes by the function's name and its file alone, and cannot read the index
        # of `numba_internals`. So the name says what else the code is made of.
        function = _renamed(function, f"plain_{cache.stamp(function.__module__)[:16]}")
        try:
            return compiler(cache=True, **options)(function)
        except RuntimeError:  # no folder can be written
            return compiler(**options)(function)
    dispatcher = compiler(**_internals.OPTIONS, **options)(function)
    _internals.prepare(dispatcher)
    return dispatcher


def _renamed(function: Any, suffix: str) -> Any:
    """Return the same function under another name, which tells the two apart in the cache."""
    name = f"{function.__name__}_{suffix}"
    twin = FunctionType(function.__code__, function.__globals__, name)
    twin.__qualname__, twin.__doc__ = name, function.__doc__
    return twin
