"""Batch normalization, feature-major: forward, backward, inference, running statistics, folding.

Ioffe & Szegedy, "Batch Normalization", 2015 (arXiv 1502.03167), algorithms 1 and 2. Over the n
samples of one feature:

    mean = sum(x) / n          var = sum((x - mean)^2) / n          rstd = 1 / sqrt(var + eps)
    xhat = (x - mean) * rstd   y = gamma * xhat + beta              a = act(y)

and backward, with g = da * act'(y), y computed again rather than stored:

    dgamma = sum(g * xhat)     dbeta = sum(g)
    dx = gamma * rstd * (g - dbeta / n - xhat * dgamma / n)         exact
    dx = gamma * rstd * g                                           detached: mean, var constant

Shapes: x is (B, C, L) and a feature is x[:, c, :], B contiguous rows. A feature-major matrix (C, N)
is its case B = 1; a batch of images (N, C, H, W) is its case L = H * W. A feature's rows belong to
one thread, so nothing is reduced across threads. `slope` is LeakyReLU's: 1 is no activation.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from fastbn.jit.compiler import njit, njit_inlined, njit_parallel, njit_strict
from fastbn.jit.intrinsics import fence, multiply_add, scratch_like, stream_piece, view
from fastbn.kernels.activations import affine_activation, stream_affine_activation
from fastbn.kernels.reductions import BLOCK, SMALL, row_moments, row_moments_wide
from fastbn.kernels.streams import PIECE, is_streamed, whole_pieces


@njit
def rows_per_group(x):
    """Features that pass through a kernel's phases together.

    Several, since a processor works at the next sum while it waits for the end of the last one; few
    enough for their rows to stay in the first-level cache from phase to phase.
    """
    return max(1, min(8, 8192 // (x.shape[0] * x.shape[2] * x.itemsize)))


@njit_strict
def near_mean(x, c):
    """A number near the mean of feature c: that of four samples."""
    row, quarter = x[0, c], x.shape[2] // 4
    total = row[0] + row[quarter] + row[2 * quarter] + row[3 * quarter]
    return total * x.dtype.type(0.25)


@njit_strict
def feature_sums(x, c, shift):
    """Sum of d and of d * d over feature c, d = x - shift, as float64."""
    total = 0.0
    square = 0.0
    for b in range(x.shape[0]):
        row_total, row_square = row_moments(x[b, c], shift)
        total += row_total
        square += row_square
    return total, square


@njit_strict
def feature_sums_wide(x, c, shift):
    """The same, all in float64."""
    total = 0.0
    square = 0.0
    for b in range(x.shape[0]):
        row_total, row_square = row_moments_wide(x[b, c], shift)
        total += row_total
        square += row_square
    return total, square


@njit_strict
def careful_moments(x, c, mean, least):
    """Shift, mean - shift and variance around the mean itself, which is known but for its end.

    In float64 where float32 does not hold the squares, or a variance of at least `least`.
    """
    inverse = 1.0 / (x.shape[0] * x.shape[2])
    if not abs(mean) < math.inf:  # math.isfinite(x) asks for x - x, which fast-math takes for 0
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
    """Moments around a shift near the mean (Chan, Golub & LeVeque 1983, eq. 1.7).

    x - shift is exact there, and one pass will do. Where the four samples that give the shift lie
    more than a deviation off the mean, a second pass takes the mean, rounded to the dtype of x.
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
        if not (square <= var_c and var_c < math.inf):  # a NaN comes here too
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
    """mean and var of features start to stop."""
    for first in range(start, stop, rows_per_group(x)):
        last = min(first + rows_per_group(x), stop)
        moments(x, first, last, mean, work, var)
        for c in range(first, last):
            mean[c] += work[c]


@njit_strict
def batch_norm_forward_cn(
    x,  # (B, C, L)
    gamma,  # (C,)
    beta,  # (C,)
    eps,
    slope,
    start,  # features start to stop
    stop,
    y,  # out (B, C, L)
    mean,  # out (C,)
    var,  # out (C,), biased
    rstd,  # out (C,)
):
    """y = act(gamma * xhat + beta) with the statistics of this batch."""
    number = x.dtype.type
    streamed = is_streamed(x)
    for first in range(start, stop, rows_per_group(x)):
        last = min(first + rows_per_group(x), stop)
        # phase 1: moments; mean - shift waits in rstd
        moments(x, first, last, mean, rstd, var)
        # phase 2: normalize around the shift: the mean itself may not be a number of this dtype
        for c in range(first, last):
            shift, delta, var_c = mean[c], np.float64(rstd[c]), np.float64(var[c])
            # it may be no number of this dtype, and y is one all the same
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


@njit
def block_gradient_sums(dy, x, mean, rstd, gamma, beta, slope):
    """Sum of g and of g * xhat over one block of a row."""
    total = x.dtype.type(0)
    total_x = x.dtype.type(0)
    for i in range(x.size):
        xhat = (x[i] - mean) * rstd
        g = dy[i] if xhat * gamma + beta > 0 else slope * dy[i]
        total += g
        total_x += g * xhat
    return total, total_x


@njit_inlined
def row_gradient_input(dy, x, mean, rstd, gamma, beta, slope, constant, linear, dx):
    """dx = gamma * rstd * (g - constant - linear * xhat) for one row; dx is overwritten.

    `linear` is without rstd: rstd squared may be too small for this dtype. Callers have to be
    compiled without fast-math.
    """
    scale = gamma * rstd
    for i in range(x.size):
        xhat = (x[i] - mean) * rstd
        g = dy[i] if multiply_add(xhat, gamma, beta) > 0 else slope * dy[i]
        dx[i] = scale * (g - multiply_add(linear, xhat, constant))


@njit_strict
def stream_gradient_input(dy, x, mean, rstd, gamma, beta, slope, constant, linear, dx):
    """The same, past the caches; a `fence` has to follow."""
    first, last = whole_pieces(dx)
    piece = scratch_like(dx, PIECE)
    row_gradient_input(
        dy[:first], x[:first], mean, rstd, gamma, beta, slope, constant, linear, dx[:first]
    )
    for i in range(first, last, PIECE):
        row_gradient_input(
            view(dy, i, (PIECE,)), view(x, i, (PIECE,)), mean, rstd, gamma, beta, slope, constant,
            linear, piece,
        )  # fmt: skip
        stream_piece(PIECE, piece, dx, i)
    row_gradient_input(
        dy[last:], x[last:], mean, rstd, gamma, beta, slope, constant, linear, dx[last:]
    )


@njit_strict
def batch_norm_backward_cn(
    dy,  # (B, C, L) gradient of the activated output
    x,  # (B, C, L)
    gamma,  # (C,)
    beta,  # (C,)
    mean,  # (C,)
    rstd,  # (C,)
    slope,
    exact,  # bool; False takes mean and var as constants
    start,  # features start to stop
    stop,
    dx,  # out (B, C, L)
    dgamma,  # out (C,)
    dbeta,  # out (C,)
):
    """Gradients of x, gamma and beta."""
    number = x.dtype.type
    inverse = 1.0 / (x.shape[0] * x.shape[2])
    streamed = is_streamed(x)
    for first in range(start, stop, rows_per_group(x)):
        last = min(first + rows_per_group(x), stop)
        # phase 1: dbeta = sum g, dgamma = sum g * xhat
        for c in range(first, last):
            total = 0.0
            total_x = 0.0
            for b in range(x.shape[0]):
                dy_row, x_row = dy[b, c], x[b, c]
                for i in range(0, x_row.size, BLOCK):
                    block, block_x = block_gradient_sums(
                        dy_row[i : i + BLOCK], x_row[i : i + BLOCK],
                        mean[c], rstd[c], gamma[c], beta[c], slope,
                    )  # fmt: skip
                    total += block
                    total_x += block_x
            dbeta[c] = total
            dgamma[c] = total_x
        # phase 2: dx = gamma * rstd * (g - dbeta / n - xhat * dgamma / n)
        for c in range(first, last):
            share = inverse if exact else 0.0
            constant, linear = number(share * dbeta[c]), number(share * dgamma[c])
            for b in range(x.shape[0]):
                if streamed:
                    stream_gradient_input(
                        dy[b, c], x[b, c], mean[c], rstd[c], gamma[c], beta[c], slope,
                        constant, linear, dx[b, c],
                    )  # fmt: skip
                else:
                    row_gradient_input(
                        dy[b, c], x[b, c], mean[c], rstd[c], gamma[c], beta[c], slope,
                        constant, linear, dx[b, c],
                    )  # fmt: skip
    fence()


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

    Without fast-math: every copy of it, wherever it is compiled into, gives the same bits.
    """
    for c in range(start, stop):
        scale = x.dtype.type(gamma[c] / math.sqrt(np.float64(running_var[c]) + eps))
        for b in range(x.shape[0]):
            affine_activation(x[b, c], running_mean[c], scale, beta[c], slope, y[b, c])


@njit_strict
def update_running_statistics(
    mean,  # (C,)
    var,  # (C,), biased
    n,  # samples behind mean and var
    momentum,  # the weight of this batch
    unbiased,  # bool; True stores n / (n - 1) * var, as PyTorch does
    running_mean,  # in and out (C,)
    running_var,  # in and out (C,)
):
    """running = (1 - momentum) * running + momentum * batch."""
    correction = n / (n - 1.0) if unbiased and n > 1 else 1.0
    kept = 1.0 - momentum
    for c in range(mean.size):
        running_mean[c] = kept * running_mean[c] + momentum * mean[c]
        running_var[c] = kept * running_var[c] + momentum * (var[c] * correction)


@njit_strict
def fold(
    weight,  # (C, K) of the layer before the normalization
    gamma,  # (C,)
    beta,  # (C,)
    running_mean,  # (C,)
    running_var,  # (C,)
    eps,
    folded_weight,  # out (C, K)
    folded_bias,  # out (C,)
):
    """W' = W * gamma * rstd, b' = beta - running_mean * gamma * rstd: W'x + b' = BN(Wx)."""
    for c in range(weight.shape[0]):
        scale = gamma[c] / math.sqrt(np.float64(running_var[c]) + eps)
        folded_bias[c] = beta[c] - running_mean[c] * scale
        row, out = weight[c], folded_weight[c]
        scale = weight.dtype.type(scale)
        for k in range(row.size):
            out[k] = row[k] * scale


# -- parallel drivers: features are cut into tiles of a fixed size ---------------------------------

TILE = 4


@njit_parallel
def statistics_cn_parallel(x, start, stop, mean, var, work):
    """Run `statistics_cn` over tiles of features."""
    for tile in prange((stop - start + TILE - 1) // TILE):
        first = start + tile * TILE
        statistics_cn(x, first, min(first + TILE, stop), mean, var, work)


@njit_parallel
def batch_norm_forward_cn_parallel(x, gamma, beta, eps, slope, start, stop, y, mean, var, rstd):
    """Run `batch_norm_forward_cn` over tiles of features."""
    for tile in prange((stop - start + TILE - 1) // TILE):
        first = start + tile * TILE
        batch_norm_forward_cn(
            x, gamma, beta, eps, slope, first, min(first + TILE, stop), y, mean, var, rstd
        )


@njit_parallel
def batch_norm_backward_cn_parallel(
    dy, x, gamma, beta, mean, rstd, slope, exact, start, stop, dx, dgamma, dbeta
):
    """Run `batch_norm_backward_cn` over tiles of features."""
    for tile in prange((stop - start + TILE - 1) // TILE):
        first = start + tile * TILE
        last = min(first + TILE, stop)
        batch_norm_backward_cn(
            dy, x, gamma, beta, mean, rstd, slope, exact, first, last, dx, dgamma, dbeta
        )


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
