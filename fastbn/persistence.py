"""Model files: safetensors with the configuration in the metadata. Loading executes nothing."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import secrets
import stat
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from fastbn._checks import path_of
from fastbn.errors import ModelFileError

FORMAT_VERSION = 1

# Bytes that a value of JSON takes in memory, about, and those that a file's header may take, beside
# half the size of the file. What separates values is counted, wherever it stands.
VALUE_BYTES = 64
HEADER_BYTES = 1 << 20
SEPARATORS = b"[{:,"

# Bytes of a header that are looked at together.
BLOCK = 1 << 16

# safetensors' names of dtypes
DTYPES = {"F32": np.dtype(np.float32), "F64": np.dtype(np.float64), "I64": np.dtype(np.int64)}


def model_bytes(tensors: dict[str, np.ndarray], header: dict[str, Any]) -> bytes:
    """Return the file that `tensors` and the JSON-able `header` are."""
    from safetensors.numpy import save

    metadata = {"fastbn": _json(header)}
    data = save({name: np.ascontiguousarray(t) for name, t in tensors.items()}, metadata)
    try:
        _check_header(io.BytesIO(data), len(data))
    except ValueError as error:
        raise ValueError(f"metadata: {error}") from error
    return data


def writable_file(path: str | os.PathLike[str], name: str = "path") -> pathlib.Path:
    """Return where the argument `name` leads; an error where no file can be written there."""
    given = path_of(name, path)
    target = pathlib.Path(os.path.realpath(given))
    if reason := unusable_name(target):
        raise OSError(f"{name}: expected a file to write, got {target}: {reason}")
    if target.is_dir():
        raise IsADirectoryError(f"{name}: expected a file to write, got the directory {target}")
    if target.exists() and not target.is_file():
        raise OSError(f"{name}: expected a regular file to write, got {target}")
    for folder in (given.parent, target.parent):
        if not folder.is_dir():
            raise FileNotFoundError(f"{name}: expected an existing folder, got {folder}")
    return target


def unusable_name(path: pathlib.Path) -> str | None:
    """Return why no file can be called so, as one whose name is too long; None where one can."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return error.strerror
    return None


@contextlib.contextmanager
def whole_file(path: pathlib.Path, mode: str, **options: Any) -> Iterator[IO[Any]]:
    """Context of a file that takes its place, synced, only when all of it is written."""
    target = pathlib.Path(os.path.realpath(path))  # a link stays, and its target is written
    temporary = target.with_name(f".{target.name[:50]}.{secrets.token_hex(4)}")
    file = open(temporary, mode.replace("w", "x"), **options)  # noqa: SIM115
    try:
        with file:
            if target.exists():
                os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: pathlib.Path) -> None:
    """Let the new name outlast a power failure, where the system can open folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _check_metadata(user: Any) -> None:
    """Refuse metadata that would not come back as it is."""
    try:
        same = isinstance(user, dict) and json.loads(json.dumps(user, allow_nan=False)) == user
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"metadata: expected a dict of what JSON can hold: {error}") from error
    if not same:
        raise TypeError(f"metadata: expected a dict of what JSON can hold, got {user!r:.200}")


def _json(header: dict[str, Any]) -> str:
    """Return the header as JSON."""
    _check_metadata(header.get("metadata", {}))
    return json.dumps({"format_version": FORMAT_VERSION, **header})


def _check_header(file: IO[bytes], size: int) -> None:
    """Refuse a header that would take much memory, whatever it says, before it is parsed."""
    most = HEADER_BYTES + size // 2
    left = int.from_bytes(file.read(8), "little")
    cost = 0
    while left > 0 and cost <= most:
        block = file.read(min(left, BLOCK))
        if not block:  # it is not as long as it says
            return
        left -= len(block)
        cost += len(block) + VALUE_BYTES * sum(map(block.count, SEPARATORS))
    if cost > most:
        raise ValueError(
            f"expected a header of JSON that takes some {most:,} bytes in memory at most, with the "
            f"names of the tensors, as the file has {size:,}, got more"
        )


class ModelFile:
    """An open model file: its header, and dtypes and shapes of tensors that are still on disk."""

    def __init__(self, path: pathlib.Path, file: Any) -> None:
        self.path, self._file = path, file
        metadata = file.metadata() or {}
        if "fastbn" not in metadata:
            raise ModelFileError(f"{path}: expected fastbn's metadata, found {sorted(metadata)}")
        self.header = _parsed(path, metadata["fastbn"])
        self.shapes: dict[str, tuple[Any, tuple[int, ...]]] = {}
        for name in file.keys():  # noqa: SIM118
            part = file.get_slice(name)
            dtype = part.get_dtype()
            self.shapes[name] = DTYPES.get(dtype, dtype), tuple(part.get_shape())

    def read(self, name: str) -> np.ndarray:
        """Return one tensor."""
        with _as_model_file_error(self.path):
            tensor: np.ndarray = self._file.get_tensor(name)
        return tensor


@contextlib.contextmanager
def open_model(path: str | os.PathLike[str]) -> Iterator[ModelFile]:
    """Context of a file that a model was written to; ModelFileError where it is none."""
    from safetensors import safe_open

    target = path_of("path", path)
    with _as_model_file_error(target):
        try:  # `is_file` hides other errors or not, by Python's version
            mode = target.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            mode = 0
        if not stat.S_ISREG(mode):
            raise ModelFileError(f"{target}: expected a model file, found none")
        with open(target, "rb") as raw:
            _check_header(raw, os.fstat(raw.fileno()).st_size)
        file = safe_open(target, framework="numpy")
        opened = ModelFile(target, file)
    with file:
        yield opened


@contextlib.contextmanager
def _as_model_file_error(path: pathlib.Path) -> Iterator[None]:
    """Context of calls to safetensors."""
    from safetensors import SafetensorError

    try:
        yield
    except ModelFileError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise ModelFileError(f"{path}: not a readable safetensors file ({error})") from error


def _parsed(path: pathlib.Path, text: str) -> dict[str, Any]:
    try:
        header: dict[str, Any] = json.loads(text)
        version = header["format_version"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelFileError(f"{path}: fastbn's metadata is malformed ({error!r})") from error
    if type(version) is not int or version != FORMAT_VERSION:
        raise ModelFileError(f"{path}: expected format version {FORMAT_VERSION}, got {version!r}")
    return header
