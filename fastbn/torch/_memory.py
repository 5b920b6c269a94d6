"""Tensors in memory: which ones kernels take, their layout and address; results on large pages.

The memory of a new tensor of some megabytes comes from the operating system, often in every call
again. The system clears each page and adds it to the page table at the first write. With pages of
4 kB, this takes longer than batch norm itself. NumPy asks for large pages (Linux: "transparent huge
pages", by `madvise`). PyTorch does so only if an environment variable is set, so we ask for them.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

import torch

from fastbn.torch._tracing import PLAIN

DTYPES = (torch.float32, torch.float64)

# Results of at least this many bytes get large pages, as in NumPy.
LARGE = 1 << 22

_madvise = getattr(ctypes.CDLL(None), "madvise", None) if sys.platform == "linux" else None


def empty_like(x: torch.Tensor) -> torch.Tensor:
    """Return `torch.empty_like(x)`, on large pages if it is large and the system has them."""
    result = torch.empty_like(x)
    size = result.numel() * result.itemsize
    if size >= LARGE and _madvise is not None:
        page = mmap.PAGESIZE
        start = -(-result.data_ptr() // page) * page
        whole = (result.data_ptr() + size - start) // page * page
        # the result is not checked: this is only advice
        _madvise(ctypes.c_void_p(start), ctypes.c_size_t(whole), mmap.MADV_HUGEPAGE)
    return result


FREED = "expected tensors with memory for all of their numbers, got one whose storage was resized"


def address_of(x: torch.Tensor) -> int:
    """Return the address of a dense tensor; raises RuntimeError if its storage is too small."""
    first = x.storage_offset()
    if x.nbytes + (first and first * x.itemsize) > x.untyped_storage().nbytes():
        raise RuntimeError(FREED)
    return x.data_ptr()


def is_covered(x: Any, *others: torch.Tensor | None) -> bool:
    """Return whether the kernels can take x, with these parameters and buffers.

    All must be plain dense CPU tensors of one dtype, and the others contiguous. The caller has
    checked `is_traced`.
    """
    dtype = x.dtype
    if dtype not in DTYPES or not x.is_cpu or type(x) not in PLAIN:
        return False
    for other in others:
        if other is not None and (
            other.dtype is not dtype
            or not other.is_cpu
            or type(other) not in PLAIN
            or not other.is_contiguous()
        ):
            return False
    return x.layout is torch.strided and not is_lazy(x)


def is_lazy(x: torch.Tensor) -> bool:
    """Return whether the memory of x lacks its numbers: a negated view, or zeros without memory."""
    return x.is_neg() or x._is_zerotensor()


def have_size(size: int, vectors: tuple[torch.Tensor | None, ...]) -> bool:
    """Return whether all vectors have this size. Kernels get addresses and cannot check it."""
    for vector in vectors:  # noqa: SIM110  (`all` takes three times as long)
        if vector is not None and vector.numel() != size:
            return False
    return True


def as_kernels_take_it(x: torch.Tensor) -> tuple[torch.Tensor, tuple[bool, int, int, int]]:
    """Return x, copied if necessary, and its layout in memory: (is sample-major, B, C, L).

    Sample-major x is (N, C) or channels-last; its B is the number of rows, and L is 1. Any other x
    is an array (B, C, L).
    """
    shape = x.shape
    if len(shape) == 2:
        if x.is_contiguous():
            return x, (True, *shape, 1)
        if x.t().is_contiguous():
            return x, (False, 1, shape[1], shape[0])
        return x.contiguous(), (True, *shape, 1)
    if not x.is_contiguous():
        if len(shape) == 4 and x.is_contiguous(memory_format=torch.channels_last):
            return x, (True, x.numel() // shape[1], shape[1], 1)
        x = x.contiguous()
    return x, (False, shape[0], shape[1], x.numel() // (shape[0] * shape[1]))
