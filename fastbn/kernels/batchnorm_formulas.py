"""Batch norm of one number: the formulas that the loops of all layouts share (docs/batchnorm.md).

They are inlined, and compiled as their callers are: `gradient_input` without fast-math.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastbn.jit.compiler import njit_inlined
from fastbn.jit.intrinsics import multiply_add


class Norm(NamedTuple):
    """What normalizes, scales and shifts: arrays (C,), or the four numbers of one feature.

    Kernels unpack it, so callers in Python pass a plain tuple in this order: numba takes a named
    tuple's arguments from Python a microsecond later.
    """

    mean: Any
    rstd: Any
    gamma: Any
    beta: Any


@njit_inlined
def of_feature(norm, c):
    """The numbers of feature c."""
    mean, rstd, gamma, beta = norm
    return Norm(mean[c], rstd[c], gamma[c], beta[c])


@njit_inlined
def normalized(x, norm):
    """xhat = (x - mean) * rstd."""
    return (x - norm.mean) * norm.rstd


@njit_inlined
def activation_gradient(dy, xhat, norm, slope):
    """g = dy * act'(gamma * xhat + beta): the sign is recomputed, not stored."""
    g = dy if multiply_add(xhat, norm.gamma, norm.beta) > 0 else slope * dy
    return g


@njit_inlined
def gradient_input(dy, x, norm, slope, weight, constant, linear):
    """dx = gamma * rstd * (g - weight * (constant + linear * xhat)).

    Without weights `weight` is 1, `constant` is dbeta / n and `linear` is dgamma / n. With weights
    they are dbeta and dgamma. Both are 0 for the detached gradient. rstd is not a part of `linear`:
    rstd squared may be too small for the dtype.
    """
    xhat = normalized(x, norm)
    g = activation_gradient(dy, xhat, norm, slope)
    return norm.gamma * norm.rstd * (g - weight * multiply_add(xhat, linear, constant))
