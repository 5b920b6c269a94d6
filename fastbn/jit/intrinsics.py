"""What compiled code needs beyond NumPy: vector registers, atomics, giving up a time slice.

Each is some instructions of LLVM's, emitted where it is called. Nothing is looked up at run time,
and all of it can be cached on disk. Where the compiler is off (NUMBA_DISABLE_JIT), the functions of
`fastbn.jit.intrinsics_python` take their places.
"""

from __future__ import annotations

import math
import platform
import sys
from typing import Any

import numba
from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic as _intrinsic
from numba.np.arrayobj import populate_array

from fastbn.jit.compiler import DISABLED
from fastbn.jit.intrinsics_python import LINE_BYTES, PANEL_BYTES

IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
IS_ARM = platform.machine().lower() in ("aarch64", "arm64")


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

intrinsic: Any = _intrinsic  # what it makes is called without the typing context

I32, I64 = ir.IntType(32), ir.IntType(64)


def _declare(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def _suffix(context: Any, kind: Any) -> str:
    """Name of a type in the names of LLVM's intrinsics: f32, v16f32."""
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{_suffix(context, kind.element)}"
    return f"f{8 * context.get_abi_sizeof(kind)}"


def _splat(builder: Any, value: Any, lanes: int) -> Any:
    """Build a vector of one value."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, I32(0))
    zeros = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
    return builder.shuffle_vector(first, undefined, zeros)


def _multiply_add(context: Any, builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c: fused where the processor has an instruction for it, else rounded twice.

    The processor decides and nothing else: vectors and single numbers give the same bits.
    """
    name = f"llvm.fmuladd.{_suffix(context, a.type)}"
    return builder.call(_declare(builder, name, a.type, [a.type] * 3), [a, b, c])


class _Array:
    """An array argument: pointers to its elements, and its strides counted in elements."""

    def __init__(self, context: Any, builder: Any, kind: Any, value: Any) -> None:
        array = context.make_array(kind)(context, builder, value)
        self.builder, self.data = builder, array.data
        self.size = context.get_abi_sizeof(array.data.type.pointee)
        self.strides = [
            builder.sdiv(stride, ir.Constant(stride.type, self.size))
            for stride in cgutils.unpack_tuple(builder, array.strides)
        ]

    def pointer(self, *indices: Any) -> Any:
        offset = indices[0].type(0)
        for index, stride in zip(indices, self.strides, strict=True):
            offset = self.builder.add(offset, self.builder.mul(index, stride))
        return self.builder.gep(self.data, [offset])


@intrinsic
def strided(typingctx: Any, x: Any) -> Any:
    """Return the same array, its layout unknown to the compiler: one version of code for all."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return impl_ret_borrowed(context, builder, signature.return_type, args[0])

    return x.copy(layout="A")(x), codegen


@intrinsic
def view(typingctx: Any, buffer: Any, start: Any, shape: Any) -> Any:
    """An array of this shape, a tuple, on the numbers of a contiguous buffer from `start` on.

    It owns nothing and checks nothing: a fraction of the code of a slice that is reshaped.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args[2]
        extents = [
            context.cast(builder, extent, kind, types.intp)
            for extent, kind in zip(cgutils.unpack_tuple(builder, args[2]), kinds, strict=True)
        ]
        source = context.make_array(signature.args[0])(context, builder, args[0])
        size = context.get_abi_sizeof(source.data.type.pointee)
        strides = [I64(size)]
        for extent in extents[:0:-1]:
            strides.insert(0, builder.mul(strides[0], extent))
        result = context.make_array(signature.return_type)(context, builder)
        populate_array(
            result, data=builder.gep(source.data, [args[1]]), shape=extents, strides=strides,
            itemsize=size, meminfo=None,
        )  # fmt: skip
        return result._getvalue()

    result = types.Array(buffer.dtype, len(shape), "C")
    return result(buffer, types.intp, shape), codegen


@intrinsic
def at_address(typingctx: Any, like: Any, address: Any, size: Any) -> Any:
    """An array of `size` numbers of the dtype of `like` at an address; it owns nothing."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = context.get_data_type(signature.return_type.dtype)
        itemsize = I64(context.get_abi_sizeof(number))
        result = context.make_array(signature.return_type)(context, builder)
        populate_array(
            result, data=builder.inttoptr(args[1], number.as_pointer()), shape=[args[2]],
            strides=[itemsize], itemsize=itemsize, meminfo=None,
        )  # fmt: skip
        return result._getvalue()

    return types.Array(like.dtype, 1, "C")(like, types.int64, types.int64), codegen


@intrinsic(prefer_literal=True)
def scratch_like(typingctx: Any, x: Any, size: Any) -> Any:
    """Memory for `size` numbers, a literal, of x's dtype: on the stack of this kernel."""
    if not isinstance(size, types.IntegerLiteral):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = context.get_data_type(signature.return_type.dtype)
        data = cgutils.alloca_once(builder, number, size=size.literal_value)
        word = context.get_value_type(types.intp)
        itemsize = word(context.get_abi_sizeof(number))
        result = context.make_array(signature.return_type)(context, builder)
        populate_array(
            result, data=data, shape=[word(size.literal_value)], strides=[itemsize],
            itemsize=itemsize, meminfo=None,
        )  # fmt: skip
        return result._getvalue()

    return types.Array(x.dtype, 1, "C")(x, size), codegen


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
        a, panels, out = (_Array(context, builder, signature.args[n], args[n]) for n in (2, 4, 8))
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
            value = _splat(builder, builder.load(place), lanes)
            for v in range(n_vectors):
                totals[r, v] = _multiply_add(context, builder, value, right[v], sums[r, v])
        following = builder.add(count, word(1))
        count.add_incoming(following, body)
        for place in tile:
            sums[place].add_incoming(totals[place], body)
        builder.cbranch(builder.icmp_signed("<", following, depth), body, done)
        builder.position_at_end(done)

        # the way out: whole vectors, or as many of their lanes as there are columns
        suffix = f"{_suffix(context, vector)}.p0"
        bits = ir.VectorType(ir.IntType(1), lanes)
        masked_load = _declare(
            builder, f"llvm.masked.load.{suffix}", vector, [vector.as_pointer(), I32, bits, vector]
        )
        masked_store = _declare(
            builder, f"llvm.masked.store.{suffix}", ir.VoidType(),
            [vector, vector.as_pointer(), I32, bits],
        )  # fmt: skip
        numbers = ir.Constant(ir.VectorType(word, lanes), [word(n) for n in range(lanes)])
        masks = [
            builder.icmp_signed(
                "<", numbers, _splat(builder, builder.sub(columns, word(v * lanes)), lanes)
            )
            for v in range(n_vectors)
        ]
        adds = _splat(builder, builder.icmp_signed("!=", accumulate, accumulate.type(0)), lanes)
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
        source = _Array(context, builder, signature.args[0], x)
        target = _Array(context, builder, signature.args[3], y)
        vector = ir.VectorType(source.data.type.pointee, 8)

        def place(matrix: _Array, start: Any, stride: Any, row: int) -> Any:
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


@intrinsic
def prefetch(typingctx: Any, x: Any, row: Any, column: Any) -> Any:
    """Ask for the cache line of x[row, column], which will be read soon, in the second-level cache.

    Many more lines can be on their way to it than to the first level.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _Array(context, builder, signature.args[0], args[0]).pointer(args[1], args[2])
        void = cgutils.voidptr_t
        function = _declare(builder, "llvm.prefetch.p0", ir.VoidType(), [void, I32, I32, I32])
        builder.call(function, [builder.bitcast(pointer, void), I32(0), I32(2), I32(1)])
        return context.get_dummy_value()

    return types.void(x, types.intp, types.intp), codegen


@intrinsic(prefer_literal=True)
def stream_piece(typingctx: Any, size: Any, piece: Any, target: Any, j: Any) -> Any:
    """target[j : j + size] = piece[:size], past the caches; `size` is a literal of whole lines.

    target[j] must begin a line. A `fence` has to follow before another thread reads the target.
    """
    if not isinstance(size, types.IntegerLiteral):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source = _Array(context, builder, signature.args[1], args[1])
        target = _Array(context, builder, signature.args[2], args[2])
        lanes = LINE_BYTES // source.size
        line = ir.VectorType(source.data.type.pointee, lanes).as_pointer()
        for start in range(0, size.literal_value, lanes):
            place = builder.gep(source.data, [I64(start)])
            value = builder.load(builder.bitcast(place, line))
            value.align = source.size
            place = target.pointer(builder.add(args[3], I64(start)))
            store = builder.store(value, builder.bitcast(place, line), align=LINE_BYTES)
            store.set_metadata("nontemporal", builder.module.add_metadata([I32(1)]))
        return context.get_dummy_value()

    return types.void(size, piece, target, types.intp), codegen


@intrinsic
def fence(typingctx: Any) -> Any:
    """Finish all stores before any that follow."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def multiply_add(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c of numbers of one dtype: the fused instruction where the processor has one.

    In a kernel without fast-math it is the only way to get that instruction, and is rounded in the
    same way in vectors as in what a loop leaves over. (`llvm.fma` would call a function of the C
    library for each number where there is no instruction.)
    """
    if not (a == b == c and isinstance(a, types.Float)):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _multiply_add(context, builder, *args)

    return a(a, b, c), codegen


@intrinsic
def exp_of_nonpositive(typingctx: Any, x: Any) -> Any:
    """e**x for x <= 0, to the last digit or so; 0 where that is below the normal numbers.

    The same bits as a vector and as a single number, in kernels without fast-math.

    x = n ln 2 + r with |r| <= ln(2) / 2; e**r by Taylor's series and 2**n by its bits. Unlike
    `math.exp` it is plain arithmetic, which vectorizes.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (x,) = args
        number = x.type
        double = signature.args[0] == types.float64
        bits, mantissa, lowest, degree = (I64, 52, -1022, 13) if double else (I32, 23, -126, 7)
        high = 0.693147180369123816490 if double else 0.693359375  # of ln 2, with spare low bits
        low = 1.90821492927058770002e-10 if double else -2.12194440e-4
        smallest = number(lowest * math.log(2.0))
        in_range = builder.fcmp_ordered(">=", x, smallest)  # False for a NaN
        n = _multiply_add(context, builder, x, number(1.0 / math.log(2.0)), number(-0.5))
        # cut to an integer, which rounds x / ln 2: an instruction on vectors of every processor,
        # which `llvm.floor` is not, and of 32 bits, since 64 are no such instruction before AVX-512
        whole = builder.fptosi(builder.select(in_range, n, number(0.0)), I32)
        n = builder.sitofp(whole, number)
        r = _multiply_add(context, builder, n, number(-high), x)
        r = _multiply_add(context, builder, n, number(-low), r)
        power = number(1.0 / math.factorial(degree))
        for k in range(degree - 1, -1, -1):
            power = _multiply_add(context, builder, power, r, number(1.0 / math.factorial(k)))
        exponent = builder.add(builder.sext(whole, bits) if double else whole, bits(1 - lowest))
        scale = builder.bitcast(builder.shl(exponent, bits(mantissa)), number)
        result = builder.fmul(power, scale)
        return builder.select(builder.fcmp_ordered("<", x, smallest), number(0.0), result)

    return x(x), codegen


# Of the control word of x86's vector unit: take denormal operands for zero, and make none.
DENORMALS_ARE_ZERO, FLUSH_TO_ZERO = 1 << 6, 1 << 15


@intrinsic
def flush_denormals(typingctx: Any) -> Any:
    """Compute without denormals in this thread from here on; the result is the mode before.

    On x86, where an operation on one may take a hundred cycles. ARM's cores need no help.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not IS_X86:
            return I32(0)
        place = cgutils.alloca_once(builder, I32)
        pointer = builder.bitcast(place, ir.IntType(8).as_pointer())
        store = _declare(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), [pointer.type])
        builder.call(store, [pointer])
        before = builder.load(place)
        _set_mode(builder, builder.or_(before, I32(DENORMALS_ARE_ZERO | FLUSH_TO_ZERO)))
        return before

    return types.int32(), codegen


@intrinsic
def restore_denormals(typingctx: Any, mode: Any) -> Any:
    """Go back to the mode that `flush_denormals` found."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if IS_X86:
            _set_mode(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int32), codegen


def _set_mode(builder: Any, mode: Any) -> None:
    place = cgutils.alloca_once_value(builder, mode)
    pointer = builder.bitcast(place, ir.IntType(8).as_pointer())
    load = _declare(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), [pointer.type])
    builder.call(load, [pointer])


def _at(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return _Array(context, builder, signature.args[0], args[0]).pointer(args[1])


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
        builder.call(_declare(builder, name, I32, []), [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def ticks(typingctx: Any) -> Any:
    """Time in units of the processor's own: the time stamp counter, which all cores share."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _ticks(builder)

    return types.int64(), codegen


def _ticks(builder: Any) -> Any:
    kind = ir.FunctionType(I64, [])
    if IS_ARM:  # LLVM's own counter is not for programs there
        return builder.asm(kind, "mrs $0, cntvct_el0", "=r", [], True)
    return builder.call(
        cgutils.get_or_insert_function(builder.module, kind, "llvm.readcyclecounter"), []
    )


@intrinsic
def mark(typingctx: Any, log: Any, place: Any) -> Any:
    """Note in the log that `place` ends now. Where the log is None this is no instruction at all.

    The log is (1 + entries, 2) int64: log[0, 0] counts marks, those for which there was no room
    too, and the others are in turn (ticks, place).
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if isinstance(signature.args[0], types.NoneType):
            return context.get_dummy_value()
        array = context.make_array(signature.args[0])(context, builder, args[0])
        count = builder.add(builder.load(array.data), I64(1))
        builder.store(count, array.data)
        entries = builder.extract_value(array.shape, 0)
        with builder.if_then(builder.icmp_signed("<", count, entries), likely=True):
            entry = builder.gep(array.data, [builder.mul(count, I64(2))])
            builder.store(_ticks(builder), entry)
            builder.store(args[1], builder.gep(entry, [I64(1)]))
        return context.get_dummy_value()

    return types.void(log, types.int64), codegen


if DISABLED:
    from fastbn.jit.intrinsics_python import (  # noqa: F401
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
