"""What compiled code needs beyond NumPy: vector registers, atomics, giving up a time slice.

Each intrinsic is a few LLVM instructions, emitted where it is called. Nothing is looked up at run
time, and all of it can be cached on disk. Each names a Python function that is called where the
compiler is off (NUMBA_DISABLE_JIT); teams of threads, which use the atomics, need the compiler.
"""

from fastbn.jit.intrinsics.arithmetic import exp_of_nonpositive, multiply_add
from fastbn.jit.intrinsics.emit import I32, I64, IS_X86, intrinsic
from fastbn.jit.intrinsics.memory import (
    LINE_BYTES,
    at_address,
    fence,
    prefetch,
    scratch_like,
    stream_piece,
    strided,
    view,
)
from fastbn.jit.intrinsics.processor import (
    atomic_add,
    atomic_load,
    atomic_store,
    flush_denormals,
    mark,
    restore_denormals,
    ticks,
    yield_core,
)
from fastbn.jit.intrinsics.tile import PANEL_BYTES, TILE_ROWS, multiply_tile, transpose_tile

__all__ = [
    "I32", "I64", "IS_X86", "LINE_BYTES", "PANEL_BYTES", "TILE_ROWS", "at_address", "atomic_add",
    "atomic_load", "atomic_store", "exp_of_nonpositive", "fence", "flush_denormals", "intrinsic",
    "mark", "multiply_add", "multiply_tile", "prefetch", "restore_denormals", "scratch_like",
    "stream_piece", "strided", "ticks", "transpose_tile", "view", "yield_core",
]  # fmt: skip
