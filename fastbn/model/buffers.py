"""A model's flat arrays: aligned memory that stays where it is, and how numbers get into it."""

from __future__ import annotations

import collections
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from fastbn.checks import as_array

LINE_BYTES = 64  # of a cache line


class _Memory:
    """Zeros for an array to lie in (NumPy's array interface), with no method to resize them."""

    def __init__(self, size: int) -> None:
        self._zeros = np.zeros(size, np.uint8)  # an array: it gets pages as they are needed
        self.__array_interface__ = self._zeros.__array_interface__


def aligned_zeros(size: int, dtype: np.dtype) -> np.ndarray:
    """Zeros whose first element starts a cache line, in memory that `resize` cannot take away.

    Not even that of `base`, which does not own the memory either.
    """
    raw = np.asarray(_Memory(size * dtype.itemsize + LINE_BYTES))
    start = -raw.ctypes.data % LINE_BYTES
    return raw[start : start + size * dtype.itemsize].view(dtype)


def copy_numbers(name: str, target: np.ndarray, value: Any) -> None:
    """Copy an array into `target`; refuse another shape or dtype, byte order aside."""
    array = as_array(name, value)
    if array.dtype.newbyteorder("=") != target.dtype:
        raise TypeError(f"{name}: expected dtype {target.dtype}, got {array.dtype}")
    if array.shape != target.shape:
        raise ValueError(f"{name}: expected shape {target.shape}, got {array.shape}")
    target[...] = array


def assign_all(assignments: Iterable[tuple[Any, Any, Any]]) -> None:
    """Do ``container[key] = value`` for each triple: all of them, whatever a signal's handler does.

    Python runs handlers, which may raise, between two of its instructions; this is one.
    """
    containers, keys, values = zip(*assignments, strict=True)
    collections.deque(map(operator.setitem, containers, keys, values), maxlen=0)


class Buffer:
    """A model's attribute that is a flat array: setting it copies the numbers into the array.

    Kernels rely on its size, so that what is read is a view, of whose shape and dtype the model
    does not depend.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, model: Any, owner: type | None = None) -> np.ndarray:
        if model is None:
            raise AttributeError(f"{self._name}: expected a model, got its class")
        view: np.ndarray = model._engine.buffers[self._name][:]
        return view

    def __set__(self, model: Any, value: Any) -> None:
        copy_numbers(self._name, model._engine.buffers[self._name], value)
