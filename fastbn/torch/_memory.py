"""Where tensors lie in memory: addresses for kernels, and large results on large pages.

A new tensor of some megabytes comes from the operating system, often anew for every call, and each
of its pages is cleared and put into the page table when it is first written. For pages of 4 kB that
takes longer than batch norm itself. NumPy asks for large ones (Linux: "transparent huge pages", by
`madvise`); PyTorch does so where an environment variable says it, and here they are asked for.
"""

from __future__ import annotations

import ctypes
import mmap
import sys

import torch

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
