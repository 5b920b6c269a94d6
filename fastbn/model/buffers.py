"""Flat arrays that start on cache lines and cannot be resized, and copies into them."""

from __future__ import annotations

import collections
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from fastbn.checks import as_array

LINE_BYTES = 64  # size of a cache line


class _Memory:
    """Zeros under NumPy's array interface, with no method to resize them."""

    def __init__(self, size: int) -> None:
        self._zeros = np.zeros(size, np.uint8)  # the system provides the memory at the first write
        self.__array_interface__ = self._zeros.__array_interface__


def aligned_zeros(size: int, dtype: np.dtype) -> np.ndarray:
    """Return zeros that start on a cache line; neither they nor their base can be resized."""
    raw = np.asarray(_Memory(size * dtype.itemsize + LINE_BYTES))
    start = -raw.ctypes.data % LINE_BYTES
    return raw[start : start + size * dtype.itemsize].view(dtype)


def copy_numbers(name: str, target: np.ndarray, value: Any) -> None:
    """Copy an array into `target`, which must have its shape and dtype (in any byte order)."""
    array = as_array(name, value)
    if array.dtype.newbyteorder("=") != target.dtype:
        raise TypeError(f"{name}: expected dtype {target.dtype}, got {array.dtype}")
    if array.shape != target.shape:
        raise ValueError(f"{name}: expected shape {target.shape}, got {array.shape}")
    target[...] = array


def assign_all(assignments: Iterable[tuple[Any, Any, Any]]) -> None:
    """Do ``container[key] = value`` for each triple in one call, which no signal can interrupt.

    Python runs signal handlers, which may raise, between its instructions, and not in C code.
    """
    containers, keys, values = zip(*assignments, strict=True)
    collections.deque(map(operator.setitem, containers, keys, values), maxlen=0)
