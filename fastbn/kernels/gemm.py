"""Matrix products whose right operand is packed.

    out (M, N) = a (M, K) b (K, N)        a may have any strides, such as those of a transpose

b is cut along k into slabs of DEPTH (the last one may be smaller), one after the other in a flat
buffer. A slab consists of panels, (panels, depth, width): a panel holds `width` columns of b row by
row. The last panel may have more columns than b; the extra ones are not used. `multiply_tile`
computes a tile of `out`, some rows by one panel, in registers.

Each slab adds a part to every sum, in order. So the bits of `out` do not depend on how rows and
panels are divided among threads.
"""

from __future__ import annotations

from fastbn.jit import isa
from fastbn.jit.compiler import njit, njit_inlined, njit_strict
from fastbn.jit.intrinsics import (
    PANEL_BYTES,
    TILE_ROWS,
    copy_piece,
    multiply_tile,
    transpose_strip,
    view,
)

# Length of a chain of multiply-adds: short enough that the rows of a tile stay in the first-level
# cache, and that sums in float32 do not lose digits.
DEPTH = 256

# Panels that a tile is multiplied with before the next tile: with DEPTH, 256 kB with AVX-512 and
# 128 kB with AVX, a part of a second-level cache.
PANELS = 8

# Rows of a smaller tile, for the last rows.
FEW_ROWS = 4


@njit
def panel_width(x):
    """Return the number of columns of a panel."""
    return PANEL_BYTES // x.itemsize


@njit
def whole(n, size):
    """Return the number of pieces of `size` in n; the last one may be smaller."""
    return (n + size - 1) // size


@njit_inlined
def right_slab(panels, columns, k, depth):
    """Return products k to k + depth of a right operand with this many columns; k begins a slab."""
    width = panel_width(panels)
    count = whole(columns, width)
    return view(panels, k * count * width, (count, depth, width))


@njit_strict
def multiply_slab(a, k, right, out, first, last, j, add):
    """Compute rows first to last of out, with products k to k + depth.

    Column j of out is the first one of the slab's first panel. The results are added to out if
    `add` is 1.
    """
    count, _, width = right.shape
    for p_first in range(0, count, PANELS):
        i = first
        while i < last:
            rows = last - i
            is_small = rows <= FEW_ROWS or (TILE_ROWS == 6 and rows == 8)  # 4 + 4 rows, not 6 + 2
            for p in range(p_first, min(p_first + PANELS, count)):
                column = j + p * width
                is_half = 2 * (out.shape[1] - column) <= width
                if is_small and is_half:
                    multiply_tile(FEW_ROWS, 1, a, i, k, right, p, out, column, rows, add)
                elif is_small:
                    multiply_tile(FEW_ROWS, 2, a, i, k, right, p, out, column, rows, add)
                elif is_half:
                    multiply_tile(TILE_ROWS, 1, a, i, k, right, p, out, column, rows, add)
                else:
                    multiply_tile(TILE_ROWS, 2, a, i, k, right, p, out, column, rows, add)
            i += FEW_ROWS if is_small else TILE_ROWS


@njit_strict
def multiply_panels(a, panels, out, first, last):
    """Compute the columns of out = a b that are in panels first to last."""
    for k in range(0, a.shape[1], DEPTH):
        right = right_slab(panels, out.shape[1], k, min(DEPTH, a.shape[1] - k))
        j, add = first * right.shape[2], 1 if k > 0 else 0
        multiply_slab(a, k, right[first:last], out, 0, out.shape[0], j, add)


# Vectors of a tile with one row. The additions of a sum wait for each other, so a tile of two
# vectors would leave the processor idle most of the time. On ARM a vector is two registers.
ROW_VECTORS = 4 if isa.IS_ARM else 8


@njit_strict
def multiply_row(a, panels, out):
    """Compute out (1, N) = a (1, K) b, with the bits of `multiply`."""
    for k in range(0, a.shape[1], DEPTH):
        right = right_slab(panels, out.shape[1], k, min(DEPTH, a.shape[1] - k))
        count, _, width = right.shape
        add, p = 1 if k > 0 else 0, 0
        while p + ROW_VECTORS // 2 <= count:
            multiply_tile(1, ROW_VECTORS, a, 0, k, right, p, out, p * width, 1, add)
            p += ROW_VECTORS // 2
        for q in range(p, count):
            multiply_tile(1, 2, a, 0, k, right, q, out, q * width, 1, add)


@njit_strict
def multiply(a, panels, depth, out, first, last):
    """Compute rows first to last of out = a b."""
    for k in range(0, depth, DEPTH):
        right = right_slab(panels, out.shape[1], k, min(DEPTH, depth - k))
        multiply_slab(a, k, right, out, first, last, 0, 1 if k > 0 else 0)


# -- packing right operands ------------------------------------------------------------------------

# Rows that `transpose_strip` transposes at once.
STRIP = 8


@njit
def pack_panels(b, panels, first, last):
    """Pack rows first to last of b (K, N)."""
    depth, columns = b.shape
    width = panel_width(b)
    for k in range(first // DEPTH * DEPTH, last, DEPTH):
        slab = right_slab(panels, columns, k, min(DEPTH, depth - k))
        for p in range(slab.shape[0]):
            panel, j = slab[p], p * width
            count = min(width, columns - j)
            for n in range(max(k, first), min(k + DEPTH, last)):
                for c in range(0, count - 7, 8):
                    copy_piece(8, b, n * columns + j + c, panel, (n - k) * width + c)
                for c in range(count // 8 * 8, count):
                    panel[n - k, c] = b[n, j + c]


@njit
def pack_panels_of_transpose(a, first, last, panels, j, columns):
    """Pack rows first to last of a, which has K columns, into the panels of b (K, columns).

    They become the columns of b from j on.
    """
    for k in range(0, a.shape[1], DEPTH):
        slab = right_slab(panels, columns, k, min(DEPTH, a.shape[1] - k))
        pack_slab_of_transpose(a, first, last, k, slab, j)


@njit
def pack_slab_of_transpose(a, first, last, k, slab, j):
    """Pack columns k to k + depth of rows first to last of a into a slab, as columns from j on."""
    part, width = slab.shape[1], panel_width(slab)
    depth, flat = a.shape[1], view(a, 0, (a.size,))
    i = first
    while i < last:
        panel, c = slab[(j + i - first) // width], (j + i - first) % width
        if c + STRIP <= width and i + STRIP <= last and part >= STRIP:
            transpose_strip(flat, i * depth + k, depth, part, view(panel, 0, (panel.size,)), c)
            i += STRIP
        else:
            for n in range(part):
                panel[n, c] = a[i, k + n]
            i += 1
