"""Batch normalization with a weight for each sample: a weight of two counts as the sample twice.

The weights w of a batch add up to 1; the loss they weight has them in dy already:

    mean = sum(w * x)    var = sum(w * (x - mean)^2)    xhat = (x - mean) / sqrt(var + eps)
    y = act(gamma * xhat + beta)
    g = dy * act'(gamma * xhat + beta)    dbeta = sum(g)    dgamma = sum(g * xhat)
    dx = gamma * rstd * (g - w * (dbeta + xhat * dgamma))

Arrays are feature-major: a row of (C, N) holds one feature of all samples. A second pass measures
the variance around the mean, as it is rounded, and sums are taken as in `reductions`.
"""

from __future__ import annotations

import math

import numpy as np

from fastbn.jit.compiler import njit, njit_strict
from fastbn.jit.intrinsics import multiply_add
from fastbn.kernels.activations import affine_activation
from fastbn.kernels.batchnorm_cn import block_gradient_sums
from fastbn.kernels.reductions import BLOCK, SMALL


@njit
def weighted_block_moments(block, weight, shift):
    """Sum of w * d and of w * d * d over one block, d = block - shift."""
    total = block.dtype.type(0)
    square = block.dtype.type(0)
    for i in range(block.size):
        d = block[i] - shift
        total += weight[i] * d
        square += weight[i] * d * d
    return total, square


@njit_strict
def weighted_row_moments(row, weight, shift):
    """The same over a row, as float64."""
    total = 0.0
    square = 0.0
    for i in range(0, row.size, BLOCK):
        block_total, block_square = weighted_block_moments(
            row[i : i + BLOCK], weight[i : i + BLOCK], shift
        )
        total += block_total
        square += block_square
    return total, square


@njit
def weighted_row_moments_wide(row, weight, shift):
    """The same, all in float64: for rows whose squares float32 does not hold."""
    total = 0.0
    square = 0.0
    for i in range(row.size):
        d = np.float64(row[i]) - shift
        total += weight[i] * d
        square += weight[i] * d * d
    return total, square


@njit_strict
def weighted_batch_norm_forward_cn(
    x,  # (C, N)
    weight,  # (N,) adding up to 1
    gamma,  # (C,)
    beta,  # (C,)
    eps,
    slope,
    start,  # features start to stop
    stop,
    y,  # out (C, N)
    mean,  # out (C,)
    var,  # out (C,), biased
    rstd,  # out (C,)
):
    """y = act(gamma * xhat + beta) with the weighted statistics of this batch."""
    number = x.dtype.type
    for c in range(start, stop):
        # phase 1: the mean, from the first sample, and the variance around it
        delta, _ = weighted_row_moments(x[c], weight, x[c, 0])
        shift = number(x[c, 0] + delta)
        delta, square = weighted_row_moments(x[c], weight, shift)
        if not SMALL < square + eps < math.inf:
            delta, square = weighted_row_moments_wide(x[c], weight, np.float64(shift))
        var_c = max(square - delta * delta, 0.0)
        # phase 2: normalize around it; what rounding has left out enters the offset
        rstd_c = 1.0 / math.sqrt(var_c + eps)
        scale = number(gamma[c] * rstd_c)
        offset = number(beta[c] - delta * (gamma[c] * rstd_c))
        mean[c], var[c], rstd[c] = shift + delta, var_c, rstd_c
        affine_activation(x[c], shift, scale, offset, slope, y[c])


@njit_strict
def weighted_row_gradient_input(
    dy, x, weight, mean, rstd, gamma, beta, slope, constant, linear, dx
):
    """dx = gamma * rstd * (g - w * (constant + linear * xhat)) for one row; dx is overwritten."""
    scale = gamma * rstd
    for i in range(x.size):
        xhat = (x[i] - mean) * rstd
        g = dy[i] if multiply_add(xhat, gamma, beta) > 0 else slope * dy[i]
        dx[i] = scale * (g - weight[i] * multiply_add(linear, xhat, constant))


@njit_strict
def weighted_batch_norm_backward_cn(
    dy,  # (C, N) gradient of the activated output
    x,  # (C, N)
    weight,  # (N,) adding up to 1
    gamma,  # (C,)
    beta,  # (C,)
    mean,  # (C,)
    rstd,  # (C,)
    slope,
    exact,  # bool; False takes mean and var as constants
    start,  # features start to stop
    stop,
    dx,  # out (C, N)
    dgamma,  # out (C,)
    dbeta,  # out (C,)
):
    """Gradients of x, gamma and beta."""
    number = x.dtype.type
    for c in range(start, stop):
        total = 0.0
        total_x = 0.0
        for i in range(0, x.shape[1], BLOCK):
            block, block_x = block_gradient_sums(
                dy[c, i : i + BLOCK], x[c, i : i + BLOCK], mean[c], rstd[c], gamma[c], beta[c],
                slope,
            )  # fmt: skip
            total += block
            total_x += block_x
        dbeta[c] = total
        dgamma[c] = total_x
        share = 1.0 if exact else 0.0
        weighted_row_gradient_input(
            dy[c], x[c], weight, mean[c], rstd[c], gamma[c], beta[c], slope,
            number(share * total), number(share * total_x), dx[c],
        )  # fmt: skip
