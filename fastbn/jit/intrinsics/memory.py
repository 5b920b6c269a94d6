"""The way to memory: lines asked for ahead, and stores that go past the caches."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from fastbn.jit.intrinsics.emit import I32, I64, Array, declare, intrinsic
from fastbn.jit.intrinsics_python import LINE_BYTES


@intrinsic
def prefetch(typingctx: Any, x: Any, row: Any, column: Any) -> Any:
    """Ask for the cache line of x[row, column], which will be read soon, in the second-level cache.

    Many more lines can be on their way to it than to the first level.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = Array(context, builder, signature.args[0], args[0]).pointer(args[1], args[2])
        void = cgutils.voidptr_t
        function = declare(builder, "llvm.prefetch.p0", ir.VoidType(), [void, I32, I32, I32])
        builder.call(function, [builder.bitcast(pointer, void), I32(0), I32(2), I32(1)])
        return context.get_dummy_value()

    return types.void(x, types.intp, types.intp), codegen


@intrinsic(prefer_literal=True)
def stream_piece(typingctx: Any, size: Any, piece: Any, target: Any, j: Any) -> Any:
    """target[j : j + size] = piece[:size], past the caches; `size` is a literal of whole lines.

    target[j] must begin a line. A `fence` has to follow before another thread reads the target.
    """
    if not isinstance(size, types.IntegerLiteral):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source = Array(context, builder, signature.args[1], args[1])
        target = Array(context, builder, signature.args[2], args[2])
        lanes = LINE_BYTES // source.size
        line = ir.VectorType(source.data.type.pointee, lanes).as_pointer()
        for start in range(0, size.literal_value, lanes):
            place = builder.gep(source.data, [I64(start)])
            value = builder.load(builder.bitcast(place, line))
            value.align = source.size
            place = target.pointer(builder.add(args[3], I64(start)))
            store = builder.store(value, builder.bitcast(place, line), align=LINE_BYTES)
            store.set_metadata("nontemporal", builder.module.add_metadata([I32(1)]))
        return context.get_dummy_value()

    return types.void(size, piece, target, types.intp), codegen


@intrinsic
def fence(typingctx: Any) -> Any:
    """Finish all stores before any that follow."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen
