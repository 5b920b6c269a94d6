"""The cache of compiled kernels on disk: digests of their sources, and files with checksums."""

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

# Modules and packages whose code may be compiled into kernels of other modules, or determines how
# they are compiled. Modules that only choose how many threads run a kernel are left out.
SHARED_MODULES = (
    "jit.compiler", "jit.intrinsics", "jit.numba_internals", "kernels", "options",
    "parallel.openmp", "parallel.team",
)  # fmt: skip


def stamp(module: str) -> str:
    """Return a digest of the source of a module and of all shared modules.

    So a change in a helper makes all kernels that may contain it compile again.
    """
    if getattr(sys, "frozen", False):  # the program is one executable file
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
    found = [importlib.util.find_spec(f"fastbn.{name}") for name in SHARED_MODULES]
    return tuple(spec for shared in found for spec in _with_contents(shared))


def _with_contents(spec: Any) -> Iterator[Any]:
    """Yield the spec of a module and, if it is a package, of all modules in it; import none."""
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
    """Return a module's source, or its bytecode if there is no source. It may be in a zip."""
    if spec is not None and hasattr(spec.loader, "get_data"):
        content: bytes = spec.loader.get_data(path)
        return content
    return pathlib.Path(path).read_bytes()  # a script


# -- files -----------------------------------------------------------------------------------------

CHECKSUM_BYTES = hashlib.sha256().digest_size


class KernelFiles:
    """The files of one kernel: an index, and a file of machine code for each entry.

    They replace numba's files, whose names are numbers. There, processes that write at the same
    time use the same numbers, and a process that dies between index and code leaves old code under
    a new stamp. Here, the name of a file is a digest of everything that determines its contents.
    The file begins with a checksum, since the processor would run damaged code.
    """

    def __init__(
        self, folder: str, name: str, stamp: str, dump: Callable[[Any], bytes] = pickle.dumps
    ) -> None:
        self._folder, self._index_name = pathlib.Path(folder), f"{name}.nbi"
        self._stamps = [numba.__version__, stamp]
        self._dump = dump

    def load(self, key: Any) -> Any:
        """Return what was saved for this key, or None."""
        name = self._load_index().get(key)
        try:
            return name and self._load_data(name)
        except OSError:  # the file was removed
            return None

    def save(self, key: Any, data: Any) -> None:
        """Write the machine code first, and then the index that names it."""
        name = self._name_of(key)
        self._save_data(name, data)
        overloads = self._load_index()
        if not overloads:
            self._remove_all_but(name)
        if key not in overloads:
            self._save_data(self._index_name, (*self._stamps, {**overloads, key: name}))

    def _load_index(self) -> Any:
        try:
            *stamps, overloads = self._load_data(self._index_name)
        except Warning:  # the user turns warnings into errors
            raise
        except Exception:  # a damaged index counts as missing
            return {}
        return overloads if stamps == self._stamps else {}

    def _save_data(self, name: str, data: Any) -> None:
        content = self._dump(data)
        cache_files.write(self._folder / name, hashlib.sha256(content).digest() + content)

    def _load_data(self, name: str) -> Any:
        content = cache_files.read(self._folder / name)
        checksum, data = content[:CHECKSUM_BYTES], content[CHECKSUM_BYTES:]
        if hashlib.sha256(data).digest() != checksum:
            raise ValueError(f"{name} is damaged")
        return pickle.loads(data)

    def _name_of(self, key: Any) -> str:
        digest = hashlib.sha256(repr((self._stamps[1], key)).encode()).hexdigest()
        return f"{self._index_name.removesuffix('nbi')}{digest[:16]}.nbc"

    def _remove_all_but(self, name: str) -> None:
        """Remove the machine code of older sources."""
        pattern = f"{self._index_name.removesuffix('nbi')}*.nbc"
        for path in self._folder.glob(pattern):
            if path.name != name:
                with contextlib.suppress(OSError):
                    path.unlink()
