"""Running statistics, and batch norm folded into the weights before it (docs/batchnorm.md)."""

from __future__ import annotations

import math

import numpy as np

from fastbn.jit.compiler import njit_strict


@njit_strict
def update_running_statistics(
    mean,  # (C,)
    var,  # (C,), biased
    n,  # number of values that mean and var were computed from
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
