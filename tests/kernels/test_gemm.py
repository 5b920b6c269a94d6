"""Matrix products in panels and tiles, against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from cases import DTYPES, JIT_DISABLED, assert_close

from fastbn.jit.intrinsics import PANEL_BYTES, TILE_ROWS
from fastbn.kernels.gemm import DEPTH, multiply, pack_columns, pack_rows
from fastbn.model.buffers import aligned_zeros

# (M, N, K): one, primes, and about a tile's rows, a panel's columns, a part's depth
SHAPES = [(1, 1, 1), (5, 7, 3), (8, 32, 8), (9, 33, 17), (7, 31, 9), (3, 16, 5), (2, 15, 16)]
if not JIT_DISABLED:
    SHAPES += [(64, 64, DEPTH - 1), (13, 100, DEPTH), (17, 48, DEPTH + 1), (10, 6, 3 * DEPTH + 5)]
    SHAPES += [(130, 257, 129), (1, 1000, 2), (1000, 1, 2), (33, 47, 1031)]


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
    pack_rows(b, panels, 0, shape[2])
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
    pack_columns(np.ascontiguousarray(b.T), other, 0, shape[1])
    multiply(a, other, shape[2], again, 0, shape[0])
    assert np.array_equal(out, again)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_have_the_same_bits_wherever_they_are_cut(rng, dtype):
    shape = (3 * TILE_ROWS + 5, 45, 5 if JIT_DISABLED else DEPTH + 9)
    a, b = operands(rng, shape, dtype)
    panels, whole = panels_for(b), np.empty((shape[0], shape[1]), dtype)
    pack_rows(b, panels, 0, shape[2])
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
    pack_rows(b, whole, 0, 37)
    for first, last in ((5, 37), (0, 5)):
        pack_rows(b, parts, first, last)
    assert np.array_equal(whole, parts, equal_nan=True)
    transposed, parts = panels_for(b.T), panels_for(b.T)
    pack_columns(b, transposed, 0, 37)
    for first, last in ((8, 37), (0, 8)):
        pack_columns(b, parts, first, last)
    assert np.array_equal(transposed, parts, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nan_affects_only_its_row(dtype):
    a, b = np.ones((9, 4), dtype), np.ones((4, 40), dtype)
    a[3, 2] = np.nan
    panels, out = panels_for(b), np.empty((9, 40), dtype)
    pack_rows(b, panels, 0, 4)
    multiply(a, panels, 4, out, 0, 9)
    assert np.isnan(out[3]).all()
    assert (np.delete(out, 3, axis=0) == 4).all()
