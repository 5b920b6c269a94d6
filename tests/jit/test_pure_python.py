"""Run the kernels' tests without the compiler: they must execute every line of every kernel."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest
from cases import JIT_DISABLED

ROOT = pathlib.Path(__file__).parents[2]

# The test files that call kernels, directly or through the API and the model.
FILES = [
    "kernels/test_addresses.py",
    "functional/test_batchnorm.py",
    "kernels/test_batchnorm_docs.py",
    "kernels/test_elementwise.py",
    "kernels/test_gemm.py",
    "functional/test_losses.py",
    "functional/test_optimizers.py",
    "functional/test_preprocessing.py",
    "functional/test_running.py",
    "kernels/test_public_kernels.py",
    "kernels/test_refused_steps.py",
    "kernels/test_streams.py",
    "kernels/test_training_steps.py",
]


@pytest.mark.skipif(JIT_DISABLED, reason="this is the second pass")
def test_every_kernel_line_is_covered_without_the_compiler(tmp_path):
    pytest.importorskip("coverage", reason="the second pass needs coverage")
    environment = {
        **os.environ,
        "NUMBA_DISABLE_JIT": "1",
        "COVERAGE_FILE": str(tmp_path / "coverage"),
    }

    def coverage(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "coverage", *arguments],
            cwd=ROOT, env=environment, capture_output=True, text=True,
        )  # fmt: skip

    files = [str(ROOT / "tests" / name) for name in FILES]
    options = ["-q", "-p", "no:cacheprovider", "-k", "not float64"]  # float32 runs the same lines
    done = coverage("run", "-m", "pytest", *options, *files)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    report = coverage("report", "--show-missing", "--fail-under=100")
    assert report.returncode == 0, report.stdout
    assert "train_step.py" in report.stdout
