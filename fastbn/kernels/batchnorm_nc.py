"""Batch normalization, sample-major: the same mathematics as `batchnorm`, for x of shape (N, C).

A walk down a column would touch a cache line per number. Instead the rows are cut into chunks of
a size that depends on C alone; each chunk gives partial sums of every feature at once, vectorized
along the row, and the partials are combined in float64 in the order of the chunks. So the bits do
not depend on how many threads share the chunks. No loop here needs fast-math to vectorize: a sum
down the rows is one addition for each feature, rounded as it is written.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from fastbn.jit.compiler import njit, njit_allocating, njit_inlined, njit_strict, parallel_twin
from fastbn.jit.intrinsics import fence, multiply_add, scratch_like, stream_piece, view
from fastbn.kernels.batchnorm_nc_blocks import (
    affine_blocks,
    has_blocks,
    input_blocks,
    moments_blocks,
    sums_blocks,
)
from fastbn.kernels.reductions import SMALL
from fastbn.kernels.streams import PIECE, is_streamed, whole_pieces

CHUNK_ELEMENTS = 65536

# Features from which large results go past the caches: rows are whole pieces but for their ends.
WIDE = 1024

# Rows whose mean is the shift that a chunk's moments are measured around.
NEAR = 16


@njit
def rows_per_chunk(n_features):
    """Rows of a chunk: small enough for a cache, many enough for partials to be cheap."""
    return min(max(CHUNK_ELEMENTS // n_features, 16), 512)


@njit
def count_chunks(x):
    """Chunks that x (N, C) is cut into."""
    rows = rows_per_chunk(x.shape[1])
    return (x.shape[0] + rows - 1) // rows


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
    """Sums of d = x - shift and of d * d over rows first to last, four rows at a time."""
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
    """Moments of one chunk around a shift near its mean: the mean of its first rows.

    Where that lies more than a deviation off the mean of a feature, once more around the mean.
    """
    rows = rows_per_chunk(x.shape[1])
    first, last = chunk * rows, min((chunk + 1) * rows, x.shape[0])
    near = min(NEAR, last - first)
    inverse_near, inverse = x.dtype.type(1.0 / near), x.dtype.type(1.0 / (last - first))
    add_rows(x, first, first + near, shift)
    for j in range(shift.size):
        shift[j] *= inverse_near
    add_moments(x, first, last, shift, total, square)
    far = 0
    for j in range(shift.size):
        # half of the square, at least, is to be deviation
        far += 0 if 2 * total[j] * total[j] * inverse <= square[j] else 1
    if far > 0:  # a NaN comes here too
        for j in range(shift.size):
            shift[j] += total[j] * inverse
        add_moments(x, first, last, shift, total, square)


@njit_strict
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
        near, rest = np.float64(shifts[0, j]), delta[j] / n
        shift[j] = near + rest
        delta[j] = rest - (np.float64(shift[j]) - near)  # what rounding has left out
    # phase 2: squares around it
    for k in range(chunks):
        count = min(rows, n - k * rows)
        for j in range(features):
            distance = (np.float64(shifts[k, j]) - np.float64(shift[j])) - delta[j]
            var[j] += squares[k, j] + distance * (2.0 * totals[k, j] + distance * count)
    for j in range(features):
        var[j] = max(var[j] / n, 0.0)


@njit_strict
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


@njit_inlined
def row_affine_activation(x, shift, scale, offset, slope, y):
    """y = act((x - shift) * scale + offset) for a part of one row; y is overwritten."""
    for j in range(x.size):
        t = multiply_add(x[j] - shift[j], scale[j], offset[j])
        y[j] = t if t > 0 else slope * t


@njit_strict
def put_affine_activation(x, k, shift, scale, offset, slope, out):
    """Numbers k, k + 1, ... of y, counted row after row, to all of `out`."""
    features, done = shift.size, 0
    while done < out.size:
        i, j = (k + done) // features, (k + done) % features
        last = min(j + out.size - done, features)
        row_affine_activation(
            x[i, j:last], shift[j:last], scale[j:last], offset[j:last], slope,
            out[done : done + last - j],
        )  # fmt: skip
        done += last - j


@njit_strict
def stream_affine_activation_nc(x, first, last, shift, scale, offset, slope, y):
    """Rows first to last of y, past the caches; a `fence` has to follow."""
    features = shift.size
    start = first * features
    flat = view(y, start, ((last - first) * features,))
    head, tail = whole_pieces(flat)
    piece, across = scratch_like(y, PIECE), scratch_like(y, PIECE)
    put_affine_activation(x, start, shift, scale, offset, slope, flat[:head])
    for k in range(head, tail, PIECE):
        i, j = (start + k) // features, (start + k) % features
        if j + PIECE <= features:
            row_affine_activation(
                view(x[i], j, (PIECE,)), view(shift, j, (PIECE,)), view(scale, j, (PIECE,)),
                view(offset, j, (PIECE,)), slope, piece,
            )  # fmt: skip
            stream_piece(PIECE, piece, flat, k)
        else:
            put_affine_activation(x, start + k, shift, scale, offset, slope, across)
            stream_piece(PIECE, across, flat, k)
    put_affine_activation(x, start + tail, shift, scale, offset, slope, flat[tail:])


@njit_strict
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
    first, last = chunk * rows, min((chunk + 1) * rows, x.shape[0])
    if is_streamed(x) and x.shape[1] >= WIDE:
        stream_affine_activation_nc(x, first, last, shift, scale, offset, slope, y)
        fence()
        return
    if has_blocks(x):
        return affine_blocks(x, first, last, shift, scale, offset, slope, y)
    for i in range(first, last):
        row_affine_activation(x[i], shift, scale, offset, slope, y[i])


@njit_strict
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
    """Partial sums for dbeta and dgamma over the rows of one chunk, four rows at a time."""
    rows = rows_per_chunk(x.shape[1])
    first, last = chunk * rows, min((chunk + 1) * rows, x.shape[0])
    if has_blocks(x):
        return sums_blocks(dy, x, first, last, gamma, beta, mean, rstd, slope, total, total_x)
    for j in range(total.size):
        total[j] = 0
        total_x[j] = 0
    fours = first + (last - first) // 4 * 4
    for i in range(first, fours, 4):
        a, b, c, d = x[i], x[i + 1], x[i + 2], x[i + 3]
        da, db, dc, dd = dy[i], dy[i + 1], dy[i + 2], dy[i + 3]
        for j in range(total.size):
            m, r, scale, shift = mean[j], rstd[j], gamma[j], beta[j]
            a_hat, b_hat = (a[j] - m) * r, (b[j] - m) * r
            c_hat, d_hat = (c[j] - m) * r, (d[j] - m) * r
            ga = da[j] if multiply_add(a_hat, scale, shift) > 0 else slope * da[j]
            gb = db[j] if multiply_add(b_hat, scale, shift) > 0 else slope * db[j]
            gc = dc[j] if multiply_add(c_hat, scale, shift) > 0 else slope * dc[j]
            gd = dd[j] if multiply_add(d_hat, scale, shift) > 0 else slope * dd[j]
            total[j] += (ga + gb) + (gc + gd)
            ab, cd = multiply_add(ga, a_hat, gb * b_hat), multiply_add(gc, c_hat, gd * d_hat)
            total_x[j] += ab + cd
    for i in range(fours, last):
        a, da = x[i], dy[i]
        for j in range(total.size):
            a_hat = (a[j] - mean[j]) * rstd[j]
            ga = da[j] if multiply_add(a_hat, gamma[j], beta[j]) > 0 else slope * da[j]
            total[j] += ga
            total_x[j] = multiply_add(ga, a_hat, total_x[j])


@njit_strict
def combine_gradient_sums_nc(
    totals,  # (K, C)
    totals_x,  # (K, C)
    n,  # samples
    exact,  # bool; False takes mean and var as constants
    work,  # overwritten (2, C) float64
    mean_g,  # out (C,): dbeta / n, or zeros for the detached gradient
    mean_gx,  # out (C,): dgamma / n, or zeros
    dgamma,  # out (C,)
    dbeta,  # out (C,)
):
    """dbeta and dgamma: the chunks' sums, added in float64."""
    work[:] = 0.0
    inverse = 1.0 / n if exact else 0.0
    for k in range(totals.shape[0]):
        for j in range(totals.shape[1]):
            work[0, j] += totals[k, j]
            work[1, j] += totals_x[k, j]
    for j in range(dgamma.size):
        dbeta[j] = work[0, j]
        dgamma[j] = work[1, j]
        mean_g[j] = work[0, j] * inverse
        mean_gx[j] = work[1, j] * inverse


@njit_inlined
def row_gradient_input(dy, x, gamma, beta, mean, rstd, slope, mean_g, mean_gx, dx):
    """dx = gamma * rstd * (g - mean_g - xhat * mean_gx) for a part of one row."""
    for j in range(x.size):
        xhat = (x[j] - mean[j]) * rstd[j]
        g = dy[j] if multiply_add(xhat, gamma[j], beta[j]) > 0 else slope * dy[j]
        dx[j] = gamma[j] * rstd[j] * (g - multiply_add(xhat, mean_gx[j], mean_g[j]))


@njit_inlined
def part_gradient_input(
    dy, x, gamma, beta, mean, rstd, slope, mean_g, mean_gx, start, length, dx
):  # fmt: skip
    """`row_gradient_input` for numbers start, start + 1, ... of a row, to all of `dx`."""
    size = (length,)
    row_gradient_input(
        view(dy, start, size), view(x, start, size), view(gamma, start, size),
        view(beta, start, size), view(mean, start, size), view(rstd, start, size), slope,
        view(mean_g, start, size), view(mean_gx, start, size), dx,
    )  # fmt: skip


@njit_strict
def stream_row_gradient_input(dy, x, gamma, beta, mean, rstd, slope, mean_g, mean_gx, dx):
    """`row_gradient_input`, past the caches; a `fence` has to follow."""
    first, last = whole_pieces(dx)
    piece = scratch_like(dx, PIECE)
    part_gradient_input(
        dy, x, gamma, beta, mean, rstd, slope, mean_g, mean_gx, 0, first, dx[:first]
    )
    for j in range(first, last, PIECE):
        part_gradient_input(dy, x, gamma, beta, mean, rstd, slope, mean_g, mean_gx, j, PIECE, piece)
        stream_piece(PIECE, piece, dx, j)
    part_gradient_input(
        dy, x, gamma, beta, mean, rstd, slope, mean_g, mean_gx, last, dx.size - last, dx[last:]
    )


@njit_strict
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
    first, last = chunk * rows, min((chunk + 1) * rows, x.shape[0])
    if has_blocks(x):
        return input_blocks(dy, x, first, last, gamma, beta, mean, rstd, slope, mean_g, mean_gx, dx)
    if is_streamed(x) and x.shape[1] >= WIDE:
        for i in range(first, last):
            stream_row_gradient_input(
                dy[i], x[i], gamma, beta, mean, rstd, slope, mean_g, mean_gx, dx[i]
            )
        fence()
        return
    for i in range(first, last):
        row_gradient_input(dy[i], x[i], gamma, beta, mean, rstd, slope, mean_g, mean_gx, dx[i])


@njit_allocating
def prepare_affine_nc(
    partials,  # (3, K, C) of `chunk_moments_nc`
    n,  # samples
    gamma,  # (C,)
    beta,  # (C,)
    eps,
    affine,  # out (3, C): shift, scale and offset
    mean,  # out (C,)
    var,  # out (C,) float64, biased
    rstd,  # out (C,)
):
    """Put the chunks together; False where a variance is no number, or lost in float32."""
    shift, delta = affine[0], np.empty(gamma.size)
    combine_moments_nc(partials[0], partials[1], partials[2], n, shift, delta, var)
    for j in range(gamma.size):
        if not SMALL < var[j] + eps < math.inf:
            return False
    derive_affine_nc(gamma, beta, delta, var, eps, affine[1], affine[2], rstd)
    for j in range(gamma.size):
        mean[j] = shift[j] + delta[j]
    return True


# -- over all chunks: compiled serial, and once more on several threads ----------------------------


@njit
def moments_nc(x, shifts, totals, squares):
    """Run `chunk_moments_nc` over all chunks."""
    for k in prange(shifts.shape[0]):
        chunk_moments_nc(x, k, shifts[k], totals[k], squares[k])


@njit
def affine_activation_nc(x, shift, scale, offset, slope, y):
    """Run `chunk_affine_activation_nc` over all chunks."""
    for k in prange(count_chunks(x)):
        chunk_affine_activation_nc(x, k, shift, scale, offset, slope, y)


@njit_allocating
def batch_norm_forward_nc(
    x,  # (N, C)
    gamma,  # (C,)
    beta,  # (C,)
    eps,
    slope,
    y,  # out (N, C)
    mean,  # out (C,)
    var,  # out (C,) float64, biased
    rstd,  # out (C,)
):
    """y = act(gamma * xhat + beta); False, and y as it was, where float32 holds no squares."""
    partials = np.empty((3, count_chunks(x), x.shape[1]), x.dtype)
    affine = np.empty((3, x.shape[1]), x.dtype)
    for k in prange(partials.shape[1]):
        chunk_moments_nc(x, k, partials[0, k], partials[1, k], partials[2, k])
    done = prepare_affine_nc(partials, x.shape[0], gamma, beta, eps, affine, mean, var, rstd)
    for k in prange(partials.shape[1] if done else 0):
        chunk_affine_activation_nc(x, k, affine[0], affine[1], affine[2], slope, y)
    return done


@njit_allocating
def batch_norm_backward_nc(
    dy,  # (N, C) gradient of the activated output
    x,  # (N, C)
    gamma,  # (C,)
    beta,  # (C,)
    mean,  # (C,)
    rstd,  # (C,)
    slope,
    exact,  # bool; False takes mean and var as constants
    dx,  # out (N, C)
    dgamma,  # out (C,)
    dbeta,  # out (C,)
):
    """Gradients of x, gamma and beta."""
    chunks, features = count_chunks(x), x.shape[1]
    partials, work = np.empty((2, chunks, features), x.dtype), np.empty((2, features))
    means = np.empty((2, features), x.dtype)
    for k in prange(chunks):
        chunk_gradient_sums_nc(
            dy, x, gamma, beta, mean, rstd, slope, k, partials[0, k], partials[1, k]
        )
    combine_gradient_sums_nc(
        partials[0], partials[1], x.shape[0], exact, work, means[0], means[1], dgamma, dbeta
    )
    for k in prange(chunks):
        chunk_gradient_input_nc(dy, x, gamma, beta, mean, rstd, slope, k, means[0], means[1], dx)


moments_nc_parallel = parallel_twin(moments_nc)
affine_activation_nc_parallel = parallel_twin(affine_activation_nc)
batch_norm_forward_nc_parallel = parallel_twin(batch_norm_forward_nc)
batch_norm_backward_nc_parallel = parallel_twin(batch_norm_backward_nc)
