"""Kernels compiled for other processors than this one are right and consistent to the bit.

Numba compiles for the processor that NUMBA_CPU_NAME and NUMBA_CPU_FEATURES name. One process per
level runs the tests of kernels against the oracle and those of equal bits. The process keeps its
kernels beside those for this processor, which the rest of the suite runs.
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

pytestmark = [
    pytest.mark.compiles,
    pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled"),
    pytest.mark.skipif(
        platform.machine() not in ("x86_64", "AMD64"), reason="levels of x86-64 processors"
    ),
]

TESTS = pathlib.Path(__file__).parents[1]

# Every kernel, by the functions and models that call it.
FILES = [
    "kernels/test_same_bits.py",
    "functional/test_batchnorm.py",
    "kernels/test_streams.py",
    "kernels/test_addresses.py",
    "functional/test_running.py",
    "functional/test_losses.py",
    "functional/test_optimizers.py",
    "functional/test_preprocessing.py",
    "kernels/test_elementwise.py",
    "kernels/test_gemm.py",
    "kernels/test_training_steps.py",
]

# Left out: parallel kernels, which give the bits of serial ones (test_same_bits.py), and training
# steps on bytes, which differ in the gathering of rows only (test_rows_of_bytes).
SELECTION = "not parallel and not uint8-float32"

V3 = [
    "sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "cx16", "sahf", "avx", "avx2", "bmi", "bmi2",
    "f16c", "fma", "lzcnt", "movbe", "xsave",
]  # fmt: skip
V4 = [*V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]

# By LLVM's name: features beyond plain x86-64, rows of a tile of `fastbn.kernels.gemm`, and whether
# machine code uses FMA and the registers of AVX-512.
LEVELS = {
    "generic": ([], "1 False False"),
    "x86-64-v3": (V3, "2 True False"),
    "x86-64-v4": (V4, "8 True True"),
}


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


@pytest.fixture(scope="module", params=LEVELS)
def level(request):
    """A level, and the process that has compiled and run its kernels."""
    wanted, _ = LEVELS[request.param]
    has = binding.get_host_cpu_features()
    missing = [feature for feature in wanted if not has.get(feature)]
    if missing:
        pytest.skip(f"this processor cannot run {request.param}: it has no {', '.join(missing)}")
    environment = {
        **os.environ,
        "NUMBA_CPU_NAME": request.param,
        "NUMBA_CPU_FEATURES": ",".join(f"+{feature}" for feature in wanted),
        "NUMBA_NUM_THREADS": "3",
    }
    options = ["-n", "0", "-q", "-x", "-p", "no:cacheprovider", "-k", SELECTION]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *options, *(str(TESTS / name) for name in FILES)],
        cwd=TESTS.parent, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    return request.param, done


def test_code_is_for_the_level(level):
    name, done = level
    assert done.stdout.split("\n")[0] == LEVELS[name][1], done.stdout[-5000:]


def test_every_kernel(level):
    _, done = level
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout
    assert " failed" not in done.stdout
