"""Stores that bypass the caches, for results too large for them: no line has to be read first.

Such a store waits for memory, and an atomic instruction waits for the store: no references may be
counted between them (`fastbn.jit.compiler.njit`). A result is computed in pieces on the stack. The
compiler knows their size and keeps them in registers.
"""

from __future__ import annotations

from fastbn.jit.compiler import njit
from fastbn.jit.intrinsics import LINE_BYTES, stream_piece, view

# Results of at least this many bytes bypass the caches, which would keep little of them
# (scripts/product_rates.py shows what that saves).
STREAM_BYTES = 1 << 24


@njit
def is_streamed(x):
    """Tell whether a result of the size of x bypasses the caches."""
    return x.size * x.itemsize >= STREAM_BYTES


# Numbers of a piece: some whole cache lines.
PIECE = 64


@njit
def whole_pieces(row):
    """Where the first whole line of a row begins, and where the last whole piece after it ends."""
    first = min((-row.ctypes.data % LINE_BYTES) // row.itemsize, row.size)
    return first, first + (row.size - first) // PIECE * PIECE


@njit
def stream(source, target):
    """Copy a contiguous row, bypassing the caches; a `fence` must follow."""
    first, last = whole_pieces(target)
    for i in range(first):
        target[i] = source[i]
    for i in range(first, last, PIECE):
        stream_piece(PIECE, view(source, i, (PIECE,)), target, i)
    for i in range(last, target.size):
        target[i] = source[i]
