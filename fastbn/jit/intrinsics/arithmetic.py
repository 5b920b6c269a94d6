"""Arithmetic that gives the same bits for a vector and for a single number."""

from __future__ import annotations

import math
from typing import Any

from numba.core import types

from fastbn.jit.intrinsics.emit import I32, I64, emit_multiply_add, intrinsic


@intrinsic
def multiply_add(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c of numbers of one dtype: the fused instruction where the processor has one.

    In a kernel without fast-math it is the only way to get that instruction, and is rounded in the
    same way in vectors as in what a loop leaves over. (`llvm.fma` would call a function of the C
    library for each number where there is no instruction.)
    """
    if not (a == b == c and isinstance(a, types.Float)):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return emit_multiply_add(context, builder, *args)

    return a(a, b, c), codegen


@intrinsic
def exp_of_nonpositive(typingctx: Any, x: Any) -> Any:
    """e**x for x <= 0, to the last digit or so; 0 where that is below the normal numbers.

    The same bits as a vector and as a single number, in kernels without fast-math.

    x = n ln 2 + r with |r| <= ln(2) / 2; e**r by Taylor's series and 2**n by its bits. Unlike
    `math.exp` it is plain arithmetic, which vectorizes.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (x,) = args
        number = x.type
        double = signature.args[0] == types.float64
        bits, mantissa, lowest, degree = (I64, 52, -1022, 13) if double else (I32, 23, -126, 7)
        high = 0.693147180369123816490 if double else 0.693359375  # of ln 2, with spare low bits
        low = 1.90821492927058770002e-10 if double else -2.12194440e-4
        smallest = number(lowest * math.log(2.0))
        in_range = builder.fcmp_ordered(">=", x, smallest)  # False for a NaN
        n = emit_multiply_add(context, builder, x, number(1.0 / math.log(2.0)), number(-0.5))
        # cut to an integer, which rounds x / ln 2: an instruction on vectors of every processor,
        # which `llvm.floor` is not, and of 32 bits, since 64 are no such instruction before AVX-512
        whole = builder.fptosi(builder.select(in_range, n, number(0.0)), I32)
        n = builder.sitofp(whole, number)
        r = emit_multiply_add(context, builder, n, number(-high), x)
        r = emit_multiply_add(context, builder, n, number(-low), r)
        power = number(1.0 / math.factorial(degree))
        for k in range(degree - 1, -1, -1):
            power = emit_multiply_add(context, builder, power, r, number(1.0 / math.factorial(k)))
        exponent = builder.add(builder.sext(whole, bits) if double else whole, bits(1 - lowest))
        scale = builder.bitcast(builder.shl(exponent, bits(mantissa)), number)
        result = builder.fmul(power, scale)
        return builder.select(builder.fcmp_ordered("<", x, smallest), number(0.0), result)

    return x(x), codegen
