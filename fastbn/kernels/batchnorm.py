"""Feature-major batch norm to call from your own compiled code, as in examples/own_loop.py.

The kernels are in `batchnorm_cn`, `statistics_cn` and `running`; docs/batchnorm.md has the
mathematics. Here, forward and backward take mean, rstd, gamma and beta as separate arguments
instead of one tuple.
"""

from __future__ import annotations

from fastbn.jit.compiler import njit_strict
from fastbn.kernels import batchnorm_cn as cn
from fastbn.kernels.batchnorm_cn import batch_norm_inference_cn, batch_norm_inference_cn_parallel
from fastbn.kernels.batchnorm_formulas import Norm
from fastbn.kernels.running import fold, update_running_statistics
from fastbn.kernels.statistics_cn import statistics_cn, statistics_cn_parallel

__all__ = [
    "batch_norm_backward_cn", "batch_norm_backward_cn_parallel", "batch_norm_forward_cn",
    "batch_norm_forward_cn_parallel", "batch_norm_inference_cn", "batch_norm_inference_cn_parallel",
    "fold", "statistics_cn", "statistics_cn_parallel", "update_running_statistics",
]  # fmt: skip


@njit_strict
def batch_norm_forward_cn(
    x,  # (B, C, L)
    gamma,  # (C,)
    beta,  # (C,)
    eps,
    slope,  # of LeakyReLU; 1 for no activation
    first,  # features first to last
    last,
    y,  # out (B, C, L)
    mean,  # out (C,)
    var,  # out (C,), biased
    rstd,  # out (C,)
):
    """y = act(gamma * xhat + beta) with the statistics of this batch."""
    cn.batch_norm_forward_cn(x, Norm(mean, rstd, gamma, beta), eps, slope, first, last, y, var)


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
    first,  # features first to last
    last,
    dx,  # out (B, C, L)
    dgamma,  # out (C,)
    dbeta,  # out (C,)
):
    """Compute dx, dgamma and dbeta (equations: `batchnorm_cn.batch_norm_backward_cn`)."""
    norm = Norm(mean, rstd, gamma, beta)
    cn.batch_norm_backward_cn(dy, x, norm, slope, exact, first, last, dx, dgamma, dbeta)


@njit_strict
def batch_norm_forward_cn_parallel(x, gamma, beta, eps, slope, first, last, y, mean, var, rstd):
    """Run `batch_norm_forward_cn` on several threads."""
    norm = Norm(mean, rstd, gamma, beta)
    cn.batch_norm_forward_cn_parallel(x, norm, eps, slope, first, last, y, var)


@njit_strict
def batch_norm_backward_cn_parallel(
    dy, x, gamma, beta, mean, rstd, slope, exact, first, last, dx, dgamma, dbeta
):
    """Run `batch_norm_backward_cn` on several threads."""
    norm = Norm(mean, rstd, gamma, beta)
    cn.batch_norm_backward_cn_parallel(dy, x, norm, slope, exact, first, last, dx, dgamma, dbeta)
