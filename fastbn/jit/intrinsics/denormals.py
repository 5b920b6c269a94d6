"""The processor's mode for denormal numbers, of one thread."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from fastbn.jit.intrinsics.emit import I32, IS_X86, declare, intrinsic

# Of the control word of x86's vector unit: take denormal operands for zero, and make none.
DENORMALS_ARE_ZERO, FLUSH_TO_ZERO = 1 << 6, 1 << 15


@intrinsic
def flush_denormals(typingctx: Any) -> Any:
    """Compute without denormals in this thread from here on; the result is the mode before.

    On x86, where an operation on one may take a hundred cycles. ARM's cores need no help.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not IS_X86:
            return I32(0)
        place = cgutils.alloca_once(builder, I32)
        pointer = builder.bitcast(place, ir.IntType(8).as_pointer())
        store = declare(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), [pointer.type])
        builder.call(store, [pointer])
        before = builder.load(place)
        _set_mode(builder, builder.or_(before, I32(DENORMALS_ARE_ZERO | FLUSH_TO_ZERO)))
        return before

    return types.int32(), codegen


@intrinsic
def restore_denormals(typingctx: Any, mode: Any) -> Any:
    """Go back to the mode that `flush_denormals` found."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if IS_X86:
            _set_mode(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int32), codegen


def _set_mode(builder: Any, mode: Any) -> None:
    place = cgutils.alloca_once_value(builder, mode)
    pointer = builder.bitcast(place, ir.IntType(8).as_pointer())
    load = declare(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), [pointer.type])
    builder.call(load, [pointer])
