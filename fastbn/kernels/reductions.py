"""Sums along a contiguous row: blocks in the row's own precision, their sum in float64.

A block is short enough for its float32 sum to keep its digits, and long enough for the switch to
float64 to cost nothing. Blocks are cut by position alone, so a sum has the same bits every time.

Only the loops along a block are compiled with fast-math. They write nothing, so the order of a sum
does not depend on addresses or overlapping arrays.
"""

from __future__ import annotations

import numpy as np

from fastbn.jit.compiler import njit, njit_strict

BLOCK = 1024

# With a mean square below this, some squares may have been too small for float32.
SMALL = 1e-30


@njit
def block_sum(block):
    """Sum of one block, in its own precision."""
    total = block.dtype.type(0)
    for i in range(block.size):
        total += block[i]
    return total


@njit_strict
def row_sum(row):
    """Sum of a row, as float64."""
    total = 0.0
    for start in range(0, row.size, BLOCK):
        total += block_sum(row[start : start + BLOCK])
    return total


@njit
def all_below(row, limit):
    """Tell whether all magnitudes of a row are below a limit; a NaN is not."""
    below = True
    for i in range(row.size):
        below &= abs(row[i]) < limit
    return below


@njit
def block_moments(block, shift):
    """Sum of d and of d*d over one block, d = block - shift."""
    total = block.dtype.type(0)
    square = block.dtype.type(0)
    for i in range(block.size):
        d = block[i] - shift
        total += d
        square += d * d
    return total, square


@njit_strict
def row_moments(row, shift):
    """Sum of d and of d*d over a row, d = row - shift, as float64."""
    total = 0.0
    square = 0.0
    for start in range(0, row.size, BLOCK):
        block_total, block_square = block_moments(row[start : start + BLOCK], shift)
        total += block_total
        square += block_square
    return total, square


@njit
def row_moments_wide(row, shift):
    """Sum of d and of d*d over a row, d = row - shift, all in float64.

    Slower; for rows whose sums or squares overflow in their own precision.
    """
    total = 0.0
    square = 0.0
    for i in range(row.size):
        d = np.float64(row[i]) - np.float64(shift)
        total += d
        square += d * d
    return total, square


@njit
def block_square_sum(block):
    """Sum of squares of one block, in its own precision."""
    total = block.dtype.type(0)
    for i in range(block.size):
        total += block[i] * block[i]
    return total


@njit_strict
def row_square_sum(row):
    """Sum of squares of a row, as float64."""
    total = 0.0
    for start in range(0, row.size, BLOCK):
        total += block_square_sum(row[start : start + BLOCK])
    return total
