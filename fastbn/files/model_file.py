"""Model files: safetensors with the configuration in the metadata. Loading executes nothing."""

from __future__ import annotations

import contextlib
import io
import json
import operator
import os
import pathlib
import stat
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol

import numpy as np

from fastbn.checks import path_of, shown
from fastbn.errors import ModelFileError
from fastbn.files.atomic import atomic_write, writable_file
from fastbn.files.tensor_file import (
    Readable,
    Source,
    check_cost,
    header_cost,
    read_header,
    tensors_of,
    unreadable,
)

FORMAT_VERSION = 1


class Writable(Protocol):
    """A binary file to write to: `io.BytesIO`, an open file, a gzip or network stream."""

    def write(self, data: bytes, /) -> Any:
        """Write bytes; an unbuffered file returns how many it took."""


def model_bytes(tensors: dict[str, np.ndarray], header: dict[str, Any]) -> bytes:
    """Return a file with these tensors, and the header as JSON."""
    from safetensors.numpy import save

    try:
        text = json.dumps({"format_version": FORMAT_VERSION, **header})
    except (ValueError, RecursionError) as error:  # an integer may have too many digits
        raise TypeError(f"metadata: expected a dict that JSON can represent: {error}") from error
    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    data: bytes = save(arrays, {"fastbn": text})
    length = int.from_bytes(data[:8], "little")
    try:
        check_cost(header_cost(data[8 : 8 + length]))
    except ValueError as error:
        raise ValueError(f"metadata: {error}") from None
    return data


def destination(file: Any) -> pathlib.Path | Writable:
    """Check the argument `path`: a path, or a binary file that is open for writing."""
    if isinstance(file, str | os.PathLike):
        return writable_file(file)
    writable: Writable = _checked_stream(file, "write", "writable")
    return writable


def _checked_stream(file: Any, method: str, ability: str) -> Any:
    """Check that the argument `path` is a binary file that is open in this direction."""
    is_text = isinstance(file, io.TextIOBase)
    if is_text or not hasattr(file, method):
        got = "a text file" if is_text else shown(file)
        if isinstance(file, bytes | bytearray | memoryview):
            got = f"{len(file)} bytes: wrap them in io.BytesIO"
        raise TypeError(f"path: expected a path, or a binary file with {method}(), got {got}")
    try:
        is_able = getattr(file, ability, lambda: True)()
    except ValueError as error:
        raise ValueError(f"path: expected an open file: {error}") from error
    if not is_able:
        raise io.UnsupportedOperation(f"path: expected a {ability} file, got {shown(file)}")
    return file


def write_to(target: pathlib.Path | Writable, data: bytes) -> None:
    """Write a file to a path, atomically, or to a stream, which may take it in parts."""
    if isinstance(target, pathlib.Path):
        with atomic_write(target, "wb") as file:
            file.write(data)
        return
    rest = memoryview(data)
    while rest:
        try:
            count = target.write(data if len(rest) == len(data) else rest)  # type: ignore[arg-type]
        except TypeError as error:
            said = "path: expected a binary file, whose write() takes bytes"
            raise TypeError(f"{said}: {error}") from error
        if count is None and isinstance(target, io.RawIOBase):
            raise BlockingIOError("path: expected a blocking file, got one that is not ready")
        try:
            taken = len(rest) if isinstance(count, bool) else operator.index(count)
        except TypeError:  # a file may return anything if it always takes all bytes
            return
        if not 0 < taken <= len(rest):
            raise OSError(f"path: write() took {taken} of {len(rest)} bytes")
        rest = rest[taken:]


class ModelFile:
    """A model file that is being read: its header, and its tensors in the order of their data."""

    def __init__(self, name: Any, source: Source, size: int | None) -> None:
        self.path, self._source = name, source
        metadata, header = read_header(source, size)
        if "fastbn" not in metadata:
            raise ModelFileError(f"{name}: expected fastbn's metadata, found {shown([*metadata])}")
        self.header = _parsed(name, metadata["fastbn"])
        self.tensors = tensors_of(header)
        self._data = source.position
        self._end = self._data + max((tensor.stop for tensor in self.tensors.values()), default=0)
        if size is not None and self._end != size:
            raise ValueError(f"expected {self._end:,} bytes, found {size:,}")

    def read(self, name: str) -> np.ndarray:
        """Return one tensor."""
        tensor = self.tensors[name]
        numbers = np.empty(tensor.shape, tensor.dtype)
        self.read_into(name, numbers)
        return numbers

    def read_into(self, name: str, array: np.ndarray) -> None:
        """Read one tensor into an array of its shape, without a copy if the dtype is the same.

        From a stream, tensors can only be read in order.
        """
        tensor = self.tensors[name]
        if array.dtype != tensor.dtype or not array.flags.c_contiguous:
            array[...] = self.read(name)
            return
        self._source.go_to(self._data + tensor.start)
        self._source.fill(array)

    def finish(self) -> None:
        """Refuse a stream that goes on after its last tensor."""
        self._source.go_to(self._end)
        if self._source.read(1):
            raise unreadable(self.path, f"it goes on after {self._end:,} bytes")


@contextlib.contextmanager
def open_model(path: str | os.PathLike[str] | Readable) -> Iterator[ModelFile]:
    """Open a model file for reading; raises ModelFileError if it is not one.

    The file is read and not mapped, since another program may truncate it meanwhile.
    """
    with contextlib.ExitStack() as stack:
        size = None
        if isinstance(path, str | os.PathLike):
            name: Any = path_of("path", path)
            file = stack.enter_context(_open(name))
            size = os.fstat(file.fileno()).st_size
        else:
            file = _checked_stream(path, "read", "readable")
            name = getattr(file, "name", None)
            name = name if isinstance(name, str) else f"<{type(file).__name__}>"
        try:
            try:
                model = ModelFile(name, Source(name, file), size)
            except ModelFileError:
                raise
            except (ValueError, RecursionError) as error:
                raise unreadable(name, error) from error
            yield model
            if size is None:
                model.finish()
        except MemoryError as error:
            raise ModelFileError(f"{name}: it needs more memory than there is") from error


def _open(path: pathlib.Path) -> BinaryIO:
    try:
        if stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait
            return open(path, "rb")
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise unreadable(path, error) from error
    raise ModelFileError(f"{path}: expected a model file, found none")


def _parsed(path: Any, text: str) -> dict[str, Any]:
    try:
        header: dict[str, Any] = json.loads(text)
        version = header["format_version"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelFileError(f"{path}: fastbn's metadata is malformed ({shown(error)})") from error
    if type(version) is not int or version != FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: expected format version {FORMAT_VERSION}, got {shown(version)}"
        )
    return header
