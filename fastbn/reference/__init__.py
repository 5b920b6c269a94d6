"""The oracle: what every kernel computes, in float64 NumPy, written from the equations.

The code is meant to be read, not to be fast, and imports nothing else from fastbn. Statistics are
taken over all axes except the feature axis, which is 1 in layout "NC" and 0 in "CN". Functions
return new arrays and leave their arguments unchanged.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

Array = np.ndarray
Layout = Literal["NC", "CN"]
Gradient = Literal["exact", "detached"]


def _f64(x: Any) -> Array:
    return np.asarray(x, dtype=np.float64)


def _axes(x: Array, layout: Layout) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the axes to reduce over, and the shape in which a vector (C,) broadcasts with x."""
    feature = {"NC": 1, "CN": 0}[layout]
    reduced = tuple(axis for axis in range(x.ndim) if axis != feature)
    return reduced, tuple(x.shape[axis] if axis == feature else 1 for axis in range(x.ndim))


# -- activations -----------------------------------------------------------------------------------


def leaky_relu(y: Any, slope: float) -> Array:
    """Return y if y > 0, else slope * y. A slope of 0 is ReLU, 1 is the identity."""
    y = _f64(y)
    return np.where(y > 0, y, slope * y)


def leaky_relu_gradient(y: Any, slope: float) -> Array:
    """Return 1 if y > 0, else slope."""
    return np.where(_f64(y) > 0, 1.0, slope)


def curve(y: Any, name: str) -> Array:
    """Return tanh(y) for "tanh", or 1 / (1 + e^-y) for "logistic"."""
    y = _f64(y)
    return np.tanh(y) if name == "tanh" else sigmoid(y)


def curve_gradient(y: Any, name: str) -> Array:
    """Return the derivative of `curve` at y: 1 - a^2 for "tanh", or a (1 - a) for "logistic"."""
    a = curve(y, name)
    return 1 - a**2 if name == "tanh" else a * (1 - a)


def bias_activation(z: Any, bias: Any, slope: float) -> Array:
    """Return act(z + bias) for feature-major z (C, N)."""
    return leaky_relu(_f64(z) + _f64(bias)[:, None], slope)


def bias_activation_backward(da: Any, z: Any, bias: Any, slope: float) -> tuple[Array, Array]:
    """Return dz = da * act'(z + bias) and dbias, its sum over the samples."""
    dz = _f64(da) * leaky_relu_gradient(_f64(z) + _f64(bias)[:, None], slope)
    return dz, dz.sum(axis=1)


# -- batch norm ------------------------------------------------------------------------------------


def _shares(x: Array, layout: Layout, weight: Any) -> Array:
    """Return the weight of each value in its feature's mean: 1 / n, or by sample, `weight` (N,)."""
    _, shape = _axes(x, layout)
    n = x.size // max(math.prod(shape), 1)
    if weight is None:
        return np.full([1] * x.ndim, 1.0 / n)
    samples = {"NC": 0, "CN": 1}[layout]
    w = _f64(weight) / (_f64(weight).sum() * n / x.shape[samples])
    return w.reshape([x.shape[axis] if axis == samples else 1 for axis in range(x.ndim)])


def batch_statistics(x: Any, layout: Layout = "NC", weight: Any = None) -> tuple[Array, Array]:
    """Return mean = sum(x) / n and var = sum((x - mean)^2) / n, or weighted by sample."""
    x = _f64(x)
    reduced, shape = _axes(x, layout)
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
    x = _f64(x)
    _, shape = _axes(x, layout)
    mean, var = batch_statistics(x, layout, weight)
    rstd = 1.0 / np.sqrt(var + eps)
    xhat = (x - mean.reshape(shape)) * rstd.reshape(shape)
    y = _f64(gamma).reshape(shape) * xhat + _f64(beta).reshape(shape)
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
    dy, x, gamma, beta = _f64(dy), _f64(x), _f64(gamma), _f64(beta)
    reduced, shape = _axes(x, layout)
    scale = (gamma * _f64(rstd)).reshape(shape)
    xhat = (x - _f64(mean).reshape(shape)) * _f64(rstd).reshape(shape)
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
    x = _f64(x)
    _, shape = _axes(x, layout)
    scale = _f64(gamma) / np.sqrt(_f64(running_var) + eps)
    y = (x - _f64(running_mean).reshape(shape)) * scale.reshape(shape) + _f64(beta).reshape(shape)
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
    stored_var = _f64(var) * n / (n - 1) if unbiased and n > 1 else _f64(var)
    new_mean = (1 - weight) * _f64(running_mean) + weight * _f64(mean)
    return new_mean, (1 - weight) * _f64(running_var) + weight * stored_var


def fold_batch_norm(
    W: Any, gamma: Any, beta: Any, running_mean: Any, running_var: Any, eps: float = 1e-5
) -> tuple[Array, Array]:
    """Return W', b': W' x + b' = gamma * (W x - running_mean) / sqrt(running_var + eps) + beta."""
    W = _f64(W)
    scale = _f64(gamma) / np.sqrt(_f64(running_var) + eps)
    folded = W * scale.reshape(-1, *[1] * (W.ndim - 1))
    return folded, _f64(beta) - _f64(running_mean) * scale


# -- loss ------------------------------------------------------------------------------------------


def softmax_cross_entropy(
    logits: Any,
    labels: Any,
    layout: Layout = "NC",
    sample_weight: Any = None,
    label_smoothing: float = 0.0,
) -> tuple[float, Array]:
    """Return sum(w * -q log softmax(z)) / sum(w), q = (1 - s) onehot + s / C, and the gradient."""
    z = np.moveaxis(_f64(logits), {"NC": 1, "CN": 0}[layout], -1)
    labels = np.asarray(labels)
    classes = z.shape[-1]
    w = np.ones(labels.shape) if sample_weight is None else _f64(sample_weight)
    w = (w / w.sum())[..., None]
    z = z - z.max(axis=-1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    q = (1 - label_smoothing) * np.eye(classes)[labels] + label_smoothing / classes
    loss = -(w * q * log_p).sum()
    dz = w * (np.exp(log_p) - q)
    return float(loss), np.moveaxis(dz, -1, {"NC": 1, "CN": 0}[layout])


def softmax(logits: Any, layout: Layout = "NC") -> Array:
    """Return exp(z) / sum(exp(z)) over the classes."""
    axis = {"NC": 1, "CN": 0}[layout]
    z = _f64(logits)
    p = np.exp(z - z.max(axis=axis, keepdims=True))
    return p / p.sum(axis=axis, keepdims=True)


def sigmoid_cross_entropy(
    logits: Any,
    targets: Any,
    layout: Layout = "NC",
    sample_weight: Any = None,
    label_smoothing: float = 0.0,
) -> tuple[float, Array]:
    """Return sum(w * sum(log(1 + e^z) - z t)) / sum(w), t = (1 - s) t + s / 2, and the gradient."""
    z, t = _f64(logits), (1 - label_smoothing) * _f64(targets) + label_smoothing / 2
    w = _normalized_weight(z, layout, sample_weight)
    loss = (w * (np.logaddexp(0, z) - z * t)).sum()
    return float(loss), w * (sigmoid(z) - t)


def squared_error(
    outputs: Any, targets: Any, layout: Layout = "NC", sample_weight: Any = None
) -> tuple[float, Array]:
    """Return sum(w * sum((z - t)^2) / 2) / sum(w), and the gradient."""
    z, t = _f64(outputs), _f64(targets)
    w = _normalized_weight(z, layout, sample_weight)
    return float((w * (z - t) ** 2 / 2).sum()), w * (z - t)


def _normalized_weight(z: Array, layout: Layout, sample_weight: Any) -> Array:
    """Return weights of the samples with the sum 1, and an axis of length 1 for the outputs."""
    axis = {"NC": 1, "CN": 0}[layout]
    shape = z.shape[:axis] + z.shape[axis + 1 :]
    w = np.ones(shape) if sample_weight is None else _f64(sample_weight)
    return np.expand_dims(w / w.sum(), axis)


def sigmoid(logits: Any) -> Array:
    """Return 1 / (1 + exp(-z)), without overflow."""
    z = _f64(logits)
    e = np.exp(-np.abs(z))
    return np.where(z > 0, 1.0, e) / (1 + e)


def count_correct(logits: Any, labels: Any, layout: Layout = "NC") -> int:
    """Count the samples whose label has the largest logit; ties go to the lowest class."""
    return int((_f64(logits).argmax(axis={"NC": 1, "CN": 0}[layout]) == np.asarray(labels)).sum())


# -- optimizers ------------------------------------------------------------------------------------


def clip(grad: Any, max_norm: float | None) -> Array:
    """Return grad * min(1, max_norm / (|grad| + 1e-6))."""
    grad = _f64(grad)
    if max_norm is None:
        return grad
    return grad * np.minimum(1.0, max_norm / (np.sqrt((grad**2).sum()) + 1e-6))


def adam_step(
    param: Any,
    grad: Any,
    m: Any,
    v: Any,
    *,
    step: int,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    max_norm: float | None = None,
) -> tuple[Array, Array, Array]:
    """Return param, m, v (Kingma & Ba 2015, algorithm 1; decoupled: Loshchilov & Hutter 2019)."""
    param, g = _f64(param), clip(grad, max_norm)
    if decoupled:
        param = param * (1 - lr * weight_decay)
    else:
        g = g + weight_decay * param
    m = betas[0] * _f64(m) + (1 - betas[0]) * g
    v = betas[1] * _f64(v) + (1 - betas[1]) * g**2
    m_hat, v_hat = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)
    return param - lr * m_hat / (np.sqrt(v_hat) + eps), m, v


def sgd_step(
    param: Any,
    grad: Any,
    m: Any,
    *,
    lr: float = 1e-3,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    max_norm: float | None = None,
) -> tuple[Array, Array]:
    """Return param and velocity after a step."""
    param = _f64(param)
    g = clip(grad, max_norm) + weight_decay * param
    m = momentum * _f64(m) + g
    return param - lr * (g + momentum * m if nesterov else m), m


def rmsprop_step(
    param: Any,
    grad: Any,
    v: Any,
    *,
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    max_norm: float | None = None,
) -> tuple[Array, Array]:
    """Return param and mean squares after a step."""
    param = _f64(param)
    g = clip(grad, max_norm) + weight_decay * param
    v = alpha * _f64(v) + (1 - alpha) * g**2
    return param - lr * g / (np.sqrt(v) + eps), v


# -- scaling ---------------------------------------------------------------------------------------


def min_max_fit(x: Any, layout: Layout = "NC") -> tuple[Array, Array]:
    """Return minimum and maximum per feature."""
    x = _f64(x)
    reduced, _ = _axes(x, layout)
    return x.min(axis=reduced), x.max(axis=reduced)


def standard_fit(x: Any, layout: Layout = "NC") -> tuple[Array, Array]:
    """Return mean and deviation per feature; for a constant feature, its value and 0."""
    mean, var = batch_statistics(x, layout)
    minimum, maximum = min_max_fit(x, layout)
    constant = minimum == maximum
    return np.where(constant, minimum, mean), np.where(constant, 0.0, np.sqrt(var))


def min_max_scale(
    x: Any,
    feature_range: tuple[float, float] = (0.0, 1.0),
    layout: Layout = "NC",
    statistics: tuple[Any, Any] | None = None,
) -> Array:
    """Return low + (x - min) / (max - min) * (high - low); a constant feature becomes low."""
    x = _f64(x)
    _, shape = _axes(x, layout)
    low, high = feature_range
    minimum, maximum = map(_f64, statistics or min_max_fit(x, layout))
    span = np.where(maximum > minimum, maximum - minimum, 1.0)
    return low + (x - minimum.reshape(shape)) / span.reshape(shape) * (high - low)


def standardize(x: Any, layout: Layout = "NC", statistics: tuple[Any, Any] | None = None) -> Array:
    """Return (x - mean) / std per feature; a constant feature becomes 0."""
    x = _f64(x)
    _, shape = _axes(x, layout)
    mean, std = map(_f64, statistics or standard_fit(x, layout))
    return (x - mean.reshape(shape)) / np.where(std == 0, 1.0, std).reshape(shape)


# -- dropout ---------------------------------------------------------------------------------------


def _mix32(h: int) -> int:
    """Scramble 32 bits: the finalizer of MurmurHash3."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = ((h ^ (h >> shift)) * factor) & 0xFFFFFFFF
    return h ^ (h >> 16)


def dropout_mask(shape: tuple[int, ...], rate: float, seed: int, step: int, layer: int) -> Array:
    """Return 0 for dropped values and 1 / (1 - rate) for others, by a hash of key and position."""
    key = _mix32((_mix32((_mix32(seed) + step) & 0xFFFFFFFF) + layer) & 0xFFFFFFFF)
    hashes = np.array([_mix32(position ^ key) for position in range(int(np.prod(shape)))])
    return np.where(hashes >= int(rate * 2**32), 1.0 / (1.0 - rate), 0.0).reshape(shape)
