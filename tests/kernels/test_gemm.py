"""Matrix products in panels and tiles, against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from cases import DTYPES, JIT_DISABLED, assert_close

from fastbn.jit.intrinsics import PANEL_BYTES, TILE_ROWS
from fastbn.kernels.gemm import (
    DEPTH,
    PANELS,
    multiply,
    multiply_row,
    pack_panels,
    pack_panels_of_transpose,
)
from fastbn.model.buffers import aligned_zeros

# (M, N, K): one, primes, and about a tile's rows, a panel's columns, a part's depth
SHAPES = [(1, 1, 1), (5, 7, 3), (8, 32, 8), (9, 33, 17), (7, 31, 9), (3, 16, 5), (2, 15, 16)]
SHAPES += [(1, 161, 3)]  # more panels than a tile of one row has
if not JIT_DISABLED:
    SHAPES += [(64, 64, DEPTH - 1), (13, 100, DEPTH), (17, 48, DEPTH + 1), (10, 6, 3 * DEPTH + 5)]
    SHAPES += [(130, 257, 129), (1, 1000, 2), (1000, 1, 2), (33, 47, 1031)]
    SHAPES += [(19, PANELS * 32 + 1, 11), (12, 2 * PANELS * 32, 5)]
    SHAPES += [(m, 20, 3) for m in range(1, 3 * TILE_ROWS + 1)]  # all remainders of tiles


def operands(rng, shape, dtype):
    m, n, k = shape
    return rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)


def panels_for(b):
    """Return memory for the panels of b (K, N), full of NaN."""
    width = PANEL_BYTES // b.itemsize
    panels = aligned_zeros(-(-b.shape[1] // width) * width * b.shape[0], b.dtype)
    panels[:] = np.nan
    return panels


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_products(rng, shape, dtype):
    a, b = operands(rng, shape, dtype)
    panels, out = panels_for(b), np.full((shape[0], shape[1]), np.nan, dtype)
    pack_panels(b, panels, 0, shape[2])
    multiply(a, panels, shape[2], out, 0, shape[0])
    magnitude = np.abs(a).astype(float) @ np.abs(b).astype(float)
    tolerance = 2e-6 if dtype == np.float32 else 4e-15
    expected = a.astype(float) @ b.astype(float)
    assert_close(out, expected, tolerance=tolerance, scale=magnitude)

    # a transposed left operand, and one that is not contiguous, give the same bits
    for left in (np.ascontiguousarray(a.T).T, np.repeat(a, 2, axis=0)[::2]):
        again = np.full_like(out, np.nan)
        multiply(left, panels, shape[2], again, 0, shape[0])
        assert np.array_equal(out, again)

    # a transposed right operand
    other = panels_for(b)
    pack_panels_of_transpose(np.ascontiguousarray(b.T), 0, shape[1], other, 0, shape[1])
    multiply(a, other, shape[2], again, 0, shape[0])
    assert np.array_equal(out, again)

    # one row
    again = np.full_like(out[:1], np.nan)
    multiply_row(a[:1], panels, again)
    assert np.array_equal(out[:1], again)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_have_the_same_bits_wherever_they_are_cut(rng, dtype):
    shape = (3 * TILE_ROWS + 5, 45, 5 if JIT_DISABLED else DEPTH + 9)
    a, b = operands(rng, shape, dtype)
    panels, whole = panels_for(b), np.empty((shape[0], shape[1]), dtype)
    pack_panels(b, panels, 0, shape[2])
    multiply(a, panels, shape[2], whole, 0, shape[0])
    for cut in range(1, shape[0]):
        parts = np.full_like(whole, np.nan)
        multiply(a, panels, shape[2], parts, 0, cut)
        assert np.isnan(parts[cut:]).all()
        multiply(a, panels, shape[2], parts, cut, shape[0])
        assert np.array_equal(parts, whole)


def test_packing_in_parts(rng):
    b = rng.standard_normal((37, 41))
    whole, parts = panels_for(b), panels_for(b)
    pack_panels(b, whole, 0, 37)
    for first, last in ((5, 37), (0, 5)):
        pack_panels(b, parts, first, last)
    assert np.array_equal(whole, parts, equal_nan=True)
    transposed, parts = panels_for(b.T), panels_for(b.T)
    pack_panels_of_transpose(b, 0, 37, transposed, 0, 37)
    for first, last in ((8, 37), (0, 8)):
        pack_panels_of_transpose(b, first, last, parts, first, 37)
    assert np.array_equal(transposed, parts, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nan_affects_only_its_row(dtype):
    a, b = np.ones((9, 4), dtype), np.ones((4, 40), dtype)
    a[3, 2] = np.nan
    panels, out = panels_for(b), np.empty((9, 40), dtype)
    pack_panels(b, panels, 0, 4)
    multiply(a, panels, 4, out, 0, 9)
    assert np.isnan(out[3]).all()
    assert (np.delete(out, 3, axis=0) == 4).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_have_the_bits_of_one_chain_for_each_slab(rng, dtype):
    if JIT_DISABLED:
        pytest.skip("Python rounds each product")
    shape = (2 * TILE_ROWS + 1, 3, 2 * DEPTH + 3)
    a, b = operands(rng, shape, dtype)

    def product(a, b):
        panels, out = panels_for(b), np.empty((len(a), b.shape[1]), dtype)
        pack_panels(b, panels, 0, len(b))
        multiply(a, panels, len(b), out, 0, len(a))
        return out

    whole, slabs = product(a, b), range(0, shape[2], DEPTH)
    for i, j in np.ndindex(shape[:2]):
        row, column = a[i : i + 1], b[:, j : j + 1]
        parts = [product(row[:, k : k + DEPTH], column[k : k + DEPTH])[0, 0] for k in slabs]
        assert whole[i, j] == (parts[0] + parts[1]) + parts[2]


@pytest.mark.parametrize("shape", [(3, 17, 5), (TILE_ROWS + 1, 33, 4)])
def test_memory_beyond_the_operands_is_neither_read_nor_written(rng, shape):
    m, n, k = shape
    a, b = operands(rng, shape, np.float32)
    panels, expected = panels_for(b), np.empty((m, n), np.float32)
    pack_panels(b, panels, 0, k)
    multiply(a, panels, k, expected, 0, m)
    memory = np.full(m * n + 64, 7, np.float32)
    out = memory[32 : 32 + m * n].reshape(m, n)
    around = np.full((m + 16, k), np.nan, np.float32)
    around[:m] = a
    multiply(around[:m], panels, k, out, 0, m)
    assert np.array_equal(out, expected)
    assert (memory[:32] == 7).all()
    assert (memory[-32:] == 7).all()
