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

from numba import prange

from fastbn._jit import njit, njit_parallel
from fastbn.kernels.activations import affine_activation
from fastbn.kernels.reductions import BLOCK, row_moments, row_moments_wide, row_sum


@njit
def feature_moments(x, c):
    """Shift, mean - shift and biased variance of feature c, the last two in float64.

    Corrected two-pass (Chan, Golub & LeVeque 1983, eq. 1.7). The provisional mean of the first pass
    is rounded to the dtype of x, so that x - shift is exact where the data is close to its mean;
    the second pass measures what that rounding left out. Sums and squares that overflow float32
    are taken again in float64.
    """
    n = x.shape[0] * x.shape[2]
    # phase 1: a provisional mean
    total = 0.0
    for b in range(x.shape[0]):
        total += row_sum(x[b, c])
    if not abs(total) < math.inf:  # math.isfinite(x) asks for x - x, which fast-math takes for 0
        total = 0.0
        for b in range(x.shape[0]):
            row_total, _ = row_moments_wide(x[b, c], 0.0)
            total += row_total
    shift = x.dtype.type(total / n)
    # phase 2: moments around it
    total = 0.0
    square = 0.0
    for b in range(x.shape[0]):
        row_total, row_square = row_moments(x[b, c], shift)
        total += row_total
        square += row_square
    if not square < math.inf:
        total = 0.0
        square = 0.0
        for b in range(x.shape[0]):
            row_total, row_square = row_moments_wide(x[b, c], shift)
            total += row_total
            square += row_square
    delta = total / n
    var = max(square / n - delta * delta, 0.0)
    return shift, delta, var


@njit
def statistics_cn(
    x,  # (B, C, L)
    start,  # features start to stop
    stop,
    mean,  # out (C,)
    var,  # out (C,), biased
):
    """mean and var of features start to stop."""
    for c in range(start, stop):
        shift, delta, var_c = feature_moments(x, c)
        mean[c] = shift + delta
        var[c] = var_c


@njit
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
    for c in range(start, stop):
        shift, delta, var_c = feature_moments(x, c)
        rstd_c = 1.0 / math.sqrt(var_c + eps)
        mean[c] = shift + delta
        var[c] = var_c
        rstd[c] = rstd_c
        # normalize around the shift: the mean itself may not be a number of this dtype
        scale = gamma[c] * rstd_c
        offset = x.dtype.type(beta[c] - delta * scale)
        for b in range(x.shape[0]):
            affine_activation(x[b, c], shift, x.dtype.type(scale), offset, slope, y[b, c])


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


@njit
def row_gradient_input(dy, x, mean, rstd, gamma, beta, slope, mean_g, mean_gx, dx):
    """dx = gamma * rstd * (g - mean_g - xhat * mean_gx) for one row; dx is overwritten."""
    scale = gamma * rstd
    for i in range(x.size):
        xhat = (x[i] - mean) * rstd
        g = dy[i] if xhat * gamma + beta > 0 else slope * dy[i]
        dx[i] = scale * (g - mean_g - xhat * mean_gx)


@njit
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
    n = x.shape[0] * x.shape[2]
    for c in range(start, stop):
        # phase 1: dbeta = sum g, dgamma = sum g * xhat
        total = 0.0
        total_x = 0.0
        for b in range(x.shape[0]):
            dy_row, x_row = dy[b, c], x[b, c]
            for i in range(0, x_row.size, BLOCK):
                block, block_x = block_gradient_sums(
                    dy_row[i : i + BLOCK],
                    x_row[i : i + BLOCK],
                    mean[c],
                    rstd[c],
                    gamma[c],
                    beta[c],
                    slope,
                )
                total += block
                total_x += block_x
        dbeta[c] = total
        dgamma[c] = total_x
        # phase 2: dx
        mean_g = x.dtype.type(total / n if exact else 0.0)
        mean_gx = x.dtype.type(total_x / n if exact else 0.0)
        for b in range(x.shape[0]):
            row_gradient_input(
                dy[b, c],
                x[b, c],
                mean[c],
                rstd[c],
                gamma[c],
                beta[c],
                slope,
                mean_g,
                mean_gx,
                dx[b, c],
            )


@njit
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
    """y = act(gamma * (x - running_mean) / sqrt(running_var + eps) + beta)."""
    for c in range(start, stop):
        scale = x.dtype.type(gamma[c] / math.sqrt(running_var[c] + eps))
        for b in range(x.shape[0]):
            affine_activation(x[b, c], running_mean[c], scale, beta[c], slope, y[b, c])


@njit
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
    for c in range(mean.size):
        running_mean[c] += momentum * (mean[c] - running_mean[c])
        running_var[c] += momentum * (var[c] * correction - running_var[c])


@njit
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
        scale = gamma[c] / math.sqrt(running_var[c] + eps)
        folded_bias[c] = beta[c] - running_mean[c] * scale
        row, out = weight[c], folded_weight[c]
        scale = weight.dtype.type(scale)
        for k in range(row.size):
            out[k] = row[k] * scale


# -- parallel drivers: features are cut into tiles of a fixed size ---------------------------------

TILE = 4


@njit_parallel
def statistics_cn_parallel(x, start, stop, mean, var):
    """Run `statistics_cn` over tiles of features."""
    for tile in prange((stop - start + TILE - 1) // TILE):
        first = start + tile * TILE
        statistics_cn(x, first, min(first + TILE, stop), mean, var)


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
