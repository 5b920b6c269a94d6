"""Tiles in vector registers: multiply a tile of a matrix product, and transpose a tile."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import types

from fastbn.jit import isa
from fastbn.jit.intrinsics.emit import (
    I32,
    I64,
    declare,
    emit_multiply_add,
    intrinsic,
    splat,
    suffix_of,
)


def _tile() -> tuple[int, int]:
    """Return the bytes of a row of a panel, two registers, and the rows of a tile.

    The sums (two registers for each row), a row of a panel and one broadcast number have to fit
    into the registers: 32 with AVX-512 or on ARM, otherwise 16.
    """
    if isa.has("avx512f"):
        return 2 * 64, 8
    return 2 * (32 if isa.has("avx") else 16), 6 if isa.IS_X86 else 8


PANEL_BYTES, TILE_ROWS = _tile()


def _multiply_tile(rows, vectors, a, i, k, right, p, out, j, limit, accumulate):
    columns = vectors * right.shape[2] // 2
    target = out[i : i + min(rows, limit), j : j + columns]
    n_rows, n_columns = target.shape
    total = np.zeros(target.shape, out.dtype)
    for n in range(right.shape[1]):  # in the same order for every tile
        total += a[i : i + n_rows, k + n, None] * right[p, n, :n_columns]
    target[...] = target + total if accumulate else total


@intrinsic(python=_multiply_tile, prefer_literal=True)
def multiply_tile(
    typingctx,
    rows,  # of the tile, a literal
    vectors,  # literal 1 or 2: half a panel, or a whole one
    a,  # (M, K), of any strides
    i,  # first row of the tile, in a and in out
    k,  # first of the products to add
    right,  # (panels, depth, columns)
    p,  # which panel
    out,  # (M, N)
    j,  # first column of the panel in out; the panel may have more columns than are left in out
    limit,  # rows that are left from i on; the tile may have more
    accumulate,  # 0 overwrites out, 1 adds to it
):
    """out[i : i + rows, j : j + columns] (+)= a[i : i + rows, k : k + depth] right[p].

    The sums stay in registers. Each sum is one chain of fused multiply-adds in the order of k, so
    its bits depend only on k and depth.
    """
    if not isinstance(rows, types.IntegerLiteral):
        return None
    n_rows, n_vectors = rows.literal_value, vectors.literal_value
    tile = [(r, v) for r in range(n_rows) for v in range(n_vectors)]

    def emit(context, builder, rows, vectors, a, i, k, right, p, out, j, limit, accumulate):
        lanes = PANEL_BYTES // 2 // out.size
        vector = ir.VectorType(out.number, lanes)

        def load(pointer):
            value = builder.load(builder.bitcast(pointer, vector.as_pointer()))
            value.align = out.size
            return value

        # the loop over k
        right_first = right.pointer(p, I64(0), I64(0))
        left = []  # where each row begins; rows that a may not have repeat the first one
        for r in range(n_rows):
            row = builder.select(builder.icmp_signed("<", I64(r), limit), I64(r), I64(0))
            left.append(a.pointer(builder.add(i, row), k))
        before, function = builder.block, builder.function
        body, done = function.append_basic_block("k"), function.append_basic_block("done")
        builder.branch(body)
        builder.position_at_end(body)
        count = builder.phi(I64)
        count.add_incoming(I64(0), before)
        sums = {place: builder.phi(vector) for place in tile}
        row = builder.gep(right_first, [builder.mul(count, I64(2 * lanes))])
        b = [load(builder.gep(row, [I64(v * lanes)])) for v in range(n_vectors)]
        offset = builder.mul(count, a.strides[1])
        totals = {}
        for r in range(n_rows):
            number = splat(builder, builder.load(builder.gep(left[r], [offset])), lanes)
            for v in range(n_vectors):
                totals[r, v] = emit_multiply_add(builder, number, b[v], sums[r, v])
        following = builder.add(count, I64(1))
        count.add_incoming(following, body)
        for place in tile:
            sums[place].add_incoming(ir.Constant(vector, None), before)
            sums[place].add_incoming(totals[place], body)
        builder.cbranch(builder.icmp_signed("<", following, right.shape[1]), body, done)
        builder.position_at_end(done)

        # the results: whole vectors, or the rows and lanes that out has
        suffix, pointer = f"{suffix_of(vector)}.p0", vector.as_pointer()
        bits = ir.VectorType(ir.IntType(1), lanes)
        masked_load = declare(
            builder, f"llvm.masked.load.{suffix}", vector, [pointer, I32, bits, vector]
        )
        masked_store = declare(
            builder, f"llvm.masked.store.{suffix}", ir.VoidType(), [vector, pointer, I32, bits]
        )
        numbers = ir.Constant(ir.VectorType(I64, lanes), [I64(n) for n in range(lanes)])
        columns = builder.sub(out.shape[1], j)
        adds = builder.icmp_signed("!=", accumulate, I64(0))

        def place_of(r, v):
            place = out.pointer(builder.add(i, I64(r)), builder.add(j, I64(v * lanes)))
            return builder.bitcast(place, pointer)

        def finish_whole(accumulates):
            for r, v in tile:
                result = totals[r, v]
                if accumulates:
                    result = builder.fadd(load(place_of(r, v)), result)
                builder.store(result, place_of(r, v), align=out.size)

        def finish_part(r, v, mask):
            read, zeros = builder.and_(mask, splat(builder, adds, lanes)), ir.Constant(vector, None)
            arguments = [place_of(r, v), I32(out.size), read, zeros]
            result = builder.fadd(builder.call(masked_load, arguments), totals[r, v])
            builder.call(masked_store, [result, place_of(r, v), I32(out.size), mask])

        is_whole = builder.and_(
            builder.icmp_signed(">=", columns, I64(n_vectors * lanes)),
            builder.icmp_signed(">=", limit, I64(n_rows)),
        )
        with builder.if_else(is_whole, likely=True) as (then, otherwise):
            with then, builder.if_else(adds) as (to_add, to_overwrite):
                with to_add:
                    finish_whole(True)
                with to_overwrite:
                    finish_whole(False)
            with otherwise:
                ends = [builder.sub(columns, I64(v * lanes)) for v in range(n_vectors)]
                masks = [builder.icmp_signed("<", numbers, splat(builder, n, lanes)) for n in ends]
                for r in range(n_rows):
                    with builder.if_then(builder.icmp_signed("<", I64(r), limit)):
                        for v in range(n_vectors):
                            finish_part(r, v, masks[v])

    word = types.intp
    return types.void(rows, vectors, a, word, word, right, word, out, word, word, word), emit


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
