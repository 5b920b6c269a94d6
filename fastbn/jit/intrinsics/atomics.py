"""What threads tell each other by: atomic counters, and giving the core to another thread."""

from __future__ import annotations

import sys
from typing import Any

from numba.core import types

from fastbn.jit.intrinsics.emit import I32, Array, declare, intrinsic


def _at(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return Array(context, builder, signature.args[0], args[0]).pointer(args[1])


@intrinsic
def atomic_add(typingctx: Any, counters: Any, index: Any, value: Any) -> Any:
    """Add to counters[index], an int64, in one piece; the result is what was there before."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _at(context, builder, signature, args), args[2], "acq_rel")

    return types.int64(counters, types.intp, types.int64), codegen


@intrinsic
def atomic_load(typingctx: Any, counters: Any, index: Any) -> Any:
    """Read counters[index], an int64, and see all that its writer had written before."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_at(context, builder, signature, args), "acquire", 8)

    return types.int64(counters, types.intp), codegen


@intrinsic
def atomic_store(typingctx: Any, counters: Any, index: Any, value: Any) -> Any:
    """Write counters[index], an int64, after all that this thread has written before."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[2], _at(context, builder, signature, args), "release", 8)
        return context.get_dummy_value()

    return types.void(counters, types.intp, types.int64), codegen


@intrinsic
def yield_core(typingctx: Any) -> Any:
    """Let another thread have this core, if one waits for it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
        builder.call(declare(builder, name, I32, []), [])
        return context.get_dummy_value()

    return types.void(), codegen
