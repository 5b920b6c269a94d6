"""The cache of compiled kernels on disk: numba's, with stamps, names and checks of our own."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import pathlib
import pickle
import pkgutil
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numba
from numba.core import caching
from numba.core.runtime import rtsys

from fastbn.jit import cache_files as cache_files

# What of numba's settings shapes the machine code, beside the processor, which it knows itself.
SETTINGS = (
    "OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "LLVM_REFPRUNE_PASS", "BOUNDSCHECK",
    "DEBUGINFO_DEFAULT", "EXTEND_VARIABLE_LIFETIMES", "USING_SVML", "PARFOR_MAX_TUPLE_SIZE",
    "DEBUG_ARRAY_OPT_RUNTIME",
)  # fmt: skip


# -- stamps ----------------------------------------------------------------------------------------

# Modules, beside fastbn.kernels, whose code may be compiled into kernels of other modules.
SHARED = (
    "jit.compiler", "jit.intrinsics", "jit.intrinsics_python", "parallel.openmp", "parallel.team",
)  # fmt: skip


def stamp(module: str) -> str:
    """Return a digest of what the kernels of a module are compiled from.

    That is the module itself and the shared ones: a change in a helper outdates all kernels that
    have it inlined. What has been imported does not matter.
    """
    if getattr(sys, "frozen", False):  # into an executable file
        return _executable_digest()
    digest = _shared_digest().copy()
    if module not in shared_modules():
        found = sys.modules[module]
        digest.update(_content(found.__spec__, str(found.__file__)))
    return str(digest.hexdigest())


@functools.cache
def shared_modules() -> tuple[str, ...]:
    """Return the names of the modules whose code may be compiled into any kernel."""
    kernels: Any = importlib.util.find_spec("fastbn.kernels")
    names = [info.name for info in pkgutil.iter_modules(kernels.submodule_search_locations)]
    return tuple(f"fastbn.{name}" for name in SHARED + tuple(f"kernels.{n}" for n in sorted(names)))


@functools.cache
def _shared_digest() -> Any:
    digest = hashlib.sha256()
    for name in shared_modules():
        spec: Any = importlib.util.find_spec(name)
        digest.update(_content(spec, spec.origin))
    return digest


@functools.cache
def _executable_digest() -> str:
    return hashlib.sha256(pathlib.Path(sys.executable).read_bytes()).hexdigest()


def _content(spec: Any, path: str) -> bytes:
    """Return a module's source, or its bytecode where that is all there is; also from a zip."""
    if spec is not None and hasattr(spec.loader, "get_data"):
        content: bytes = spec.loader.get_data(path)
        return content
    return pathlib.Path(path).read_bytes()  # of a script


# -- folders ---------------------------------------------------------------------------------------


class _OfModule(caching._CacheLocator):
    """Where to keep what is compiled from a module, which may be in a zip.

    Numba asks for a source file instead, by the path that it had when it was compiled to bytecode.
    """

    _module: str

    @classmethod
    def from_function(cls, function: Any, path: str) -> Any:
        place = getattr(sys.modules.get(function.__module__), "__file__", None)
        if place is None or not cls.fits(place):
            return None
        make: Any = cls
        locator = make(function, place)
        locator._module = function.__module__
        try:
            locator.ensure_cache_path()
        except OSError:
            return None
        return locator

    @staticmethod
    def fits(path: str) -> bool:
        """Tell whether there is such a folder for a module with this path."""
        return True

    def ensure_cache_path(self) -> None:
        folder = pathlib.Path(self.get_cache_path())
        cache_files.make_folder(folder)
        tempfile.TemporaryFile(dir=folder).close()  # an error where it cannot be written

    def get_source_stamp(self) -> str:
        return stamp(self._module)


class _UserProvided(_OfModule, caching.UserProvidedCacheLocator):
    """`NUMBA_CACHE_DIR`, where it is set."""

    @staticmethod
    def fits(path: str) -> bool:
        return bool(getattr(numba.config, "CACHE_DIR", ""))


class _InTree(_OfModule, caching.InTreeCacheLocator):
    """`__pycache__` beside the kernels, where it can be written."""

    @staticmethod
    def fits(path: str) -> bool:
        return pathlib.Path(path).exists()


class _UserWide(_OfModule, caching.UserWideCacheLocator):
    """The user's cache folder, for a zip or a read-only installation."""


# -- files -----------------------------------------------------------------------------------------


class _KernelCacheImpl(caching.CompileResultCacheImpl):
    _locator_classes = [_UserProvided, _InTree, _UserWide]  # noqa: RUF012 (numba's own name)


CHECKSUM_BYTES = hashlib.sha256().digest_size


class KernelFiles(caching.IndexDataCacheFile):
    """The files of one kernel: an index, and a file of machine code for each entry.

    Numba numbers the latter: processes that write at once would take each other's numbers, and one
    that dies between index and code would leave the code of former sources under a new stamp. Here
    a file is named after all that decides what is in it, and begins with a checksum, since the
    processor would run damaged code as it is.
    """

    def save(self, key: Any, data: Any) -> None:
        """Write the machine code first, and then the index that names it."""
        name = self._name_of(key)
        self._save_data(name, data)
        overloads = self._load_index()
        if not overloads:
            self._remove_all_but(name)
        if key not in overloads:
            self._save_index({**overloads, key: name})

    def _save_index(self, overloads: Any) -> None:
        self._save_data(self._index_name, (self._version, self._source_stamp, overloads))

    def _load_index(self) -> Any:
        try:
            *stamps, overloads = self._load_data(self._index_name)
        except Warning:  # where warnings are errors
            raise
        except Exception:  # a damaged index is as good as none
            return {}
        return overloads if stamps == [self._version, self._source_stamp] else {}

    def _save_data(self, name: str, data: Any) -> None:
        content = self._dump(data)
        cache_files.write(self._path(name), hashlib.sha256(content).digest() + content)

    def _load_data(self, name: str) -> Any:
        content = cache_files.read(self._path(name))
        checksum, data = content[:CHECKSUM_BYTES], content[CHECKSUM_BYTES:]
        if hashlib.sha256(data).digest() != checksum:
            raise ValueError(f"{name} is damaged")
        return pickle.loads(data)

    def _path(self, name: str) -> pathlib.Path:
        return pathlib.Path(self._cache_path, name)

    def _name_of(self, key: Any) -> str:
        digest = hashlib.sha256(repr((self._source_stamp, key)).encode()).hexdigest()
        return f"{self._index_name.removesuffix('nbi')}{digest[:16]}.nbc"

    def _remove_all_but(self, name: str) -> None:
        """Remove the machine code of former sources."""
        pattern = f"{self._index_name.removesuffix('nbi')}*.nbc"
        for path in pathlib.Path(self._cache_path).glob(pattern):
            if path.name != name:
                with contextlib.suppress(OSError):
                    path.unlink()


class KernelCache(caching.FunctionCache):
    """Numba's cache with `KernelFiles`; `miss` is called before a kernel is compiled.

    A RuntimeError where there is no folder that can be written.
    """

    _impl_class = _KernelCacheImpl

    def __init__(self, function: Any, miss: Callable[[Any, Any], None]) -> None:
        super().__init__(function)
        self._miss = miss
        self._cache_file = KernelFiles(
            self._cache_path, self._impl.filename_base, stamp(function.__module__)
        )

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        settings = tuple(repr(getattr(numba.config, name, None)) for name in SETTINGS)
        return (*super()._index_key(sig, codegen), settings)

    def save_overload(self, sig: Any, data: Any) -> None:
        """Write a compiled kernel."""
        with contextlib.suppress(OSError):  # a full disk: other processes compile for themselves
            self._save_overload(sig, data)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return a kernel that was compiled before, or None."""
        try:
            # numba would first import all that it can compile, which takes longer than to load
            rtsys.initialize(target_context)
            result = self._load_overload(sig, target_context)
        except Warning:
            raise
        except Exception:  # a damaged file is as good as none
            result = None
        if result is None:
            target_context.refresh()
            self._miss(self._py_func, sig)
        return result
