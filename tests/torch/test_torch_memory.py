"""Large tensors use large pages if the system has them."""

from __future__ import annotations

import pathlib
import re
import sys

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
import torch

from fastbn.torch import BatchNorm2d, _functions, _memory

ROWS = _memory.LARGE // 4 // 1000 + 1  # treat a tensor of 1,000 numbers as large
SETTING = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.parametrize("make", [lambda: torch.zeros(ROWS, 1000), lambda: torch.zeros(3, 4).t()])
def test_it_is_like_torchs(make):
    x = make()
    ours, theirs = _memory.empty_like(x), torch.empty_like(x)
    assert (ours.shape, ours.stride(), ours.dtype) == (theirs.shape, theirs.stride(), theirs.dtype)
    assert not ours.requires_grad


def test_only_whole_pages_of_large_tensors_are_advised(monkeypatch):
    asked = []
    monkeypatch.setattr(_memory, "_madvise", lambda *given: asked.append(given))
    monkeypatch.setattr(_memory.mmap, "MADV_HUGEPAGE", 14, raising=False)
    _memory.empty_like(torch.zeros(1000))
    assert asked == []
    y = _memory.empty_like(torch.zeros(ROWS, 1000))
    ((start, size, _),) = asked
    page = _memory.mmap.PAGESIZE
    assert start.value % page == size.value % page == 0
    assert y.data_ptr() <= start.value < y.data_ptr() + page
    assert y.data_ptr() + y.nbytes - page < start.value + size.value <= y.data_ptr() + y.nbytes
    monkeypatch.setattr(_memory, "_madvise", None)
    assert _memory.empty_like(torch.zeros(ROWS, 1000)).shape == (ROWS, 1000)


@pytest.mark.skipif(sys.platform != "linux", reason="large pages by request are Linux's")
def test_results_are_on_pages_that_may_be_large(monkeypatch):
    if not SETTING.exists():
        pytest.skip("this kernel has no transparent huge pages")
    made = []
    real = _functions.empty_like
    monkeypatch.setattr(_functions, "empty_like", lambda x: made.append(real(x)) or made[-1])
    module = BatchNorm2d(16)
    x = torch.randn(32, 16, 64, 64, requires_grad=True)
    module(x).sum().backward()
    module.eval()
    with torch.no_grad():
        module(x)
    assert len(made) == 3  # y, dx, and y in prediction
    for tensor in made:
        assert "hg" in flags_of(tensor.data_ptr() + tensor.nbytes // 2)


def flags_of(address):
    """Return the system's flags of the mapping that contains an address."""
    inside = False
    for line in pathlib.Path("/proc/self/smaps").read_text().splitlines():
        mapping = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if mapping:
            inside = int(mapping[1], 16) <= address < int(mapping[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return line.split()
    raise AssertionError("no such mapping")
