"""The IDX format of MNIST: a magic number, big-endian sizes, then the values."""

from __future__ import annotations

import gzip
import math
import os
import pathlib
import zlib

import numpy as np

from fastbn.checks import path_of
from fastbn.datasets.dataset import DataPart, Dataset, joined
from fastbn.errors import DataFileError

IDX_DTYPES: dict[int, np.dtype] = {
    0x08: np.dtype("u1"), 0x09: np.dtype("i1"), 0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"), 0x0D: np.dtype(">f4"), 0x0E: np.dtype(">f8"),
}  # fmt: skip
MAX_DIMENSIONS = 32  # the limit of NumPy 1

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
        It has the shape and dtype of the header, in native byte order.

    Raises
    ------
    DataFileError
        The file is missing, is not an IDX file, or has more or fewer bytes than its header says;
        the message names the file and the expected number of bytes. A header that promises more
        than the file has does not cost memory.
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
                # read in pieces, so a wrong header does not allocate memory
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
    """Load the four IDX files of a folder, which are named as MNIST's, gzipped or not.

    If the folder has a file both gzipped and not, the two must have the same content.

    Raises
    ------
    DataFileError
        A file is missing or malformed, or images and labels do not fit together.
    """
    folder = path_of("path", path)
    return joined(str(folder), folder.name, *read_idx_folder(folder))


def read_idx_folder(folder: pathlib.Path) -> tuple[DataPart, DataPart]:
    """Return the training and the test part: flattened images, and the labels of the files."""
    train, test = _read_part(folder, "train"), _read_part(folder, "test")
    if train[0].shape[1] != test[0].shape[1]:
        raise DataFileError(
            f"{folder}: expected training and test images of one size, "
            f"got {train[0].shape[1]} and {test[0].shape[1]} pixels"
        )
    return train, test


def _read_part(folder: pathlib.Path, part: str) -> DataPart:
    X_path, X = _read_file(folder, IDX_FILES[f"X_{part}"])
    y_path, y = _read_file(folder, IDX_FILES[f"y_{part}"])
    if X.ndim < 2 or X.size == 0:
        raise DataFileError(f"{X_path}: expected images, got shape {X.shape}")
    if y.ndim != 1 or y.dtype.kind not in "iu" or y.size != X.shape[0]:
        raise DataFileError(
            f"{y_path}: expected {X.shape[0]} integer labels, one for each image of "
            f"{X_path.name}, got {y.dtype} {y.shape}"
        )
    if not np.isfinite(X).all():
        raise DataFileError(f"{X_path}: expected finite numbers, found NaN or infinity")
    return X.reshape(X.shape[0], -1), y


def _read_file(folder: pathlib.Path, name: str) -> tuple[pathlib.Path, np.ndarray]:
    """Return the path of a file, gzipped or not, and its array."""
    paths = [path for path in (folder / f"{name}.gz", folder / name) if path.is_file()]
    if not paths:
        raise DataFileError(f"{folder}: expected the file {name}.gz or {name}, found neither")
    array, *others = map(load_idx, paths)
    for other in others:
        if other.dtype != array.dtype or not np.array_equal(other, array):
            raise DataFileError(
                f"{folder}: expected {paths[0].name} and {paths[1].name} to have the same content, "
                "found a difference"
            )
    return paths[0], array
