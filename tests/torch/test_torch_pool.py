"""fastbn's modules run on PyTorch's threads, whichever library was imported first."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
import torch

from fastbn.parallel import dispatch
from fastbn.torch import _functions

linux = pytest.mark.skipif(
    not os.path.isdir("/proc/self/task"), reason="threads are counted under /proc"
)


def run_python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()


FASTBN_FIRST = """
import numpy as np, fastbn
fastbn.batch_norm(np.random.default_rng(0).standard_normal((700, 300)))
"""

USE_BOTH = """
import os, torch
x = torch.randn(600, 600, requires_grad=True)
torch.mm(x, x).sum().backward()  # PyTorch has its threads now
import fastbn.torch
before = len(os.listdir("/proc/self/task"))
model = torch.nn.Sequential(
    torch.nn.Linear(600, 600), torch.nn.BatchNorm1d(600), torch.nn.ReLU(), torch.nn.Linear(600, 9)
)
fastbn.torch.accelerate(model, verbose=False)
optimizer = fastbn.torch.AdamW(model.parameters())
images = fastbn.torch.BatchNorm2d(8)
for _ in range(3):
    (model(x).square().mean() + images(x.view(50, 8, 30, 30)).square().mean()).backward()
    optimizer.step()
with torch.no_grad():
    images.eval()(x.view(50, 8, 30, 30))
"""

COUNT = """
print(len(os.listdir("/proc/self/task")) - before)
from numba.np.ufunc import parallel
print(parallel._is_initialized)
"""

FORK = """
import warnings
warnings.simplefilter("ignore")  # a fork of a process with threads
norm = fastbn.torch.BatchNorm1d(600)
y = norm(x)
child = os.fork()
if child == 0:
    torch.set_num_threads(1)  # as PyTorch's own workers do
    os._exit(0 if torch.equal(norm(x), y) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@linux
@pytest.mark.parametrize("first", ["", FASTBN_FIRST], ids=["PyTorch first", "fastbn first"])
def test_no_threads_but_pytorchs_and_a_forked_child_computes_the_same(first):
    exec(FASTBN_FIRST + USE_BOTH, {})  # compile now, since compiling would start threads
    threads, layer, child = run_python(
        first + USE_BOTH + COUNT + FORK,
        OMP_NUM_THREADS="3", OMP_WAIT_POLICY="passive",  # do not spin on the cores of other tests
    )  # fmt: skip
    assert threads == "0"
    assert layer == str(bool(first)), "numba's own pool is for the NumPy functions"
    assert child == "0"


def threads_that_worked(monkeypatch, numbers):
    """Return how many threads a kernel gets, by PyTorch's setting."""
    seen = []
    real = _functions.train_at
    monkeypatch.setattr(_functions, "train_at", lambda *a: seen.append(a[2]) or real(*a))
    module = _functions.BatchNormTraining
    arguments = _functions.NormArguments(1e-5, 1.0, 0.0, None, None, None)
    module.apply(torch.randn(numbers // 64, 64), *[None] * 4, arguments)
    return seen.pop()


def test_as_many_threads_as_pytorch_has(monkeypatch):
    before = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert threads_that_worked(monkeypatch, 1 << 16) == count
            assert threads_that_worked(monkeypatch, 1 << 14) == 1, "little work is for one"
    finally:
        torch.set_num_threads(before)


def test_a_forked_child_computes_alone(monkeypatch):
    """GNU OpenMP's threads do not exist in a forked child."""
    monkeypatch.setattr(dispatch, "_forked", True)
    assert threads_that_worked(monkeypatch, 1 << 16) == 1


def test_without_a_pool_large_tensors_are_for_pytorch(monkeypatch):
    """If PyTorch uses another OpenMP, its own code is faster, since it has several threads."""
    from fastbn.torch import _modules

    monkeypatch.setattr(_functions, "POOL", _functions.NO_POOL)
    seen = []
    real = _modules.FastBatchNorm._by_pytorch
    monkeypatch.setattr(
        _modules.FastBatchNorm, "_by_pytorch", lambda self, *x: seen.append(x) or real(self, *x)
    )
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        _modules.BatchNorm1d(256)(torch.randn(256, 256))
        assert len(seen) == 1
        torch.set_num_threads(1)
        _modules.BatchNorm1d(256)(torch.randn(256, 256))
        _modules.BatchNorm1d(128)(torch.randn(128, 128))
        assert len(seen) == 1
    finally:
        torch.set_num_threads(before)
