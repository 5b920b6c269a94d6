"""Convert arrays of a layout to what kernels take, and results back."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np

from fastbn.checks import choice, float_array, kernel_input, overlapping, overlaps_itself
from fastbn.options import Layout

LAYOUTS = get_args(Layout)


def layout_input(name: str, value: Any, layout: Any) -> np.ndarray:
    """Return `value` as a checked float array of `layout`, contiguous for the kernels."""
    choice("layout", layout, LAYOUTS)
    array = float_array(name, value)
    if array.ndim < 2 or (layout == "CN" and array.ndim > 2):
        expected = "(C, N)" if layout == "CN" else "(N, C) or (N, C, *spatial)"
        raise ValueError(f"{name}: expected shape {expected}, got {array.shape}")
    if n_features(array, layout) == 0:
        raise ValueError(f"{name}: expected at least one feature, got shape {array.shape}")
    return kernel_input(array)


def n_features(x: np.ndarray, layout: Layout) -> int:
    """Return the number of features C."""
    return x.shape[0] if layout == "CN" else x.shape[1]


def is_sample_major(x: np.ndarray, layout: Layout) -> bool:
    """Return whether the sample-major kernels take x: (N, C) without spatial axes."""
    return layout == "NC" and x.ndim == 2


def as_feature_rows(x: np.ndarray, layout: Layout) -> np.ndarray:
    """Return x viewed as (B, C, L), the shape that the feature-major kernels take."""
    if layout == "CN":
        return x[None]
    return x.reshape(x.shape[0], x.shape[1], -1)


def output_for(out: Any, x: np.ndarray, inputs: tuple[np.ndarray, ...] | None) -> np.ndarray:
    """Return the array that a kernel writes to, of the shape and dtype of x.

    This is the caller's `out` if it is contiguous and aligned, and either is one of the inputs or
    overlaps none. Otherwise it is a new array, and `delivered` copies the result into `out`.
    In a usual call (`fastbn.functional._usual`), `inputs` is None, and `out` needs no checks.
    """
    if out is None:
        return np.empty_like(x)
    if inputs is None:
        return out
    is_array = type(out) in (np.ndarray, np.memmap)
    if not is_array or out.dtype != x.dtype or out.shape != x.shape:
        got = f"{out.dtype} {out.shape}" if is_array else repr(type(out))
        raise ValueError(f"out: expected a {x.dtype} array of shape {x.shape}, got {got}")
    flags = out.flags
    if not flags.writeable:
        raise ValueError("out: expected a writeable array, got a read-only one")
    if not flags.carray and overlaps_itself(out):
        raise ValueError("out: expected no overlapping elements, got some")
    direct = flags.carray
    for other in overlapping(out, inputs):
        direct = direct and (other is out or _are_the_same(out, other))
    return out if direct else np.empty_like(x)


def delivered(result: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """Copy the result into `out` and return `out`; return the result if there is no `out`."""
    if out is None or out is result:
        return result
    out[...] = result
    return out


def _are_the_same(out: np.ndarray, other: np.ndarray) -> bool:
    return (
        out.__array_interface__["data"][0] == other.__array_interface__["data"][0]
        and out.shape == other.shape
        and out.strides == other.strides
    )
