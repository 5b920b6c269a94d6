"""Atomic counters, giving up the core, the time stamp counter, and denormals."""

from __future__ import annotations

import sys
import time

from llvmlite import ir
from numba.core import cgutils, types

from fastbn.jit.intrinsics.emit import I32, I64, declare, intrinsic
from fastbn.jit.isa import IS_ARM, IS_X86

# -- other threads ---------------------------------------------------------------------------------


@intrinsic()
def atomic_add(typingctx, counters, index, value):
    """Add to counters[index], an int64, atomically, and return what was there before."""

    def emit(context, builder, counters, index, value):
        return builder.atomic_rmw("add", counters.pointer(index), value, "acq_rel")

    return types.int64(counters, types.intp, types.int64), emit


@intrinsic()
def atomic_load(typingctx, counters, index):
    """Read counters[index], an int64; afterwards all that its writer wrote before is visible."""

    def emit(context, builder, counters, index):
        return builder.load_atomic(counters.pointer(index), "acquire", 8)

    return types.int64(counters, types.intp), emit


@intrinsic()
def atomic_store(typingctx, counters, index, value):
    """Write counters[index], an int64, after everything that this thread wrote before."""

    def emit(context, builder, counters, index, value):
        builder.store_atomic(value, counters.pointer(index), "release", 8)

    return types.void(counters, types.intp, types.int64), emit


# Give this core to a thread that waits for one.
yield_core = types.ExternalFunction(
    "SwitchToThread" if sys.platform == "win32" else "sched_yield", types.int32()
)

# -- the clock -------------------------------------------------------------------------------------


def _ticks(context, builder):
    if IS_ARM:  # LLVM would read a counter that user programs may not read
        return builder.asm(ir.FunctionType(I64, []), "mrs $0, cntvct_el0", "=r", [], True)
    return builder.call(declare(builder, "llvm.readcyclecounter", I64, []), [])


@intrinsic(python=time.perf_counter_ns)
def ticks(typingctx):
    """Time in the processor's units: the time stamp counter, which all cores share."""
    return types.int64(), _ticks


def _mark(log, place):
    if log is not None:
        log[0, 0] += 1
        if log[0, 0] < log.shape[0]:
            log[log[0, 0]] = time.perf_counter_ns(), place


@intrinsic(python=_mark)
def mark(typingctx, log, place):
    """Log that `place` ends now. If the log is None, this emits no instruction.

    The log is (1 + entries, 2) int64: log[0, 0] counts all marks, even if the log is full; the
    other rows are (ticks, place).
    """

    def emit(context, builder, log, place):
        count = builder.add(builder.load(log.data), I64(1))
        builder.store(count, log.data)
        with builder.if_then(builder.icmp_signed("<", count, log.shape[0]), likely=True):
            builder.store(_ticks(context, builder), log.pointer(count, I64(0)))
            builder.store(place, log.pointer(count, I64(1)))

    if isinstance(log, types.NoneType):
        return types.void(log, types.int64), lambda *_: None
    return types.void(log, types.int64), emit


# -- denormals -------------------------------------------------------------------------------------

# Bits of the control word of x86's vector unit: read denormals as zero, and write zero instead.
DENORMALS_ARE_ZERO, FLUSH_TO_ZERO = 1 << 6, 1 << 15


@intrinsic(python=lambda: 0)
def flush_denormals(typingctx):
    """Treat denormals as zero in this thread from now on, and return the previous mode.

    This has an effect only on x86, where an operation on a denormal may take a hundred cycles. ARM
    cores are not slowed down by denormals.
    """

    def emit(context, builder):
        if not IS_X86:
            return I32(0)
        place = cgutils.alloca_once(builder, I32)
        _call_with_pointer(builder, "llvm.x86.sse.stmxcsr", place)
        before = builder.load(place)
        _set_mode(builder, builder.or_(before, I32(DENORMALS_ARE_ZERO | FLUSH_TO_ZERO)))
        return before

    return types.int32(), emit


@intrinsic(python=lambda mode: None)
def restore_denormals(typingctx, mode):
    """Restore the mode that `flush_denormals` returned."""

    def emit(context, builder, mode):
        if IS_X86:
            _set_mode(builder, mode)

    return types.void(types.int32), emit


def _set_mode(builder, mode):
    _call_with_pointer(builder, "llvm.x86.sse.ldmxcsr", cgutils.alloca_once_value(builder, mode))


def _call_with_pointer(builder, name, place):
    function = declare(builder, name, ir.VoidType(), [cgutils.voidptr_t])
    builder.call(function, [builder.bitcast(place, cgutils.voidptr_t)])
