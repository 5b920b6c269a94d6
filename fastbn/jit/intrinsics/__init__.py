"""What compiled code needs beyond NumPy: vector registers, atomics, giving up a time slice.

Each is some instructions of LLVM's, emitted where it is called. Nothing is looked up at run time,
and all of it can be cached on disk. Where the compiler is off (NUMBA_DISABLE_JIT), the functions of
`fastbn.jit.intrinsics_python` take their places.
"""

from fastbn.jit.compiler import DISABLED
from fastbn.jit.intrinsics.arithmetic import exp_of_nonpositive, multiply_add
from fastbn.jit.intrinsics.arrays import at_address, scratch_like, strided, view
from fastbn.jit.intrinsics.atomics import atomic_add, atomic_load, atomic_store, yield_core
from fastbn.jit.intrinsics.clock import mark, ticks
from fastbn.jit.intrinsics.denormals import flush_denormals, restore_denormals
from fastbn.jit.intrinsics.emit import I32, I64, IS_X86, intrinsic
from fastbn.jit.intrinsics.memory import fence, prefetch, stream_piece
from fastbn.jit.intrinsics.tile import TILE_ROWS, multiply_tile, transpose_tile
from fastbn.jit.intrinsics_python import LINE_BYTES, PANEL_BYTES

if DISABLED:
    from fastbn.jit.intrinsics_python import (
        at_address,
        exp_of_nonpositive,
        fence,
        flush_denormals,
        mark,
        multiply_add,
        multiply_tile,
        prefetch,
        restore_denormals,
        scratch_like,
        stream_piece,
        strided,
        ticks,
        transpose_tile,
        view,
    )

__all__ = [
    "I32",
    "I64",
    "IS_X86",
    "LINE_BYTES",
    "PANEL_BYTES",
    "TILE_ROWS",
    "at_address",
    "atomic_add",
    "atomic_load",
    "atomic_store",
    "exp_of_nonpositive",
    "fence",
    "flush_denormals",
    "intrinsic",
    "mark",
    "multiply_add",
    "multiply_tile",
    "prefetch",
    "restore_denormals",
    "scratch_like",
    "stream_piece",
    "strided",
    "ticks",
    "transpose_tile",
    "view",
    "yield_core",
]
