"""Batch normalization, sample-major: the same mathematics as `batchnorm`, for x of shape (N, C).

A walk down a column would touch a cache line per number. Instead the rows are cut into chunks of
a size that depends on C alone; each chunk gives partial sums of every feature at once, vectorized
along the row, and the partials are combined in float64 in the order of the chunks. So the bits do
not depend on how many threads share the chunks.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from fastbn._jit import njit, njit_parallel

CHUNK_ELEMENTS = 32768


@njit
def rows_per_chunk(n_features):
    """Rows of a chunk: small enough for a cache, many enough for partials to be cheap."""
    return min(max(CHUNK_ELEMENTS // n_features, 16), 512)


@njit
def count_chunks(x):
    """Chunks that x (N, C) is cut into."""
    rows = rows_per_chunk(x.shape[1])
    return (x.shape[0] + rows - 1) // rows


@njit
def chunk_moments_nc(
    x,  # (N, C)
    chunk,
    shift,  # out (C,): the chunk's mean, rounded to the dtype of x
    total,  # out (C,): the sum of d = x - shift
    square,  # out (C,): the sum of d * d
):
    """Moments of one chunk around its own mean."""
    rows = rows_per_chunk(x.shape[1])
    first, last = chunk * rows, min((chunk + 1) * rows, x.shape[0])
    zero = x.dtype.type(0)
    inverse = x.dtype.type(1.0 / (last - first))
    # phase 1: the mean of the chunk
    for j in range(shift.size):
        shift[j] = zero
        total[j] = zero
        square[j] = zero
    for i in range(first, last):
        row = x[i]
        for j in range(row.size):
            total[j] += row[j]
    for j in range(shift.size):
        shift[j] = total[j] * inverse
        total[j] = zero
    # phase 2: moments around it
    for i in range(first, last):
        row = x[i]
        for j in range(row.size):
            d = row[j] - shift[j]
            total[j] += d
            square[j] += d * d


@njit
def combine_moments_nc(
    shifts,  # (K, C) of `chunk_moments_nc`
    totals,  # (K, C)
    squares,  # (K, C)
    n,  # samples
    shift,  # out (C,): the mean, rounded
    delta,  # out (C,) float64: mean - shift
    var,  # out (C,) float64: biased
):
    """mean and variance from those of the chunks (Chan, Golub & LeVeque 1983, eq. 2.1)."""
    chunks, features = shifts.shape
    rows = rows_per_chunk(features)
    # phase 1: the mean
    for j in range(features):
        delta[j] = 0.0
        var[j] = 0.0
    for k in range(chunks):
        count = min(rows, n - k * rows)
        for j in range(features):
            # the distance to the first chunk's shift is small where the data is close to its mean
            delta[j] += (np.float64(shifts[k, j]) - np.float64(shifts[0, j])) * count + totals[k, j]
    for j in range(features):
        mean = np.float64(shifts[0, j]) + delta[j] / n
        shift[j] = mean
        delta[j] = mean - np.float64(shift[j])
    # phase 2: squares around it
    for k in range(chunks):
        count = min(rows, n - k * rows)
        for j in range(features):
            distance = (np.float64(shifts[k, j]) - np.float64(shift[j])) - delta[j]
            var[j] += squares[k, j] + distance * (2.0 * totals[k, j] + distance * count)
    for j in range(features):
        var[j] = max(var[j] / n, 0.0)


@njit
def derive_affine_nc(
    gamma,  # (C,)
    beta,  # (C,)
    delta,  # (C,) float64
    var,  # (C,) float64
    eps,
    scale,  # out (C,)
    offset,  # out (C,)
    rstd,  # out (C,)
):
    """scale and offset of y = (x - shift) * scale + offset, and rstd."""
    for j in range(gamma.size):
        rstd_j = 1.0 / math.sqrt(var[j] + eps)
        rstd[j] = rstd_j
        scale[j] = gamma[j] * rstd_j
        offset[j] = beta[j] - delta[j] * (gamma[j] * rstd_j)


@njit
def chunk_affine_activation_nc(
    x,  # (N, C)
    chunk,
    shift,  # (C,)
    scale,  # (C,)
    offset,  # (C,)
    slope,
    y,  # out (N, C)
):
    """y = act((x - shift) * scale + offset) for the rows of one chunk."""
    rows = rows_per_chunk(x.shape[1])
    for i in range(chunk * rows, min((chunk + 1) * rows, x.shape[0])):
        x_row, y_row = x[i], y[i]
        for j in range(x_row.size):
            t = (x_row[j] - shift[j]) * scale[j] + offset[j]
            y_row[j] = t if t > 0 else slope * t


@njit
def chunk_gradient_sums_nc(
    dy,  # (N, C)
    x,  # (N, C)
    gamma,  # (C,)
    beta,  # (C,)
    mean,  # (C,)
    rstd,  # (C,)
    slope,
    chunk,
    total,  # out (C,): the sum of g
    total_x,  # out (C,): the sum of g * xhat
):
    """Partial sums for dbeta and dgamma over the rows of one chunk."""
    rows = rows_per_chunk(x.shape[1])
    zero = x.dtype.type(0)
    for j in range(total.size):
        total[j] = zero
        total_x[j] = zero
    for i in range(chunk * rows, min((chunk + 1) * rows, x.shape[0])):
        x_row, dy_row = x[i], dy[i]
        for j in range(x_row.size):
            xhat = (x_row[j] - mean[j]) * rstd[j]
            g = dy_row[j] if xhat * gamma[j] + beta[j] > 0 else slope * dy_row[j]
            total[j] += g
            total_x[j] += g * xhat


@njit
def combine_gradient_sums_nc(
    totals,  # (K, C)
    totals_x,  # (K, C)
    work,  # overwritten (2, C) float64
    dgamma,  # out (C,)
    dbeta,  # out (C,)
):
    """dbeta and dgamma: the chunks' sums, added in float64."""
    work[:] = 0.0
    for k in range(totals.shape[0]):
        for j in range(totals.shape[1]):
            work[0, j] += totals[k, j]
            work[1, j] += totals_x[k, j]
    for j in range(dgamma.size):
        dbeta[j] = work[0, j]
        dgamma[j] = work[1, j]


@njit
def chunk_gradient_input_nc(
    dy,  # (N, C)
    x,  # (N, C)
    gamma,  # (C,)
    beta,  # (C,)
    mean,  # (C,)
    rstd,  # (C,)
    slope,
    chunk,
    mean_g,  # (C,): dbeta / n, or zeros for the detached gradient
    mean_gx,  # (C,): dgamma / n, or zeros
    dx,  # out (N, C)
):
    """dx = gamma * rstd * (g - mean_g - xhat * mean_gx) for the rows of one chunk."""
    rows = rows_per_chunk(x.shape[1])
    for i in range(chunk * rows, min((chunk + 1) * rows, x.shape[0])):
        x_row, dy_row, dx_row = x[i], dy[i], dx[i]
        for j in range(x_row.size):
            xhat = (x_row[j] - mean[j]) * rstd[j]
            g = dy_row[j] if xhat * gamma[j] + beta[j] > 0 else slope * dy_row[j]
            dx_row[j] = gamma[j] * rstd[j] * (g - mean_g[j] - xhat * mean_gx[j])


# -- phases over all chunks: a serial loop, and a parallel twin of it ------------------------------


@njit
def moments_nc(x, shifts, totals, squares):
    """Run `chunk_moments_nc` over all chunks."""
    for k in range(shifts.shape[0]):
        chunk_moments_nc(x, k, shifts[k], totals[k], squares[k])


@njit_parallel
def moments_nc_parallel(x, shifts, totals, squares):
    """Run `chunk_moments_nc` over all chunks."""
    for k in prange(shifts.shape[0]):
        chunk_moments_nc(x, k, shifts[k], totals[k], squares[k])


@njit
def affine_activation_nc(x, shift, scale, offset, slope, y):
    """Run `chunk_affine_activation_nc` over all chunks."""
    for k in range(count_chunks(x)):
        chunk_affine_activation_nc(x, k, shift, scale, offset, slope, y)


@njit_parallel
def affine_activation_nc_parallel(x, shift, scale, offset, slope, y):
    """Run `chunk_affine_activation_nc` over all chunks."""
    for k in prange(count_chunks(x)):
        chunk_affine_activation_nc(x, k, shift, scale, offset, slope, y)


@njit
def gradient_sums_nc(dy, x, gamma, beta, mean, rstd, slope, totals, totals_x):
    """Run `chunk_gradient_sums_nc` over all chunks."""
    for k in range(totals.shape[0]):
        chunk_gradient_sums_nc(dy, x, gamma, beta, mean, rstd, slope, k, totals[k], totals_x[k])


@njit_parallel
def gradient_sums_nc_parallel(dy, x, gamma, beta, mean, rstd, slope, totals, totals_x):
    """Run `chunk_gradient_sums_nc` over all chunks."""
    for k in prange(totals.shape[0]):
        chunk_gradient_sums_nc(dy, x, gamma, beta, mean, rstd, slope, k, totals[k], totals_x[k])


@njit
def gradient_input_nc(dy, x, gamma, beta, mean, rstd, slope, mean_g, mean_gx, dx):
    """Run `chunk_gradient_input_nc` over all chunks."""
    for k in range(count_chunks(x)):
        chunk_gradient_input_nc(dy, x, gamma, beta, mean, rstd, slope, k, mean_g, mean_gx, dx)


@njit_parallel
def gradient_input_nc_parallel(dy, x, gamma, beta, mean, rstd, slope, mean_g, mean_gx, dx):
    """Run `chunk_gradient_input_nc` over all chunks."""
    for k in prange(count_chunks(x)):
        chunk_gradient_input_nc(dy, x, gamma, beta, mean, rstd, slope, k, mean_g, mean_gx, dx)
