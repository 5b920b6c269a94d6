"""Results too large for the caches go past them: the lines they fill need not be read first."""

from __future__ import annotations

from fastbn._intrinsics import stream_line
from fastbn._jit import njit

# Bytes of a result from which it is written past the caches, which would keep little of it
# (scripts/product_rates.py shows what that saves).
STREAM_BYTES = 1 << 25


@njit
def is_streamed(x):
    """Tell whether a result of the size of x is written past the caches."""
    return x.size * x.itemsize >= STREAM_BYTES


@njit
def stream(source, target):
    """Copy a contiguous row past the caches; a `fence` has to follow."""
    line = 64 // target.itemsize
    first = min((-target.ctypes.data % 64) // target.itemsize, target.size)
    for i in range(first):
        target[i] = source[i]
    last = first + (target.size - first) // line * line
    for i in range(first, last, line):
        stream_line(source, i, target, i)
    for i in range(last, target.size):
        target[i] = source[i]
