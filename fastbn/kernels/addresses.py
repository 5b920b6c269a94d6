"""Batch norm of tensors of another library, passed as addresses (docs/batchnorm.md).

Passing an array from Python takes about as long as batch norm of a hundred numbers. So one function
runs a whole forward or backward pass, and takes integers: the shape, and addresses. They are in
plain tuples, since a named one costs a microsecond. The pass runs on the threads of the other
library (`fastbn.parallel.openmp`). Each thread computes its share of the chunks or features, so the
bits are the same as with one thread.
"""

from __future__ import annotations

import math

import numpy as np

from fastbn.jit.compiler import njit, njit_allocating, njit_inlined
from fastbn.jit.intrinsics import at_address, view
from fastbn.kernels.batchnorm_cn import (
    batch_norm_backward_cn,
    batch_norm_forward_cn,
    batch_norm_inference_cn,
)
from fastbn.kernels.batchnorm_formulas import Norm
from fastbn.kernels.batchnorm_nc import (
    chunk_affine_activation_nc,
    chunk_gradient_input_nc,
    chunk_gradient_sums_nc,
    combine_gradient_sums_nc,
    derive_affine_nc,
    prepare_affine_nc,
)
from fastbn.kernels.running import update_running_statistics
from fastbn.kernels.statistics_cn import statistics_cn
from fastbn.kernels.statistics_nc import chunk_moments_nc, combine_moments_nc, count_chunks
from fastbn.parallel.openmp import on_pool


@njit_inlined
def matrix_at(like, address, rows, columns):
    """Return a view of a matrix in memory, of the dtype of `like`."""
    return view(at_address(like, address, rows * columns), 0, (rows, columns))


@njit_inlined
def batch_at(like, address, b, c, length):
    """Return a view of an array (B, C, L) in memory, of the dtype of `like`."""
    return view(at_address(like, address, b * c * length), 0, (b, c, length))


@njit
def share_of(n, rank, size):
    """Return first and last of the part of range(n) that thread `rank` of `size` computes."""
    return n * rank // size, n * (rank + 1) // size


# -- the share of one thread -----------------------------------------------------------------------


@njit
def moments_share(rank, size, x, partials):
    """Run `chunk_moments_nc` on this thread's chunks."""
    first, last = share_of(partials.shape[1], rank, size)
    for k in range(first, last):
        chunk_moments_nc(x, k, partials[0, k], partials[1, k], partials[2, k])


@njit
def affine_share(rank, size, x, shift, scale, offset, slope, y):
    """Run `chunk_affine_activation_nc` on this thread's chunks."""
    first, last = share_of(count_chunks(x), rank, size)
    for k in range(first, last):
        chunk_affine_activation_nc(x, k, shift, scale, offset, slope, y)


@njit
def statistics_share(rank, size, x, mean, var, work):
    """Run `statistics_cn` on this thread's features."""
    first, last = share_of(mean.size, rank, size)
    statistics_cn(x, first, last, mean, var, work)


@njit
def forward_share(rank, size, x, norm, eps, slope, y, var):
    """Run `batch_norm_forward_cn` on this thread's features."""
    first, last = share_of(var.size, rank, size)
    batch_norm_forward_cn(x, norm, eps, slope, first, last, y, var)


@njit
def inference_share(rank, size, x, mean, var, gamma, beta, eps, slope, y):
    """Run `batch_norm_inference_cn` on this thread's features."""
    first, last = share_of(gamma.size, rank, size)
    batch_norm_inference_cn(x, mean, var, gamma, beta, eps, slope, first, last, y)


@njit
def gradient_sums_share(rank, size, dy, x, norm, slope, partials):
    """Run `chunk_gradient_sums_nc` on this thread's chunks."""
    first, last = share_of(partials.shape[1], rank, size)
    for k in range(first, last):
        chunk_gradient_sums_nc(dy, x, norm, slope, k, partials[0, k], partials[1, k])


@njit
def gradient_input_share(rank, size, dy, x, norm, slope, coefficients, dx):
    """Run `chunk_gradient_input_nc` on this thread's chunks."""
    first, last = share_of(count_chunks(x), rank, size)
    for k in range(first, last):
        chunk_gradient_input_nc(dy, x, norm, slope, k, coefficients, dx)


@njit
def backward_share(rank, size, dy, x, norm, slope, exact, dx, dgamma, dbeta):
    """Run `batch_norm_backward_cn` on this thread's features."""
    first, last = share_of(dgamma.size, rank, size)
    batch_norm_backward_cn(dy, x, norm, slope, exact, first, last, dx, dgamma, dbeta)


# -- whole passes ----------------------------------------------------------------------------------


@njit_allocating
def statistics_at(
    like,  # an array whose dtype all tensors have
    pool,  # from `fastbn.parallel.openmp.find_pool`
    threads,  # of the pool, at most
    sizes,  # (is sample-major, B, C, L) of x (B, C, L), or (B, C) if it is sample-major
    x,
    mean,  # out (C,)
    var,  # out (C,), biased
):
    """Compute mean and variance of each feature; return False if squares overflow."""
    sample_major, b, c, length = sizes
    mean_c, var_c = at_address(like, mean, c), at_address(like, var, c)
    if sample_major:
        rows = matrix_at(like, x, b, c)
        partials = np.empty((3, count_chunks(rows), c), like.dtype)
        shift, delta, wide = np.empty(c, like.dtype), np.empty(c), np.empty(c)
        on_pool(pool, threads, moments_share, (rows, partials))
        combine_moments_nc(partials[0], partials[1], partials[2], b, shift, delta, wide)
        done = True
        for j in range(c):
            mean_c[j] = shift[j] + delta[j]
            var_c[j] = wide[j]
            done = done and wide[j] < math.inf
        return done
    planes = batch_at(like, x, b, c, length)
    on_pool(pool, threads, statistics_share, (planes, mean_c, var_c, np.empty(c, like.dtype)))
    return True


@njit_allocating
def train_at(
    stats,  # out (2, C): mean and rstd, of the dtype of all tensors but steps
    pool,
    threads,
    sizes,  # of x, as in `statistics_at`
    tensors,  # x, gamma, beta and the result y
    eps,
    slope,
    momentum,  # weight of this batch in the running statistics; NaN: average all batches
    running,  # in and out: mean, var and, in int64, the number of their batches; 0 without them
):
    """y = act(gamma * xhat + beta), and the running statistics, updated as in PyTorch.

    If squares overflow, this returns False and changes nothing.
    """
    sample_major, b, c, length = sizes
    x, gamma, beta, y = tensors
    running_mean, running_var, steps = running
    slope = stats.dtype.type(slope)
    norm = Norm(stats[0], stats[1], at_address(stats, gamma, c), at_address(stats, beta, c))
    var = np.empty(c, stats.dtype)
    if sample_major:
        rows, result = matrix_at(stats, x, b, c), matrix_at(stats, y, b, c)
        partials = np.empty((3, count_chunks(rows), c), stats.dtype)
        affine, wide = np.empty((3, c), stats.dtype), np.empty(c)
        on_pool(pool, threads, moments_share, (rows, partials))
        if not prepare_affine_nc(partials, b, norm, eps, affine, wide):
            return False
        arguments = rows, affine[0], affine[1], affine[2], slope, result
        on_pool(pool, threads, affine_share, arguments)
        for j in range(c):
            var[j] = wide[j]
    else:
        planes, results = batch_at(stats, x, b, c, length), batch_at(stats, y, b, c, length)
        on_pool(pool, threads, forward_share, (planes, norm, eps, slope, results, var))
    if running_mean != 0:
        count = at_address(pool, steps, 1)
        count[0] += 1
        share = 1.0 / count[0] if math.isnan(momentum) else momentum
        update_running_statistics(
            norm.mean, var, b * length, share, True,
            at_address(stats, running_mean, c), at_address(stats, running_var, c),
        )  # fmt: skip
    return True


@njit_allocating
def infer_at(
    like,  # an array whose dtype all tensors have
    pool,
    threads,
    sizes,  # of x, as in `statistics_at`
    tensors,  # x, gamma, beta and the result y
    eps,
    slope,
    running,  # mean and var
):
    """y = act(gamma * (x - mean) / sqrt(var + eps) + beta), with the running mean and var."""
    sample_major, b, c, length = sizes
    x, gamma, beta, y = tensors
    running_mean, running_var = running
    slope = like.dtype.type(slope)
    gamma_c, beta_c = at_address(like, gamma, c), at_address(like, beta, c)
    mean, var = at_address(like, running_mean, c), at_address(like, running_var, c)
    if sample_major:
        rows, result = matrix_at(like, x, b, c), matrix_at(like, y, b, c)
        affine, zeros = np.empty((3, c), like.dtype), np.zeros(c)
        derive_affine_nc(gamma_c, beta_c, zeros, var, eps, affine[0], affine[1], affine[2])
        arguments = rows, mean, affine[0], affine[1], slope, result
        on_pool(pool, threads, affine_share, arguments)
    else:
        planes, results = batch_at(like, x, b, c, length), batch_at(like, y, b, c, length)
        on_pool(
            pool, threads, inference_share,
            (planes, mean, var, gamma_c, beta_c, eps, slope, results),
        )  # fmt: skip


@njit_allocating
def differentiate_at(
    stats,  # (2, C): mean and rstd, of the dtype of all tensors
    pool,
    threads,
    sizes,  # of x, as in `statistics_at`
    tensors,  # dy, x, gamma and beta
    slope,
    exact,  # bool; False treats mean and var as constants
    gradients,  # out: dx, dgamma and dbeta
):
    """Compute the gradients of x, gamma and beta."""
    sample_major, b, c, length = sizes
    dy, x, gamma, beta = tensors
    dx, dgamma, dbeta = gradients
    slope = stats.dtype.type(slope)
    norm = Norm(stats[0], stats[1], at_address(stats, gamma, c), at_address(stats, beta, c))
    dgamma_c, dbeta_c = at_address(stats, dgamma, c), at_address(stats, dbeta, c)
    if sample_major:
        rows, drows = matrix_at(stats, x, b, c), matrix_at(stats, dy, b, c)
        partials = np.empty((2, count_chunks(rows), c), stats.dtype)
        work, coefficients = np.empty((2, c)), np.empty((2, c), stats.dtype)
        on_pool(pool, threads, gradient_sums_share, (drows, rows, norm, slope, partials))
        combine_gradient_sums_nc(partials, b, exact, work, coefficients, dgamma_c, dbeta_c)
        arguments = drows, rows, norm, slope, coefficients, matrix_at(stats, dx, b, c)
        on_pool(pool, threads, gradient_input_share, arguments)
    else:
        planes, dplanes = batch_at(stats, x, b, c, length), batch_at(stats, dy, b, c, length)
        results = batch_at(stats, dx, b, c, length)
        on_pool(
            pool, threads, backward_share,
            (dplanes, planes, norm, slope, exact, results, dgamma_c, dbeta_c),
        )  # fmt: skip
