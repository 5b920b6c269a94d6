"""Types, conversion to float64, and the axes of a layout."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

Array = np.ndarray
Layout = Literal["NC", "CN"]
Gradient = Literal["exact", "detached"]


def f64(x: Any) -> Array:
    """Return x in float64."""
    return np.asarray(x, dtype=np.float64)


def axes(x: Array, layout: Layout) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the axes to reduce over, and the shape in which a vector (C,) broadcasts with x."""
    feature = {"NC": 1, "CN": 0}[layout]
    reduced = tuple(axis for axis in range(x.ndim) if axis != feature)
    return reduced, tuple(x.shape[axis] if axis == feature else 1 for axis in range(x.ndim))
