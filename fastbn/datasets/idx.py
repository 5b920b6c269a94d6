"""The IDX format of MNIST and its kin: a magic number, big-endian sizes, then the values."""

from __future__ import annotations

import gzip
import math
import os
import zlib

import numpy as np

from fastbn.checks import path_of
from fastbn.errors import DataFileError

IDX_DTYPES: dict[int, np.dtype] = {
    0x08: np.dtype("u1"),
    0x09: np.dtype("i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
GZIP_MAGIC = b"\x1f\x8b"
MAX_DIMENSIONS = 32  # what NumPy takes in all its versions


def load_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read one IDX file, gzipped or plain.

    Parameters
    ----------
    path : path
        What the file holds decides, not how it is called.

    Returns
    -------
    array
        Of the shape and dtype that the header names, in native byte order.

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
            compressed = raw.read(2) == GZIP_MAGIC
        with gzip.open(target, "rb") if compressed else open(target, "rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in IDX_DTYPES or not head[3]:
                raise DataFileError(
                    f"{target}: expected an IDX file, which begins with two zero bytes, a type "
                    f"and a number of dimensions; found {head.hex(' ') or 'nothing'}"
                )
            dtype, n_dims = IDX_DTYPES[head[2]], head[3]
            if n_dims > MAX_DIMENSIONS:
                raise DataFileError(
                    f"{target}: expected at most {MAX_DIMENSIONS} dimensions, found {n_dims}"
                )
            sizes = file.read(4 * n_dims)
            if len(sizes) < 4 * n_dims:
                raise DataFileError(
                    f"{target}: expected a header of {4 + 4 * n_dims} bytes, found {4 + len(sizes)}"
                )
            shape = tuple(int.from_bytes(sizes[i : i + 4]) for i in range(0, len(sizes), 4))
            expected = math.prod(shape) * dtype.itemsize
            data = bytearray()
            try:
                # in pieces: what a header announces is not allocated ahead
                while piece := file.read1(min(expected + 1 - len(data), 1 << 20)):
                    data += piece
            except EOFError as error:
                raise DataFileError(
                    f"{target}: expected {expected} bytes of data for shape {shape}, "
                    f"found {len(data)} in a gzip file that is cut short"
                ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataFileError(f"{target}: cannot be read: {error}") from error
    if len(data) != expected:
        found = "more" if len(data) > expected else str(len(data))
        raise DataFileError(
            f"{target}: expected {expected} bytes of data for shape {shape}, found {found}"
        )
    try:
        array = np.frombuffer(data, dtype).reshape(shape)
    except ValueError as error:  # no bytes at all, of sizes whose product NumPy cannot hold
        raise DataFileError(
            f"{target}: expected a shape that fits memory, found {shape}"
        ) from error
    return array.astype(dtype.newbyteorder("="))
