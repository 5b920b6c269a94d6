"""Kernels compiled for other processors than this one are right and consistent to the bit.

FASTBN_ISA limits kernels to a level of the processor. One process per level runs the tests of
kernels against the oracle and those of equal bits; on plain x86-64 (sse2), which few processors
need, those of most kernels in float32. For the processor's own level, which the rest of the suite
tests with the settings for this processor, it runs those of products in float32. The process keeps
its kernels beside those for this processor.
"""

from __future__ import annotations

import os
import pathlib
import platform
import subprocess
import sys

import pytest
from cases import JIT_DISABLED
from llvmlite import binding

from fastbn.jit import isa

pytestmark = [
    pytest.mark.compiles,
    pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled"),
    pytest.mark.skipif(
        platform.machine() not in ("x86_64", "AMD64"), reason="levels of x86-64 processors"
    ),
]

TESTS = pathlib.Path(__file__).parents[1]

PRODUCTS = "kernels/test_gemm.py"

# Every kernel, by the functions and models that call it.
FILES = [
    "kernels/test_same_bits.py",
    "functional/test_batchnorm.py",
    "functional/test_running.py",
    "functional/test_losses.py",
    "functional/test_optimizers.py",
    "functional/test_preprocessing.py",
    "kernels/test_elementwise.py",
    PRODUCTS,
]

TRAINING = "kernels/test_training_steps.py"

# Tests that plain x86-64 does not run, except for training in float32.
MORE = ["kernels/test_streams.py", "kernels/test_addresses.py", TRAINING]

# Left out: parallel kernels, which give the bits of serial ones (test_same_bits.py), and training
# steps on bytes, which differ in the gathering of rows only (test_rows_of_bytes).
SELECTION = "not parallel and not uint8-float32"
FLOAT32 = f"{SELECTION} and not float64 and not finite_differences"

# By level: rows of a tile of `fastbn.kernels.gemm`, and whether machine code uses FMA and the
# registers of AVX-512.
LEVELS = {"sse2": "6 False False", "avx2": "6 True False", "avx512": "8 True True"}


# Prints what the code for a level has, and runs tests.
CODE = """
import sys
import numpy as np
import pytest
from fastbn.jit.intrinsics import TILE_ROWS
from fastbn.kernels.gemm import multiply
kernel = type(multiply)(multiply.py_func, targetoptions=dict(multiply.targetoptions))
kernel(np.ones((9, 8), "f4"), np.ones(2000, "f4"), 8, np.ones((9, 33), "f4"), 0, 9)
text = kernel.inspect_asm(kernel.signatures[0])
print(TILE_ROWS, "vfmadd" in text, "zmm" in text, flush=True)
sys.exit(pytest.main(sys.argv[1:]))
"""


def can_run(level):
    features = binding.get_host_cpu_features()
    return all(features.get(feature) for feature in isa.LEVELS[level][1])


OWN = [name for name in LEVELS if can_run(name)][-1]


@pytest.fixture(scope="module", params=LEVELS)
def level(request):
    """A level, and the process that has compiled and run its kernels."""
    if not can_run(request.param):
        pytest.skip(f"this processor cannot run {request.param}")
    if request.param == OWN:
        files, selection = [PRODUCTS], FLOAT32
    elif request.param == "sse2":
        files, selection = [*FILES, f"{TRAINING}::test_float32"], FLOAT32
    else:
        files, selection = [*FILES, *MORE], SELECTION
    environment = {**os.environ, isa.VARIABLE: request.param, "NUMBA_NUM_THREADS": "3"}
    options = ["-n", "0", "-q", "-x", "-p", "no:cacheprovider", "-k", selection]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *options, *(str(TESTS / name) for name in files)],
        cwd=TESTS.parent, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    return request.param, done


def test_code_is_for_the_level(level):
    name, done = level
    assert done.stdout.split("\n")[0] == LEVELS[name], done.stdout[-5000:]


def test_every_kernel(level):
    _, done = level
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout
    assert " failed" not in done.stdout
