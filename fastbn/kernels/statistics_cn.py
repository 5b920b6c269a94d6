"""Feature-major mean and variance: x is (B, C, L), and a feature is x[:, c, :].

docs/batchnorm.md explains how they are computed. For a matrix (C, N), B is 1. For a batch of images
(N, C, H, W), L is H * W. One thread computes all rows of a feature, so no sum is split among
threads.
"""

from __future__ import annotations

import math

from numba import prange

from fastbn.jit.compiler import njit, njit_parallel, njit_strict
from fastbn.kernels.reductions import row_moments, row_moments_wide


@njit
def rows_per_group(x):
    """Return how many features go through the phases of a kernel together.

    With several, the processor can start the sum of the next feature before the previous sum ends.
    They must be few enough for their rows to stay in the first-level cache between the phases.
    """
    return max(1, min(8, 8192 // (x.shape[0] * x.shape[2] * x.itemsize)))


@njit_strict
def near_mean(x, c):
    """Return the mean of four samples of feature c, which is usually near its mean."""
    row, quarter = x[0, c], x.shape[2] // 4
    total = row[0] + row[quarter] + row[2 * quarter] + row[3 * quarter]
    return total * x.dtype.type(0.25)


@njit_strict
def feature_sums(x, c, shift):
    """Return the sums of d and of d * d over feature c, d = x - shift, as float64."""
    total = 0.0
    square = 0.0
    for b in range(x.shape[0]):
        row_total, row_square = row_moments(x[b, c], shift)
        total += row_total
        square += row_square
    return total, square


@njit_strict
def feature_sums_wide(x, c, shift):
    """Like `feature_sums`, but computed in float64."""
    total = 0.0
    square = 0.0
    for b in range(x.shape[0]):
        row_total, row_square = row_moments_wide(x[b, c], shift)
        total += row_total
        square += row_square
    return total, square


@njit_strict
def careful_moments(x, c, mean, least):
    """Return shift, mean - shift and variance of feature c, measured around its approximate mean.

    Sums are computed in float64 if float32 overflows or gives a variance below `least`.
    """
    inverse = 1.0 / (x.shape[0] * x.shape[2])
    if not abs(mean) < math.inf:  # math.isfinite(x) computes x - x, which fast-math assumes is 0
        total, _ = feature_sums_wide(x, c, x.dtype.type(0))
        mean = total * inverse
    shift = x.dtype.type(mean)
    total, square = feature_sums(x, c, shift)
    if not least <= square * inverse < math.inf:
        total, square = feature_sums_wide(x, c, shift)
    delta = total * inverse
    return shift, delta, max(square * inverse - delta * delta, 0.0)


@njit_strict
def moments(
    x,  # (B, C, L)
    first,  # features first to last
    last,
    shift,  # out (C,): near the mean
    delta,  # out (C,): mean - shift
    var,  # out (C,), biased
):
    """Compute moments around a shift near the mean (Chan, Golub & LeVeque 1983, eq. 1.7).

    The first pass uses the mean of four samples as the shift. If it is more than a standard
    deviation away from a feature's mean, a second pass uses the mean, rounded to the dtype of x.
    """
    inverse = 1.0 / (x.shape[0] * x.shape[2])
    for c in range(first, last):
        shift[c] = near_mean(x, c)
    for c in range(first, last):
        delta[c], var[c] = feature_sums(x, c, shift[c])
    for c in range(first, last):
        delta_c = delta[c] * inverse
        square = delta_c * delta_c
        var_c = var[c] * inverse - square
        if not (square <= var_c and var_c < math.inf):  # also true for NaN
            shift[c], delta_c, var_c = careful_moments(x, c, shift[c] + delta_c, 0.0)
        delta[c] = delta_c
        var[c] = var_c


@njit_strict
def statistics_cn(
    x,  # (B, C, L)
    start,  # features start to stop
    stop,
    mean,  # out (C,)
    var,  # out (C,), biased
    work,  # overwritten (C,)
):
    """Compute mean and var of features start to stop."""
    for first in range(start, stop, rows_per_group(x)):
        last = min(first + rows_per_group(x), stop)
        moments(x, first, last, mean, work, var)
        for c in range(first, last):
            mean[c] += work[c]


# Features in a tile, the unit of work of parallel loops.
TILE = 4


@njit_parallel
def statistics_cn_parallel(x, start, stop, mean, var, work):
    """Run `statistics_cn` over tiles of features."""
    for tile in prange((stop - start + TILE - 1) // TILE):
        first = start + tile * TILE
        statistics_cn(x, first, min(first + TILE, stop), mean, var, work)
