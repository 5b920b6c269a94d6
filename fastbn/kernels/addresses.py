"""Batch norm on memory that is given by its address, in one call: for small tensors.

A call from Python costs about as much for each array as batch norm for a hundred numbers. So a
whole forward or backward pass takes integers: addresses, and the shape (B, C, L), or (N, C, 1)
sample-major. Gradients of gamma and beta are the rows of one array, and so are mean and rstd.
"""

from __future__ import annotations

import numpy as np

from fastbn._intrinsics import at_address, view
from fastbn._jit import njit_allocating, njit_inlined
from fastbn.kernels.batchnorm import (
    batch_norm_backward_cn,
    batch_norm_forward_cn,
    update_running_statistics,
)
from fastbn.kernels.batchnorm_nc import batch_norm_backward_nc, batch_norm_forward_nc


@njit_inlined
def matrix_at(like, address, rows, columns):
    """A matrix of the dtype of `like`."""
    return view(at_address(like, address, rows * columns), 0, (rows, columns))


@njit_inlined
def batch_at(like, address, b, c, length):
    """An array (B, C, L) of the dtype of `like`."""
    return view(at_address(like, address, b * c * length), 0, (b, c, length))


@njit_allocating
def train_at(
    like,  # an array of the dtype of all but eps, slope and momentum
    sample_major,  # bool
    b,  # x is (B, C, L), or (B, C)
    c,
    length,
    x,
    gamma,
    beta,
    eps,
    slope,
    momentum,  # the weight of this batch in the running statistics
    running_mean,  # in and out; 0 for none
    running_var,  # in and out
    y,  # out, as x
    stats,  # out (2, C): mean and rstd
):
    """`batch_norm_forward_nc` or `batch_norm_forward_cn`, and the running statistics.

    False, and all as it was, where squares overflow.
    """
    slope = like.dtype.type(slope)
    gamma_c, beta_c = at_address(like, gamma, c), at_address(like, beta, c)
    mean_rstd = matrix_at(like, stats, 2, c)
    mean, rstd = mean_rstd[0], mean_rstd[1]
    if sample_major:
        wide, var = np.empty(c), np.empty(c, like.dtype)
        done = batch_norm_forward_nc(
            matrix_at(like, x, b, c), gamma_c, beta_c, eps, slope, matrix_at(like, y, b, c),
            mean, wide, rstd,
        )  # fmt: skip
        if not done:
            return False
        for j in range(c):
            var[j] = wide[j]
    else:
        var = np.empty(c, like.dtype)
        batch_norm_forward_cn(
            batch_at(like, x, b, c, length), gamma_c, beta_c, eps, slope, 0, c,
            batch_at(like, y, b, c, length), mean, var, rstd,
        )  # fmt: skip
    if running_mean != 0:
        update_running_statistics(
            mean, var, b * length, momentum, True,
            at_address(like, running_mean, c), at_address(like, running_var, c),
        )  # fmt: skip
    return True


@njit_allocating
def differentiate_at(
    like,  # an array of the dtype of all but slope
    sample_major,  # bool
    b,  # x is (B, C, L), or (B, C)
    c,
    length,
    dy,
    x,
    gamma,
    beta,
    stats,  # (2, C): mean and rstd
    slope,
    dx,  # out, as x
    dvectors,  # out (2, C): dgamma and dbeta
):
    """`batch_norm_backward_nc` or `batch_norm_backward_cn`."""
    slope = like.dtype.type(slope)
    gamma_c, beta_c = at_address(like, gamma, c), at_address(like, beta, c)
    mean_rstd, vectors = matrix_at(like, stats, 2, c), matrix_at(like, dvectors, 2, c)
    if sample_major:
        batch_norm_backward_nc(
            matrix_at(like, dy, b, c), matrix_at(like, x, b, c), gamma_c, beta_c, mean_rstd[0],
            mean_rstd[1], slope, True, matrix_at(like, dx, b, c), vectors[0], vectors[1],
        )  # fmt: skip
    else:
        batch_norm_backward_cn(
            batch_at(like, dy, b, c, length), batch_at(like, x, b, c, length), gamma_c, beta_c,
            mean_rstd[0], mean_rstd[1], slope, True, 0, c, batch_at(like, dx, b, c, length),
            vectors[0], vectors[1],
        )  # fmt: skip
