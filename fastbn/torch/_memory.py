"""Tensors in memory: which ones kernels take, their layout and address; results on large pages.

A new tensor of some megabytes comes from the operating system, often anew for every call, and each
of its pages is cleared and put into the page table when it is first written. For pages of 4 kB that
takes longer than batch norm itself. NumPy asks for large ones (Linux: "transparent huge pages", by
`madvise`); PyTorch does so where an environment variable says it, and here they are asked for.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

import torch

from fastbn.torch._tracing import PLAIN

DTYPES = (torch.float32, torch.float64)

# Bytes from which NumPy asks for large pages, too.
LARGE = 1 << 22

if sys.platform == "linux":
    _madvise = getattr(ctypes.CDLL(None), "madvise", None)
else:
    _madvise = None


def empty_like(x: torch.Tensor) -> torch.Tensor:
    """`torch.empty_like`, on large pages where it is large and the system has them."""
    result = torch.empty_like(x)
    size = result.numel() * result.itemsize
    if size >= LARGE and _madvise is not None:
        page = mmap.PAGESIZE
        start = -(-result.data_ptr() // page) * page
        whole = (result.data_ptr() + size - start) // page * page
        # advice: where it is not taken, nothing is lost
        _madvise(ctypes.c_void_p(start), ctypes.c_size_t(whole), mmap.MADV_HUGEPAGE)
    return result


FREED = "expected tensors with memory for all of their numbers, got one whose storage was resized"


def address_of(x: torch.Tensor) -> int:
    """Return where a dense tensor's numbers begin; its storage has to hold all of them."""
    first = x.storage_offset()
    if x.nbytes + (first and first * x.itemsize) > x.untyped_storage().nbytes():
        raise RuntimeError(FREED)
    return x.data_ptr()


def is_covered(x: Any, *others: torch.Tensor | None) -> bool:
    """Tell whether the kernels take x, and contiguous parameters or buffers of its dtype.

    Plain dense tensors on the CPU. The caller has asked `is_traced`.
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
    """Tell whether the memory of x does not hold its numbers: negated, or zeros without memory."""
    return x.is_neg() or x._is_zerotensor()


def have_size(size: int, vectors: tuple[torch.Tensor | None, ...]) -> bool:
    """Tell whether all vectors have this size: the kernels only get addresses."""
    return all(vector is None or vector.numel() == size for vector in vectors)


def as_kernels_take_it(x: torch.Tensor) -> tuple[torch.Tensor, tuple[bool, int, int, int]]:
    """Return x, copied if it must be, and how its memory is laid out.

    That is whether it is sample-major ((N, C) or channels-last), and B, C and L of the array
    (B, C, L) that it is otherwise; sample-major L is 1.
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
