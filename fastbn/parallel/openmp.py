"""Run compiled functions on the OpenMP threads of another library.

PyTorch's threads spin on their cores for a while after each operation. The threads of a second pool
would wait for a core, a hundred times as long as they compute. So kernels that are called between
PyTorch's operations run on PyTorch's own threads. They call `GOMP_parallel`, the function that
compilers generate calls of, at the address that PyTorch's libraries were linked to.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from fastbn.jit.intrinsics import I32, I64, intrinsic

ENTRIES = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")

# No pool: `on_pool` calls its function once.
NO_POOL = np.zeros(len(ENTRIES), np.int64)


def find_pool(library: str) -> np.ndarray:
    """Return the addresses of ENTRIES that a shared library was linked to.

    Return `NO_POOL` if they are missing: the library does not use OpenMP, or another runtime.
    """
    try:
        loaded = ctypes.CDLL(library)
        entries = [ctypes.cast(getattr(loaded, name), ctypes.c_void_p).value for name in ENTRIES]
    except (OSError, AttributeError):
        return NO_POOL
    return np.array(entries, np.int64)


def _call_once(pool: Any, threads: Any, function: Any, arguments: Any) -> None:
    function(0, 1, *arguments)


@intrinsic(python=_call_once)
def on_pool(typingctx: Any, pool: Any, threads: Any, function: Any, arguments: Any) -> Any:
    """Call ``function(rank, size, *arguments)`` on up to `threads` threads of a pool, and wait.

    `pool` holds the addresses that `find_pool` found; `rank` counts from 0 to `size` - 1. There
    may be fewer threads than requested. With one thread, or with `NO_POOL`, this is a plain call.
    The function must be a kernel that cannot fail and returns nothing.
    """
    kinds = (types.intp, types.intp, *arguments.types)
    inner = typingctx.resolve_function_type(function, kinds, {})
    result = types.void(pool, types.int64, function, arguments)

    def emit(context: Any, builder: Any, pool: Any, threads: Any, _: Any, values: Any) -> None:
        compiled = function.dispatcher.get_compile_result(inner)
        context.active_code_library.add_linking_library(compiled.library)
        values = [context.cast(builder, value, kind, wanted) for value, kind, wanted in zip(
            cgutils.unpack_tuple(builder, values), arguments.types, inner.args[2:], strict=True
        )]  # fmt: skip

        def call(builder: Any, rank: Any, size: Any, values: Any) -> None:
            callee = context.declare_function(builder.module, compiled.fndesc)
            context.call_conv.call_function(
                builder, callee, inner.return_type, inner.args, [rank, size, *values]
            )

        start, *asks = [
            builder.load(builder.gep(pool.data, [I64(place)])) for place in range(len(ENTRIES))
        ]
        alone = builder.or_(
            builder.icmp_signed("==", start, I64(0)), builder.icmp_signed("<=", threads, I64(1))
        )
        with builder.if_else(alone) as (serial, parallel):
            with serial:
                call(builder, I64(0), I64(1), values)
            with parallel:
                pack = cgutils.pack_struct(builder, [*asks, *values])
                place = cgutils.alloca_once_value(builder, pack)
                body = _outlined(builder.module, pack.type, call)
                byte = cgutils.voidptr_t
                kind = ir.FunctionType(ir.VoidType(), [body.type, byte, I32, I32])
                builder.call(
                    builder.inttoptr(start, kind.as_pointer()),
                    [body, builder.bitcast(place, byte), builder.trunc(threads, I32), I32(0)],
                )

    return result, emit


def _outlined(module: Any, pack: Any, call: Any) -> Any:
    """Build the function that every thread of the pool runs, with C's calling convention."""
    kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t])
    body = ir.Function(module, kind, module.get_unique_name("on_pool"))
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
