"""Batch norm for your own compiled code, as in examples/own_loop.py (docs/batchnorm.md).

Here, forward and backward take gamma, beta, mean and rstd one by one, in this order. The kernels
that they call, in `batchnorm_cn`, `batchnorm_nc` and `batchnorm_weighted`, take one tuple, a
`Norm`. `slope` is the slope of LeakyReLU; 1 means no activation. A `..._parallel` version takes the
same arguments and runs on several threads.
"""

from __future__ import annotations

from fastbn.jit.compiler import njit_allocating, njit_strict
from fastbn.kernels import batchnorm_cn as cn
from fastbn.kernels import batchnorm_nc as nc
from fastbn.kernels import batchnorm_weighted as weighted
from fastbn.kernels.batchnorm_cn import batch_norm_inference_cn, batch_norm_inference_cn_parallel
from fastbn.kernels.batchnorm_formulas import Norm
from fastbn.kernels.batchnorm_nc import batch_norm_inference_nc, batch_norm_inference_nc_parallel
from fastbn.kernels.running import fold, update_running_statistics
from fastbn.kernels.statistics_cn import statistics_cn, statistics_cn_parallel

__all__ = [
    "batch_norm_backward_cn", "batch_norm_backward_cn_parallel", "batch_norm_backward_nc",
    "batch_norm_backward_nc_parallel", "batch_norm_forward_cn", "batch_norm_forward_cn_parallel",
    "batch_norm_forward_nc", "batch_norm_forward_nc_parallel", "batch_norm_inference_cn",
    "batch_norm_inference_cn_parallel", "batch_norm_inference_nc",
    "batch_norm_inference_nc_parallel", "fold", "statistics_cn", "statistics_cn_parallel",
    "update_running_statistics", "weighted_batch_norm_backward_cn",
    "weighted_batch_norm_forward_cn",
]  # fmt: skip

# -- feature-major ---------------------------------------------------------------------------------


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
    cn.batch_norm_forward_cn(x, Norm(mean, rstd, gamma, beta), eps, slope, start, stop, y, var)


@njit_strict
def batch_norm_backward_cn(
    dy,  # (B, C, L) gradient of the activated output
    x,  # (B, C, L)
    gamma,  # (C,)
    beta,  # (C,)
    mean,  # (C,)
    rstd,  # (C,)
    slope,
    exact,  # bool; False treats mean and var as constants
    start,  # features start to stop
    stop,
    dx,  # out (B, C, L)
    dgamma,  # out (C,)
    dbeta,  # out (C,)
):
    """Compute dx, dgamma and dbeta (equations: `batchnorm_cn.batch_norm_backward_cn`)."""
    norm = Norm(mean, rstd, gamma, beta)
    cn.batch_norm_backward_cn(dy, x, norm, slope, exact, start, stop, dx, dgamma, dbeta)


@njit_strict
def batch_norm_forward_cn_parallel(x, gamma, beta, eps, slope, start, stop, y, mean, var, rstd):
    """Run `batch_norm_forward_cn` on several threads."""
    norm = Norm(mean, rstd, gamma, beta)
    cn.batch_norm_forward_cn_parallel(x, norm, eps, slope, start, stop, y, var)


@njit_strict
def batch_norm_backward_cn_parallel(
    dy, x, gamma, beta, mean, rstd, slope, exact, start, stop, dx, dgamma, dbeta
):
    """Run `batch_norm_backward_cn` on several threads."""
    norm = Norm(mean, rstd, gamma, beta)
    cn.batch_norm_backward_cn_parallel(dy, x, norm, slope, exact, start, stop, dx, dgamma, dbeta)


# -- feature-major, with a weight for each sample --------------------------------------------------


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
    norm = Norm(mean, rstd, gamma, beta)
    weighted.weighted_batch_norm_forward_cn(x, weight, norm, eps, slope, start, stop, y, var)


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
    exact,  # bool; False treats mean and var as constants
    start,  # features start to stop
    stop,
    dx,  # out (C, N)
    dgamma,  # out (C,)
    dbeta,  # out (C,)
):
    """Compute dx, dgamma and dbeta (equations: `batchnorm_cn.batch_norm_backward_cn`)."""
    norm = Norm(mean, rstd, gamma, beta)
    weighted.weighted_batch_norm_backward_cn(
        dy, x, weight, norm, slope, exact, start, stop, dx, dgamma, dbeta
    )


# -- sample-major ----------------------------------------------------------------------------------


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
    """y = act(gamma * xhat + beta). Return False and leave y unchanged if squares overflow."""
    return nc.batch_norm_forward_nc(x, Norm(mean, rstd, gamma, beta), eps, slope, y, var)


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
    """Compute dx, dgamma and dbeta (equations: `batchnorm_cn.batch_norm_backward_cn`)."""
    norm = Norm(mean, rstd, gamma, beta)
    nc.batch_norm_backward_nc(dy, x, norm, slope, exact, dx, dgamma, dbeta)


@njit_allocating
def batch_norm_forward_nc_parallel(x, gamma, beta, eps, slope, y, mean, var, rstd):
    """Run `batch_norm_forward_nc` on several threads."""
    return nc.batch_norm_forward_nc_parallel(x, Norm(mean, rstd, gamma, beta), eps, slope, y, var)


@njit_allocating
def batch_norm_backward_nc_parallel(
    dy, x, gamma, beta, mean, rstd, slope, exact, dx, dgamma, dbeta
):
    """Run `batch_norm_backward_nc` on several threads."""
    norm = Norm(mean, rstd, gamma, beta)
    nc.batch_norm_backward_nc_parallel(dy, x, norm, slope, exact, dx, dgamma, dbeta)
