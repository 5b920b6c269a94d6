"""Tiles in vector registers: multiply a tile of a matrix product, and transpose a tile."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba.core import types

from fastbn.jit.intrinsics.emit import (
    I32,
    I64,
    IS_X86,
    declare,
    emit_multiply_add,
    intrinsic,
    splat,
    suffix_of,
)

# Bytes of a row of a panel (kernels/gemm.py): two registers of AVX-512, four of AVX.
PANEL_BYTES = 128


def _has(feature: str) -> bool:
    """Tell whether numba compiles for a feature, of this processor or of NUMBA_CPU_FEATURES."""
    config: Any = numba.config
    if config.CPU_FEATURES is not None:
        return f"+{feature}" in config.CPU_FEATURES.split(",")
    return bool(binding.get_host_cpu_features().get(feature))


def _tile_rows() -> int:
    """Return the number of rows of a tile.

    The sums (rows * PANEL_BYTES), a row of a panel and one broadcast number have to fit into the
    registers: AVX-512 has 32 of 64 bytes, AVX 16 of 32 bytes, ARM 32 of 16 bytes, and plain x86-64
    16 of 16 bytes.
    """
    if _has("avx512f"):
        return 8
    return 1 if IS_X86 and not _has("avx") else 2


TILE_ROWS = _tile_rows()


def _multiply_tile(rows, vectors, a, i, k, depth, panel, out, j, accumulate):
    width = PANEL_BYTES // out.itemsize
    panel = panel[: depth * width].reshape(depth, width)
    target = out[i : i + rows, j : j + vectors * width // 2]
    total = np.zeros(target.shape, out.dtype)
    for n in range(depth):  # in the same order for every tile
        total += a[i : i + rows, k + n, None] * panel[n, : target.shape[1]]
    target[...] = target + total if accumulate else total


@intrinsic(python=_multiply_tile, prefer_literal=True)
def multiply_tile(
    typingctx,
    rows,  # of the tile, a literal
    vectors,  # literal 1 or 2: half a panel, or a whole one
    a,  # (M, K), of any strides
    i,  # first row of the tile, in a and in out
    k,  # first of the products to add
    depth,  # number of products to add
    panel,  # flat, from its row k on
    out,  # (M, N)
    j,  # first column of the panel in out; the panel may have more columns than are left in out
    accumulate,  # 0 overwrites out, 1 adds to it
):
    """out[i : i + rows, j : j + width] (+)= a[i : i + rows, k : k + depth] panel.

    The sums stay in registers. Each sum is one chain of fused multiply-adds in the order of k, so
    its bits depend only on k and depth.
    """
    if not isinstance(rows, types.IntegerLiteral):
        return None
    n_rows, n_vectors = rows.literal_value, vectors.literal_value
    tile = [(r, v) for r in range(n_rows) for v in range(n_vectors)]

    def emit(context, builder, rows, vectors, a, i, k, depth, panel, out, j, accumulate):
        lanes = PANEL_BYTES // 2 // out.size
        vector = ir.VectorType(out.number, lanes)

        def load(pointer):
            value = builder.load(builder.bitcast(pointer, vector.as_pointer()))
            value.align = out.size
            return value

        # the loop over k
        before, function = builder.block, builder.function
        a_first = a.pointer(i, k)
        body, done = function.append_basic_block("k"), function.append_basic_block("done")
        builder.branch(body)
        builder.position_at_end(body)
        count = builder.phi(I64)
        count.add_incoming(I64(0), before)
        sums = {}
        for place in tile:
            sums[place] = builder.phi(vector)
            sums[place].add_incoming(ir.Constant(vector, None), before)
        row = builder.gep(panel.data, [builder.mul(count, I64(lanes * 2))])
        right = [load(builder.gep(row, [I64(v * lanes)])) for v in range(n_vectors)]
        left = builder.gep(a_first, [builder.mul(count, a.strides[1])])
        totals = {}
        for r in range(n_rows):
            place = builder.gep(left, [builder.mul(I64(r), a.strides[0])])
            value = splat(builder, builder.load(place), lanes)
            for v in range(n_vectors):
                totals[r, v] = emit_multiply_add(builder, value, right[v], sums[r, v])
        following = builder.add(count, I64(1))
        count.add_incoming(following, body)
        for place in tile:
            sums[place].add_incoming(totals[place], body)
        builder.cbranch(builder.icmp_signed("<", following, depth), body, done)
        builder.position_at_end(done)

        # store the results: whole vectors, or only the lanes for which out has columns
        suffix = f"{suffix_of(vector)}.p0"
        pointer, bits = vector.as_pointer(), ir.VectorType(ir.IntType(1), lanes)
        masked_load = declare(
            builder, f"llvm.masked.load.{suffix}", vector, [pointer, I32, bits, vector]
        )
        masked_store = declare(
            builder, f"llvm.masked.store.{suffix}", ir.VoidType(), [vector, pointer, I32, bits]
        )
        numbers = ir.Constant(ir.VectorType(I64, lanes), [I64(n) for n in range(lanes)])
        columns = builder.sub(out.shape[1], j)
        ends = [builder.sub(columns, I64(v * lanes)) for v in range(n_vectors)]
        masks = [builder.icmp_signed("<", numbers, splat(builder, end, lanes)) for end in ends]
        adds = splat(builder, builder.icmp_signed("!=", accumulate, I64(0)), lanes)
        wanted = [builder.and_(mask, adds) for mask in masks]
        zero = ir.Constant(vector, None)

        def finish(is_whole):
            for r, v in tile:
                place = out.pointer(builder.add(i, I64(r)), builder.add(j, I64(v * lanes)))
                place = builder.bitcast(place, pointer)
                old = builder.call(masked_load, [place, I32(out.size), wanted[v], zero])
                result = builder.fadd(old, totals[r, v])
                if is_whole:
                    builder.store(result, place, align=out.size)
                else:
                    builder.call(masked_store, [result, place, I32(out.size), masks[v]])

        is_whole = builder.icmp_signed(">=", columns, I64(n_vectors * lanes))
        with builder.if_else(is_whole, likely=True) as (then, otherwise):
            with then:
                finish(True)
            with otherwise:
                finish(False)

    word = types.intp
    return types.void(rows, vectors, a, word, word, word, panel, out, word, word), emit


def _transpose_tile(x, start, stride, y, y_start, y_stride):
    for r in range(8):
        for c in range(8):
            y[y_start + c * y_stride + r] = x[start + r * stride + c]


@intrinsic(python=_transpose_tile)
def transpose_tile(typingctx, x, start, stride, y, y_start, y_stride):
    """y[c, r] = x[r, c] of an 8 x 8 tile.

    x and y are flat; a tile begins at `start`, and its rows are `stride` apart.
    """

    def emit(context, builder, x, start, stride, y, y_start, y_stride):
        vector = ir.VectorType(x.number, 8)

        def place(matrix, start, stride, row):
            offset = builder.add(start, builder.mul(stride, I64(row)))
            return builder.bitcast(builder.gep(matrix.data, [offset]), vector.as_pointer())

        def shuffle(a, b, lanes):
            return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, 8), lanes))

        rows = []
        for r in range(8):
            rows.append(builder.load(place(x, start, stride, r)))
            rows[r].align = x.size
        # in each of three rounds, interleave rows r and r + 4
        lanes = [[n // 2 + 4 * half + 8 * (n % 2) for n in range(8)] for half in (0, 1)]
        for _ in range(3):
            rows = [shuffle(rows[r // 2], rows[r // 2 + 4], lanes[r % 2]) for r in range(8)]
        for c in range(8):
            builder.store(rows[c], place(y, y_start, y_stride, c), align=x.size)

    word = types.intp
    return types.void(x, word, word, y, word, word), emit
