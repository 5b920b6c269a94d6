"""Sample-major batch norm: forward, backward, inference (docs/batchnorm.md).

x is (N, C), and a feature is a column. The rows are cut into chunks (`statistics_nc`), which are
divided among threads. A kernel named `chunk_...` computes one chunk. If C is small, its loops go
down blocks of columns (`batchnorm_nc_blocks`), otherwise along rows (`batchnorm_nc_rows`). `slope`
is the slope of LeakyReLU; 1 means no activation. `norm` is a `Norm`, or a plain tuple of its
arrays.

The kernels at the end are compiled twice: for one thread and for several.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from fastbn.jit.compiler import njit, njit_allocating, njit_strict, parallel_twin
from fastbn.jit.intrinsics import fence, multiply_add
from fastbn.kernels.batchnorm_formulas import activation_gradient, normalized, of_feature
from fastbn.kernels.batchnorm_nc_blocks import affine_blocks, has_blocks, input_blocks, sums_blocks
from fastbn.kernels.batchnorm_nc_rows import (
    row_affine_activation,
    row_gradient_input,
    stream_affine_activation_nc,
    stream_row_gradient_input,
)
from fastbn.kernels.reductions import SMALL
from fastbn.kernels.statistics_nc import (
    chunk_moments_nc,
    chunk_rows,
    combine_moments_nc,
    count_chunks,
)
from fastbn.kernels.streams import is_streamed

# With fewer features, ordinary stores are used even for large results, because a short row has few
# pieces of whole cache lines.
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
    """Compute scale and offset of y = (x - shift) * scale + offset, and rstd."""
    for j in range(gamma.size):
        rstd_j = 1.0 / math.sqrt(var[j] + eps)
        rstd[j] = rstd_j
        scale[j] = gamma[j] * rstd_j
        offset[j] = beta[j] - delta[j] * (gamma[j] * rstd_j)


@njit_allocating
def prepare_affine_nc(
    partials,  # (3, K, C) from `chunk_moments_nc`
    n,  # samples
    norm,  # gamma, beta; out: mean, rstd
    eps,
    affine,  # out (3, C): shift, scale and offset
    var,  # out (C,) float64, biased
):
    """Combine the chunks; return False if a variance is not finite or underflows float32."""
    mean, rstd, gamma, beta = norm
    shift, delta = affine[0], np.empty(gamma.size)
    combine_moments_nc(partials[0], partials[1], partials[2], n, shift, delta, var)
    for j in range(var.size):
        if not SMALL < var[j] + eps < math.inf:
            return False
    derive_affine_nc(gamma, beta, delta, var, eps, affine[1], affine[2], rstd)
    for j in range(var.size):
        mean[j] = shift[j] + delta[j]
    return True


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
    first, last = chunk_rows(x, chunk)
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
    """Sum g and g * xhat over the rows of one chunk, four rows at a time."""
    first, last = chunk_rows(x, chunk)
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
    partials,  # (2, K, C) from `chunk_gradient_sums_nc`
    n,  # samples
    exact,  # bool; False treats mean and var as constants
    work,  # overwritten (2, C) float64
    coefficients,  # out (2, C): dbeta / n and dgamma / n, or zeros for the detached gradient
    dgamma,  # out (C,)
    dbeta,  # out (C,)
):
    """Add up the sums of the chunks in float64, which gives dbeta and dgamma."""
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


@njit_strict
def chunk_gradient_input_nc(
    dy,  # (N, C)
    x,  # (N, C)
    norm,  # mean, rstd, gamma, beta
    slope,
    chunk,
    coefficients,  # (2, C) from `combine_gradient_sums_nc`
    dx,  # out (N, C)
):
    """dx = gamma * rstd * (g - dbeta / n - xhat * dgamma / n) for the rows of one chunk."""
    first, last = chunk_rows(x, chunk)
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
    norm,  # gamma, beta; out: mean, rstd
    eps,
    slope,
    y,  # out (N, C)
    var,  # out (C,) float64, biased
):
    """y = act(gamma * xhat + beta). Return False and leave y unchanged if squares overflow."""
    partials = np.empty((3, count_chunks(x), x.shape[1]), x.dtype)
    affine = np.empty((3, x.shape[1]), x.dtype)
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
    norm,  # mean, rstd, gamma, beta
    slope,
    exact,  # bool; False treats mean and var as constants
    dx,  # out (N, C)
    dgamma,  # out (C,)
    dbeta,  # out (C,)
):
    """dx = gamma * rstd * (g - dbeta / n - xhat * dgamma / n), with
    dbeta = sum(g), dgamma = sum(g * xhat).

    g = dy * act'(gamma * xhat + beta). Without `exact`, dx = gamma * rstd * g.
    """
    chunks, features = count_chunks(x), x.shape[1]
    partials, work = np.empty((2, chunks, features), x.dtype), np.empty((2, features))
    coefficients = np.empty((2, features), x.dtype)
    for k in prange(chunks):
        chunk_gradient_sums_nc(dy, x, norm, slope, k, partials[0, k], partials[1, k])
    combine_gradient_sums_nc(partials, x.shape[0], exact, work, coefficients, dgamma, dbeta)
    for k in prange(chunks):
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
