"""The saturating activations, tanh and the logistic function, after batch norm or a bias.

    a = tanh(y)             da/dy = 1 - a^2
    a = 1 / (1 + e^-y)      da/dy = a (1 - a)

For positive y they are computed as (1 - e) / (1 + e) with e = e^-2y, and 1 / (1 + e) with e = e^-y.
The derivatives are 4 e / (1 + e)^2 and e / (1 + e)^2, which keep their digits where the functions
are flat. Both are a pass of their own, in place, after batch norm without an activation (slope 1).
"""

from __future__ import annotations

from fastbn.jit.compiler import njit_inlined, njit_strict
from fastbn.jit.intrinsics import exp_of_nonpositive

# Codes; NONE stands for LeakyReLU, which batch norm applies itself.
NONE, TANH, LOGISTIC = range(3)


@njit_inlined
def tanh_near_zero(y):
    """tanh for |y| < 1/4 by Taylor's series: (1 - e) / (1 + e) would lose digits there."""
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
def saturating_forward(
    activation,  # TANH or LOGISTIC
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
    else:
        for i in range(a.size):
            y = a[i]
            e = exp_of_nonpositive(-abs(y))
            a[i] = (one if y > zero else e) / (one + e)


@njit_strict
def saturating_backward(
    activation,  # TANH or LOGISTIC
    z,  # (N,) one feature
    shift,
    scale,
    offset,
    da,  # (N,) in and out
):
    """da = da * act'((z - shift) * scale + offset)."""
    number = z.dtype.type
    one = number(1)
    factor = number(-2) if activation == TANH else number(-1)
    square = factor * factor
    for i in range(z.size):
        e = exp_of_nonpositive(factor * abs((z[i] - shift) * scale + offset))
        da[i] *= square * e / ((one + e) * (one + e))
