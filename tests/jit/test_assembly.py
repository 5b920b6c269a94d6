"""Check the machine code of every hot kernel: a loop that does not vectorize is a bug."""

from __future__ import annotations

import gzip
import hashlib
import platform
import re

import numpy as np
import pytest
from cases import JIT_DISABLED
from kept import kept_folder
from llvmlite import binding

from fastbn.files.atomic import atomic_write
from fastbn.kernels import (
    activations,
    batchnorm_cn,
    batchnorm_nc,
    batchnorm_nc_blocks,
    batchnorm_nc_rows,
    batchnorm_weighted,
    elementwise,
    gemm,
    losses,
    optimizers,
    preprocessing,
    reductions,
    running,
    statistics_cn,
    statistics_nc,
    tensors,
)
from fastbn.kernels.batchnorm_formulas import Norm

pytestmark = [
    pytest.mark.compiles,
    pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled"),
    pytest.mark.skipif(
        platform.machine() not in ("x86_64", "AMD64", "aarch64", "arm64"),
        reason=f"no patterns of vector instructions for {platform.machine()}",
    ),
    # a kernel that was loaded from disk cannot be disassembled, so these are compiled anew
    pytest.mark.filterwarnings("error:Inspection disabled"),
]

X86 = platform.machine() in ("x86_64", "AMD64")

if platform.machine() == "arm64":  # by default, assembly on macOS reads fmla.4s v0, v1, v2
    binding.set_option("", "--aarch64-neon-syntax=generic")

# Packed float32 and float64 arithmetic, by operation. On x86 "ps" and "pd" are packed, "ss" and
# "sd" scalar; on ARM the name of a vector register is followed by its lanes.
PACKED = {
    "multiply": (r"v?mulp[sd]|vfn?m(?:add|sub)\d+p[sd]", r"fml[as]|fn?m(?:ad|sb|ls|ul)"),
    "add": (
        r"v?(?:add|sub)p[sd]|vfn?m(?:add|sub)\d+p[sd]",
        r"fadd|fsubr?|fml[as]|fn?m(?:ad|sb|ls)",
    ),
    "divide": (r"v?divp[sd]|v?rcp\d*p[sd]", r"fdivr?"),
    "root": (r"v?r?sqrt\d*p[sd]", r"fr?sqrt[es]?"),
    "compare": (r"v?(?:cmp\w*|max|min)p[sd]", r"f(?:cm|max|min)\w+"),
    "round": (r"v?cvttp[sd]2\w+", r"fcvtzs"),  # part of an exponential
    "stream": (r"v?movnt(?:p[sd]|dq)", r"stnp"),
}

# The first operand on ARM: a vector of NEON or SVE, a mask of SVE, or a vector to store.
FIRST_OPERAND = {
    np.float32: r"v\d+\.(?:4s|2d)|[zp]\d+\.[sd]|q\d+",
    np.float64: r"v\d+\.2d|[zp]\d+\.d|q\d+",
}


def packed(operation, dtype):
    """Return the pattern of an operation, packed in the dtype of the arrays or in float64."""
    x86, arm = PACKED[operation]
    pattern = x86.replace("[sd]", "d" if dtype is np.float64 else "[sd]")
    if not X86:
        pattern = rf"(?:{arm})\s+(?:{FIRST_OPERAND[dtype]})"
    return re.compile(rf"^\s*(?:{pattern})\b", flags=re.MULTILINE)


# Calls that numba makes to count references to arrays.
COUNTING = re.compile(r"NRT_(?:incref|decref|\w*[Aa]lloc)")

f, i8 = np.float32, np.int64


def arrays(dtype):
    """Return (kernel, arguments, what must be packed) for every kernel and one dtype."""
    s = dtype(0.5)
    row, vec = np.ones(2000, dtype), np.ones(8, dtype)
    x = np.ones((64, 8), dtype)
    narrow, near = np.ones((64, 96), dtype), np.ones(96, dtype)
    batch = np.ones((1, 8, 64), dtype)
    labels, weight = np.zeros(64, i8), np.ones(64, dtype)
    f64 = np.ones(8)
    flat = [np.ones(2000, dtype) for _ in range(4)]
    bn, nc, bw = batchnorm_cn, batchnorm_nc, batchnorm_weighted
    blocks, rows = batchnorm_nc_blocks, batchnorm_nc_rows
    norm, norms = Norm(s, s, s, s), Norm(vec, vec, vec, vec)
    both = np.ones((2, 8), dtype)
    fma, select = {"multiply", "add"}, {"multiply", "compare"}
    key = np.uint32(5)
    return [
        (reductions.block_sum, (row,), {"add"}),
        (reductions.block_moments, (row, s), fma),
        (reductions.block_square_sum, (row,), fma),
        (reductions.row_moments_wide, (row, s), fma),
        (activations.affine_activation, (row, s, s, s, s, row.copy()), fma | select),
        (
            activations.bias_activation_forward_cn,
            (x, np.ones(64, dtype), s, 0, 64, x.copy()),
            select,
        ),
        (
            activations.bias_activation_backward_cn,
            (x, x.copy(), np.ones(64, dtype), s, 0, 64, x.copy(), np.ones(64, dtype)),
            select,
        ),
        (
            activations.stream_affine_activation,
            (row, s, s, s, s, row.copy()),
            fma | select | {"stream"},
        ),
        (activations.dropout, (row, 0, 0.5, key), {"multiply"}),
        (
            elementwise.elementwise_forward,
            (elementwise.TANH, row),
            {"multiply", "divide", "compare"},
        ),
        (
            elementwise.elementwise_backward,
            (elementwise.TANH, row, s, s, s, row.copy()),
            fma | {"divide"},
        ),
        (bn.block_gradient_sums, (row, row.copy(), norm, s), fma | select),
        (bn.feature_gradient_input, (row, row.copy(), norm, s, s, s, row.copy()), fma | select),
        (
            bn.stream_gradient_input,
            (row, row.copy(), norm, s, s, s, row.copy()),
            fma | select | {"stream"},
        ),
        (statistics_cn.statistics_cn, (batch, 0, 8, vec, vec.copy(), vec.copy()), fma),
        (
            bn.batch_norm_forward_cn,
            (batch, norms, s, s, 0, 8, batch.copy(), vec.copy()),
            fma | select,
        ),
        (
            bn.batch_norm_backward_cn,
            (batch, batch, tuple(norms), s, True, 0, 8, batch.copy(), vec, vec),
            fma | select,
        ),
        (bn.batch_norm_inference_cn, (batch, *[vec] * 4, s, s, 0, 8, batch.copy()), fma | select),
        (
            running.fold,
            (x, *[np.ones(64, dtype)] * 4, s, x.copy(), np.ones(64, dtype)),
            {"multiply"},
        ),
        (statistics_nc.chunk_moments_nc, (x, 0, vec, vec.copy(), vec.copy()), fma),
        (statistics_nc.add_rows, (x, 0, 64, vec), {"add"}),
        (statistics_nc.add_moments, (x, 0, 64, vec, vec.copy(), vec.copy()), fma),
        (statistics_nc.combine_moments_nc, (x[:1], x[1:2], x[2:3], 64, vec, f64, f64.copy()), fma),
        (nc.derive_affine_nc, (vec, vec, f64, f64, s, vec, vec, vec), {"root", "multiply"}),
        (rows.row_affine_activation, (row, *flat[:3], s, row.copy()), fma | select),
        (rows.put_affine_activation, (x, 0, vec, vec, vec, s, row[:500].copy()), fma | select),
        (
            rows.stream_affine_activation_nc,
            (x, 0, 64, vec, vec, vec, s, x.copy()),
            fma | select | {"stream"},
        ),
        (
            rows.stream_row_gradient_input,
            (row, row.copy(), Norm(*flat), s, np.ones((2, 2000), dtype), row.copy()),
            fma | select | {"stream"},
        ),
        (blocks.moments_blocks, (narrow, 0, 64, near, near.copy(), near.copy()), fma),
        (
            blocks.affine_blocks,
            (narrow, 0, 64, *[near] * 3, s, narrow.copy()),
            fma | select,
        ),
        (
            blocks.sums_blocks,
            (narrow, narrow, 0, 64, Norm(*[near] * 4), s, near.copy(), near.copy()),
            fma | select,
        ),
        (
            blocks.input_blocks,
            (narrow, narrow, 0, 64, Norm(*[near] * 4), s, np.ones((2, 96), dtype), narrow.copy()),
            fma | select,
        ),
        (
            rows.row_gradient_input,
            (row, row, Norm(*flat), s, np.ones((2, 2000), dtype), row.copy()),
            fma | select,
        ),
        (nc.chunk_affine_activation_nc, (x, 0, vec, vec, vec, s, x.copy()), fma | select),
        (
            nc.chunk_gradient_sums_nc,
            (x, x, norms, s, 0, vec.copy(), vec.copy()),
            fma | select,
        ),
        (
            nc.combine_gradient_sums_nc,
            (np.ones((2, 1, 8), dtype), 64, True, np.ones((2, 8)), both, vec, vec),
            {"add"},
        ),
        (
            nc.chunk_gradient_input_nc,
            (x, x, norms, s, 0, both, x.copy()),
            fma | select,
        ),
        (
            losses.softmax_cross_entropy_nc,
            (x, labels, weight, 0.1, x.copy()),
            # the maximum of a row is not packed: because of NaN, it may not be reordered
            {"multiply", "add", "round"},
        ),
        (
            losses.softmax_cross_entropy_cn,
            (x.T.copy(), labels, weight, 0.1, 0, 64, np.ones((3, 64), dtype), x.T.copy()),
            {"multiply", "add", "compare", "round"},
        ),
        (bw.weighted_block_moments, (row, row.copy(), s), fma),
        (bw.weighted_row_moments_wide, (row, row.copy(), np.float64(s)), fma),
        (
            bw.weighted_batch_norm_forward_cn,
            (x, vec, Norm(*np.ones((4, 64), dtype)), s, s, 0, 64, x.copy(), np.ones(64, dtype)),
            fma | select,
        ),
        (
            bw.weighted_row_gradient_input,
            (row, row.copy(), row.copy(), norm, s, s, s, row.copy()),
            fma | select,
        ),
        (
            bw.weighted_batch_norm_backward_cn,
            (
                x,
                x.copy(),
                vec,
                Norm(*np.ones((4, 64), dtype)),
                s,
                True,
                0,
                64,
                x.copy(),
                *np.ones((2, 64), dtype),
            ),
            fma | select,
        ),
        (gemm.multiply, (x, flat[0], 8, np.ones((64, 33), dtype), 0, 64), {"multiply", "add"}),
        (losses.softmax_nc, (x,), {"multiply", "divide", "round"}),
        (losses.centred_sum_of, (row, s, s), {"add"}),
        (
            losses.sigmoid_cross_entropy_cn,
            (x.T.copy(), weight, 0.1, 0, 64, x.T.copy()),
            {"divide", "round"},
        ),
        (losses.squared_loss, (row, row.copy(), row.copy()), {"multiply", "add"}),
        (losses.squared_error_cn, (x.T.copy(), weight, 0, 64, x.T.copy()), {"multiply", "add"}),
        (losses.count_agreeing_cn, (x, x.copy(), 0, 8, x[:1].copy()), {"compare"}),
        (losses.sigmoid, (row,), {"multiply", "divide", "round"}),
        (
            optimizers.adam_values,
            (*flat, (*[0.5] * 7, False, 0.5), True, 0, 2000),
            {"multiply", "add", "divide", "root"},
        ),
        (optimizers.sgd, (*flat[:3], 0.5, 0.5, 0.5, False, 0.5, 0, 2000), fma),
        (
            optimizers.rmsprop,
            (*flat[:3], *[0.5] * 5, 0, 2000),
            {"multiply", "add", "divide", "root"},
        ),
        (
            tensors.amsgrad,
            (*flat, row.copy(), (*[0.5] * 7, False, 0.5), True, 0, 2000),
            {"multiply", "add", "divide", "root", "compare"},
        ),
        (optimizers.clip_factor, (row, 0.5), fma),
        (preprocessing.min_max_fit, (x, vec, vec.copy()), {"compare"}),
        (preprocessing.scale_rows, (x, vec, vec, s, x.copy()), fma),
        (preprocessing.gather_rows, (x, labels, 0, 64, vec, vec, x.copy()), fma),
        (preprocessing.gather_panels, (x, labels, 0, 4, vec, vec, 0, 8, row), fma),
    ]


CASES = [
    pytest.param(dtype, position, id=f"{case[0].__name__}-{dtype.__name__}")
    for dtype in (np.float32, np.float64)
    for position, case in enumerate(arrays(dtype))
]


@pytest.fixture(scope="module")
def assembly(request, tmp_path_factory):
    """Return a function that returns a kernel's machine code for some arguments.

    The kernel is compiled without the cache of kernels. The text is kept, since this takes long.
    """
    folder = kept_folder(request, tmp_path_factory, "assembly")

    def text_of(kernel, arguments):
        fresh = type(kernel)(kernel.py_func, targetoptions=dict(kernel.targetoptions))
        types = tuple(fresh.typeof_pyval(argument) for argument in arguments)
        made_of = repr((kernel.__module__, kernel.__name__, [str(kind) for kind in types]))
        path = folder / f"{hashlib.sha256(made_of.encode()).hexdigest()}.gz"
        if path.exists():
            return gzip.decompress(path.read_bytes()).decode()
        fresh.compile(types)
        (signature,) = fresh.signatures
        text = fresh.inspect_asm(signature)
        with atomic_write(path, "wb") as file:
            file.write(gzip.compress(text.encode(), 1))
        return text

    return text_of


@pytest.mark.parametrize(("dtype", "position"), CASES)
def test_packed_instructions(assembly, dtype, position):
    kernel, arguments, operations = arrays(dtype)[position]
    text = assembly(kernel, arguments)
    if "inline" not in kernel.targetoptions:  # an inlined kernel is checked in its callers
        assert not COUNTING.search(text), f"{kernel.__name__} counts references"
    for operation in sorted(operations):
        assert packed(operation, dtype).search(text), f"{kernel.__name__}: no packed {operation}"


def test_a_loop_with_a_dependency_has_no_packed_arithmetic(assembly):
    """A loop with a carried dependency has no packed arithmetic, and the patterns find none."""
    import numba

    @numba.njit
    def recurrence(x):
        for i in range(1, x.size):
            x[i] = x[i] * x[i - 1] + x[i]

    recurrence.compile((recurrence.typeof_pyval(np.ones(100, f)),))
    text = recurrence.inspect_asm(recurrence.signatures[0])
    assert not packed("multiply", f).search(text)
    vec, matrix = np.ones(8, f), np.ones((64, 8), f)
    allocating = (matrix, (vec,) * 4, f(0), f(0), matrix.copy(), np.ones(8))
    assert COUNTING.search(assembly(batchnorm_nc.batch_norm_forward_nc, allocating))


# Calls that a vectorized loop may contain.
VECTORIZING = (
    "range", "prange", "min", "max", "float", "multiply_add", "exp_of_nonpositive",
    "affine_leaky_relu", "of_feature", "normalized", "activation_gradient", "gradient_input",
)  # fmt: skip


def test_every_kernel_with_a_loop_is_read():
    """A new kernel must be in the table above, or only call others of the table."""
    import ast
    import pathlib

    read = {case[0].__name__ for case in arrays(np.float32)}
    not_hot = {
        "update_running_statistics",  # a handful of values per batch
        "min_max_scale_of",
        "standard_scale_of",
        "round_to",  # the vectors of a scaling, once a call
        "are_classes",  # compares integers
        "standard_fit",  # calls moments_nc; its own loop is for features beyond float32's range
        "count_correct_cn",  # gathers by label
        "sigmoid_loss",  # takes a logarithm of each number
        "prepare_affine_nc",  # adds a vector
        "prefetch_row",  # computes nothing
        *["moments_block", "affine_block", "sums_block", "input_block"],  # parts of `..._blocks`
        "norm_in_registers",  # copies
        "pack_panels",  # copies
        "pack_slab_of_transpose",  # loops for the remainder of transpose_strip
    }
    for module in (
        activations, batchnorm_cn, batchnorm_nc, batchnorm_nc_blocks, batchnorm_nc_rows,
        batchnorm_weighted, elementwise, gemm, losses, optimizers, preprocessing, reductions,
        running, statistics_cn, statistics_nc, tensors,
    ):  # fmt: skip
        tree = ast.parse(pathlib.Path(module.__file__).read_text())
        for function in tree.body:
            if not isinstance(function, ast.FunctionDef):
                continue
            loops = [n for n in ast.walk(function) if isinstance(n, ast.For)]
            innermost = [
                loop
                for loop in loops
                if not any(isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
                           and n.func.id not in VECTORIZING
                           for n in ast.walk(loop))
            ]  # fmt: skip
            if innermost:
                assert function.name in read | not_hot, f"{function.name} is not read"
