"""Feature-major batch norm: forward, backward, inference (docs/batchnorm.md).

x is (B, C, L), and a feature is x[:, c, :]. For a matrix (C, N), B is 1. For a batch of images
(N, C, H, W), L is H * W. `slope` is the slope of LeakyReLU; 1 means no activation.

`norm` is a `Norm`, or a plain tuple of its arrays. A kernel computes features start to stop. Its
`..._parallel` version takes the same arguments and divides these features among threads.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from fastbn.jit.compiler import njit, njit_inlined, njit_parallel, njit_strict
from fastbn.jit.intrinsics import fence, scratch_like, stream_piece, view
from fastbn.kernels.activations import affine_activation, stream_affine_activation
from fastbn.kernels.batchnorm_formulas import (
    gradient_input,
    inference_scale,
    normalized,
    of_feature,
)
from fastbn.kernels.reductions import BLOCK, SMALL
from fastbn.kernels.statistics_cn import TILE, careful_moments, moments, rows_per_group
from fastbn.kernels.streams import PIECE, is_streamed, whole_pieces

# -- forward and backward --------------------------------------------------------------------------


@njit_strict
def batch_norm_forward_cn(
    x,  # (B, C, L)
    norm,  # gamma, beta; out: mean, rstd
    eps,
    slope,
    start,  # features start to stop
    stop,
    y,  # out (B, C, L)
    var,  # out (C,), biased
):
    """y = act(gamma * xhat + beta) with the statistics of this batch."""
    number = x.dtype.type
    mean, rstd, gamma, beta = norm
    streamed = is_streamed(x)
    for first in range(start, stop, rows_per_group(x)):
        last = min(first + rows_per_group(x), stop)
        # phase 1: moments; mean holds the shift, and rstd holds mean - shift
        moments(x, first, last, mean, rstd, var)
        # phase 2: normalize around the shift, since mean is rounded to this dtype
        for c in range(first, last):
            shift, delta, var_c = mean[c], np.float64(rstd[c]), np.float64(var[c])
            # var may overflow this dtype although y is finite
            if not SMALL < var_c + eps < math.inf:
                shift, delta, var_c = careful_moments(x, c, shift + delta, SMALL - eps)
            rstd_c = 1.0 / math.sqrt(var_c + eps)
            scale = number(gamma[c] * rstd_c)
            offset = number(beta[c] - delta * (gamma[c] * rstd_c))
            mean[c] = shift + delta
            rstd[c] = rstd_c
            for b in range(x.shape[0]):
                if streamed:
                    stream_affine_activation(x[b, c], shift, scale, offset, slope, y[b, c])
                else:
                    affine_activation(x[b, c], shift, scale, offset, slope, y[b, c])
    fence()


@njit_strict
def batch_norm_backward_cn(
    dy,  # (B, C, L) gradient of the activated output
    x,  # (B, C, L)
    norm,  # mean, rstd, gamma, beta
    slope,
    exact,  # bool; False treats mean and var as constants
    start,  # features start to stop
    stop,
    dx,  # out (B, C, L)
    dgamma,  # out (C,)
    dbeta,  # out (C,)
):
    """dx = gamma * rstd * (g - dbeta / n - xhat * dgamma / n), with
    dbeta = sum(g), dgamma = sum(g * xhat).

    g = dy * act'(gamma * xhat + beta). Without `exact`, dx = gamma * rstd * g.
    """
    number = x.dtype.type
    share = 1.0 / (x.shape[0] * x.shape[2]) if exact else 0.0
    streamed = is_streamed(x)
    for first in range(start, stop, rows_per_group(x)):
        last = min(first + rows_per_group(x), stop)
        # phase 1: dbeta = sum g, dgamma = sum g * xhat
        for c in range(first, last):
            total, total_x = 0.0, 0.0
            for b in range(x.shape[0]):
                total, total_x = add_gradient_sums(
                    dy[b, c], x[b, c], of_feature(norm, c), slope, total, total_x
                )
            dbeta[c] = total
            dgamma[c] = total_x
        # phase 2: dx = gamma * rstd * (g - dbeta / n - xhat * dgamma / n)
        for c in range(first, last):
            norm_c = of_feature(norm, c)
            constant, linear = number(share * dbeta[c]), number(share * dgamma[c])
            for b in range(x.shape[0]):
                if streamed:
                    stream_gradient_input(
                        dy[b, c], x[b, c], norm_c, slope, constant, linear, dx[b, c]
                    )
                else:
                    feature_gradient_input(
                        dy[b, c], x[b, c], norm_c, slope, constant, linear, dx[b, c]
                    )
    fence()


# -- loops along a row; `norm` is the four numbers of its feature ----------------------------------


@njit
def block_gradient_sums(dy, x, norm, slope):
    """Return the sums of g and of g * xhat over one block of a row.

    This is compiled with fast-math, because sums along a row do not vectorize without it. So g is
    written out here: `activation_gradient` has an explicit multiply-add, for loops without
    fast-math.
    """
    total = x.dtype.type(0)
    total_x = x.dtype.type(0)
    for i in range(x.size):
        xhat = normalized(x[i], norm)
        g = dy[i] if xhat * norm.gamma + norm.beta > 0 else slope * dy[i]
        total += g
        total_x += g * xhat
    return total, total_x


@njit_inlined
def add_gradient_sums(dy, x, norm, slope, total, total_x):
    """Return total and total_x (float64) plus the sums of g and of g * xhat over a row."""
    for i in range(0, x.size, BLOCK):
        block, block_x = block_gradient_sums(dy[i : i + BLOCK], x[i : i + BLOCK], norm, slope)
        total += block
        total_x += block_x
    return total, total_x


@njit_inlined
def feature_gradient_input(dy, x, norm, slope, constant, linear, dx):
    """Compute dx of one row, all of one feature (`gradient_input`)."""
    one = x.dtype.type(1)
    for i in range(x.size):
        dx[i] = gradient_input(dy[i], x[i], norm, slope, one, constant, linear)


@njit_strict
def stream_gradient_input(dy, x, norm, slope, constant, linear, dx):
    """Like `feature_gradient_input`, but with non-temporal stores.

    The caller must call `fence()` afterwards.
    """
    first, last = whole_pieces(dx)
    piece = scratch_like(dx, PIECE)
    feature_gradient_input(dy[:first], x[:first], norm, slope, constant, linear, dx[:first])
    for i in range(first, last, PIECE):
        feature_gradient_input(
            view(dy, i, (PIECE,)), view(x, i, (PIECE,)), norm, slope, constant, linear, piece
        )
        stream_piece(PIECE, piece, dx, i)
    feature_gradient_input(dy[last:], x[last:], norm, slope, constant, linear, dx[last:])


# -- inference -------------------------------------------------------------------------------------


@njit_strict
def batch_norm_inference_cn(
    x,  # (B, C, L)
    running_mean,  # (C,)
    running_var,  # (C,)
    gamma,  # (C,)
    beta,  # (C,)
    eps,
    slope,
    start,  # features start to stop
    stop,
    y,  # out (B, C, L)
):
    """y = act(gamma * (x - running_mean) / sqrt(running_var + eps) + beta).

    This is compiled without fast-math, so that all kernels that inline it get the same bits.
    """
    for c in range(start, stop):
        scale = x.dtype.type(inference_scale(gamma[c], running_var[c], eps))
        for b in range(x.shape[0]):
            affine_activation(x[b, c], running_mean[c], scale, beta[c], slope, y[b, c])


# -- parallel versions: tiles of features are divided among threads --------------------------------


@njit_parallel
def batch_norm_forward_cn_parallel(x, norm, eps, slope, start, stop, y, var):
    """Run `batch_norm_forward_cn` over tiles of features."""
    for tile in prange((stop - start + TILE - 1) // TILE):
        first = start + tile * TILE
        batch_norm_forward_cn(x, norm, eps, slope, first, min(first + TILE, stop), y, var)


@njit_parallel
def batch_norm_backward_cn_parallel(dy, x, norm, slope, exact, start, stop, dx, dgamma, dbeta):
    """Run `batch_norm_backward_cn` over tiles of features."""
    for tile in prange((stop - start + TILE - 1) // TILE):
        first = start + tile * TILE
        last = min(first + TILE, stop)
        batch_norm_backward_cn(dy, x, norm, slope, exact, first, last, dx, dgamma, dbeta)


@njit_parallel
def batch_norm_inference_cn_parallel(
    x, running_mean, running_var, gamma, beta, eps, slope, start, stop, y
):
    """Run `batch_norm_inference_cn` over tiles of features."""
    for tile in prange((stop - start + TILE - 1) // TILE):
        first = start + tile * TILE
        last = min(first + TILE, stop)
        batch_norm_inference_cn(
            x, running_mean, running_var, gamma, beta, eps, slope, first, last, y
        )
