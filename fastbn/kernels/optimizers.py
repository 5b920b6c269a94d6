"""Adam, AdamW, SGD with momentum and RMSprop, in place over flat buffers.

    Adam     m = beta1 * m + (1 - beta1) * g     v = beta2 * v + (1 - beta2) * g^2
             param -= lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)
             Kingma & Ba 2015 (arXiv 1412.6980), algorithm 1
    AdamW    param *= 1 - lr * weight_decay, then Adam; Loshchilov & Hutter 2019 (arXiv 1711.05101)
    SGD      m = momentum * m + g                param -= lr * m
             (Nesterov: param -= lr * (g + momentum * m))
    RMSprop  v = alpha * v + (1 - alpha) * g^2   param -= lr * g / (sqrt(v) + eps)

`g` is the gradient times `clip`, the factor of global-norm clipping (1 without clipping), plus
weight_decay * param unless the decay is decoupled. Values are independent of each other, so a
buffer may be cut anywhere: a call updates the values start to stop.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from numba import prange

from fastbn.jit.compiler import njit_inlined, njit_parallel, njit_strict
from fastbn.kernels.reductions import row_moments_wide, row_square_sum
from fastbn.options import Optimizer, code

ADAMW, SGD, RMSPROP = code(Optimizer, "adamw"), code(Optimizer, "sgd"), code(Optimizer, "rmsprop")

# For fastbn.profiling: each optimizer's operations per parameter, and its moments.
WORK = {"adam": (13, "mv"), "adamw": (13, "mv"), "sgd": (4, "m"), "rmsprop": (8, "v")}

# Values in a part, the unit of work of parallel loops.
PART = 16384


class Settings(NamedTuple):
    """An optimizer's settings in one step, in float64."""

    clip: float  # factor for the gradient
    lr: float
    beta1: float  # for SGD, the momentum
    beta2: float  # for RMSprop, the smoothing alpha
    eps: float
    bias1: float  # 1 - beta1^t
    bias2: float  # 1 - beta2^t
    nesterov: bool
    weight_decay: float


@njit_strict
def clip_factor(
    grad,  # (K,)
    max_norm,  # infinity for no clipping
):
    """Return the factor that reduces the norm of grad to at most max_norm, as float64."""
    if max_norm == math.inf:
        return 1.0
    square = row_square_sum(grad)
    if not square < math.inf:  # overflow of float32, or NaN
        _, square = row_moments_wide(grad, 0.0)
    factor = max_norm / (math.sqrt(square) + 1e-6)
    return 1.0 if factor > 1.0 else factor  # NaN stays NaN


@njit_inlined
def adam_factors(settings, decoupled, param):
    """Return the factors of a step of Adam or AdamW, in the dtype of param."""
    number, s = param.dtype.type, Settings(*settings)
    keep = number(1.0 - s.lr * s.weight_decay) if decoupled else number(1.0)
    coupled = number(0.0) if decoupled else number(s.weight_decay)
    clip, rate = number(s.clip), number(s.lr / s.bias1)
    old1, new1 = number(s.beta1), number(1.0 - s.beta1)
    old2, new2 = number(s.beta2), number(1.0 - s.beta2)
    root_scale, eps = number(1.0 / math.sqrt(s.bias2)), number(s.eps)
    return keep, coupled, clip, rate, old1, new1, old2, new2, root_scale, eps


@njit_strict
def adam_values(
    param,  # (K,) in and out
    grad,  # (K,)
    m,  # (K,) in and out
    v,  # (K,) in and out
    settings,  # Settings, or from Python a plain tuple, which saves a microsecond
    decoupled,  # bool: AdamW
    start,
    stop,
):
    """One step of Adam or AdamW on values start to stop."""
    factors = adam_factors(settings, decoupled, param)
    keep, coupled, clip, rate, old1, new1, old2, new2, root_scale, eps = factors
    p, g, m, v = param[start:stop], grad[start:stop], m[start:stop], v[start:stop]
    for i in range(p.size):
        g_i = g[i] * clip + coupled * p[i]
        m_i = old1 * m[i] + new1 * g_i
        v_i = old2 * v[i] + new2 * g_i * g_i
        m[i] = m_i
        v[i] = v_i
        p[i] = p[i] * keep - rate * m_i / (math.sqrt(v_i) * root_scale + eps)


@njit_parallel
def adam_parallel(param, grad, m, v, settings, decoupled, start, stop):
    """Run `adam_values` over parts of a fixed size."""
    for part in prange((stop - start + PART - 1) // PART):
        first = start + part * PART
        last = min(first + PART, stop)
        adam_values(param, grad, m, v, settings, decoupled, first, last)


# For your own compiled loops (examples/own_loop.py): separate arguments instead of Settings.
@njit_strict
def adam(
    param,  # (K,) in and out
    grad,  # (K,)
    m,  # (K,) in and out
    v,  # (K,) in and out
    clip,
    lr,
    beta1,
    beta2,
    eps,
    bias1,  # 1 - beta1^t
    bias2,  # 1 - beta2^t
    weight_decay,
    decoupled,  # bool: AdamW
    start,
    stop,
):
    """One step of Adam or AdamW on values start to stop. The scalars are float64."""
    settings = Settings(clip, lr, beta1, beta2, eps, bias1, bias2, False, weight_decay)
    adam_values(param, grad, m, v, settings, decoupled, start, stop)


@njit_strict
def sgd(
    param,  # (K,) in and out
    grad,  # (K,)
    m,  # (K,) in and out: velocity
    clip,
    lr,
    momentum,
    nesterov,  # bool
    weight_decay,
    start,
    stop,
):
    """One step of SGD with momentum on values start to stop. The scalars are float64."""
    number = param.dtype.type
    p, g, m = param[start:stop], grad[start:stop], m[start:stop]
    clip, lr, momentum = number(clip), number(lr), number(momentum)
    decay = number(weight_decay)
    ahead = number(1.0) if nesterov else number(0.0)
    along = momentum if nesterov else number(1.0)
    for i in range(p.size):
        g_i = g[i] * clip + decay * p[i]
        m_i = momentum * m[i] + g_i
        m[i] = m_i
        p[i] -= lr * (ahead * g_i + along * m_i)


@njit_strict
def rmsprop(
    param,  # (K,) in and out
    grad,  # (K,)
    v,  # (K,) in and out
    clip,
    lr,
    alpha,
    eps,
    weight_decay,
    start,
    stop,
):
    """One step of RMSprop on values start to stop. The scalars are float64."""
    number = param.dtype.type
    p, g, v = param[start:stop], grad[start:stop], v[start:stop]
    clip, lr, eps, decay = number(clip), number(lr), number(eps), number(weight_decay)
    old, new = number(alpha), number(1.0 - alpha)
    for i in range(p.size):
        g_i = g[i] * clip + decay * p[i]
        v_i = old * v[i] + new * g_i * g_i
        v[i] = v_i
        p[i] -= lr * g_i / (math.sqrt(v_i) + eps)


@njit_strict
def optimizer_step(optimizer, param, grad, m, v, settings, start, stop):
    """Take one step of the optimizer with this code on values start to stop."""
    s = settings
    if optimizer == SGD:
        sgd(param, grad, m, s.clip, s.lr, s.beta1, s.nesterov, s.weight_decay, start, stop)
    elif optimizer == RMSPROP:
        rmsprop(param, grad, v, s.clip, s.lr, s.beta2, s.eps, s.weight_decay, start, stop)
    else:
        adam_values(param, grad, m, v, settings, optimizer == ADAMW, start, stop)
