"""How fastbn changes the way in which numba compiles, caches and calls kernels.

This uses numba's internals, so a new version of numba may break it. Intrinsics (jit/intrinsics and
parallel/openmp.py) need a few internals, too. `fastbn.jit.numba_probe` lists them all, and looks
for them before this module is imported.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numba
from llvmlite.binding import Linkage
from numba.core import caching, serialize, types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.compiler_lock import global_compiler_lock
from numba.core.runtime import rtsys
from numba.misc.appdirs import AppDirs

from fastbn.jit import cache, cache_files
from fastbn.jit.listeners import announce
from fastbn.jit.postponed_signals import Postponed

# -- compiling -----------------------------------------------------------------------------------

# Numba gives these linkages to kernels and to the bodies of parallel loops. If several modules
# contain a function with such a linkage, a process keeps one copy.
SHARED_LINKAGES = (Linkage.linkonce_odr, Linkage.weak_odr)


class _Library(JITCodeLibrary):
    """Machine code whose copies of other kernels are private.

    A kernel contains a copy of each kernel that it calls. The copy is optimized together with its
    caller and may round differently than other copies. Numba gives all copies the same name, and a
    process uses the first copy that it loads for all callers, so results would depend on which
    kernels it used before. The same holds for the bodies of parallel loops.
    """

    def _finalize_final_module(self) -> None:
        if self._shared_module is None:  # compiled, not loaded
            # first build the version for other kernels to link, which keeps the shared names
            self._finalized = True
            self._get_module_for_linking()
            for function in self._final_module.functions:
                if function.linkage in SHARED_LINKAGES and not function.is_declaration:
                    function.linkage = Linkage.internal
        super()._finalize_final_module()


class _Compiler(Compiler):
    """Numba's compiler, which compiles into a `_Library`."""

    def compile_extra(self, func: Any) -> Any:
        library = _Library(self.state.targetctx.codegen(), func.__qualname__)
        library.enable_object_caching()
        self.state.library = library
        return super().compile_extra(func)


# Options of all kernels, of kernels that Python never calls, and of kernels that do not count
# references to arrays.
OPTIONS: dict[str, Any] = {"pipeline_class": _Compiler, "no_cfunc_wrapper": True}
INNER: dict[str, Any] = {"no_cpython_wrapper": True}
UNCOUNTED: dict[str, Any] = {"_nrt": False}


def delegate_to(kernel: Any, inner: Any) -> None:
    """Link kernels that call `kernel` to `inner` instead, in one version for all literals."""
    template_for = inner.get_call_template

    def get_call_template(args: Any, kws: Any) -> Any:
        kws = {name: types.unliteral(kind) for name, kind in kws.items()}
        return template_for([types.unliteral(kind) for kind in args], kws)

    kernel.get_call_template, kernel.get_overload = get_call_template, inner.get_overload
    kernel.get_compile_result = inner.get_compile_result


# An exception while numba compiles may leave its registries incomplete, so that nothing compiles
# any more.
_compiling = Postponed()


def prepare(dispatcher: Any) -> None:
    """Give a kernel its cache, and postpone signals while it is compiled or loaded."""
    # if no folder is writable, there is no cache
    with contextlib.suppress(RuntimeError, OSError):
        dispatcher._cache = _KernelCache(dispatcher.py_func, announce)
    compile_ = dispatcher.compile

    @functools.wraps(compile_)
    def compile_or_load(sig: Any) -> Any:
        with global_compiler_lock, _compiling:  # forks wait for the lock
            return compile_(sig)

    dispatcher.compile = compile_or_load


if hasattr(os, "register_at_fork"):
    # a child that is forked while another thread compiles or loads would inherit a locked lock, but
    # not the thread that unlocks it. So a fork waits for the lock
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )


# -- the folder of the cache ---------------------------------------------------------------------


class _Locator:
    """A writable folder for the kernels of a module, which may be in a zip.

    Numba's own locators require a source file at the path that is stored in the bytecode.
    """

    def __init__(self, function: Any, folder: pathlib.Path) -> None:
        self._module, self._folder = function.__module__, folder
        self._line = function.__code__.co_firstlineno
        self.ensure_cache_path()

    @classmethod
    def from_function(cls, function: Any, path: str) -> _Locator | None:
        place = getattr(sys.modules.get(function.__module__), "__file__", None)
        for folder in _folders(place) if place else ():
            with contextlib.suppress(OSError):
                return cls(function, folder)
        return None

    def get_cache_path(self) -> str:
        return str(self._folder)

    def ensure_cache_path(self) -> None:
        cache_files.make_folder(self._folder)
        tempfile.TemporaryFile(dir=self._folder).close()  # an error if it is not writable

    def get_disambiguator(self) -> str:
        return str(self._line)

    def get_source_stamp(self) -> str:
        return cache.stamp(self._module)


def _folders(place: str) -> Iterator[pathlib.Path]:
    """Yield folders for the kernels of the module at `place`, the preferred one first."""
    name = caching._CacheLocator.get_suitable_cache_subpath(place)
    chosen = getattr(numba.config, "CACHE_DIR", "")
    if chosen:
        yield pathlib.Path(chosen, name)
    if pathlib.Path(place).exists():  # not in a zip
        yield pathlib.Path(place).parent / "__pycache__"
    yield pathlib.Path(AppDirs("numba", False).user_cache_dir, name)


# -- the cache -----------------------------------------------------------------------------------

# Settings of numba that change the machine code. Numba's own key contains the processor, but none
# of these.
SETTINGS = (
    "OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "LLVM_REFPRUNE_PASS", "BOUNDSCHECK",
    "DEBUGINFO_DEFAULT", "EXTEND_VARIABLE_LIFETIMES", "USING_SVML", "PARFOR_MAX_TUPLE_SIZE",
    "DEBUG_ARRAY_OPT_RUNTIME",
)  # fmt: skip


class _KernelCacheImpl(caching.CompileResultCacheImpl):
    _locator_classes = [_Locator]  # noqa: RUF012 (numba's own name)


class _KernelCache(caching.FunctionCache):
    """Numba's cache with `KernelFiles`; `miss` is called before a kernel is compiled.

    RuntimeError if no folder is writable.
    """

    _impl_class = _KernelCacheImpl

    def __init__(self, function: Any, miss: Callable[[Any, Any], None]) -> None:
        super().__init__(function)
        self._miss = miss
        self._cache_file: Any = cache.KernelFiles(
            self._cache_path,
            self._impl.filename_base,
            cache.stamp(function.__module__),
            serialize.dumps,
        )

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        settings = tuple(repr(getattr(numba.config, name, None)) for name in SETTINGS)
        return (*super()._index_key(sig, codegen), settings)

    def save_overload(self, sig: Any, data: Any) -> None:
        """Write a compiled kernel."""
        with contextlib.suppress(OSError):  # a full disk
            self._save_overload(sig, data)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return a kernel that was compiled before, or None."""
        try:
            # numba's own method first imports everything that compiling needs, which takes longer
            # than loading a kernel
            rtsys.initialize(target_context)
            result = self._load_overload(sig, target_context)
        except Warning:
            raise
        except Exception:  # a damaged file counts as missing
            result = None
        if result is None:
            target_context.refresh()
            self._miss(self._py_func, sig)
        return result
