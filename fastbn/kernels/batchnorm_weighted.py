"""Batch norm with a weight for each sample. A weight of two has the same effect as two samples.

docs/batchnorm.md has the derivation: weights that add up to 1 replace 1 / n. x is (C, N), and a row
is one feature of all samples. The first pass computes the mean, and the second pass the variance
around the mean rounded to the dtype of x. Sums are computed as in `reductions`.
"""

from __future__ import annotations

import math

import numpy as np

from fastbn.jit.compiler import njit, njit_strict
from fastbn.kernels.activations import affine_activation
from fastbn.kernels.batchnorm_cn import add_gradient_sums
from fastbn.kernels.batchnorm_formulas import gradient_input, of_feature
from fastbn.kernels.reductions import BLOCK, SMALL


@njit
def weighted_block_moments(block, weight, shift):
    """Return the sums of w * d and of w * d * d over one block, d = block - shift."""
    total = block.dtype.type(0)
    square = block.dtype.type(0)
    for i in range(block.size):
        d = block[i] - shift
        total += weight[i] * d
        square += weight[i] * d * d
    return total, square


@njit_strict
def weighted_row_moments(row, weight, shift):
    """Return the sums of w * d and of w * d * d over a row, d = row - shift, as float64."""
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
    """Like `weighted_row_moments`, but in float64, for rows whose squares overflow float32."""
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
    norm,  # gamma, beta; out: mean, rstd
    eps,
    slope,
    start,  # features start to stop
    stop,
    y,  # out (C, N)
    var,  # out (C,), biased
):
    """y = act(gamma * xhat + beta) with the weighted statistics of this batch."""
    number = x.dtype.type
    for c in range(start, stop):
        # phase 1: the mean, measured from the first sample, and the variance around the mean
        delta, _ = weighted_row_moments(x[c], weight, x[c, 0])
        shift = number(x[c, 0] + delta)
        delta, square = weighted_row_moments(x[c], weight, shift)
        if not SMALL < square + eps < math.inf:
            delta, square = weighted_row_moments_wide(x[c], weight, np.float64(shift))
        var_c = max(square - delta * delta, 0.0)
        # phase 2: normalize around the rounded mean; delta corrects it in the offset
        rstd_c = 1.0 / math.sqrt(var_c + eps)
        scale = number(norm.gamma[c] * rstd_c)
        offset = number(norm.beta[c] - delta * (norm.gamma[c] * rstd_c))
        norm.mean[c], var[c], norm.rstd[c] = shift + delta, var_c, rstd_c
        affine_activation(x[c], shift, scale, offset, slope, y[c])


@njit_strict
def weighted_batch_norm_backward_cn(
    dy,  # (C, N) gradient of the activated output
    x,  # (C, N)
    weight,  # (N,) adding up to 1
    norm,  # mean, rstd, gamma, beta
    slope,
    exact,  # bool; False treats mean and var as constants
    start,  # features start to stop
    stop,
    dx,  # out (C, N)
    dgamma,  # out (C,)
    dbeta,  # out (C,)
):
    """dx = gamma * rstd * (g - w * (dbeta + xhat * dgamma)), with
    dbeta = sum(g), dgamma = sum(g * xhat).

    g = dy * act'(gamma * xhat + beta). Without `exact`, dx = gamma * rstd * g.
    """
    number = x.dtype.type
    share = 1.0 if exact else 0.0
    for c in range(start, stop):
        norm_c = of_feature(norm, c)
        # phase 1: dbeta = sum g, dgamma = sum g * xhat
        total, total_x = add_gradient_sums(dy[c], x[c], norm_c, slope, 0.0, 0.0)
        dbeta[c] = total
        dgamma[c] = total_x
        # phase 2: dx = gamma * rstd * (g - w * (dbeta + xhat * dgamma))
        constant, linear = number(share * total), number(share * total_x)
        weighted_row_gradient_input(dy[c], x[c], weight, norm_c, slope, constant, linear, dx[c])


@njit_strict
def weighted_row_gradient_input(dy, x, weight, norm, slope, constant, linear, dx):
    """Compute dx of one row; `norm` has the four numbers of its feature."""
    for i in range(x.size):
        dx[i] = gradient_input(dy[i], x[i], norm, slope, weight[i], constant, linear)
