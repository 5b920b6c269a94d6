"""The IDX format of MNIST: a magic number, big-endian sizes, then the values."""

from __future__ import annotations

import gzip
import math
import os
import pathlib
import zlib

import numpy as np

from fastbn.checks import path_of
from fastbn.datasets.dataset import Dataset, Part, joined
from fastbn.errors import DataFileError

IDX_DTYPES: dict[int, np.dtype] = {
    0x08: np.dtype("u1"), 0x09: np.dtype("i1"), 0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"), 0x0D: np.dtype(">f4"), 0x0E: np.dtype(">f8"),
}  # fmt: skip
MAX_DIMENSIONS = 32  # what NumPy takes in all its versions

IDX_FILES = {
    "X_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "X_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


def load_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read one IDX file, gzipped or plain.

    Parameters
    ----------
    path : path
        The file's first bytes tell whether it is gzipped, not its name.

    Returns
    -------
    array
        Of the shape and dtype in the header, in native byte order.

    Raises
    ------
    DataFileError
        The file is missing, no IDX file, or has more or fewer bytes than its header announces; the
        message names the file and the number of bytes expected. A header that announces more than
        the file holds costs no memory.
    """
    target = path_of("path", path)
    try:
        with open(target, "rb") as raw:
            is_gzipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(target, "rb") if is_gzipped else open(target, "rb") as file:
            head = file.read(4)
            if (
                len(head) < 4
                or head[:2] != b"\0\0"
                or head[2] not in IDX_DTYPES
                or not 0 < head[3] <= MAX_DIMENSIONS
            ):
                raise DataFileError(
                    f"{target}: expected an IDX file, which begins with two zero bytes, a type and "
                    f"1 to {MAX_DIMENSIONS} dimensions; found {head.hex(' ') or 'nothing'}"
                )
            dtype, n_dims = IDX_DTYPES[head[2]], head[3]
            sizes = file.read(4 * n_dims)
            if len(sizes) < 4 * n_dims:
                raise DataFileError(
                    f"{target}: expected a header of {4 + 4 * n_dims} bytes, found {4 + len(sizes)}"
                )
            shape = tuple(np.frombuffer(sizes, ">u4").tolist())
            expected = math.prod(shape) * dtype.itemsize
            data, end = bytearray(), ""
            try:
                # in pieces: what a header announces is not allocated ahead
                while piece := file.read1(min(expected + 1 - len(data), 1 << 20)):
                    data += piece
            except EOFError:
                end = " in a gzip file that is cut short"
        if len(data) != expected or end:
            found = "more" if len(data) > expected else f"{len(data)}{end}"
            raise DataFileError(
                f"{target}: expected {expected} bytes of data for shape {shape}, found {found}"
            )
        return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))
    except DataFileError:
        raise
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataFileError(f"{target}: cannot be read: {error}") from error


def load_idx_folder(path: str | os.PathLike[str]) -> Dataset:
    """Return the four IDX files of a folder, with the names of MNIST's, gzipped or not.

    A file that is there both gzipped and not has to hold the same in both.

    Raises
    ------
    DataFileError
        A file is missing or malformed, or images and labels do not fit together.
    """
    folder = path_of("path", path)
    return joined(str(folder), folder.name, *read_idx_folder(folder))


def read_idx_folder(folder: pathlib.Path) -> tuple[Part, Part]:
    """Return the training and the test part: images flattened, and labels as they stand there."""
    train, test = _read_part(folder, "train"), _read_part(folder, "test")
    if train[0].shape[1] != test[0].shape[1]:
        raise DataFileError(
            f"{folder}: expected training and test images of one size, "
            f"got {train[0].shape[1]} and {test[0].shape[1]} pixels"
        )
    return train, test


def _read_part(folder: pathlib.Path, part: str) -> Part:
    X_path, X = _read_file(folder, IDX_FILES[f"X_{part}"])
    y_path, y = _read_file(folder, IDX_FILES[f"y_{part}"])
    if X.ndim < 2 or X.size == 0:
        raise DataFileError(f"{X_path}: expected images, got shape {X.shape}")
    if y.ndim != 1 or y.dtype.kind not in "iu" or y.size != X.shape[0]:
        raise DataFileError(
            f"{y_path}: expected {X.shape[0]} integer labels as {X_path.name} has images, "
            f"got {y.dtype} {y.shape}"
        )
    if not np.isfinite(X).all():
        raise DataFileError(f"{X_path}: expected finite numbers, found others")
    return X.reshape(X.shape[0], -1), y


def _read_file(folder: pathlib.Path, name: str) -> tuple[pathlib.Path, np.ndarray]:
    """Return the file of that name, gzipped or not, and what it holds."""
    paths = [path for path in (folder / f"{name}.gz", folder / name) if path.is_file()]
    if not paths:
        raise DataFileError(f"{folder}: expected the file {name}.gz or {name}, found neither")
    array, *others = map(load_idx, paths)
    for other in others:
        if other.dtype != array.dtype or not np.array_equal(other, array):
            raise DataFileError(
                f"{folder}: expected {paths[0].name} and {paths[1].name} to hold the same, found a "
                "difference"
            )
    return paths[0], array
