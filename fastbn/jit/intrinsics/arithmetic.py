"""Arithmetic that gives the same bits for a vector and for a single number."""

from __future__ import annotations

import math

import numpy as np
from numba.core import types

from fastbn.jit.intrinsics.emit import I32, I64, emit_multiply_add, intrinsic


@intrinsic(python=lambda a, b, c: a * b + c)
def multiply_add(typingctx, a, b, c):
    """a * b + c of numbers of one dtype: the fused instruction if the processor has one.

    A kernel without fast-math gets that instruction in no other way. It is rounded alike in vectors
    and in the remainder of a loop. (`llvm.fma` would call a function of the C library for each
    number on a processor without the instruction.)
    """
    if not (a == b == c and isinstance(a, types.Float)):
        return None

    def emit(context, builder, a, b, c):
        return emit_multiply_add(builder, a, b, c)

    return a(a, b, c), emit


@intrinsic(python=np.exp)
def exp_of_nonpositive(typingctx, x):
    """e**x for x <= 0, to about the last digit; 0 if that is below the normal numbers.

    The same bits as a vector and as a single number, in kernels without fast-math.

    x = n ln 2 + r with |r| <= ln(2) / 2; e**r by Taylor's series and 2**n by its bits. Unlike
    `math.exp` it is plain arithmetic, which vectorizes.
    """
    double = x == types.float64

    def emit(context, builder, x):
        number = x.type
        bits, mantissa, lowest, degree = (I64, 52, -1022, 13) if double else (I32, 23, -126, 7)
        high = 0.693147180369123816490 if double else 0.693359375  # of ln 2, with spare low bits
        low = 1.90821492927058770002e-10 if double else -2.12194440e-4
        smallest = number(lowest * math.log(2.0))
        in_range = builder.fcmp_ordered(">=", x, smallest)  # False for a NaN
        n = emit_multiply_add(builder, x, number(1.0 / math.log(2.0)), number(-0.5))
        # cut to an integer, which rounds x / ln 2: an instruction on vectors of every processor,
        # unlike `llvm.floor`. To 32 bits, since AVX-512 is the first to have it for 64
        whole = builder.fptosi(builder.select(in_range, n, number(0.0)), I32)
        n = builder.sitofp(whole, number)
        r = emit_multiply_add(builder, n, number(-high), x)
        r = emit_multiply_add(builder, n, number(-low), r)
        power = number(1.0 / math.factorial(degree))
        for k in range(degree - 1, -1, -1):
            power = emit_multiply_add(builder, power, r, number(1.0 / math.factorial(k)))
        exponent = builder.add(builder.sext(whole, bits) if double else whole, bits(1 - lowest))
        scale = builder.bitcast(builder.shl(exponent, bits(mantissa)), number)
        result = builder.fmul(power, scale)
        return builder.select(builder.fcmp_ordered("<", x, smallest), number(0.0), result)

    return x(x), emit
