"""Recognize usual calls, whose arrays go to the kernels as they are.

Most calls pass plain arrays of one dtype with shapes that fit. One quick test of all arrays then
replaces the checks and conversions of each. If it fails, these find out what is wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from fastbn.checks import FLOAT_DTYPES, overlapping


def are_usual(
    arrays: tuple[Any, ...], shape: tuple[int, ...], dtype: np.dtype, views: list[np.ndarray]
) -> bool:
    """Return whether all are C-contiguous, aligned, writeable arrays of this shape and dtype.

    Those that do not own their memory are appended to `views`. Two others overlap only if they are
    the same array.
    """
    for array in arrays:
        if type(array) is not ndarray or array.dtype is not dtype or array.shape != shape:
            return False
        flags = array.flags
        if not flags.carray:
            return False
        if not flags.owndata:
            views.append(array)
    return True


def is_usual_batch(
    layout: Any, arrays: tuple[Any, ...], out: Any, vectors: tuple[Any, ...], least: int
) -> bool:
    """Return whether float arrays of `layout`, `out` and vectors of their features are usual.

    All arrays have the shape of the first, which has at least `least` values per feature. `out` may
    be None or one of the arrays, and overlaps no other.
    """
    x = arrays[0]
    if type(x) is not ndarray or type(layout) is not str:
        return False
    shape, dtype, features = x.shape, x.dtype, 0
    if layout == "NC" and len(shape) >= 2:
        features = shape[1]
    elif layout == "CN" and len(shape) == 2:
        features = shape[0]
    if not 0 < least * features <= x.size or dtype not in FLOAT_DTYPES:
        return False
    views: list[np.ndarray] = []
    same = arrays if out is None else (*arrays, out)
    return (
        are_usual(same, shape, dtype, views)
        and are_usual(vectors, (features,), dtype, views)
        and (not views or out is None or _overlaps_none(out, (*arrays, *vectors)))
    )


def _overlaps_none(out: np.ndarray, inputs: tuple[np.ndarray, ...]) -> bool:
    return all(other is out for other in overlapping(out, inputs))


def are_usual_buffers(arrays: tuple[Any, ...]) -> bool:
    """Return whether float arrays are usual, have the same shape and do not overlap."""
    first = arrays[0]
    if type(first) is not ndarray or first.dtype not in FLOAT_DTYPES:
        return False
    views: list[np.ndarray] = []
    if not are_usual(arrays, first.shape, first.dtype, views):
        return False
    if views:
        return not any(overlapping(array, arrays[:i]) for i, array in enumerate(arrays))
    return len(set(map(id, arrays))) == len(arrays)
