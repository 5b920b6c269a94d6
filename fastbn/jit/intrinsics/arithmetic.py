"""Arithmetic that gives the same bits for a vector and for a single number."""

from __future__ import annotations

import math

import numpy as np
from numba.core import types

from fastbn.jit.intrinsics.emit import I32, I64, emit_multiply_add, intrinsic


@intrinsic(python=lambda a, b, c: a * b + c)
def multiply_add(typingctx, a, b, c):
    """a * b + c of numbers of one dtype: the fused instruction if the processor has one.

    In kernels without fast-math, this is the only way to get the fused instruction. It rounds in
    the same way in the vectors and in the remainder of a loop. (On a processor without the
    instruction, `llvm.fma` would call a function of the C library for each number.)
    """
    if not (a == b == c and isinstance(a, types.Float)):
        return None

    def emit(context, builder, a, b, c):
        return emit_multiply_add(builder, a, b, c)

    return a(a, b, c), emit


@intrinsic(python=np.exp)
def exp_of_nonpositive(typingctx, x):
    """e**x for x <= 0, to about the last digit; 0 if that is below the normal numbers.

    In kernels without fast-math, a vector and a single number give the same bits.

    x = n ln 2 + r with |r| <= ln(2) / 2. Taylor's series gives e**r, and 2**n is built from its
    bits. Unlike `math.exp` this is plain arithmetic, which vectorizes.
    """
    double = x == types.float64

    def emit(context, builder, x):
        number = x.type
        bits, mantissa, lowest, degree = (I64, 52, -1022, 13) if double else (I32, 23, -126, 7)
        high = 0.693147180369123816490 if double else 0.693359375  # of ln 2; its low bits are 0
        low = 1.90821492927058770002e-10 if double else -2.12194440e-4
        smallest = number(lowest * math.log(2.0))
        in_range = builder.fcmp_ordered(">=", x, smallest)  # False for a NaN
        n = emit_multiply_add(builder, x, number(1.0 / math.log(2.0)), number(-0.5))
        # truncating x / ln 2 - 1/2 rounds x / ln 2, which is not positive. Every processor can
        # truncate vectors (unlike `llvm.floor`), but to 64 bits only with AVX-512
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
