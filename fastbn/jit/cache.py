"""The cache of compiled kernels on disk: what outdates a kernel, and files that are checked."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import pathlib
import pickle
import pkgutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numba

from fastbn.jit import cache_files

# -- stamps ----------------------------------------------------------------------------------------

# Modules and packages whose code may be compiled into kernels of other modules, or says how these
# are compiled. What only chooses how many threads run a kernel is none of them.
SHARED = (
    "jit.compiler", "jit.intrinsics", "jit.intrinsics_python", "jit.numba_internals", "kernels",
    "options", "parallel.openmp", "parallel.team",
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


def shared_modules() -> tuple[str, ...]:
    """Return the names of the modules whose code may be compiled into any kernel."""
    return tuple(spec.name for spec in _shared_specs())


@functools.cache
def _shared_specs() -> tuple[Any, ...]:
    found = [importlib.util.find_spec(f"fastbn.{name}") for name in SHARED]
    return tuple(spec for shared in found for spec in _with_contents(shared))


def _with_contents(spec: Any) -> Iterator[Any]:
    """Yield a module, and all modules in it where it is a package; none is imported."""
    yield spec
    inside = pkgutil.iter_modules(spec.submodule_search_locations or [], f"{spec.name}.")
    for info in sorted(inside, key=lambda info: info.name):
        finder: Any = info.module_finder
        yield from _with_contents(finder.find_spec(info.name))


@functools.cache
def _shared_digest() -> Any:
    digest = hashlib.sha256()
    for spec in _shared_specs():
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


# -- files -----------------------------------------------------------------------------------------

CHECKSUM_BYTES = hashlib.sha256().digest_size


class KernelFiles:
    """The files of one kernel: an index, and a file of machine code for each entry.

    They take the place of numba's, which numbers the latter: processes that write at once would
    take each other's numbers, and one that dies between index and code would leave the code of
    former sources under a new stamp. Here a file is named after all that decides what is in it, and
    begins with a checksum, since the processor would run damaged code as it is.
    """

    def __init__(
        self, folder: str, name: str, stamp: str, dump: Callable[[Any], bytes] = pickle.dumps
    ) -> None:
        self._folder, self._index_name = pathlib.Path(folder), f"{name}.nbi"
        self._stamps = [numba.__version__, stamp]
        self._dump = dump

    def flush(self) -> None:
        """Forget all entries."""
        self._save_index({})

    def load(self, key: Any) -> Any:
        """Return what was written for this key; None where nothing was."""
        name = self._load_index().get(key)
        if name is None:
            return None
        try:
            return self._load_data(name)
        except OSError:  # somebody has removed it
            return None

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
        self._save_data(self._index_name, (*self._stamps, overloads))

    def _load_index(self) -> Any:
        try:
            *stamps, overloads = self._load_data(self._index_name)
        except Warning:  # where warnings are errors
            raise
        except Exception:  # a damaged index is as good as none
            return {}
        return overloads if stamps == self._stamps else {}

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
        return self._folder / name

    def _name_of(self, key: Any) -> str:
        digest = hashlib.sha256(repr((self._stamps[1], key)).encode()).hexdigest()
        return f"{self._index_name.removesuffix('nbi')}{digest[:16]}.nbc"

    def _remove_all_but(self, name: str) -> None:
        """Remove the machine code of former sources."""
        pattern = f"{self._index_name.removesuffix('nbi')}*.nbc"
        for path in self._folder.glob(pattern):
            if path.name != name:
                with contextlib.suppress(OSError):
                    path.unlink()
