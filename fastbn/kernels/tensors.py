"""Adam for many tensors in one call, which takes their addresses.

The formulas are those of `optimizers.adam`. With amsgrad (Reddi et al. 2018, arXiv 1904.09237) the
largest v so far replaces v in the denominator:

    top = max(top, v)        param -= lr / (1 - beta1^t) * m / (sqrt(top / (1 - beta2^t)) + eps)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fastbn.jit.compiler import njit, njit_strict
from fastbn.jit.intrinsics import at_address
from fastbn.kernels.optimizers import PART, Settings, adam_factors, adam_values
from fastbn.parallel.openmp import on_pool

# columns of the table of addresses
STEP, PARAM, GRAD, M, V, TOP = range(6)


class Tensors(NamedTuple):
    """The tensors of a step: their addresses and sizes."""

    like: np.ndarray  # an array of the tensors' dtype
    counter: np.ndarray  # an array of the dtype of the steps
    addresses: np.ndarray  # (T, 5 or 6) int64: steps, param, grad, m, v and, with amsgrad, top
    sizes: np.ndarray  # (T,) int64
    parts: np.ndarray  # (T + 1,) int64: number of parts (of PART values) before each tensor


@njit_strict
def amsgrad(
    param,  # (K,) in and out
    grad,  # (K,)
    m,  # (K,) in and out
    v,  # (K,) in and out
    top,  # (K,) in and out: the largest v
    settings,  # Settings, or a plain tuple
    decoupled,  # bool: AdamW
    start,
    stop,
):
    """One step of Adam or AdamW with amsgrad on values start to stop."""
    factors = adam_factors(settings, decoupled, param)
    keep, coupled, clip, rate, old1, new1, old2, new2, root_scale, eps = factors
    p, g, t = param[start:stop], grad[start:stop], top[start:stop]
    m, v = m[start:stop], v[start:stop]
    for i in range(p.size):
        g_i = g[i] * clip + coupled * p[i]
        m_i = old1 * m[i] + new1 * g_i
        v_i = old2 * v[i] + new2 * g_i * g_i
        t_i = max(t[i], v_i)
        m[i] = m_i
        v[i] = v_i
        t[i] = t_i
        p[i] = p[i] * keep - rate * m_i / (math.sqrt(t_i) * root_scale + eps)


@njit
def tensor_of(parts, part):
    """Return the tensor that contains a part: the last one that begins at it or before it."""
    low, high = 0, parts.size - 2
    while low < high:
        middle = (low + high + 1) // 2
        if parts[middle] <= part:
            low = middle
        else:
            high = middle - 1
    return low


@njit
def adam_share(rank, size, tensors, settings, decoupled, with_top):
    """Run `adam_tensors` on the parts of thread `rank` of `size`."""
    like, addresses, parts, s = tensors.like, tensors.addresses, tensors.parts, settings
    for part in range(parts[-1] * rank // size, parts[-1] * (rank + 1) // size):
        tensor = tensor_of(parts, part)
        start = (part - parts[tensor]) * PART
        n = min(PART, tensors.sizes[tensor] - start)
        offset = start * like.itemsize
        p = at_address(like, addresses[tensor, PARAM] + offset, n)
        g = at_address(like, addresses[tensor, GRAD] + offset, n)
        m = at_address(like, addresses[tensor, M] + offset, n)
        v = at_address(like, addresses[tensor, V] + offset, n)
        step = np.float64(at_address(tensors.counter, addresses[tensor, STEP], 1)[0])
        own = Settings(
            s.clip, s.lr, s.beta1, s.beta2, s.eps, 1.0 - s.beta1**step, 1.0 - s.beta2**step, False,
            s.weight_decay,
        )  # fmt: skip
        if with_top:
            top = at_address(like, addresses[tensor, TOP] + offset, n)
            amsgrad(p, g, m, v, top, own, decoupled, 0, n)
        else:
            adam_values(p, g, m, v, own, decoupled, 0, n)


# `hyper` is a plain tuple, since a named one costs a microsecond in each step of the optimizers.
@njit
def adam_tensors(
    pool,  # from `fastbn.parallel.openmp.find_pool`
    threads,  # of the pool, at most
    like,  # an array of the tensors' dtype
    counter,  # an array of the dtype of the steps
    addresses,  # (T, 5 or 6) int64: steps, param, grad, m, v and, with amsgrad, top
    sizes,  # (T,) int64
    parts,  # (T + 1,) int64: number of parts (of PART values) before each tensor
    hyper,  # sign (1 to minimize, -1 to maximize), lr, beta1, beta2, eps and weight_decay
    decoupled,  # bool: AdamW
    with_top,  # bool: amsgrad
):
    """Take one step on all tensors, in parts of a fixed size, and increment their step counters."""
    for tensor in range(sizes.size):
        at_address(counter, addresses[tensor, STEP], 1)[0] += 1
    tensors = Tensors(like, counter, addresses, sizes, parts)
    sign, lr, beta1, beta2, eps, weight_decay = hyper
    settings = Settings(sign, lr, beta1, beta2, eps, 0.0, 0.0, False, weight_decay)
    on_pool(pool, threads, adam_share, (tensors, settings, decoupled, with_top))
