"""What kernels need and NumPy does not have: vector registers, prefetches, atomics, clocks.

A call of an intrinsic becomes a few LLVM instructions. Nothing is looked up at run time, so kernels
with intrinsics can be cached on disk. With NUMBA_DISABLE_JIT, each call runs a Python function
instead. The atomics have none, because teams of threads, which use them, need the compiler.
"""

from fastbn.jit.intrinsics.arithmetic import exp_of_nonpositive, multiply_add
from fastbn.jit.intrinsics.emit import I32, I64, intrinsic
from fastbn.jit.intrinsics.memory import (
    LINE_BYTES,
    at_address,
    copy_piece,
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
from fastbn.jit.intrinsics.tile import PANEL_BYTES, TILE_ROWS, multiply_tile, transpose_strip

__all__ = [
    "I32", "I64", "LINE_BYTES", "PANEL_BYTES", "TILE_ROWS", "at_address", "atomic_add",
    "atomic_load", "atomic_store", "copy_piece", "exp_of_nonpositive", "fence", "flush_denormals",
    "intrinsic", "mark", "multiply_add", "multiply_tile", "prefetch", "restore_denormals",
    "scratch_like", "stream_piece", "strided", "ticks", "transpose_strip", "view", "yield_core",
]  # fmt: skip
