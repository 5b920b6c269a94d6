"""The decorators of all kernels, and the options that they pass to numba.

Nothing is compiled on import. A kernel is compiled when it is first called with arrays of some
dtype. The machine code is stored on disk, so that later processes load it in milliseconds.

Much of this uses numba's internals (`fastbn.jit.numba_internals`). If a new version of numba has
changed them, `INTERNALS_PROBLEM` says what is missing, and kernels are compiled with plain
``numba.njit(cache=True)``. Results are then correct, but their last bits may depend on which
kernels the process has used before. Compiling takes longer and is not announced. After Ctrl-C
during compiling, or a fork by another thread, a process may not be able to compile any more.
"""

from __future__ import annotations

import pathlib
from types import FunctionType
from typing import Any

import numba
import numpy.ma  # noqa: F401 (else numba imports it at the first call; a forked child may hang)

from fastbn.jit import cache, isa, numba_probe
from fastbn.jit.listeners import logger

isa.limit()

# Vectorizing a sum reorders it, so the compiler may reorder sums and contract products. It may not
# assume that there are no NaNs or infinities (`nnan`, `ninf`): they must not give finite results.
FASTMATH = {"reassoc", "contract", "arcp", "nsz"}

DISABLED = bool(getattr(numba.config, "DISABLE_JIT", False))

# The first of numba's internals that is missing, or None.
INTERNALS_PROBLEM = None if DISABLED else numba_probe.problem()

_internals: Any = None
if INTERNALS_PROBLEM is not None:
    logger.warning(numba_probe.advice(numba.__version__, INTERNALS_PROBLEM))
elif not DISABLED:
    from fastbn.jit import numba_internals

    _internals = numba_internals


def njit(function: Any, *, allocates: bool = False, **options: Any) -> Any:
    """Compile a serial kernel (nogil, cached).

    Kernels that call it share a second version, without the code that unpacks arguments from
    Python: that code takes long to compile, and few kernels are called from Python.

    The kernel does not count references to its arrays, because its caller holds them. Counting
    would take an atomic instruction for each slice, on a cache line that all threads share, and
    this instruction would wait for non-temporal stores. So the kernel can neither create an array
    nor return one, unless `allocates` is true.
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
    """Compile a serial kernel that creates arrays."""
    return njit(function, allocates=True)


def njit_strict(function: Any) -> Any:
    """Compile a serial kernel without fast-math: each operation is rounded as it is written.

    A loop over elements still vectorizes. It gives the same bits wherever it is cut, because its
    vectors and its remainder, which is computed number by number, are rounded in the same way.
    """
    return njit(function, fastmath=False)


def njit_inlined(function: Any) -> Any:
    """Inline a function into each kernel that calls it, before anything is compiled.

    Otherwise the function is optimized by itself, and again in every kernel that links it.
    """
    return _dispatcher(function, inline="always")


def njit_parallel(function: Any) -> Any:
    """Compile a driver that runs ``prange`` over serial kernels.

    Call it through `fastbn.parallel.dispatch`.
    """
    return _dispatcher(function, parallel=True)


def parallel_twin(kernel: Any) -> Any:
    """Compile the source of a kernel again, with its ``prange`` loops on several threads."""
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
        # numba's cache finds a kernel by its name and file only, and would not notice changes in
        # other files. It cannot read index files of `KernelFiles` either. So we add the stamp of
        # all sources to the name
        function = _renamed(function, f"plain_{cache.stamp(function.__module__)[:16]}")
        try:
            return compiler(cache=True, **options)(function)
        except RuntimeError:  # no folder is writable
            return compiler(**options)(function)
    dispatcher = compiler(**_internals.OPTIONS, **options)(function)
    _internals.prepare(dispatcher)
    return dispatcher


def _renamed(function: Any, suffix: str) -> Any:
    """Return the same function under another name, so that it has its own entry in the cache."""
    name = f"{function.__name__}_{suffix}"
    twin = FunctionType(function.__code__, function.__globals__, name)
    twin.__qualname__, twin.__doc__ = name, function.__doc__
    return twin
