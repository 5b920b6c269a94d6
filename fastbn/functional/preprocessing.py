"""Min-max and z-score scaling of NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastbn.checks import (
    choice,
    float_array,
    float_vector,
    kernel_input,
    nonnegative_vector,
    number,
    pair,
)
from fastbn.functional._layout import LAYOUTS, delivered, output_for
from fastbn.kernels import preprocessing as kernels
from fastbn.kernels import statistics_nc
from fastbn.options import Layout

# Number of chunks of rows that are converted at a time.
CHUNKS = 4

_Arrays3 = tuple[np.ndarray, np.ndarray, np.ndarray]


def _samples(x: Any, layout: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return x as a checked float array, and a sample-major version of it for the kernels."""
    choice("layout", layout, LAYOUTS)
    x = float_array("x", x)
    if x.ndim != 2:
        raise ValueError(f"x: expected shape ({', '.join(layout)}), got {x.shape}")
    return x, kernel_input(x if layout == "NC" else x.T)


def _check_given(rows: np.ndarray, **statistics: Any) -> None:
    """Refuse one of two statistics without the other, and no samples to compute both from."""
    missing = [name for name, value in statistics.items() if value is None]
    if len(missing) == 1:
        raise ValueError(f"{missing[0]}: expected {' and '.join(statistics)} together, got None")
    if missing and rows.size == 0:
        raise ValueError(f"x: expected at least one sample and feature, got shape {rows.shape}")


def fit_standard(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each column of contiguous rows (N, C).

    The mean of a constant column is exactly its value, and the deviation exactly 0.
    """
    mean, std = np.empty((2, rows.shape[1]), rows.dtype)
    kernels.standard_fit(rows, mean, std)
    return mean, std


def fit_standard_of(rows: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Return `fit_standard` of bytes (N, C), converted to `dtype` a few chunks at a time."""
    n, features = rows.shape
    partials = np.empty((3, statistics_nc.count_chunks(rows), features), dtype)
    for first in range(0, partials.shape[1], CHUNKS):
        size = statistics_nc.rows_per_chunk(features)
        block = rows[first * size : (first + CHUNKS) * size].astype(dtype)
        statistics_nc.moments_nc(block, *partials[:, first : first + CHUNKS])
    mean, delta, var = np.empty(features, dtype), np.empty(features), np.empty(features)
    statistics_nc.combine_moments_nc(*partials, n, mean, delta, var)
    minimum = rows.min(axis=0)
    constant = minimum == rows.max(axis=0)
    mean[constant], var[constant] = minimum[constant], 0.0
    return mean, np.sqrt(var).astype(dtype)


def _apply(
    x: np.ndarray,
    rows: np.ndarray,
    center: np.ndarray,
    scale: np.ndarray,
    low: float,
    out: np.ndarray | None,
    layout: Layout,
) -> np.ndarray:
    y = output_for(out, x, (x, center, scale))
    target = y if layout == "NC" else np.empty_like(rows)
    kernels.scale_rows(rows, center, scale, x.dtype.type(low), target)
    if layout == "CN":
        y[...] = target.T
    return delivered(y, out)


def min_max_scale(
    x: Any,
    *,
    minimum: Any = None,
    maximum: Any = None,
    feature_range: tuple[float, float] = (0.0, 1.0),
    layout: Layout = "NC",
    out: np.ndarray | None = None,
) -> _Arrays3:
    """Map each feature linearly to `feature_range`.

    ``y = low + (x - minimum) * (high - low) / (maximum - minimum)``

    Parameters
    ----------
    x : array of float32 or float64, (N, C) or with ``layout="CN"`` (C, N)
    minimum, maximum : arrays (C,) of float32 or float64, optional
        Those of the training data, to scale other data in the same way; by default those of `x`.
    feature_range : pair of floats (low, high)
    layout : "NC" or "CN"
    out : array of the shape and dtype of `x`, optional
        Where to write `y`; may be `x`.

    Returns
    -------
    y : array of the shape and dtype of `x`
        A constant feature becomes `low`.
    minimum, maximum : arrays (C,) of the dtype of `x`

    Raises
    ------
    TypeError
        `x`, `minimum` or `maximum` is not float32 or float64.
    ValueError
        A shape or a number is not as described above, only one of `minimum` and `maximum` is given,
        or neither is given and `x` has no samples.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> train, test = np.array([[1.0, 5.0], [3.0, 9.0]]), np.array([[2.0, 9.0]])
    >>> y, minimum, maximum = fastbn.min_max_scale(train)
    >>> y.tolist()
    [[0.0, 0.0], [1.0, 1.0]]
    >>> fastbn.min_max_scale(test, minimum=minimum, maximum=maximum)[0].tolist()
    [[0.5, 1.0]]
    """
    x, rows = _samples(x, layout)
    first, second = pair("feature_range", feature_range)
    low, high = number("feature_range[0]", first), number("feature_range[1]", second)
    if low >= high:
        raise ValueError(f"feature_range: expected (low, high) with low < high, got {low, high}")
    _check_given(rows, minimum=minimum, maximum=maximum)
    if minimum is None:
        minimum, maximum = np.empty((2, rows.shape[1]), rows.dtype)
        kernels.min_max_fit(rows, minimum, maximum)
    else:
        minimum = float_vector("minimum", minimum, rows.shape[1], x.dtype).copy()
        maximum = float_vector("maximum", maximum, rows.shape[1], x.dtype).copy()
        if (maximum < minimum).any():
            raise ValueError("maximum: expected numbers of at least minimum, got smaller ones")
    scale = np.empty_like(minimum)
    kernels.min_max_scale_of(minimum, maximum, low, high, scale)
    return _apply(x, rows, minimum, scale, low, out, layout), minimum, maximum


def standardize(
    x: Any,
    *,
    mean: Any = None,
    std: Any = None,
    layout: Layout = "NC",
    out: np.ndarray | None = None,
) -> _Arrays3:
    """Compute z-scores: ``(x - mean) / std`` per feature.

    Parameters
    ----------
    x : array of float32 or float64, (N, C) or with ``layout="CN"`` (C, N)
    mean, std : arrays (C,) of float32 or float64, optional
        Those of the training data, to scale other data in the same way; by default those of `x`,
        with `std` without Bessel's correction.
    layout : "NC" or "CN"
    out : array of the shape and dtype of `x`, optional
        Where to write `y`; may be `x`.

    Returns
    -------
    y : array of the shape and dtype of `x`
        A constant feature becomes 0.
    mean, std : arrays (C,) of the dtype of `x`

    Raises
    ------
    TypeError
        `x`, `mean` or `std` is not float32 or float64.
    ValueError
        A shape or a number is not as described above, only one of `mean` and `std` is given, or
        neither is given and `x` has no samples.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> train, test = np.array([[1.0, 5.0], [3.0, 9.0]]), np.array([[2.0, 11.0]])
    >>> y, mean, std = fastbn.standardize(train)
    >>> y.tolist()
    [[-1.0, -1.0], [1.0, 1.0]]
    >>> fastbn.standardize(test, mean=mean, std=std)[0].tolist()
    [[0.0, 2.0]]
    """
    x, rows = _samples(x, layout)
    _check_given(rows, mean=mean, std=std)
    if mean is None:
        mean, std = fit_standard(rows)
    else:
        mean = float_vector("mean", mean, rows.shape[1], x.dtype).copy()
        std = nonnegative_vector("std", std, rows.shape[1], x.dtype).copy()
    scale = np.empty_like(std)
    kernels.standard_scale_of(std, scale)
    return _apply(x, rows, mean, scale, 0.0, out, layout), mean, std
