"""Non-temporal stores, which bypass the caches, for results that are too large for them.

The processor does not read a cache line before such a store. An atomic instruction waits until all
such stores have completed, so kernels that use them must not count references
(`fastbn.jit.compiler.njit`). A result is computed in pieces on the stack. The compiler knows the
size of a piece and keeps it in registers.
"""

from __future__ import annotations

from fastbn.jit.compiler import njit
from fastbn.jit.intrinsics import LINE_BYTES, stream_piece, view

# Results of at least this many bytes bypass the caches, since little of them would stay there
# (scripts/product_rates.py measures the gain).
STREAM_BYTES = 1 << 24


@njit
def is_streamed(x):
    """Return whether a result of the size of x bypasses the caches."""
    return x.size * x.itemsize >= STREAM_BYTES


# Numbers in a piece: a few whole cache lines.
PIECE = 64


@njit
def whole_pieces(row):
    """Return where a row's first whole cache line begins, and where the last piece ends."""
    first = min((-row.ctypes.data % LINE_BYTES) // row.itemsize, row.size)
    return first, first + (row.size - first) // PIECE * PIECE


@njit
def stream(source, target):
    """Copy a contiguous row with non-temporal stores; the caller must call `fence()`."""
    first, last = whole_pieces(target)
    for i in range(first):
        target[i] = source[i]
    for i in range(first, last, PIECE):
        stream_piece(PIECE, view(source, i, (PIECE,)), target, i)
    for i in range(last, target.size):
        target[i] = source[i]
