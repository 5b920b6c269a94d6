"""Sums along a contiguous row: blocks in the dtype of the row, and their total in float64.

A block is so short that its sum in float32 loses no digits, and so long that the switch to float64
costs nothing. Blocks are cut by position, so a sum always has the same bits.

Only the loops along a block are compiled with fast-math. They do not write to arrays, so the order
of a sum does not depend on addresses or on overlapping arrays.
"""

from __future__ import annotations

import numpy as np

from fastbn.jit.compiler import njit, njit_strict

BLOCK = 1024

# If a mean square is below this, some of the squares may have underflowed in float32.
SMALL = 1e-30


@njit
def block_sum(block):
    """Return the sum of one block, in its dtype."""
    total = block.dtype.type(0)
    for i in range(block.size):
        total += block[i]
    return total


@njit_strict
def row_sum(row):
    """Return the sum of a row, as float64."""
    total = 0.0
    for start in range(0, row.size, BLOCK):
        total += block_sum(row[start : start + BLOCK])
    return total


@njit
def all_below(row, limit):
    """Return whether all magnitudes of a row are below a limit; False if one is NaN."""
    below = True
    for i in range(row.size):
        below &= abs(row[i]) < limit
    return below


@njit
def block_moments(block, shift):
    """Return the sums of d and of d * d over one block, d = block - shift."""
    total = block.dtype.type(0)
    square = block.dtype.type(0)
    for i in range(block.size):
        d = block[i] - shift
        total += d
        square += d * d
    return total, square


@njit_strict
def row_moments(row, shift):
    """Return the sums of d and of d * d over a row, d = row - shift, as float64."""
    total = 0.0
    square = 0.0
    for start in range(0, row.size, BLOCK):
        block_total, block_square = block_moments(row[start : start + BLOCK], shift)
        total += block_total
        square += block_square
    return total, square


@njit
def row_moments_wide(row, shift):
    """Return the sums of d and of d * d over a row, d = row - shift, computed in float64.

    This is slower, and is used if sums or squares overflow the dtype of the row.
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
    """Return the sum of squares of one block, in its dtype."""
    total = block.dtype.type(0)
    for i in range(block.size):
        total += block[i] * block[i]
    return total


@njit_strict
def row_square_sum(row):
    """Return the sum of squares of a row, as float64."""
    total = 0.0
    for start in range(0, row.size, BLOCK):
        total += block_square_sum(row[start : start + BLOCK])
    return total
