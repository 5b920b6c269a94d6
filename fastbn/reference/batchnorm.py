"""Batch norm in training and inference, running statistics and folding (docs/batchnorm.md)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastbn.reference._arrays import Array, Gradient, Layout, axes, f64
from fastbn.reference.activations import leaky_relu, leaky_relu_gradient


def _shares(x: Array, layout: Layout, weight: Any) -> Array:
    """Return each value's share in the mean of its feature: 1 / n, or from `weight` (N,)."""
    _, shape = axes(x, layout)
    n = x.size // max(math.prod(shape), 1)
    if weight is None:
        return np.full([1] * x.ndim, 1.0 / n)
    samples = {"NC": 0, "CN": 1}[layout]
    w = f64(weight) / (f64(weight).sum() * n / x.shape[samples])
    return w.reshape([x.shape[axis] if axis == samples else 1 for axis in range(x.ndim)])


def batch_statistics(x: Any, layout: Layout = "NC", weight: Any = None) -> tuple[Array, Array]:
    """Return mean = sum(x) / n and var = sum((x - mean)^2) / n, or weighted by `weight` (N,)."""
    x = f64(x)
    reduced, shape = axes(x, layout)
    share = _shares(x, layout, weight)
    mean = (share * x).sum(axis=reduced)
    var = (share * (x - mean.reshape(shape)) ** 2).sum(axis=reduced)
    return mean, var


def batch_norm(
    x: Any,
    gamma: Any,
    beta: Any,
    eps: float = 1e-5,
    slope: float = 1.0,
    layout: Layout = "NC",
    weight: Any = None,
) -> tuple[Array, Array, Array]:
    """Return y = act(gamma * (x - mean) / sqrt(var + eps) + beta), mean and rstd."""
    x = f64(x)
    _, shape = axes(x, layout)
    mean, var = batch_statistics(x, layout, weight)
    rstd = 1.0 / np.sqrt(var + eps)
    xhat = (x - mean.reshape(shape)) * rstd.reshape(shape)
    y = f64(gamma).reshape(shape) * xhat + f64(beta).reshape(shape)
    return leaky_relu(y, slope), mean, rstd


def batch_norm_backward(
    dy: Any,
    x: Any,
    gamma: Any,
    beta: Any,
    mean: Any,
    rstd: Any,
    slope: float = 1.0,
    layout: Layout = "NC",
    gradient: Gradient = "exact",
    weight: Any = None,
) -> tuple[Array, Array, Array]:
    """Return dx, dgamma and dbeta; "detached" treats mean and rstd as constants."""
    dy, x, gamma, beta = f64(dy), f64(x), f64(gamma), f64(beta)
    reduced, shape = axes(x, layout)
    scale = (gamma * f64(rstd)).reshape(shape)
    xhat = (x - f64(mean).reshape(shape)) * f64(rstd).reshape(shape)
    g = dy * leaky_relu_gradient(gamma.reshape(shape) * xhat + beta.reshape(shape), slope)
    dgamma, dbeta = (g * xhat).sum(axis=reduced), g.sum(axis=reduced)
    if gradient == "detached":
        return scale * g, dgamma, dbeta
    share = _shares(x, layout, weight)
    dx = scale * (g - share * (dbeta.reshape(shape) + xhat * dgamma.reshape(shape)))
    return dx, dgamma, dbeta


def batch_norm_inference(
    x: Any,
    running_mean: Any,
    running_var: Any,
    gamma: Any,
    beta: Any,
    eps: float = 1e-5,
    slope: float = 1.0,
    layout: Layout = "NC",
) -> Array:
    """Return y = act(gamma * (x - running_mean) / sqrt(running_var + eps) + beta)."""
    x = f64(x)
    _, shape = axes(x, layout)
    scale = f64(gamma) / np.sqrt(f64(running_var) + eps)
    y = (x - f64(running_mean).reshape(shape)) * scale.reshape(shape) + f64(beta).reshape(shape)
    return leaky_relu(y, slope)


def update_running_statistics(
    running_mean: Any,
    running_var: Any,
    mean: Any,
    var: Any,
    n: int,
    momentum: float | None = 0.1,
    num_batches_tracked: int = 0,
    unbiased: bool = True,
) -> tuple[Array, Array]:
    """Return (1 - momentum) * running + momentum * batch; momentum None averages all batches."""
    weight = 1.0 / (num_batches_tracked + 1) if momentum is None else momentum
    stored_var = f64(var) * n / (n - 1) if unbiased and n > 1 else f64(var)
    new_mean = (1 - weight) * f64(running_mean) + weight * f64(mean)
    return new_mean, (1 - weight) * f64(running_var) + weight * stored_var


def fold_batch_norm(
    W: Any, gamma: Any, beta: Any, running_mean: Any, running_var: Any, eps: float = 1e-5
) -> tuple[Array, Array]:
    """Return W', b': W' x + b' = gamma * (W x - running_mean) / sqrt(running_var + eps) + beta."""
    W = f64(W)
    scale = f64(gamma) / np.sqrt(f64(running_var) + eps)
    folded = W * scale.reshape(-1, *[1] * (W.ndim - 1))
    return folded, f64(beta) - f64(running_mean) * scale
