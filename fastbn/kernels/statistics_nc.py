"""Sample-major mean and variance: x is (N, C), and a feature is a column (docs/batchnorm.md).

A loop down one column would load a cache line for each number. Instead, the rows are cut into
chunks whose size depends only on C. For each chunk, loops along the rows compute partial sums of
all features. The chunks are combined in order, in float64. So the bits do not depend on the number
of threads. The loops vectorize without fast-math, because each row adds one number to each sum.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from fastbn.jit.compiler import njit, njit_strict, parallel_twin
from fastbn.jit.intrinsics import multiply_add
from fastbn.kernels.batchnorm_nc_blocks import has_blocks, moments_blocks

# Approximate number of elements in a chunk.
CHUNK_ELEMENTS = 65536

# A chunk's shift is the mean of this many of its first rows.
NEAR = 16


@njit
def rows_per_chunk(n_features):
    """Return the rows of a chunk: few enough for a cache, enough to make partial sums cheap."""
    return min(max(CHUNK_ELEMENTS // n_features, 16), 512)


@njit
def count_chunks(x):
    """Return the number of chunks that x (N, C) is cut into."""
    rows = rows_per_chunk(x.shape[1])
    return (x.shape[0] + rows - 1) // rows


@njit
def chunk_rows(x, chunk):
    """Return first and last row of one chunk."""
    rows = rows_per_chunk(x.shape[1])
    return chunk * rows, min((chunk + 1) * rows, x.shape[0])


@njit_strict
def add_rows(x, first, last, total):
    """total = the sum of rows first to last."""
    for j in range(total.size):
        total[j] = 0
    for i in range(first, last):
        row = x[i]
        for j in range(row.size):
            total[j] += row[j]


@njit_strict
def add_moments(x, first, last, shift, total, square):
    """Sum d = x - shift and d * d over rows first to last, four rows at a time."""
    if has_blocks(x):
        return moments_blocks(x, first, last, shift, total, square)
    for j in range(shift.size):
        total[j] = 0
        square[j] = 0
    fours = first + (last - first) // 4 * 4
    for i in range(first, fours, 4):
        a, b, c, d = x[i], x[i + 1], x[i + 2], x[i + 3]
        for j in range(shift.size):
            a_j, b_j, c_j, d_j = a[j] - shift[j], b[j] - shift[j], c[j] - shift[j], d[j] - shift[j]
            total[j] += (a_j + b_j) + (c_j + d_j)
            ab, cd = multiply_add(a_j, a_j, b_j * b_j), multiply_add(c_j, c_j, d_j * d_j)
            square[j] += ab + cd
    for i in range(fours, last):
        a = x[i]
        for j in range(shift.size):
            a_j = a[j] - shift[j]
            total[j] += a_j
            square[j] = multiply_add(a_j, a_j, square[j])


@njit_strict
def chunk_moments_nc(
    x,  # (N, C)
    chunk,
    shift,  # out (C,): near the chunk's mean
    total,  # out (C,): the sum of d = x - shift
    square,  # out (C,): the sum of d * d
):
    """Compute the moments of one chunk around a shift, which is the mean of its first rows.

    If the shift of any feature is more than a standard deviation away from its mean, a second pass
    uses the mean of the chunk.
    """
    first, last = chunk_rows(x, chunk)
    near = min(NEAR, last - first)
    inverse_near, inverse = x.dtype.type(1.0 / near), x.dtype.type(1.0 / (last - first))
    add_rows(x, first, first + near, shift)
    for j in range(shift.size):
        shift[j] *= inverse_near
    add_moments(x, first, last, shift, total, square)
    far = 0
    for j in range(shift.size):
        # the shift is near enough if the variance is at least half of the mean square
        far += 0 if 2 * total[j] * total[j] * inverse <= square[j] else 1
    if far > 0:  # also for NaN
        for j in range(shift.size):
            shift[j] += total[j] * inverse
        add_moments(x, first, last, shift, total, square)


@njit_strict
def combine_moments_nc(
    shifts,  # (K, C) from `chunk_moments_nc`
    totals,  # (K, C)
    squares,  # (K, C)
    n,  # samples
    shift,  # out (C,): the mean, rounded
    delta,  # out (C,) float64: mean - shift
    var,  # out (C,) float64: biased
):
    """Combine the moments of the chunks (Chan, Golub & LeVeque 1983, eq. 2.1)."""
    chunks, features = shifts.shape
    rows = rows_per_chunk(features)
    # phase 1: the mean
    for j in range(features):
        delta[j] = 0.0
        var[j] = 0.0
    for k in range(chunks):
        count = min(rows, n - k * rows)
        for j in range(features):
            # relative to the first chunk's shift, since such differences are small and accurate
            delta[j] += (np.float64(shifts[k, j]) - np.float64(shifts[0, j])) * count + totals[k, j]
    for j in range(features):
        near, rest = np.float64(shifts[0, j]), delta[j] / n
        shift[j] = near + rest
        delta[j] = rest - (np.float64(shift[j]) - near)  # the rounding error of shift
    # phase 2: squares around the mean
    for k in range(chunks):
        count = min(rows, n - k * rows)
        for j in range(features):
            distance = (np.float64(shifts[k, j]) - np.float64(shift[j])) - delta[j]
            var[j] += squares[k, j] + distance * (2.0 * totals[k, j] + distance * count)
    for j in range(features):
        var[j] = max(var[j] / n, 0.0)


@njit
def moments_nc(x, shifts, totals, squares):
    """Run `chunk_moments_nc` over all chunks."""
    for k in prange(shifts.shape[0]):
        chunk_moments_nc(x, k, shifts[k], totals[k], squares[k])


moments_nc_parallel = parallel_twin(moments_nc)
