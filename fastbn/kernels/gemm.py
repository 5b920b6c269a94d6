"""Matrix products whose right operand lies in panels.

    out (M, N) = a (M, K) b (K, N)        a of any strides, a transpose too

A panel holds 128 bytes of columns of b, row after row: the panel of columns j to j + width begins
at j * K, and its row k is width numbers. The last panel may have more columns than b; they are not
read. `multiply_tile` sums a tile of `out`, some rows by one panel, in registers.

Sums are cut at multiples of DEPTH products, and the parts added in order. Every number of `out` is
thus the same however rows and panels are shared among threads.
"""

from __future__ import annotations

from fastbn.jit.compiler import njit, njit_strict
from fastbn.jit.intrinsics import PANEL_BYTES, TILE_ROWS, multiply_tile, transpose_tile, view

# Products of a chain of multiply-adds: a panel's part stays in the first-level cache, and float32
# sums keep their digits.
DEPTH = 256


@njit
def panel_width(x):
    """Columns of a panel."""
    return PANEL_BYTES // x.itemsize


@njit_strict
def multiply_panel(a, k, depth, panels, start, out, first, last, j, add):
    """Rows first to last of one panel's columns, which begin at j of out.

    Adds the products k to k + depth; the panel's row k is at panels[start].
    """
    width = panel_width(out)
    panel = view(panels, start, (depth * width,))
    i = first
    if 2 * (out.shape[1] - j) > width:
        while i + TILE_ROWS <= last:
            multiply_tile(TILE_ROWS, 2, a, i, k, depth, panel, out, j, add)
            i += TILE_ROWS
        while i + 2 <= last:
            multiply_tile(2, 2, a, i, k, depth, panel, out, j, add)
            i += 2
        if i < last:
            multiply_tile(1, 2, a, i, k, depth, panel, out, j, add)
    else:
        while i + TILE_ROWS <= last:
            multiply_tile(TILE_ROWS, 1, a, i, k, depth, panel, out, j, add)
            i += TILE_ROWS
        while i + 2 <= last:
            multiply_tile(2, 1, a, i, k, depth, panel, out, j, add)
            i += 2
        if i < last:
            multiply_tile(1, 1, a, i, k, depth, panel, out, j, add)


@njit_strict
def multiply(a, panels, depth, out, first, last):
    """Rows first to last of out = a b; b has `depth` rows and lies in panels."""
    width = panel_width(out)
    for k in range(0, depth, DEPTH):
        part, add = min(DEPTH, depth - k), 1 if k > 0 else 0
        for j in range(0, out.shape[1], width):
            start = j * depth + k * width
            multiply_panel(a, k, part, panels, start, out, first, last, j, add)


@njit
def pack_rows(b, panels, first, last):
    """Copy rows first to last of b (K, N) into panels."""
    depth, columns = b.shape
    width = panel_width(b)
    for j in range(0, columns, width):
        count = min(width, columns - j)
        for k in range(first, last):
            start = j * depth + k * width
            row, target = b[k, j : j + count], panels[start : start + count]
            for c in range(row.size):
                target[c] = row[c]


@njit
def pack_columns(b, panels, first, last):
    """Copy rows first to last of b (N, K) into panels of b^T, where they are columns."""
    depth = b.shape[1]
    width = panel_width(b)
    flat = b.reshape(b.size)
    row = first
    while row + 8 <= last and row % 8 == 0:
        start = row // width * width * depth + row % width
        for k in range(0, depth - 7, 8):
            transpose_tile(flat, row * depth + k, depth, panels, start + k * width, width)
        for k in range(depth // 8 * 8, depth):
            for c in range(8):
                panels[start + k * width + c] = b[row + c, k]
        row += 8
    for c in range(row, last):
        start = c // width * width * depth + c % width
        for k in range(depth):
            panels[start + k * width] = b[c, k]
