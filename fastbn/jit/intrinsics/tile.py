"""Tiles of vector registers: a block of a matrix product, and a block turned."""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import binding, ir
from numba.core import types

from fastbn.jit.intrinsics.emit import (
    I32,
    IS_X86,
    Array,
    declare,
    emit_multiply_add,
    intrinsic,
    splat,
    suffix_of,
)
from fastbn.jit.intrinsics_python import PANEL_BYTES


def _has(feature: str) -> bool:
    """Tell whether numba compiles for a feature: of this processor, unless it is told otherwise."""
    config: Any = numba.config
    if config.CPU_FEATURES is not None:
        return f"+{feature}" in config.CPU_FEATURES.split(",")
    return bool(binding.get_host_cpu_features().get(feature))


def _tile_rows() -> int:
    """Rows of a register tile.

    rows * PANEL_BYTES of sums, a row of a panel and one broadcast number have to find room in the
    registers: 32 of 64 bytes, 16 of 32 (or ARM's 32 of 16), or the 16 of 16 of plain x86-64.
    """
    if _has("avx512f"):
        return 8
    return 1 if IS_X86 and not _has("avx") else 2


TILE_ROWS = _tile_rows()


@intrinsic(prefer_literal=True)
def multiply_tile(
    typingctx: Any,
    rows: Any,  # literal: of the tile
    vectors: Any,  # literal 1 or 2: half a panel, or a whole one
    a: Any,  # (M, K), of any strides
    i: Any,  # first row of the tile, in a and in out
    panels: Any,  # flat
    start: Any,  # of the panel's row k in `panels`
    k: Any,  # first of the products to add
    depth: Any,  # how many
    out: Any,  # (M, N)
    j: Any,  # first column of the tile in out
    columns: Any,  # of the panel
    accumulate: Any,  # 0 overwrites out, 1 adds to it
) -> Any:
    """out[i : i + rows, j : j + columns] (+)= a[i : i + rows, k : k + depth] panel.

    The sums live in registers. Each is one chain of fused multiply-adds in the order of k, so that
    its bits depend on nothing but k and depth.
    """
    if not isinstance(rows, types.IntegerLiteral):
        return None
    n_rows, n_vectors = rows.literal_value, vectors.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i, start, k, depth, j, columns, accumulate = (args[n] for n in (3, 5, 6, 7, 9, 10, 11))
        a, panels, out = (Array(context, builder, signature.args[n], args[n]) for n in (2, 4, 8))
        number, word, size = out.data.type.pointee, i.type, out.size
        lanes = PANEL_BYTES // 2 // size
        vector = ir.VectorType(number, lanes)
        tile = [(r, v) for r in range(n_rows) for v in range(n_vectors)]

        def load(pointer: Any) -> Any:
            value = builder.load(builder.bitcast(pointer, vector.as_pointer()))
            value.align = size
            return value

        # the loop over k
        before, function = builder.block, builder.function
        a_first = a.pointer(i, k)
        panel = builder.gep(panels.data, [start])
        body, done = function.append_basic_block("k"), function.append_basic_block("done")
        builder.branch(body)
        builder.position_at_end(body)
        count = builder.phi(word)
        count.add_incoming(word(0), before)
        sums = {}
        for place in tile:
            sums[place] = builder.phi(vector)
            sums[place].add_incoming(ir.Constant(vector, None), before)
        step = word(lanes * 2)
        row = builder.gep(panel, [builder.mul(count, step)])
        right = [load(builder.gep(row, [word(v * lanes)])) for v in range(n_vectors)]
        left = builder.gep(a_first, [builder.mul(count, a.strides[1])])
        totals = {}
        for r in range(n_rows):
            place = builder.gep(left, [builder.mul(word(r), a.strides[0])])
            value = splat(builder, builder.load(place), lanes)
            for v in range(n_vectors):
                totals[r, v] = emit_multiply_add(context, builder, value, right[v], sums[r, v])
        following = builder.add(count, word(1))
        count.add_incoming(following, body)
        for place in tile:
            sums[place].add_incoming(totals[place], body)
        builder.cbranch(builder.icmp_signed("<", following, depth), body, done)
        builder.position_at_end(done)

        # the way out: whole vectors, or as many of their lanes as there are columns
        suffix = f"{suffix_of(context, vector)}.p0"
        bits = ir.VectorType(ir.IntType(1), lanes)
        masked_load = declare(
            builder, f"llvm.masked.load.{suffix}", vector, [vector.as_pointer(), I32, bits, vector]
        )
        masked_store = declare(
            builder, f"llvm.masked.store.{suffix}", ir.VoidType(),
            [vector, vector.as_pointer(), I32, bits],
        )  # fmt: skip
        numbers = ir.Constant(ir.VectorType(word, lanes), [word(n) for n in range(lanes)])
        masks = [
            builder.icmp_signed(
                "<", numbers, splat(builder, builder.sub(columns, word(v * lanes)), lanes)
            )
            for v in range(n_vectors)
        ]
        adds = splat(builder, builder.icmp_signed("!=", accumulate, accumulate.type(0)), lanes)
        wanted = [builder.and_(mask, adds) for mask in masks]
        zero = ir.Constant(vector, None)

        def leave(store: Any) -> None:
            for r, v in tile:
                place = out.pointer(builder.add(i, word(r)), builder.add(j, word(v * lanes)))
                place = builder.bitcast(place, vector.as_pointer())
                old = builder.call(masked_load, [place, I32(size), wanted[v], zero])
                store(builder.fadd(old, totals[r, v]), place, v)

        is_whole = builder.icmp_signed(">=", columns, word(n_vectors * lanes))
        with builder.if_else(is_whole, likely=True) as (then, otherwise):
            with then:
                leave(lambda value, place, v: builder.store(value, place, align=size))
            with otherwise:
                leave(
                    lambda value, place, v: builder.call(
                        masked_store, [value, place, I32(size), masks[v]]
                    )
                )
        return context.get_dummy_value()

    word = types.intp
    arguments = (rows, vectors, a, word, panels, *[word] * 3, out, *[word] * 3)
    return types.void(*arguments), codegen


@intrinsic
def transpose_tile(
    typingctx: Any, x: Any, start: Any, stride: Any, y: Any, y_start: Any, y_stride: Any
) -> Any:
    """y[c, r] = x[r, c] of an 8 x 8 tile.

    x and y are flat; a tile begins at `start`, and its rows are `stride` apart.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, start, stride, y, y_start, y_stride = args
        source = Array(context, builder, signature.args[0], x)
        target = Array(context, builder, signature.args[3], y)
        vector = ir.VectorType(source.data.type.pointee, 8)

        def place(matrix: Array, start: Any, stride: Any, row: int) -> Any:
            offset = builder.add(start, builder.mul(stride, stride.type(row)))
            return builder.bitcast(builder.gep(matrix.data, [offset]), vector.as_pointer())

        def shuffle(a: Any, b: Any, lanes: list[int]) -> Any:
            return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, 8), lanes))

        rows = []
        for r in range(8):
            rows.append(builder.load(place(source, start, stride, r)))
            rows[r].align = source.size
        # three rounds: in each, rows r and r + 4 are merged lane by lane
        lanes = [[n // 2 + 4 * half + 8 * (n % 2) for n in range(8)] for half in (0, 1)]
        for _ in range(3):
            rows = [shuffle(rows[r // 2], rows[r // 2 + 4], lanes[r % 2]) for r in range(8)]
        for c in range(8):
            builder.store(rows[c], place(target, y_start, y_stride, c), align=source.size)
        return context.get_dummy_value()

    word = types.intp
    return types.void(x, word, word, y, word, word), codegen
