"""Arrays without bounds checks and reference counts; prefetches, non-temporal stores, fences."""

from __future__ import annotations

import ctypes
import math

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.imputils import impl_ret_borrowed
from numba.np.arrayobj import populate_array

from fastbn.jit.intrinsics.emit import I32, I64, declare, intrinsic

# Bytes of a cache line.
LINE_BYTES = 64

# -- arrays that do not own their memory -----------------------------------------------------------


@intrinsic(python=lambda x: x)
def strided(typingctx, x):
    """Return the same array, typed as of any layout: all layouts share one compiled version."""
    result = x.copy(layout="A")

    def emit(context, builder, x):
        return impl_ret_borrowed(context, builder, result, x.value)

    return result(x), emit


def _array_of(context, builder, kind, data, shape):
    """Build an array in C order that does not own its memory."""
    size = context.get_abi_sizeof(data.type.pointee)
    strides = [I64(size)]
    for extent in shape[:0:-1]:
        strides.insert(0, builder.mul(strides[0], extent))
    result = context.make_array(kind)(context, builder)
    populate_array(
        result, data=data, shape=shape, strides=strides, itemsize=I64(size), meminfo=None
    )
    return result._getvalue()


def _view(buffer, start, shape):
    return buffer.reshape(-1)[start : start + math.prod(shape)].reshape(shape)


@intrinsic(python=_view)
def view(typingctx, buffer, start, shape):
    """Return an array of this shape, a tuple, on the numbers of a contiguous buffer from `start`.

    It does not own its memory, and no bounds are checked. So this takes a fraction of the
    instructions of slicing and reshaping.
    """
    result = types.Array(buffer.dtype, len(shape), "C")

    def emit(context, builder, buffer, start, extents):
        extents = [
            context.cast(builder, extent, kind, types.intp)
            for extent, kind in zip(cgutils.unpack_tuple(builder, extents), shape, strict=True)
        ]
        data = builder.gep(buffer.data, [start])
        return _array_of(context, builder, result, data, extents)

    return result(buffer, types.intp, shape), emit


def _at_address(like, address, size):
    if size == 0:
        return np.empty(0, like.dtype)
    memory = (ctypes.c_byte * (size * like.itemsize)).from_address(int(address))
    return np.frombuffer(memory, like.dtype)


@intrinsic(python=_at_address)
def at_address(typingctx, like, address, size):
    """Return a view of `size` numbers at an address, of the dtype of `like`."""
    result = types.Array(like.dtype, 1, "C")

    def emit(context, builder, like, address, size):
        data = builder.inttoptr(address, like.number.as_pointer())
        return _array_of(context, builder, result, data, [size])

    return result(like, types.int64, types.int64), emit


@intrinsic(python=lambda x, size: np.empty(size, x.dtype), prefer_literal=True)
def scratch_like(typingctx, x, size):
    """Return memory for `size` numbers of the dtype of x on the stack; `size` is a literal."""
    if not isinstance(size, types.IntegerLiteral):
        return None
    result, n = types.Array(x.dtype, 1, "C"), size.literal_value

    def emit(context, builder, x, size):
        data = cgutils.alloca_once(builder, x.number, size=n)
        return _array_of(context, builder, result, data, [I64(n)])

    return result(x, size), emit


# -- caches ----------------------------------------------------------------------------------------


@intrinsic(python=lambda x, row, column: None)
def prefetch(typingctx, x, row, column):
    """Prefetch the cache line of x[row, column] into the second-level cache.

    Many more lines can be in flight to this cache than to the first-level cache.
    """

    def emit(context, builder, x, row, column):
        void = cgutils.voidptr_t
        function = declare(builder, "llvm.prefetch.p0", ir.VoidType(), [void, I32, I32, I32])
        line = builder.bitcast(x.pointer(row, column), void)
        builder.call(function, [line, I32(0), I32(2), I32(1)])

    return types.void(x, types.intp, types.intp), emit


def _copy_piece(size, source, start, target, place):
    target.reshape(-1)[place : place + size] = source.reshape(-1)[start : start + size]


@intrinsic(python=_copy_piece, prefer_literal=True)
def copy_piece(typingctx, size, source, start, target, place):
    """Copy `size` numbers, a literal, in vector registers; places count from the first numbers."""
    if not isinstance(size, types.IntegerLiteral):
        return None

    def emit(context, builder, size_, source, start, target, place):
        vector = ir.VectorType(source.number, size.literal_value).as_pointer()
        value = builder.load(builder.bitcast(builder.gep(source.data, [start]), vector))
        value.align = source.size
        place = builder.bitcast(builder.gep(target.data, [place]), vector)
        builder.store(value, place, align=target.size)

    return types.void(size, source, types.intp, target, types.intp), emit


def _stream_piece(size, piece, target, j):
    target[j : j + size] = piece[:size]


@intrinsic(python=_stream_piece, prefer_literal=True)
def stream_piece(typingctx, size, piece, target, j):
    """target[j : j + size] = piece[:size] with non-temporal stores, which bypass the caches.

    `size` is a literal and a multiple of a cache line, and target[j] must begin a cache line. Call
    `fence` before another thread reads the target.
    """
    if not isinstance(size, types.IntegerLiteral):
        return None
    n = size.literal_value

    def emit(context, builder, size, piece, target, j):
        lanes = LINE_BYTES // piece.size
        line = ir.VectorType(piece.number, lanes).as_pointer()
        for start in range(0, n, lanes):
            source = builder.gep(piece.data, [I64(start)])
            value = builder.load(builder.bitcast(source, line))
            value.align = piece.size
            place = builder.bitcast(target.pointer(builder.add(j, I64(start))), line)
            store = builder.store(value, place, align=LINE_BYTES)
            store.set_metadata("nontemporal", builder.module.add_metadata([I32(1)]))

    return types.void(size, piece, target, types.intp), emit


@intrinsic(python=lambda: None)
def fence(typingctx):
    """Complete all stores so far before any later one."""

    def emit(context, builder):
        builder.fence("seq_cst")

    return types.void(), emit
