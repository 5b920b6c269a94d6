"""Matrix products whose right operand is stored in panels.

    out (M, N) = a (M, K) b (K, N)        a may have any strides, such as those of a transpose

A panel holds some columns of b row by row. Its rows are 128 bytes, or `width` numbers, and the
panel of columns j to j + width begins at j * K. The last panel may have more columns than b; the
extra ones are not used. `multiply_tile` computes a tile of `out`, some rows by one panel, in
registers.

Sums are cut at multiples of DEPTH products, and the parts are added in order. So the bits of `out`
do not depend on how rows and panels are divided among threads.
"""

from __future__ import annotations

from fastbn.jit.compiler import njit, njit_strict
from fastbn.jit.intrinsics import PANEL_BYTES, TILE_ROWS, multiply_tile, transpose_tile, view

# Length of a chain of multiply-adds: short enough that its part of a panel stays in the first-level
# cache, and that sums in float32 do not lose digits.
DEPTH = 256


@njit
def panel_width(x):
    """Return the number of columns of a panel."""
    return PANEL_BYTES // x.itemsize


@njit_strict
def multiply_panel(a, k, depth, panels, start, out, first, last, j, add):
    """Compute rows first to last of out for one panel, whose columns begin at j.

    This computes products k to k + depth of each sum, which are added to out if `add` is 1. Row k
    of the panel begins at panels[start].
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
    """Compute rows first to last of out = a b; b has `depth` rows and is stored in panels."""
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
    """Copy rows first to last of b (N, K) into panels of its transpose, as columns."""
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
