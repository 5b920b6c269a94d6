"""The IDX format: round trips, and errors that say what is broken."""

from __future__ import annotations

import gzip
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from idx_files import CODES, idx_bytes, write_idx

from fastbn import DataFileError
from fastbn.datasets.idx import load_idx


@given(
    array=st.sampled_from(list(CODES)).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0))
    ),
    compress=st.booleans(),
)
def test_round_trip(tmp_path_factory, array, compress):
    path = tmp_path_factory.getbasetemp() / "round-trip"
    result = load_idx(write_idx(path, array, compress=compress))
    assert result.dtype == array.dtype.newbyteorder("=")
    assert result.dtype.isnative
    assert np.array_equal(result, array, equal_nan=array.dtype.kind == "f")
    assert result.flags.writeable


IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize("size", range(len(idx_bytes(IMAGES))))
def test_truncated_anywhere(tmp_path, size):
    path = tmp_path / "images"
    path.write_bytes(idx_bytes(IMAGES)[:size])
    with pytest.raises(DataFileError, match="images: expected"):
        load_idx(path)


def test_the_message_counts_bytes(tmp_path):
    path = tmp_path / "images"
    path.write_bytes(idx_bytes(IMAGES)[:-5])
    with pytest.raises(DataFileError, match=r"expected 24 bytes.*shape \(2, 3, 4\), found 19"):
        load_idx(path)
    path.write_bytes(idx_bytes(IMAGES) + b"x")
    with pytest.raises(DataFileError, match="expected 24 bytes.*found more"):
        load_idx(path)
    path.write_bytes(idx_bytes(IMAGES)[:10])
    with pytest.raises(DataFileError, match="expected a header of 16 bytes, found 10"):
        load_idx(path)


@pytest.mark.parametrize(
    "head", [b"\x01\0\x08\x01", b"\0\x01\x08\x01", b"\0\0\x0a\x01", b"\0\0\x08\0", b"hello", b""]
)
def test_not_idx(tmp_path, head):
    path = tmp_path / "other"
    path.write_bytes(head + bytes(100) if head else head)
    with pytest.raises(DataFileError, match="other: expected an IDX file"):
        load_idx(path)


def test_too_many_dimensions(tmp_path):
    path = tmp_path / "deep"
    path.write_bytes(b"\0\0\x08\xff" + struct.pack(">255I", *[1] * 255) + b"x")
    with pytest.raises(DataFileError, match="1 to 32 dimensions; found 00 00 08 ff"):
        load_idx(path)


@pytest.mark.parametrize("compress", [True, False])
def test_an_absurd_header_costs_no_memory(tmp_path, compress):
    path = tmp_path / "absurd"
    data = b"\0\0\x0e\x04" + struct.pack(">4I", *[2**32 - 1] * 4) + bytes(1000)
    path.write_bytes(gzip.compress(data) if compress else data)
    tracemalloc.start()
    try:
        with pytest.raises(DataFileError, match=f"expected {8 * (2**32 - 1) ** 4} bytes"):
            load_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_a_bomb_is_not_unpacked(tmp_path):
    """The file is a small header and a gigabyte of zeros, gzipped to a megabyte."""
    path = tmp_path / "bomb"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(idx_bytes(IMAGES))
        for _ in range(200):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(DataFileError, match="found more"):
            load_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("place", [0, 1, 2, 3, 10, 12, 18, 20, -10, -8, -5, -4, -1])
def test_broken_gzip(tmp_path, place):
    """A flipped byte is an error, except in the time stamp."""
    path = tmp_path / "broken.gz"
    data = bytearray(gzip.compress(idx_bytes(IMAGES)))
    data[place] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataFileError, match="broken"):
        load_idx(path)


@pytest.mark.parametrize("missing", [1, 8, 9, 2000, 4000])
def test_gzip_cut_short(tmp_path, missing):
    path = tmp_path / "cut.gz"
    values = np.random.default_rng(0).integers(0, 256, 5000).astype(np.uint8)
    path.write_bytes(gzip.compress(idx_bytes(values))[:-missing])
    with pytest.raises(DataFileError, match=r"cut\.gz: expected 5000 bytes.*found \d+ in a gzip"):
        load_idx(path)


def test_no_values_of_an_absurd_shape(tmp_path):
    path = tmp_path / "absurd"
    path.write_bytes(b"\0\0\x0e\x04" + struct.pack(">4I", 0, *[2**32 - 1] * 3))
    with pytest.raises(DataFileError, match="absurd: cannot be read: "):
        load_idx(path)


def test_missing_files(tmp_path):
    with pytest.raises(DataFileError, match="nothing"):
        load_idx(tmp_path / "nothing")
    with pytest.raises(DataFileError, match="cannot be read"):
        load_idx(tmp_path)
