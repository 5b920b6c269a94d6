"""Fixtures and hooks of all tests."""

from __future__ import annotations

import os
import signal

import pytest

# Threads of OpenBLAS and OpenMP spin while they wait, on cores that other tests need. Both read
# these variables when NumPy and PyTorch are imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
from cases import JIT_DISABLED, WORST, note_error

try:
    import fcntl
except ImportError:  # no such system
    fcntl = None

# A background job of a shell ignores Ctrl-C, which some tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if JIT_DISABLED:
    # compiled loops raise no floating-point warnings, so ignore them in plain Python, too
    np.seterr(all="ignore")


def pytest_collection_modifyitems(items):
    """Put long compilation first, so that workers finish together, and timing last."""
    compiling = {item.path for item in items if item.get_closest_marker("compiles")}
    timing = {item.path for item in items if item.get_closest_marker("timing")}
    items.sort(key=lambda item: (item.path in timing, item.path not in compiling))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    """Let a test that measures time run while no other worker of pytest-xdist runs one."""
    if fcntl is None or not hasattr(item.config, "workerinput"):
        return (yield)
    alone = item.get_closest_marker("timing") is not None
    with open(__file__) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        try:
            return (yield)
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # also if a forked child is still running


def pytest_sessionfinish(session):
    """Pass the errors that a worker of pytest-xdist measured to the main process."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["worst"] = WORST


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """Collect the errors that a worker measured."""
    for of, worst in getattr(node, "workeroutput", {}).get("worst", {}).items():
        note_error(of, worst)


def pytest_terminal_summary(terminalreporter):
    """Print the largest errors against the oracle, which docs/design.md quotes."""
    if WORST:
        terminalreporter.section("largest errors against the oracle")
        for of, error in sorted(WORST.items()):
            terminalreporter.write_line(f"{of}: {error:.2g}")


@pytest.fixture
def rng():
    return np.random.default_rng(20261123)


@pytest.fixture(params=["serial", "parallel"])
def both_paths(request, monkeypatch):
    """Run a test twice, with all arrays below the threshold of parallel kernels and all above."""
    from fastbn.parallel import dispatch

    threshold = 0 if request.param == "parallel" else 1 << 62
    monkeypatch.setattr(dispatch, "PARALLEL_ELEMENTS", threshold)
    return request.param


@pytest.fixture(scope="session")
def fashion_mnist():
    if not os.environ.get("FASTBN_DATA"):
        pytest.skip("FASTBN_DATA does not name a folder with Fashion-MNIST")
    from fastbn.datasets import load_fashion_mnist

    return load_fashion_mnist()
