"""Files in the IDX format, written from its description."""

from __future__ import annotations

import gzip
import struct

import numpy as np

from fastbn.datasets.idx import IDX_DTYPES

CODES = {dtype: code for code, dtype in IDX_DTYPES.items()}


def idx_bytes(array):
    """Return the bytes of an IDX file."""
    array = np.asarray(array)
    big_endian = array.dtype.newbyteorder(">") if array.dtype.itemsize > 1 else array.dtype
    head = struct.pack(">HBB", 0, CODES[big_endian], array.ndim)
    return head + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(big_endian).tobytes()


def write_idx(path, array, *, compress=False):
    data = idx_bytes(array)
    path.write_bytes(gzip.compress(data) if compress else data)
    return path
