"""Adam, AdamW, SGD with momentum and RMSprop, in place over flat buffers.

    Adam     m = beta1 * m + (1 - beta1) * g     v = beta2 * v + (1 - beta2) * g^2
             param -= lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)
             Kingma & Ba 2015 (arXiv 1412.6980), algorithm 1
    AdamW    param *= 1 - lr * weight_decay, then Adam; Loshchilov & Hutter 2019 (arXiv 1711.05101)
    SGD      m = momentum * m + g                param -= lr * m
             (Nesterov: param -= lr * (g + momentum * m))
    RMSprop  v = alpha * v + (1 - alpha) * g^2   param -= lr * g / (sqrt(v) + eps)

`g` is the gradient times `clip`, the factor of global-norm clipping (1 where there is none), plus
weight_decay * param where the decay is not decoupled. Every value is updated on its own, so a
buffer may be cut anywhere, and start and stop name the part.
"""

from __future__ import annotations

import math

from numba import prange

from fastbn.jit.compiler import njit_parallel, njit_strict
from fastbn.kernels.reductions import row_moments_wide, row_square_sum

PART = 16384


@njit_strict
def clip_factor(
    grad,  # (K,)
    max_norm,  # infinity for no clipping
):
    """Factor that brings the norm of grad to at most max_norm, as float64."""
    if max_norm == math.inf:
        return 1.0
    square = row_square_sum(grad)
    if not square < math.inf:  # beyond float32, or not a number
        _, square = row_moments_wide(grad, 0.0)
    factor = max_norm / (math.sqrt(square) + 1e-6)
    return 1.0 if factor > 1.0 else factor  # a NaN stays one


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
    number = param.dtype.type
    p, g, m, v = param[start:stop], grad[start:stop], m[start:stop], v[start:stop]
    keep = number(1.0 - lr * weight_decay) if decoupled else number(1.0)
    coupled = number(0.0) if decoupled else number(weight_decay)
    clip, rate = number(clip), number(lr / bias1)
    old1, new1 = number(beta1), number(1.0 - beta1)
    old2, new2 = number(beta2), number(1.0 - beta2)
    root_scale, eps = number(1.0 / math.sqrt(bias2)), number(eps)
    for i in range(p.size):
        g_i = g[i] * clip + coupled * p[i]
        m_i = old1 * m[i] + new1 * g_i
        v_i = old2 * v[i] + new2 * g_i * g_i
        m[i] = m_i
        v[i] = v_i
        p[i] = p[i] * keep - rate * m_i / (math.sqrt(v_i) * root_scale + eps)


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


@njit_parallel
def adam_parallel(
    param, grad, m, v, clip, lr, beta1, beta2, eps, bias1, bias2, weight_decay, decoupled,
    start, stop,
):  # fmt: skip
    """Run `adam` over parts of a fixed size."""
    for part in prange((stop - start + PART - 1) // PART):
        first = start + part * PART
        last = min(first + PART, stop)
        adam(
            param, grad, m, v, clip, lr, beta1, beta2, eps, bias1, bias2, weight_decay, decoupled,
            first, last,
        )  # fmt: skip
