"""The processor's clock, and marks in a log of a profile."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from fastbn.jit.intrinsics.emit import I64, IS_ARM, intrinsic


@intrinsic
def ticks(typingctx: Any) -> Any:
    """Time in units of the processor's own: the time stamp counter, which all cores share."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _ticks(builder)

    return types.int64(), codegen


def _ticks(builder: Any) -> Any:
    kind = ir.FunctionType(I64, [])
    if IS_ARM:  # LLVM's own counter is not for programs there
        return builder.asm(kind, "mrs $0, cntvct_el0", "=r", [], True)
    return builder.call(
        cgutils.get_or_insert_function(builder.module, kind, "llvm.readcyclecounter"), []
    )


@intrinsic
def mark(typingctx: Any, log: Any, place: Any) -> Any:
    """Note in the log that `place` ends now. Where the log is None this is no instruction at all.

    The log is (1 + entries, 2) int64: log[0, 0] counts marks, those for which there was no room
    too, and the others are in turn (ticks, place).
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if isinstance(signature.args[0], types.NoneType):
            return context.get_dummy_value()
        array = context.make_array(signature.args[0])(context, builder, args[0])
        count = builder.add(builder.load(array.data), I64(1))
        builder.store(count, array.data)
        entries = builder.extract_value(array.shape, 0)
        with builder.if_then(builder.icmp_signed("<", count, entries), likely=True):
            entry = builder.gep(array.data, [builder.mul(count, I64(2))])
            builder.store(_ticks(builder), entry)
            builder.store(args[1], builder.gep(entry, [I64(1)]))
        return context.get_dummy_value()

    return types.void(log, types.int64), codegen
