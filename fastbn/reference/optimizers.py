"""Steps of the optimizers, and clipping."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastbn.reference._arrays import Array, f64


def clip(grad: Any, max_norm: float | None) -> Array:
    """Return grad * min(1, max_norm / (|grad| + 1e-6))."""
    grad = f64(grad)
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
    param, g = f64(param), clip(grad, max_norm)
    if decoupled:
        param = param * (1 - lr * weight_decay)
    else:
        g = g + weight_decay * param
    m = betas[0] * f64(m) + (1 - betas[0]) * g
    v = betas[1] * f64(v) + (1 - betas[1]) * g**2
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
    param = f64(param)
    g = clip(grad, max_norm) + weight_decay * param
    m = momentum * f64(m) + g
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
    param = f64(param)
    g = clip(grad, max_norm) + weight_decay * param
    v = alpha * f64(v) + (1 - alpha) * g**2
    return param - lr * g / (np.sqrt(v) + eps), v
