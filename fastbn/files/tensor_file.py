"""The bytes and the header of a safetensors file, read in order: no mapping, no seeking."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastbn.checks import shown
from fastbn.errors import ModelFileError

# Largest size of a parsed header in memory, for reading and writing. It is estimated as the size of
# the text and VALUE_BYTES for each value. Values are counted by the characters before them, even
# inside strings. safetensors has the same limit for the text alone.
MAX_HEADER = 100_000_000
VALUE_BYTES = 64
SEPARATORS = b"[{:,"

MOST_DIMENSIONS = 64  # as in NumPy

# Bytes of a header and of tensors that are read at once.
READ_BYTES = 1 << 16
LARGE_BLOCK = 1 << 20

DTYPES: dict[str, np.dtype] = {
    "F32": np.dtype("f4"), "F64": np.dtype("f8"), "I64": np.dtype("i8")
}  # fmt: skip


class Readable(Protocol):
    """A binary file to read from: `io.BytesIO`, an open file, a gzip or network stream."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, and none at the end."""


class Source:
    """The bytes of a file, in order; the file's own reads may be short."""

    def __init__(self, name: Any, file: Readable) -> None:
        self.name, self._file = name, file
        self.position = 0  # bytes read

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes; none at the end of the file."""
        try:
            block = self._file.read(size)
        except MemoryError:
            raise
        except UnicodeDecodeError as error:
            raise TypeError("path: expected a binary file, got a text file") from error
        except Exception as error:  # a stream may raise anything
            raise unreadable(self.name, f"reading failed: {shown(error)}") from error
        if not isinstance(block, bytes | bytearray | memoryview):
            what = type(block).__name__
            raise TypeError(f"path: expected a binary file, whose read() gives bytes, got {what}")
        if len(block) > size:
            raise unreadable(self.name, f"read({size}) gave {len(block)} bytes")
        self.position += len(block)
        return bytes(block)

    def fill(self, numbers: np.ndarray) -> None:
        """Read exactly the bytes of a contiguous array into it."""
        target = numbers.reshape(-1).view(np.uint8)
        done = 0
        while done < target.size:
            block = self.read(min(target.size - done, LARGE_BLOCK))
            if not block:
                raise unreadable(self.name, f"it ends after {self.position:,} bytes")
            target[done : done + len(block)] = np.frombuffer(block, np.uint8)
            done += len(block)

    def take(self, size: int) -> bytes:
        """Return exactly `size` bytes."""
        block = np.empty(size, np.uint8)
        self.fill(block)
        return block.tobytes()

    def go_to(self, position: int) -> None:
        """Skip to a position; only a file that can seek can go back."""
        if position < self.position:
            self._file.seek(position)  # type: ignore[attr-defined]
            self.position = position
        while self.position < position:
            if not self.read(min(position - self.position, LARGE_BLOCK)):
                raise unreadable(self.name, f"it ends after {self.position:,} bytes")


def unreadable(name: Any, reason: Any) -> ModelFileError:
    """Return the error for a file that is not a whole safetensors file."""
    return ModelFileError(f"{name}: not a readable safetensors file ({reason})")


class Tensor(NamedTuple):
    """A tensor in a header; its bytes are those from `start` to `stop` of the data."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Size in the file."""
        return self.stop - self.start


def header_cost(text: bytes) -> int:
    """Estimate the size in memory of a parsed header, or of a part of it."""
    return len(text) + VALUE_BYTES * sum(map(text.count, SEPARATORS))


def check_cost(cost: int) -> None:
    """Refuse a header that takes more memory than MAX_HEADER."""
    if cost > MAX_HEADER:
        raise ValueError(
            f"expected a header of at most {MAX_HEADER:,} bytes in memory, including the names of "
            "the tensors, got more"
        )


def read_header(source: Source, size: int | None) -> tuple[dict[str, str], dict[str, Any]]:
    """Read a file up to its data: its metadata, and its header's entry for each tensor.

    `size` is that of the file, None for a stream. A header is refused before it is parsed if it
    would take much memory.
    """
    length = int.from_bytes(source.take(8), "little")
    if size is not None and length > size - 8:
        raise ValueError(f"its header would have {length:,} bytes")
    check_cost(length)
    text, cost = bytearray(), 0
    while len(text) < length:
        block = source.take(min(length - len(text), READ_BYTES))
        cost += header_cost(block)
        check_cost(cost)
        text += block
    return parsed_header(text.decode())


def parsed_header(text: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the metadata of a header, and its entry for each tensor."""
    header = json.loads(text, object_pairs_hook=_unique)  # NaN is refused later
    if not isinstance(header, dict):
        raise ValueError("expected a header that is a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("__metadata__: expected an object of strings")
    return metadata, header


def tensors_of(header: dict[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a header in the order of their data, which has no gaps or overlaps."""
    tensors = [(name, _tensor(name, value)) for name, value in header.items()]
    tensors.sort(key=lambda pair: (pair[1].start, pair[1].stop))
    end = 0
    for name, tensor in tensors:
        if tensor.start != end:
            raise ValueError(f"{shown(name)}: expected data from byte {end}, got {tensor.start}")
        end = tensor.stop
    return dict(tensors)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("expected each key once in an object of JSON")
    return values


def _tensor(name: str, value: Any) -> Tensor:
    name.encode()  # refuses lone surrogates
    label = shown(name)
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{label}: expected dtype, shape and data_offsets, got {shown(value)}")
    shape, offsets = value["shape"], value["data_offsets"]
    dtype = DTYPES.get(value["dtype"]) if isinstance(value["dtype"], str) else None
    if dtype is None:
        got = shown(value["dtype"])
        raise ValueError(f"{label}: expected a dtype out of {list(DTYPES)}, got {got}")
    if not (_are_counts(shape) and len(shape) <= MOST_DIMENSIONS):
        raise ValueError(f"{label}: expected a shape, got {shown(shape)}")
    if not (_are_counts(offsets) and len(offsets) == 2):
        raise ValueError(f"{label}: expected two data_offsets, got {shown(offsets)}")
    start, stop = offsets
    if stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(
            f"{label}: expected data_offsets that span {dtype} {shown(shape)}, got {shown(offsets)}"
        )
    return Tensor(dtype, tuple(shape), start, stop)


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is int and 0 <= one < 2**63 for one in value)
