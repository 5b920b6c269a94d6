"""Tiles in vector registers: multiply a tile of a matrix product, and transpose."""

from __future__ import annotations

import itertools

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

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
    """Return the bytes of a row of a panel, two vectors, and the rows of a tile.

    The sums (two vectors for each row), a row of a panel and one broadcast number have to fit into
    the registers: 32 with AVX-512, otherwise 16, and on ARM 32 of half a vector.
    """
    if isa.has("avx512f"):
        return 2 * 64, 8
    return 2 * (32 if isa.has("avx") or isa.IS_ARM else 16), 6


PANEL_BYTES, TILE_ROWS = _tile()


def _multiply_tile(rows, vectors, a, i, k, right, p, out, j, limit, accumulate):
    columns = vectors * right.shape[2] // 2
    target = out[i : i + min(rows, limit), j : j + columns]
    n_rows, n_columns = target.shape
    total = np.zeros(target.shape, out.dtype)
    panels = right[p : p + (vectors + 1) // 2]
    for n in range(right.shape[1]):  # in the same order for every tile
        total += a[i : i + n_rows, k + n, None] * panels[:, n].reshape(-1)[:n_columns]
    target[...] = target + total if accumulate else total


@intrinsic(python=_multiply_tile, prefer_literal=True)
def multiply_tile(
    typingctx,
    rows,  # of the tile, a literal
    vectors,  # literal 1: half a panel; 2: a whole one; 8: four panels, which `right` must have
    a,  # (M, K), of any strides
    i,  # first row of the tile, in a and in out
    k,  # first of the products to add
    right,  # (panels, depth, columns)
    p,  # the first panel
    out,  # (M, N)
    j,  # first column of the panel in out; the panel may have more columns than are left in out
    limit,  # rows that are left from i on; the tile may have more
    accumulate,  # 0 overwrites out, 1 adds to it
):
    """out[i : i + rows, j : j + columns] (+)= a[i : i + rows, k : k + depth] b.

    b is half of panel p of `right`, all of it, or four panels side by side, from p on.
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
        firsts = [
            right.pointer(builder.add(p, I64(v // 2)), I64(0), I64(v % 2 * lanes))
            for v in range(n_vectors)
        ]
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
        place = builder.mul(count, I64(2 * lanes))
        b = [load(builder.gep(first, [place])) for first in firsts]
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


def _transpose_strip(x, start, stride, count, y, y_start):
    width = PANEL_BYTES // y.itemsize
    for r in range(8):
        for n in range(count):
            y[y_start + n * width + r] = x[start + r * stride + n]


@intrinsic(python=_transpose_strip)
def transpose_strip(typingctx, x, start, stride, count, y, y_start):
    """y[n, r] = x[r, n] for 8 rows of `count` numbers, at least 8; the rows of y are a panel's.

    x and y are flat. The strip begins at `start` in x, where its rows are `stride` apart, and at
    `y_start` in y. Tiles of 8 x 8 are transposed in registers; the last one may overlap the one
    before.
    """

    def emit(context, builder, x, start, stride, count, y, y_start):
        lane = 16 // x.size  # numbers in 128 bits, which the shuffles below do not leave
        width = PANEL_BYTES // y.size

        def load(place):
            found = builder.load(builder.bitcast(place, ir.VectorType(x.number, lane).as_pointer()))
            found.align = x.size
            return found

        def shuffle(a, b, lanes):
            return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))

        def interleave(a, b, half):
            """Interleave one half of the first lanes of a and b, and of the second lanes."""
            firsts = [first + half * lane // 2 + n for first in (0, lane) for n in range(lane // 2)]
            return shuffle(a, b, [n + of for n in firsts for of in (0, 2 * lane)])

        def transpose(rows):
            """Transpose 2 * lane rows of `lane` numbers."""
            both = list(range(2 * lane))
            rows = [shuffle(a, b, both) for a, b in zip(rows[:lane], rows[lane:], strict=True)]
            for _ in range(lane.bit_length() - 1):  # 2 rounds for lanes of 4, 1 for 2
                rows = [interleave(rows[r // 2], rows[(r + lane) // 2], r % 2) for r in range(lane)]
            return rows

        end = builder.sub(count, I64(8))
        with cgutils.for_range_slice(builder, I64(0), count, I64(8)) as (n, _):
            n = builder.select(builder.icmp_signed("<", n, end), n, end)
            row = builder.gep(x.data, [builder.add(start, n)])
            rows = [row]
            for _ in range(7):
                rows.append(builder.gep(rows[-1], [stride]))
            target = builder.gep(y.data, [builder.add(y_start, builder.mul(n, I64(width)))])
            for r, c in itertools.product(range(0, 8, 2 * lane), range(0, 8, lane)):
                pieces = [load(builder.gep(row, [I64(c)])) for row in rows[r : r + 2 * lane]]
                for i, column in enumerate(transpose(pieces)):
                    place = builder.gep(target, [I64((c + i) * width + r)])
                    place = builder.bitcast(place, column.type.as_pointer())
                    builder.store(column, place, align=y.size)

    word = types.intp
    return types.void(x, word, word, word, y, word), emit
