"""Kernels compiled for other processors than this one are right and consistent to the bit.

Numba compiles for the processor that NUMBA_CPU_NAME and NUMBA_CPU_FEATURES name. Each level has its
own processes, which run the tests of kernels against the oracle and those of equal bits. Their
kernels are cached beside those for this processor, which the rest of the suite uses.
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

# Test files that together call every kernel. Each group runs in one process, which must not take
# longer than a test may.
FILES = {
    "bits": ["kernels/test_same_bits.py"],
    "oracle": [
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
    ],
}

# Parallel kernels are left out: they give the same bits as serial ones (test_same_bits.py).
SELECTION = "not parallel"

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


def run_for(level, *arguments):
    """Run Python with these arguments, with kernels for a level; return what it prints."""
    wanted, _ = LEVELS[level]
    has = binding.get_host_cpu_features()
    missing = [feature for feature in wanted if not has.get(feature)]
    if missing:
        pytest.skip(f"this processor cannot run {level}: it has no {', '.join(missing)}")
    environment = {
        **os.environ,
        "NUMBA_CPU_NAME": level,
        "NUMBA_CPU_FEATURES": ",".join(f"+{feature}" for feature in wanted),
        "NUMBA_NUM_THREADS": "3",
    }
    done = subprocess.run(
        [sys.executable, *arguments], cwd=TESTS.parent, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


CODE = """
import numpy as np
from fastbn.jit.intrinsics import TILE_ROWS
from fastbn.kernels.gemm import multiply
kernel = type(multiply)(multiply.py_func, targetoptions=dict(multiply.targetoptions))
kernel(np.ones((9, 8), "f4"), np.ones(2000, "f4"), 8, np.ones((9, 33), "f4"), 0, 9)
text = kernel.inspect_asm(kernel.signatures[0])
print(TILE_ROWS, "vfmadd" in text, "zmm" in text)
"""


@pytest.mark.parametrize("level", LEVELS)
def test_code_is_for_the_level(level):
    assert run_for(level, "-c", CODE).strip() == LEVELS[level][1]


@pytest.mark.parametrize("part", FILES)
@pytest.mark.parametrize("level", LEVELS)
def test_every_kernel(level, part):
    files = [str(TESTS / name) for name in FILES[part]]
    options = ["-n", "0", "-q", "-x", "-p", "no:cacheprovider", "-k", SELECTION]
    output = run_for(level, "-m", "pytest", *options, *files)
    assert " passed" in output
    assert " failed" not in output
