"""The one place that knows how to compile: decorators, fast-math, threads.

Nothing is compiled on import. A kernel is compiled for the dtypes it is first called with and the
machine code is kept on disk, so that a later process loads it in milliseconds.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pathlib
import re
import statistics
import threading
import time
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numba
import numpy.ma  # noqa: F401 (numba would at the first call, where a forked child would wait for it)
from llvmlite.binding import Linkage
from numba.core import types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.compiler_lock import global_compiler_lock

from fastbn.jit.cache import KernelCache
from fastbn.jit.signals import Postponed

# Sums may be reordered and products contracted, which is what vectorizing needs. Not `nnan` and not
# `ninf`: a NaN or an infinity in the data comes out as one, or as an error, never as a number.
FASTMATH = {"reassoc", "contract", "arcp", "nsz"}

DISABLED = bool(getattr(numba.config, "DISABLE_JIT", False))

logger = logging.getLogger("fastbn")

# An exception in the middle of it leaves numba's registries half read, and nothing compiles again.
_compiling = Postponed()

_compile_listeners: list[Callable[[], None]] = []


def njit(function: Any, **options: Any) -> Any:
    """Compile a serial kernel (nogil, cached).

    Kernels that call it share a version of their own, without what unpacks Python's arguments: that
    takes long to compile, and few kernels are called from Python.

    The kernel does not count references to its arrays: whoever calls it holds them. Counting takes
    an atomic instruction for every slice, on a line that all threads share, and stores that go past
    the caches have to arrive before it. So it can neither make an array nor return one.
    """
    options = {"_nrt": False, **options}
    kernel = _dispatcher(function, **options)
    if not DISABLED:
        inner = _dispatcher(_renamed(function, "inner"), no_cpython_wrapper=True, **options)
        template_for = inner.get_call_template

        def get_call_template(args: Any, kws: Any) -> Any:
            # one version for all constants, not one for each
            kws = {name: types.unliteral(kind) for name, kind in kws.items()}
            return template_for([types.unliteral(kind) for kind in args], kws)

        kernel.get_call_template, kernel.get_overload = get_call_template, inner.get_overload
        kernel.get_compile_result = inner.get_compile_result
    return kernel


def njit_allocating(function: Any) -> Any:
    """Compile a serial kernel that makes arrays."""
    return njit(function, _nrt=True)


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
    """Compile a driver that runs ``prange`` over serial kernels; call it through `run`."""
    return _dispatcher(function, parallel=True)


def parallel_twin(kernel: Any) -> Any:
    """Compile the same source once more, its ``prange`` loops now on several threads."""
    return njit_parallel(_renamed(getattr(kernel, "py_func", kernel), "parallel"))


def _renamed(function: Any, suffix: str) -> Any:
    """Return the same function under another name, which tells the two apart in the cache."""
    name = f"{function.__name__}_{suffix}"
    twin = FunctionType(function.__code__, function.__globals__, name)
    twin.__qualname__, twin.__doc__ = name, function.__doc__
    return twin


def _dispatcher(function: Any, **options: Any) -> Any:
    compiler: Any = numba.njit
    options = {"fastmath": FASTMATH, "pipeline_class": _Compiler, **options}
    dispatcher = compiler(nogil=True, error_model="numpy", no_cfunc_wrapper=True, **options)(
        function
    )
    if not DISABLED:
        # where no folder can be written, every process compiles for itself
        with contextlib.suppress(RuntimeError, OSError):
            dispatcher._cache = KernelCache(function, _announce)
        dispatcher.compile = _compiling_with(dispatcher.compile)
    return dispatcher


def _compiling_with(compile_: Any) -> Any:
    """Return numba's way to compile, or load, without an exception by a signal inside."""

    @functools.wraps(compile_)
    def compile_or_load(sig: Any) -> Any:
        with global_compiler_lock, _compiling:  # no fork meanwhile
            return compile_(sig)

    return compile_or_load


# Linkages of functions of which a process keeps one; numba's for copies, and for parallel loops.
SHARED = (Linkage.linkonce_odr, Linkage.weak_odr)


class _Library(JITCodeLibrary):
    """Machine code that keeps its copies of other kernels to itself.

    A kernel has a copy of each that it calls, optimized together with it, which may round in
    another way. As numba leaves them, the copies of all kernels have one name in a process, and
    the first to be loaded serves all others: results depended on what was used before. The
    same goes for the bodies of parallel loops.
    """

    def _finalize_final_module(self) -> None:
        if self._shared_module is None:  # it was compiled, and not loaded
            # first what is linked into other kernels: all of it, for them to have one copy of each
            self._finalized = True
            self._get_module_for_linking()
            for function in self._final_module.functions:
                if function.linkage in SHARED and not function.is_declaration:
                    function.linkage = Linkage.internal
        super()._finalize_final_module()


class _Compiler(Compiler):
    """Numba's compiler, into a `_Library`."""

    def compile_extra(self, func: Any) -> Any:
        library = _Library(self.state.targetctx.codegen(), func.__qualname__)
        library.enable_object_caching()
        self.state.library = library
        return super().compile_extra(func)


# -- what is told of it --------------------------------------------------------------------------


def _announce(function: Any, sig: Any) -> None:
    """Say that a kernel is compiled, to the logger and to those who listen."""
    dtypes = sorted(set(re.findall(r"float\d+", str(sig))))
    logger.info("compiling %s for %s", function.__qualname__, ", ".join(dtypes))
    for listener in list(_compile_listeners):
        listener()


class on_compile:
    """Context in which `listener` is called once, before the first kernel is compiled."""

    def __init__(self, listener: Callable[[], None]) -> None:
        self._listener = listener

    def __enter__(self) -> on_compile:
        _compile_listeners.append(self._once)
        return self

    def __exit__(self, *exc: object) -> None:
        self._leave()

    def _once(self) -> None:
        if self._leave():
            self._listener()

    def _leave(self) -> bool:
        """Stop listening; False where another thread has done so."""
        try:
            _compile_listeners.remove(self._once)
        except ValueError:
            return False
        return True


def cache_folder(kernel: Any) -> pathlib.Path | None:
    """Return the folder that holds a kernel's machine code; None where none can be written."""
    path = getattr(getattr(kernel, "_cache", None), "cache_path", None)
    return pathlib.Path(path) if path else None


# -- threads -------------------------------------------------------------------------------------

# Below this many elements a parallel region costs more than it saves; 0 has it on one core, too.
PARALLEL_ELEMENTS = 1 << 17

# One parallel region at a time: numba's workqueue layer aborts the process when a second thread
# enters it, and on every layer two regions at once only fight for the cores.
_region = threading.Lock()
_forked = False


def _after_fork_in_child() -> None:
    # GNU OpenMP kills a forked child at its first parallel region: children compute serially.
    global _forked, _region
    _forked = True
    _region = threading.Lock()
    global_compiler_lock.release()


def is_forked() -> bool:
    """Tell whether this process was forked from one that may have had a pool of threads."""
    return _forked


if hasattr(os, "register_at_fork"):
    # A child forked while another thread compiles, or loads from the cache, would wait for that
    # thread for ever: it has its lock, and not the thread. So a fork waits until that is done.
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=_after_fork_in_child,
    )


def run(serial: Any, parallel: Any, n_elements: int, *args: Any) -> Any:
    """Call ``parallel(*args)`` where that pays and is safe, else ``serial(*args)``.

    The two give the same bits: work is cut by size, never by the number of threads.
    """
    if (
        n_elements < PARALLEL_ELEMENTS
        or _forked
        or (PARALLEL_ELEMENTS > 0 and numba.get_num_threads() == 1)
    ):
        return serial(*args)
    choice = _choices.setdefault((parallel, n_elements.bit_length()), _Choice())
    alone = PARALLEL_ELEMENTS > 0 and choice.is_alone()
    if alone or not _region.acquire(blocking=False):
        start = time.perf_counter()
        result = serial(*args)
        if alone:
            choice.learn(True, time.perf_counter() - start)
        return result
    try:
        start = time.perf_counter()
        result = parallel(*args)
        choice.learn(False, time.perf_counter() - start)
        return result
    finally:
        _region.release()


class _Choice:
    """One thread or several for calls of a kernel on about so many numbers: the faster of late.

    The threads of another library's pool may spin on the cores long after their work, NumPy's BLAS
    among them: a parallel region then waits for a core, for a hundred times as long as its work
    takes. So what the last calls took decides. The other way is tried again when that costs no more
    than a twentieth of the time that has gone by since it lost.
    """

    def __init__(self) -> None:
        self._seconds: dict[bool, list[float]] = {True: [], False: []}  # of the last calls
        self._since = 0.0  # seconds that were taken since the other way was tried

    def is_alone(self) -> bool:
        """Tell whether the next call is for one thread."""
        counts = {alone: len(taken) for alone, taken in self._seconds.items()}
        if min(counts.values()) < CALLS:
            return counts[True] < counts[False]
        usual = {alone: statistics.median(taken) for alone, taken in self._seconds.items()}
        alone = usual[True] < usual[False]
        return alone != (self._since > 20 * usual[not alone])

    def learn(self, alone: bool, seconds: float) -> None:
        """Take note of what a call took."""
        taken, other = self._seconds[alone], self._seconds[not alone]
        taken.append(seconds)
        del taken[:-CALLS]
        if len(other) < CALLS or statistics.median(other) >= statistics.median(taken):
            self._since += seconds
        elif seconds >= statistics.median(other):  # a trial that failed; after a good one, another
            self._since = 0.0


# Calls whose median says how long one takes.
CALLS = 3

_choices: dict[tuple[Any, int], _Choice] = {}
