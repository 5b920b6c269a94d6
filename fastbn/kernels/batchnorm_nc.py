"""Batch norm of features that are columns: forward, backward, inference (docs/batchnorm.md).

x is (N, C). Rows are cut into chunks (`statistics_nc`), and threads share the chunks: a kernel of
one chunk is named `chunk_...`. Matrices of few features are computed by `batchnorm_nc_blocks`.
`slope` is LeakyReLU's; 1 is no activation.

The kernels at the end are compiled twice, serial and for several threads.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from fastbn.jit.compiler import njit, njit_allocating, njit_inlined, njit_strict, parallel_twin
from fastbn.jit.intrinsics import fence, multiply_add, scratch_like, stream_piece, view
from fastbn.kernels.activations import affine_leaky_relu
from fastbn.kernels.batchnorm_formulas import (
    Norm,
    activation_gradient,
    gradient_input,
    normalized,
    of_feature,
)
from fastbn.kernels.batchnorm_nc_blocks import affine_blocks, has_blocks, input_blocks, sums_blocks
from fastbn.kernels.reductions import SMALL
from fastbn.kernels.statistics_nc import (
    chunk_moments_nc,
    combine_moments_nc,
    count_chunks,
    rows_per_chunk,
)
from fastbn.kernels.streams import PIECE, is_streamed, whole_pieces

# Features from which large results go past the caches: rows are whole pieces but for their ends.
STREAMED_FEATURES = 1024

# -- forward: y = (x - shift) * scale + offset, and the activation ---------------------------------


@njit_strict
def derive_affine_nc(
    gamma,  # (C,)
    beta,  # (C,)
    delta,  # (C,) float64: mean - shift
    var,  # (C,)
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


@njit_allocating
def prepare_affine_nc(
    partials,  # (3, K, C) of `chunk_moments_nc`
    n,  # samples
    norm,  # gamma, beta; out: mean, rstd
    eps,
    affine,  # out (3, C): shift, scale and offset
    var,  # out (C,) float64, biased
):
    """Combine the chunks; False where a variance is not finite, or lost in float32."""
    shift, delta = affine[0], np.empty(norm.gamma.size)
    combine_moments_nc(partials[0], partials[1], partials[2], n, shift, delta, var)
    for j in range(var.size):
        if not SMALL < var[j] + eps < math.inf:
            return False
    derive_affine_nc(norm.gamma, norm.beta, delta, var, eps, affine[1], affine[2], norm.rstd)
    for j in range(var.size):
        norm.mean[j] = shift[j] + delta[j]
    return True


@njit_inlined
def row_affine_activation(x, shift, scale, offset, slope, y):
    """y = act((x - shift) * scale + offset) for a part of one row."""
    for j in range(x.size):
        y[j] = affine_leaky_relu(x[j], shift[j], scale[j], offset[j], slope)


@njit_strict
def put_affine_activation(x, k, shift, scale, offset, slope, out):
    """Fill `out` with numbers k, k + 1, ... of y, counted row after row."""
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
    if is_streamed(x) and x.shape[1] >= STREAMED_FEATURES:
        stream_affine_activation_nc(x, first, last, shift, scale, offset, slope, y)
        fence()
        return
    if has_blocks(x):
        return affine_blocks(x, first, last, shift, scale, offset, slope, y)
    for i in range(first, last):
        row_affine_activation(x[i], shift, scale, offset, slope, y[i])


# -- backward --------------------------------------------------------------------------------------


@njit_strict
def chunk_gradient_sums_nc(
    dy,  # (N, C)
    x,  # (N, C)
    norm,  # mean, rstd, gamma, beta
    slope,
    chunk,
    total,  # out (C,): the sum of g
    total_x,  # out (C,): the sum of g * xhat
):
    """Partial sums for dbeta and dgamma over the rows of one chunk, four rows at a time."""
    rows = rows_per_chunk(x.shape[1])
    first, last = chunk * rows, min((chunk + 1) * rows, x.shape[0])
    if has_blocks(x):
        return sums_blocks(dy, x, first, last, norm, slope, total, total_x)
    for j in range(total.size):
        total[j] = 0
        total_x[j] = 0
    fours = first + (last - first) // 4 * 4
    for i in range(first, fours, 4):
        a, b, c, d = x[i], x[i + 1], x[i + 2], x[i + 3]
        da, db, dc, dd = dy[i], dy[i + 1], dy[i + 2], dy[i + 3]
        for j in range(total.size):
            norm_j = of_feature(norm, j)
            a_hat, b_hat = normalized(a[j], norm_j), normalized(b[j], norm_j)
            c_hat, d_hat = normalized(c[j], norm_j), normalized(d[j], norm_j)
            ga = activation_gradient(da[j], a_hat, norm_j, slope)
            gb = activation_gradient(db[j], b_hat, norm_j, slope)
            gc = activation_gradient(dc[j], c_hat, norm_j, slope)
            gd = activation_gradient(dd[j], d_hat, norm_j, slope)
            total[j] += (ga + gb) + (gc + gd)
            ab, cd = multiply_add(ga, a_hat, gb * b_hat), multiply_add(gc, c_hat, gd * d_hat)
            total_x[j] += ab + cd
    for i in range(fours, last):
        a, da = x[i], dy[i]
        for j in range(total.size):
            norm_j = of_feature(norm, j)
            a_hat = normalized(a[j], norm_j)
            ga = activation_gradient(da[j], a_hat, norm_j, slope)
            total[j] += ga
            total_x[j] = multiply_add(ga, a_hat, total_x[j])


@njit_strict
def combine_gradient_sums_nc(
    partials,  # (2, K, C) of `chunk_gradient_sums_nc`
    n,  # samples
    exact,  # bool; False treats mean and var as constants
    work,  # overwritten (2, C) float64
    coefficients,  # out (2, C): dbeta / n and dgamma / n, or zeros for the detached gradient
    dgamma,  # out (C,)
    dbeta,  # out (C,)
):
    """dbeta and dgamma: the sums of the chunks, added in float64."""
    totals, totals_x = partials[0], partials[1]
    constant, linear = coefficients[0], coefficients[1]
    work[:] = 0.0
    share = 1.0 / n if exact else 0.0
    for k in range(totals.shape[0]):
        for j in range(totals.shape[1]):
            work[0, j] += totals[k, j]
            work[1, j] += totals_x[k, j]
    for j in range(dgamma.size):
        dbeta[j] = work[0, j]
        dgamma[j] = work[1, j]
        constant[j] = work[0, j] * share
        linear[j] = work[1, j] * share


@njit_inlined
def row_gradient_input(dy, x, norm, slope, coefficients, dx):
    """dx of one row, or of a part: all arrays begin and end with it."""
    constant, linear, one = coefficients[0], coefficients[1], x.dtype.type(1)
    for j in range(x.size):
        dx[j] = gradient_input(dy[j], x[j], of_feature(norm, j), slope, one, constant[j], linear[j])


@njit_inlined
def part_gradient_input(dy, x, norm, slope, coefficients, start, size, dx):
    """dx of numbers start to start + size of a row, to all of `dx`."""
    part = (size,)
    norm_part = Norm(
        view(norm.mean, start, part),
        view(norm.rstd, start, part),
        view(norm.gamma, start, part),
        view(norm.beta, start, part),
    )
    both = view(coefficients[0], start, part), view(coefficients[1], start, part)
    row_gradient_input(view(dy, start, part), view(x, start, part), norm_part, slope, both, dx)


@njit_strict
def stream_row_gradient_input(dy, x, norm, slope, coefficients, dx):
    """dx of one row, past the caches; a `fence` has to follow."""
    first, last = whole_pieces(dx)
    piece = scratch_like(dx, PIECE)
    part_gradient_input(dy, x, norm, slope, coefficients, 0, first, dx[:first])
    for j in range(first, last, PIECE):
        part_gradient_input(dy, x, norm, slope, coefficients, j, PIECE, piece)
        stream_piece(PIECE, piece, dx, j)
    part_gradient_input(dy, x, norm, slope, coefficients, last, dx.size - last, dx[last:])


@njit_strict
def chunk_gradient_input_nc(
    dy,  # (N, C)
    x,  # (N, C)
    norm,  # mean, rstd, gamma, beta
    slope,
    chunk,
    coefficients,  # (2, C) of `combine_gradient_sums_nc`
    dx,  # out (N, C)
):
    """dx = gamma * rstd * (g - dbeta / n - xhat * dgamma / n) for the rows of one chunk."""
    rows = rows_per_chunk(x.shape[1])
    first, last = chunk * rows, min((chunk + 1) * rows, x.shape[0])
    if has_blocks(x):
        return input_blocks(dy, x, first, last, norm, slope, coefficients, dx)
    if is_streamed(x) and x.shape[1] >= STREAMED_FEATURES:
        for i in range(first, last):
            stream_row_gradient_input(dy[i], x[i], norm, slope, coefficients, dx[i])
        fence()
        return
    for i in range(first, last):
        row_gradient_input(dy[i], x[i], norm, slope, coefficients, dx[i])


# -- all chunks ------------------------------------------------------------------------------------


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
    """y = act(gamma * xhat + beta); False, and y unchanged, where squares overflow float32."""
    partials = np.empty((3, count_chunks(x), x.shape[1]), x.dtype)
    affine, norm = np.empty((3, x.shape[1]), x.dtype), Norm(mean, rstd, gamma, beta)
    for k in prange(partials.shape[1]):
        chunk_moments_nc(x, k, partials[0, k], partials[1, k], partials[2, k])
    done = prepare_affine_nc(partials, x.shape[0], norm, eps, affine, var)
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
    exact,  # bool; False treats mean and var as constants
    dx,  # out (N, C)
    dgamma,  # out (C,)
    dbeta,  # out (C,)
):
    """dx, dgamma and dbeta."""
    chunks, features = count_chunks(x), x.shape[1]
    partials, work = np.empty((2, chunks, features), x.dtype), np.empty((2, features))
    coefficients = np.empty((2, features), x.dtype)
    for k in prange(chunks):
        norm = Norm(mean, rstd, gamma, beta)
        chunk_gradient_sums_nc(dy, x, norm, slope, k, partials[0, k], partials[1, k])
    combine_gradient_sums_nc(partials, x.shape[0], exact, work, coefficients, dgamma, dbeta)
    for k in prange(chunks):
        norm = Norm(mean, rstd, gamma, beta)
        chunk_gradient_input_nc(dy, x, norm, slope, k, coefficients, dx)


@njit_allocating
def batch_norm_inference_nc(
    x,  # (N, C)
    running_mean,  # (C,)
    running_var,  # (C,)
    gamma,  # (C,)
    beta,  # (C,)
    eps,
    slope,
    y,  # out (N, C)
):
    """y = act(gamma * (x - running_mean) / sqrt(running_var + eps) + beta)."""
    affine = np.empty((3, gamma.size), x.dtype)  # scale, offset and rstd
    zeros = np.zeros(gamma.size)
    derive_affine_nc(gamma, beta, zeros, running_var, eps, affine[0], affine[1], affine[2])
    for k in prange(count_chunks(x)):
        chunk_affine_activation_nc(x, k, running_mean, affine[0], affine[1], slope, y)


batch_norm_forward_nc_parallel = parallel_twin(batch_norm_forward_nc)
batch_norm_backward_nc_parallel = parallel_twin(batch_norm_backward_nc)
batch_norm_inference_nc_parallel = parallel_twin(batch_norm_inference_nc)
