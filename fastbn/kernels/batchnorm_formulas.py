"""The formulas of batch norm for one number, used by the loops of all layouts (docs/batchnorm.md).

They are inlined and compiled with the options of their callers. Callers of `gradient_input` do not
use fast-math.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from fastbn.jit.compiler import njit_inlined
from fastbn.jit.intrinsics import multiply_add


class Norm(NamedTuple):
    """The parameters of a normalization: arrays (C,), or the four numbers of one feature.

    Callers in Python pass a plain tuple in this order, which kernels unpack, too: numba takes about
    a microsecond longer to unpack a named tuple that comes from Python.
    """

    mean: Any
    rstd: Any
    gamma: Any
    beta: Any


@njit_inlined
def of_feature(norm, c):
    """Return the numbers of feature c."""
    mean, rstd, gamma, beta = norm
    return Norm(mean[c], rstd[c], gamma[c], beta[c])


@njit_inlined
def normalized(x, norm):
    """xhat = (x - mean) * rstd."""
    return (x - norm.mean) * norm.rstd


@njit_inlined
def inference_scale(gamma, running_var, eps):
    """gamma / sqrt(running_var + eps), in float64."""
    return gamma / math.sqrt(np.float64(running_var) + eps)


@njit_inlined
def activation_gradient(dy, xhat, norm, slope):
    """g = dy * act'(gamma * xhat + beta): the sign is recomputed, not stored."""
    g = dy if multiply_add(xhat, norm.gamma, norm.beta) > 0 else slope * dy
    return g


@njit_inlined
def gradient_input(dy, x, norm, slope, weight, constant, linear):
    """dx = gamma * rstd * (g - weight * (constant + linear * xhat)).

    Without weights, `weight` is 1, `constant` is dbeta / n and `linear` is dgamma / n. With
    weights, `constant` is dbeta and `linear` is dgamma. For the detached gradient both are 0.
    `linear` does not contain rstd, because rstd squared may underflow.
    """
    xhat = normalized(x, norm)
    g = activation_gradient(dy, xhat, norm, slope)
    return norm.gamma * norm.rstd * (g - weight * multiply_add(xhat, linear, constant))
