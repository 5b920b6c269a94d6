"""Steps of the optimizers, and gradient clipping."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from fastbn.reference._arrays import Array, f64


def clip(grad: Any, max_norm: float | None) -> Array:
    """Return grad * min(1, max_norm / (|grad| + 1e-6))."""
    grad = f64(grad)
    if max_norm is None:
        return grad
    return grad * np.minimum(1.0, max_norm / (np.sqrt((grad**2).sum()) + 1e-6))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of an optimizer; `step` counts from 1."""

    step: int = 1
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    nesterov: bool = False
    weight_decay: float = 0.0


def _adam(param: Array, g: Array, m: Array, v: Array, s: Settings) -> tuple[Array, Array, Array]:
    """Kingma & Ba 2015, algorithm 1."""
    g = g + s.weight_decay * param
    m = s.betas[0] * m + (1 - s.betas[0]) * g
    v = s.betas[1] * v + (1 - s.betas[1]) * g**2
    m_hat, v_hat = m / (1 - s.betas[0] ** s.step), v / (1 - s.betas[1] ** s.step)
    return param - s.lr * m_hat / (np.sqrt(v_hat) + s.eps), m, v


def _adamw(param: Array, g: Array, m: Array, v: Array, s: Settings) -> tuple[Array, Array, Array]:
    """Loshchilov & Hutter 2019: the weight decay is decoupled."""
    param = param * (1 - s.lr * s.weight_decay)
    return _adam(param, g, m, v, dataclasses.replace(s, weight_decay=0.0))


def _sgd(param: Array, g: Array, m: Array, v: Array, s: Settings) -> tuple[Array, Array, Array]:
    """SGD; ``betas[0]`` is the momentum."""
    g = g + s.weight_decay * param
    m = s.betas[0] * m + g
    return param - s.lr * (g + s.betas[0] * m if s.nesterov else m), m, v


def _rmsprop(param: Array, g: Array, m: Array, v: Array, s: Settings) -> tuple[Array, Array, Array]:
    """RMSprop; ``betas[1]`` is the smoothing constant."""
    g = g + s.weight_decay * param
    v = s.betas[1] * v + (1 - s.betas[1]) * g**2
    return param - s.lr * g / (np.sqrt(v) + s.eps), m, v


OPTIMIZERS = {"adam": _adam, "adamw": _adamw, "sgd": _sgd, "rmsprop": _rmsprop}


def optimizer_step(
    name: str, param: Any, grad: Any, m: Any, v: Any, settings: Settings
) -> tuple[Array, Array, Array]:
    """Return param, m and v after a step of the optimizer with this name."""
    return OPTIMIZERS[name](f64(param), f64(grad), f64(m), f64(v), settings)


def adam_step(
    param: Any,
    grad: Any,
    m: Any,
    v: Any,
    *,
    decoupled: bool = False,
    max_norm: float | None = None,
    **settings: Any,
) -> tuple[Array, Array, Array]:
    """Return param, m and v after a step of Adam, or of AdamW with `decoupled`."""
    name = "adamw" if decoupled else "adam"
    return optimizer_step(name, param, clip(grad, max_norm), m, v, Settings(**settings))


def sgd_step(
    param: Any,
    grad: Any,
    m: Any,
    *,
    momentum: float = 0.9,
    max_norm: float | None = None,
    **settings: Any,
) -> tuple[Array, Array]:
    """Return param and velocity after a step of SGD."""
    given = Settings(betas=(momentum, 0.0), **settings)
    return optimizer_step("sgd", param, clip(grad, max_norm), m, 0.0, given)[:2]


def rmsprop_step(
    param: Any,
    grad: Any,
    v: Any,
    *,
    lr: float = 1e-2,
    alpha: float = 0.99,
    max_norm: float | None = None,
    **settings: Any,
) -> tuple[Array, Array]:
    """Return param and mean squares after a step of RMSprop."""
    given = Settings(lr=lr, betas=(0.0, alpha), **settings)
    return optimizer_step("rmsprop", param, clip(grad, max_norm), 0.0, v, given)[::2]
