"""Adam over many tensors in one call, each where it is in memory.

What `optimizers.adam` says of one buffer. With amsgrad (Reddi et al. 2018, arXiv 1904.09237) the
largest v so far takes the place of v in the denominator:

    top = max(top, v)        param -= lr / (1 - beta1^t) * m / (sqrt(top / (1 - beta2^t)) + eps)
"""

from __future__ import annotations

import math

import numpy as np

from fastbn.jit.compiler import njit, njit_strict
from fastbn.jit.intrinsics import at_address
from fastbn.kernels.optimizers import PART, adam
from fastbn.parallel.openmp import on_pool

# columns of the table of addresses
STEP, PARAM, GRAD, M, V, TOP = range(6)


@njit_strict
def amsgrad(
    param,  # (K,) in and out
    grad,  # (K,)
    m,  # (K,) in and out
    v,  # (K,) in and out
    top,  # (K,) in and out: the largest v
    sign,  # -1 to go up
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
    """One step of Adam or AdamW with amsgrad on values start to stop. The scalars are float64."""
    number = param.dtype.type
    p, g, t = param[start:stop], grad[start:stop], top[start:stop]
    m, v = m[start:stop], v[start:stop]
    keep = number(1.0 - lr * weight_decay) if decoupled else number(1.0)
    coupled = number(0.0) if decoupled else number(weight_decay)
    sign, rate = number(sign), number(lr / bias1)
    old1, new1 = number(beta1), number(1.0 - beta1)
    old2, new2 = number(beta2), number(1.0 - beta2)
    root_scale, eps = number(1.0 / math.sqrt(bias2)), number(eps)
    for i in range(p.size):
        g_i = g[i] * sign + coupled * p[i]
        m_i = old1 * m[i] + new1 * g_i
        v_i = old2 * v[i] + new2 * g_i * g_i
        t_i = max(t[i], v_i)
        m[i] = m_i
        v[i] = v_i
        t[i] = t_i
        p[i] = p[i] * keep - rate * m_i / (math.sqrt(t_i) * root_scale + eps)


@njit
def tensor_of(parts, part):
    """The last tensor that begins with this part or before: empty ones have none."""
    low, high = 0, parts.size - 2
    while low < high:
        middle = (low + high + 1) // 2
        if parts[middle] <= part:
            low = middle
        else:
            high = middle - 1
    return low


@njit
def adam_share(
    rank, size, like, counter, addresses, sizes, parts, sign, lr, beta1, beta2, eps, weight_decay,
    decoupled, with_top,
):  # fmt: skip
    """`adam_tensors`, on the parts that belong to one of `size` threads."""
    for part in range(parts[-1] * rank // size, parts[-1] * (rank + 1) // size):
        tensor = tensor_of(parts, part)
        start = (part - parts[tensor]) * PART
        n = min(PART, sizes[tensor] - start)
        offset = start * like.itemsize
        p = at_address(like, addresses[tensor, PARAM] + offset, n)
        g = at_address(like, addresses[tensor, GRAD] + offset, n)
        m = at_address(like, addresses[tensor, M] + offset, n)
        v = at_address(like, addresses[tensor, V] + offset, n)
        step = np.float64(at_address(counter, addresses[tensor, STEP], 1)[0])
        bias1, bias2 = 1.0 - beta1**step, 1.0 - beta2**step
        if with_top:
            top = at_address(like, addresses[tensor, TOP] + offset, n)
            amsgrad(
                p, g, m, v, top, sign, lr, beta1, beta2, eps, bias1, bias2, weight_decay,
                decoupled, 0, n,
            )  # fmt: skip
        else:
            adam(
                p, g, m, v, sign, lr, beta1, beta2, eps, bias1, bias2, weight_decay, decoupled,
                0, n,
            )  # fmt: skip


@njit
def adam_tensors(
    pool,  # of `fastbn.parallel.openmp.find_pool`
    threads,  # of the pool, at most
    like,  # an array of the tensors' dtype
    counter,  # an array of the dtype of the steps
    addresses,  # (T, 5 or 6) int64: steps, param, grad, m, v and, with amsgrad, top
    sizes,  # (T,) int64
    parts,  # (T + 1,) int64: parts of PART values before each tensor
    sign,  # -1 to go up
    lr,
    beta1,
    beta2,
    eps,
    weight_decay,
    decoupled,  # bool: AdamW
    with_top,  # bool: amsgrad
):
    """One step on all tensors, in parts of a fixed size; each tensor's steps are counted."""
    for tensor in range(sizes.size):
        at_address(counter, addresses[tensor, STEP], 1)[0] += 1
    arguments = (
        like, counter, addresses, sizes, parts, sign, lr, beta1, beta2, eps, weight_decay,
        decoupled, with_top,
    )  # fmt: skip
    on_pool(pool, threads, adam_share, arguments)
