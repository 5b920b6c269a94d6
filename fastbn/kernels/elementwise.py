"""Activations other than LeakyReLU, in a separate pass over y, the output of batch norm or bias.

    tanh        a = tanh(y)             da/dy = 1 - a^2
    logistic    a = 1 / (1 + e^-y)      da/dy = a (1 - a)

The forward pass works in place. The backward pass computes y again from z, as for LeakyReLU.

For positive y, tanh is (1 - e) / (1 + e) with e = e^-2y, and the logistic function 1 / (1 + e) with
e = e^-y. Their derivatives are 4 e / (1 + e)^2 and e / (1 + e)^2, which keep their digits where the
functions are nearly constant.
"""

from __future__ import annotations

from fastbn.jit.compiler import njit_inlined, njit_strict
from fastbn.jit.intrinsics import exp_of_nonpositive
from fastbn.options import ElementwiseActivation, code

NONE = code(ElementwiseActivation, None)  # the activation is fused with batch norm
TANH, LOGISTIC = code(ElementwiseActivation, "tanh"), code(ElementwiseActivation, "logistic")


@njit_inlined
def tanh_near_zero(y):
    """Return tanh(y) for |y| < 1/4 by its Taylor series, since (1 - e) / (1 + e) loses digits."""
    number = type(y)
    s = y * y
    p = number(18888466084.0 / 194896477400625.0)
    p = p * s + number(-443861162.0 / 1856156927625.0)
    p = p * s + number(6404582.0 / 10854718875.0)
    p = p * s + number(-929569.0 / 638512875.0)
    p = p * s + number(21844.0 / 6081075.0)
    p = p * s + number(-1382.0 / 155925.0)
    p = p * s + number(62.0 / 2835.0)
    p = p * s + number(-17.0 / 315.0)
    p = p * s + number(2.0 / 15.0)
    p = p * s + number(-1.0 / 3.0)
    return y + y * s * p


@njit_strict
def elementwise_forward(
    activation,  # code of an ElementwiseActivation
    a,  # (K,) flat: y in, act(y) out
):
    """a = act(a)."""
    number = a.dtype.type
    one, two, quarter, zero = number(1), number(2), number(0.25), number(0)
    if activation == TANH:
        for i in range(a.size):
            y = a[i]
            e = exp_of_nonpositive(-two * abs(y))
            far = (one - e) / (one + e)
            far = far if y > zero else -far
            a[i] = far if abs(y) > quarter else tanh_near_zero(y)
    elif activation == LOGISTIC:
        for i in range(a.size):
            y = a[i]
            e = exp_of_nonpositive(-abs(y))
            a[i] = (one if y > zero else e) / (one + e)


@njit_strict
def elementwise_backward(
    activation,  # code of an ElementwiseActivation
    z,  # (N,) one feature
    shift,
    scale,
    offset,
    da,  # (N,) in and out
):
    """da = da * act'(y), y = (z - shift) * scale + offset."""
    number = z.dtype.type
    one = number(1)
    if activation == TANH or activation == LOGISTIC:
        factor = number(-2) if activation == TANH else number(-1)
        square = factor * factor
        for i in range(z.size):
            e = exp_of_nonpositive(factor * abs((z[i] - shift) * scale + offset))
            da[i] *= square * e / ((one + e) * (one + e))
