"""Kernels compiled for ARM (aarch64) have packed instructions. Their code is read, but never run.

LLVM compiles for ARM on any processor (tests/helpers/aarch64.py). So these tests need no ARM
machine, and say nothing about results or speed on one.
"""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest
from cases import JIT_DISABLED
from llvmlite import binding
from own_process import run_python


def has_target():
    binding.initialize_all_targets()
    try:
        binding.Target.from_triple("aarch64-unknown-linux-gnu")
    except RuntimeError:
        return False
    return True


pytestmark = [
    pytest.mark.compiles,
    pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled"),
    pytest.mark.skipif(not has_target(), reason="this llvmlite cannot compile for ARM"),
]

# Kernels of test_assembly.py: products, batch norm of both layouts, dropout, Adam, exponentials.
KERNELS = [
    "multiply", "chunk_affine_activation_nc", "chunk_gradient_sums_nc", "batch_norm_backward_cn",
    "stream_affine_activation", "dropout", "adam_values", "elementwise_forward", "softmax_nc",
]  # fmt: skip

LANES = {"float32": "4s", "float64": "2d"}

# Processors with NEON only, and with SVE, too, which LLVM uses for loops but not for tiles.
PROCESSORS = {
    "neon": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "+neon"},
    "sve": {"NUMBA_CPU_NAME": "neoverse-v1", "NUMBA_CPU_FEATURES": "+neon,+sve"},
}

PATHS = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # tests/helpers is one of them


@pytest.mark.parametrize("processor", PROCESSORS)
def test_packed_instructions(processor, request):
    """test_assembly.py finds packed instructions in code for ARM, too.

    The code is kept in pytest's cache, in a folder for each processor.
    """
    names = [f"{kernel}-{dtype}" for kernel in KERNELS for dtype in LANES]
    chosen = [f"test_assembly.py::test_packed_instructions[{name}]" for name in names]
    cache = ["-p", "no:cacheprovider"]
    if getattr(request.config, "cache", None) is not None:
        cache = ["-o", f"cache_dir={request.config.cache.mkdir('fastbn-arm') / processor}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "aarch64", "-n", "0", "-q", *cache, *chosen],
        cwd=pathlib.Path(__file__).parent, env={**os.environ, **PATHS, **PROCESSORS[processor]},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
    assert f"{len(names)} passed" in done.stdout


# Prints the code of a product.
CODE = """
import aarch64
import numpy as np
from fastbn.kernels.gemm import multiply
kernel = type(multiply)(multiply.py_func, targetoptions=dict(multiply.targetoptions))
x = np.ones((64, 8), "{0}")
arguments = x, x[0], 8, x, 0, 64
kernel.compile(tuple(map(kernel.typeof_pyval, arguments)))
print(kernel.inspect_asm(kernel.signatures[0]))
"""


def loops(assembly):
    """Yield the text of each loop without branches inside."""
    label, body = None, []
    for line in assembly.splitlines():
        if found := re.match(r"(\.\w+):", line):
            label, body = found[1], []
        elif label and re.match(r"\s+[a-z]", line):
            body.append(line.strip())
            if line.split()[-1] == label:  # a branch back
                yield "\n".join(body)


@pytest.mark.parametrize("dtype", LANES)
def test_tiles_stay_in_registers(dtype):
    """The loops of `multiply_tile` load operands; they neither use the stack nor call functions."""
    assembly = run_python(CODE.format(dtype), **PATHS, **PROCESSORS["neon"])
    tiles = [loop for loop in loops(assembly) if "fmla" in loop]
    assert len(tiles) == 4  # many rows or few, by one vector or two
    # multiply-adds of a vector and one number
    packed = rf"fmla\s+v\d+\.{LANES[dtype]}, v\d+\.{LANES[dtype]}, v\d+\.[sd]\[0\]"
    products = [len(re.findall(packed, loop)) for loop in tiles]
    for loop, count in zip(tiles, products, strict=True):
        assert not re.search(r"^(?:st|bl)|\[sp", loop, flags=re.MULTILINE), loop
        # a load for each row and each vector; steps, a test and a branch
        assert len(re.findall(r"^ld", loop, flags=re.MULTILINE)) <= count + 1, loop
        assert len(loop.splitlines()) <= 2 * count + 5, loop
    # more sums in the largest tile than four units times four cycles of a multiply-add
    assert max(products) == 24
