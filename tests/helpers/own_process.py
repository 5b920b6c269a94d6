"""Run Python in a new process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap


def python_process(code, cwd=None, **environment):
    """Run `code` in a new process; return the finished process. A failure is an error."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        cwd=cwd,
        env={**os.environ, **environment},
    )


def run_python(code, cwd=None, **environment):
    """Run `code` in a new process; return its standard output."""
    return python_process(code, cwd, **environment).stdout


# Print whether a kernel is compiled, for two dtypes.
ANNOUNCED = """
    import logging, sys, numpy as np, fastbn
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    from fastbn.jit import listeners
    calls = []
    with listeners.on_compile(lambda: calls.append(1)):
        for dtype in (np.float32, np.float64):
            fastbn.fold_batch_norm(np.ones((2, 2), dtype), None, None, [0.0] * 2, [1.0] * 2)
    print(len(calls))
"""
