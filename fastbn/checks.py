"""Argument checks; errors name the argument, what was expected and what was given."""

from __future__ import annotations

import functools
import math
import numbers
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

FLOAT_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
SHOWN = 200  # characters of a value in an error
LARGEST_COUNT = 2**53  # float64 holds every integer up to here
SLOPES = {None: 1.0, "identity": 1.0, "relu": 0.0, "leaky_relu": None}


def shown(value: Any) -> str:
    """Return the text of `value` for an error: its repr, shortened if it is long."""
    try:
        text = repr(value)
    except Exception:  # an integer of too many digits, or an object whose repr fails
        return f"{type(value).__name__} that cannot be shown"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def as_array(name: str, value: Any) -> np.ndarray:
    """Return `value` as an array; refuse masked values, since NumPy would drop the mask."""
    if type(value) is np.ndarray:  # the usual case
        return value
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        what = type(value).__name__
        raise kind(
            f"{name}: expected an array, got {what}, which NumPy cannot convert: {error!s:.200}"
        ) from error
    if isinstance(value, np.ndarray) and np.ma.is_masked(value):
        raise ValueError(f"{name}: expected an array without a mask, got masked values")
    return array


def float_array(name: str, value: Any) -> np.ndarray:
    """Return `value` as an array of native float32 or float64; refuse every other dtype."""
    array = as_array(name, value)
    if array.dtype in FLOAT_DTYPES:
        return array
    native = array.dtype.newbyteorder("=")
    if native not in FLOAT_DTYPES:
        raise TypeError(f"{name}: expected a float32 or float64 array, got dtype {array.dtype}")
    return array.astype(native, copy=False)


def converted(name: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return numbers as `dtype`; raises ValueError for finite numbers that do not fit it."""
    if array.dtype is dtype:
        return array
    try:
        with np.errstate(over="raise"):
            return array.astype(dtype, copy=False)
    except FloatingPointError:
        raise ValueError(f"{name}: expected numbers that fit {dtype}, got larger ones") from None


def is_plain(value: Any) -> bool:
    """Return whether `value` is a plain array: C-contiguous, aligned and writeable."""
    return type(value) is np.ndarray and value.flags.carray


def kernel_input(array: np.ndarray) -> np.ndarray:
    """Return `array` C-contiguous and aligned, as kernels read it, copied only if necessary.

    Numba compiles a second version of a kernel for read-only arrays. Kernels do not write their
    inputs, so a read-only array is passed as a view without the flag.
    """
    if is_plain(array):
        return array
    flags = array.flags
    if not (flags.c_contiguous and flags.aligned):
        return np.array(array, order="C")
    return np.asarray(_Unflagged(array))


class _Unflagged:
    """The memory of a read-only array, without the flag (NumPy's array interface, version 3)."""

    def __init__(self, array: np.ndarray) -> None:
        interface = array.__array_interface__
        self.array = array  # keeps the memory alive
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


def float_vector(
    name: str, value: Any, size: int, dtype: np.dtype, default: float | None = None
) -> np.ndarray:
    """Return `value` as (size,) of `dtype`; None gives `default` everywhere."""
    if is_plain(value) and value.dtype is dtype and value.shape == (size,):
        return value
    if value is None and default is not None:
        vector = np.empty(size, dtype)
        vector.fill(default)  # faster than np.full
        return vector
    array = float_array(name, value)
    if array.shape != (size,):
        raise ValueError(f"{name}: expected shape ({size},), got {array.shape}")
    return kernel_input(converted(name, array, dtype))


def nonnegative_vector(name: str, value: Any, features: int, dtype: np.dtype) -> np.ndarray:
    """Return `value` as a vector of variances or deviations; refuse negative numbers."""
    vector = float_vector(name, value, features, dtype)
    if (vector < 0).any():
        raise ValueError(f"{name}: expected numbers of at least 0, got {vector.min()}")
    return vector


def same_shape(name: str, array: np.ndarray, other_name: str, other: np.ndarray) -> None:
    """Refuse `array` unless it has the shape of `other`."""
    if array.shape != other.shape:
        raise ValueError(
            f"{name}: expected the shape of {other_name}, {other.shape}, got {array.shape}"
        )


def overlapping(array: np.ndarray, others: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Return those of `others` that are `array` or may overlap it in memory."""
    owns, found = array.flags.owndata, []
    for other in others:
        apart = owns and other.flags.owndata  # each owns its memory
        if other is array or (not apart and np.may_share_memory(array, other)):
            found.append(other)
    return found


def overlaps_itself(array: np.ndarray) -> bool:
    """Return whether some elements may share memory, as the rows of a broadcast array do."""
    if array.flags.carray:  # the usual case
        return False
    end = array.itemsize  # end of the memory that the axes so far span
    for stride, length in sorted(zip(map(abs, array.strides), array.shape, strict=True)):
        if length > 1:
            if stride < end:
                return True
            end += stride * (length - 1)
    return False


def labels_array(name: str, value: Any, shape: tuple[int, ...], n_classes: int) -> np.ndarray:
    """Return integer labels in [0, n_classes) as contiguous int64 of `shape`."""
    array = as_array(name, value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integer labels, got dtype {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    if array.size and (array.min() < 0 or array.max() >= n_classes):
        raise ValueError(
            f"{name}: expected labels from 0 to {n_classes - 1}, got {array.min()} to {array.max()}"
        )
    return kernel_input(array.astype(np.int64, copy=False))


def target_matrix(name: str, value: Any, shape: tuple[int, int]) -> np.ndarray:
    """Return numbers as (samples, outputs); (samples,) is one output."""
    array = as_array(name, value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name}: expected numbers, got dtype {array.dtype}")
    if array.shape != shape and not (shape[1] == 1 and array.shape == shape[:1]):
        also = f" or ({shape[0]},)" if shape[1] == 1 else ""
        raise ValueError(f"{name}: expected shape {shape}{also}, got {array.shape}")
    return array.reshape(shape)


def targets_array(
    name: str, value: Any, shape: tuple[int, int], dtype: np.dtype, low: float, high: float
) -> np.ndarray:
    """Return finite targets in [low, high] as (samples, outputs); (samples,) is one output."""
    array = target_matrix(name, value, shape)
    with np.errstate(over="ignore"):  # overflow is refused below
        targets = kernel_input(array.astype(dtype, order="C", copy=False))
    if not targets.size:
        return targets
    least, most = targets.min(), targets.max()
    if not (least > -np.inf and most < np.inf):  # NaN is neither
        raise ValueError(f"{name}: expected finite numbers of {dtype}, got others")
    if least < low or most > high:
        raise ValueError(
            f"{name}: expected numbers from {low:g} to {high:g}, got {least:g} to {most:g}"
        )
    return targets


def weights_array(name: str, value: Any, size: int, dtype: np.dtype) -> np.ndarray:
    """Return non-negative finite weights, not all zero, as (size,) of `dtype`."""
    array = as_array(name, value)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name}: expected numbers, got dtype {array.dtype}")
    if array.shape != (size,):
        raise ValueError(f"{name}: expected shape ({size},), got {array.shape}")
    if not np.isfinite(array).all() or (array < 0).any():
        raise ValueError(f"{name}: expected finite weights of at least 0, got others")
    if not (array > 0).any():
        raise ValueError(f"{name}: expected at least one weight above 0, got none")
    # Only ratios count, so a power of two scales the largest to at most 1, which fits every dtype.
    # Such a scale rounds nothing, so a sample's bits do not depend on the others in the call.
    wide = array.astype(np.float64)
    return np.ascontiguousarray(np.ldexp(wide, -np.frexp(wide.max())[1]), dtype=dtype)


def number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """Return `value` as a finite float in [low, high]; an end of the interval may be open."""
    if type(value) is float and (low < value < high or (value == low == 0.0 and not open_low)):
        return value  # the usual case
    # isinstance with the abstract class numbers.Real takes half a microsecond
    if type(value) is not float and (
        isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real)
    ):
        raise TypeError(f"{name}: expected a number, got {shown(value)}")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    above = result > low if open_low else result >= low
    below = result < high if open_high else result <= high
    if not (above and below and math.isfinite(result)):
        left, right = "(" if open_low else "[", ")" if open_high else "]"
        span = f"{left}{low:g}, {high:g}{right}"
        raise ValueError(f"{name}: expected a finite number in {span}, got {shown(value)}")
    return result


def integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return `value` as an int of at least `low`, and at most `high`."""
    if type(value) is int and low <= value and (high is None or value <= high):  # the usual case
        return value
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}: expected an integer, got {shown(value)}")
    result = int(value)
    if result < low or (high is not None and result > high):
        span = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name}: expected an integer {span}, got {shown(result)}")
    return result


def flag(name: str, value: Any) -> bool:
    """Return `value` as a bool; refuse everything but True and False."""
    if type(value) is bool:  # the usual case
        return value
    if not isinstance(value, np.bool_):
        raise TypeError(f"{name}: expected True or False, got {shown(value)}")
    return bool(value)


def choice(name: str, value: Any, allowed: Sequence[str | None]) -> Any:
    """Return `value` if it is one of `allowed`."""
    if not (value is None or isinstance(value, str)) or value not in allowed:
        raise ValueError(f"{name}: expected one of {list(allowed)}, got {shown(value)}")
    return value


def path_of(name: str, value: Any) -> pathlib.Path:
    """Return `value` as a path; refuse one with a NUL character, which no file name can have."""
    try:
        path = pathlib.Path(value)
    except TypeError:
        raise TypeError(f"{name}: expected a path, got {shown(value)}") from None
    if "\0" in str(path):
        raise ValueError(f"{name}: expected a path, got {shown(value)}")
    return path


def pair(name: str, value: Any) -> tuple[Any, Any]:
    """Return `value` as a pair."""
    try:
        first, second = value
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a pair, got {shown(value)}") from None
    return first, second


def slope_of(activation: Any, negative_slope: Any, dtype: np.dtype) -> np.floating:
    """Return LeakyReLU's slope for `activation` in `dtype`: 0 is ReLU, 1 is no activation."""
    if type(negative_slope) is float and (activation is None or type(activation) is str):
        return _usual_slope(activation, negative_slope, dtype)
    return _slope(activation, negative_slope, dtype)


def _slope(activation: Any, negative_slope: Any, dtype: np.dtype) -> np.floating:
    slope = SLOPES[choice("activation", activation, tuple(SLOPES))]
    limit = float(np.finfo(dtype).max)
    negative_slope = number("negative_slope", negative_slope, -limit, limit)
    return dtype.type(negative_slope if slope is None else slope)


_usual_slope = functools.lru_cache(_slope)
