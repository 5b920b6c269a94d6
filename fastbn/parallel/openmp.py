"""Compiled functions on the threads of an OpenMP runtime that another library brought along.

PyTorch's threads spin on their cores for a while after each of its operations. A second pool beside
them waits for a core, for a hundred times as long as its work takes. So kernels that are called
between PyTorch's operations run on PyTorch's own threads: by `GOMP_parallel`, the entry that
compilers call, at the address that PyTorch's libraries were linked to.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from fastbn.jit.compiler import DISABLED
from fastbn.jit.intrinsics import I32, I64, intrinsic

ENTRIES = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")

# No pool: `on_pool` then calls its function once.
NO_POOL = np.zeros(len(ENTRIES), np.int64)


def find_pool(library: str) -> np.ndarray:
    """Return the addresses of ENTRIES in what a shared library was linked to.

    Those of `NO_POOL` where there are none: the library has no OpenMP, or one of another kind.
    """
    try:
        loaded = ctypes.CDLL(library)
        entries = [ctypes.cast(getattr(loaded, name), ctypes.c_void_p).value for name in ENTRIES]
    except (OSError, AttributeError):
        return NO_POOL
    return np.array(entries, np.int64)


@intrinsic
def on_pool(typingctx: Any, pool: Any, threads: Any, function: Any, arguments: Any) -> Any:
    """Call ``function(rank, size, *arguments)`` on up to so many threads of a pool, and wait.

    `pool` holds the addresses that `find_pool` found; `rank` counts from 0 to `size` - 1. There
    may be fewer threads than asked for, and with one, or `NO_POOL`, it is a plain call. The
    function must be a kernel that cannot fail and returns nothing.
    """
    kinds = (types.intp, types.intp, *arguments.types)
    inner = typingctx.resolve_function_type(function, kinds, {})

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        compiled = function.dispatcher.get_compile_result(inner)
        context.active_code_library.add_linking_library(compiled.library)
        values = [context.cast(builder, value, kind, wanted) for value, kind, wanted in zip(
            cgutils.unpack_tuple(builder, args[3]), arguments.types, inner.args[2:], strict=True
        )]  # fmt: skip

        def call(builder: Any, rank: Any, size: Any, values: Any) -> None:
            callee = context.declare_function(builder.module, compiled.fndesc)
            context.call_conv.call_function(
                builder, callee, inner.return_type, inner.args, [rank, size, *values]
            )

        addresses = context.make_array(signature.args[0])(context, builder, args[0]).data
        start, *asks = [
            builder.load(builder.gep(addresses, [I64(place)])) for place in range(len(ENTRIES))
        ]
        alone = builder.or_(
            builder.icmp_signed("==", start, I64(0)), builder.icmp_signed("<=", args[1], I64(1))
        )
        with builder.if_else(alone) as (serial, parallel):
            with serial:
                call(builder, I64(0), I64(1), values)
            with parallel:
                pack = cgutils.pack_struct(builder, [*asks, *values])
                place = cgutils.alloca_once_value(builder, pack)
                body = _outlined(builder.module, pack.type, call)
                byte = ir.IntType(8).as_pointer()
                kind = ir.FunctionType(ir.VoidType(), [body.type, byte, I32, I32])
                builder.call(
                    builder.inttoptr(start, kind.as_pointer()),
                    [body, builder.bitcast(place, byte), builder.trunc(args[1], I32), I32(0)],
                )
        return context.get_dummy_value()

    return types.void(pool, types.int64, function, arguments), codegen


def _outlined(module: Any, pack: Any, call: Any) -> Any:
    """The function of C's calling convention that every thread of the pool runs."""
    byte = ir.IntType(8).as_pointer()
    name = module.get_unique_name("on_pool")
    body = ir.Function(module, ir.FunctionType(ir.VoidType(), [byte]), name)
    body.linkage = "internal"
    builder = ir.IRBuilder(body.append_basic_block("entry"))
    place = builder.bitcast(body.args[0], pack.as_pointer())
    values = cgutils.unpack_tuple(builder, builder.load(place))
    ask = ir.FunctionType(I32, []).as_pointer()
    rank, size = (
        builder.sext(builder.call(builder.inttoptr(value, ask), []), I64) for value in values[:2]
    )
    call(builder, rank, size, values[2:])
    builder.ret_void()
    return body


if DISABLED:

    def on_pool(pool: Any, threads: Any, function: Any, arguments: Any) -> None:
        """Call the function once."""
        function(0, 1, *arguments)
