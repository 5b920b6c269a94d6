"""Min-max and z-score scaling of sample-major data: y = (x - center) * scale + low, per feature.

The range and the deviation of a constant feature are 0. Its scale is then 1, so all its values
become `low` (min-max) or 0 (z-score).
"""

from __future__ import annotations

import math

import numpy as np

from fastbn.jit.compiler import njit, njit_allocating, njit_inlined, njit_strict
from fastbn.jit.intrinsics import multiply_add, prefetch
from fastbn.kernels.gemm import panel_width
from fastbn.kernels.reductions import SMALL
from fastbn.kernels.statistics_nc import combine_moments_nc, count_chunks, moments_nc


@njit
def min_max_fit(
    x,  # (N, C)
    minimum,  # out (C,)
    maximum,  # out (C,)
):
    """Find the smallest and largest value of each feature; NaN for a feature that contains NaN."""
    for j in range(minimum.size):
        minimum[j] = x[0, j]
        maximum[j] = x[0, j]
    for i in range(1, x.shape[0]):
        row = x[i]
        for j in range(row.size):
            value = row[j]
            # The comparisons with a NaN fail: a minimum that is NaN stays, and a value that is NaN
            # is stored last. If the last choice were between a value and the minimum as it was
            # read, LLVM would store with masks, which is slow with AVX2 on AMD
            low = value if value < minimum[j] else minimum[j]
            high = value if value > maximum[j] else maximum[j]
            minimum[j] = low if value == value else value
            maximum[j] = high if value == value else value


@njit_allocating
def standard_fit(
    x,  # (N, C)
    mean,  # out (C,)
    std,  # out (C,), without Bessel's correction
):
    """Compute mean and deviation of each feature; for a constant one, its value and exactly 0.

    If squares overflow or underflow float32, the feature is measured again in float64.
    """
    n, features = x.shape
    chunks = count_chunks(x)
    partials = np.empty((3, chunks, features), x.dtype)
    delta, var = np.empty(features), np.empty(features)
    low, high = np.empty(features, x.dtype), np.empty(features, x.dtype)
    # phase 1: moments, and the range that tells constant features from nearly constant ones
    moments_nc(x, partials[0], partials[1], partials[2])
    combine_moments_nc(partials[0], partials[1], partials[2], n, mean, delta, var)
    min_max_fit(x, low, high)
    # phase 2: constant features, and those whose squares overflow or underflow
    for j in range(features):
        if low[j] == high[j]:
            mean[j] = low[j]
            var[j] = 0.0
        elif not (SMALL < var[j] < math.inf):
            total = 0.0
            for i in range(n):
                total += np.float64(x[i, j])
            center = total / n
            square = 0.0
            for i in range(n):
                d = np.float64(x[i, j]) - center
                square += d * d
            mean[j] = center
            var[j] = square / n
        std[j] = math.sqrt(var[j])


@njit_strict
def min_max_scale_of(
    minimum,  # (C,)
    maximum,  # (C,)
    low,  # the range to map to
    high,
    scale,  # out (C,)
):
    """scale = (high - low) / (maximum - minimum)."""
    for j in range(scale.size):
        span = np.float64(maximum[j]) - np.float64(minimum[j])
        scale[j] = (high - low) / span if span != 0 else 1.0
        if scale[j] == math.inf:  # the span is too small for this dtype: treat as constant
            scale[j] = 1.0


@njit_strict
def standard_scale_of(
    std,  # (C,)
    scale,  # out (C,)
):
    """scale = 1 / std."""
    one = std.dtype.type(1)
    for j in range(scale.size):
        scale[j] = one / std[j] if std[j] != 0 else one
        if scale[j] == math.inf:  # the deviation is too small for this dtype: treat as constant
            scale[j] = one


@njit_strict
def round_to(
    x,  # (K,)
    y,  # out (K,)
):
    """y = x in the dtype of y; return whether all numbers are the same."""
    is_exact = True
    for i in range(x.size):
        y[i] = x[i]
        is_exact &= y[i] == x[i]
    return is_exact


@njit_strict
def scale_rows(
    x,  # (N, C)
    center,  # (C,)
    scale,  # (C,)
    low,
    y,  # out (N, C)
):
    """y = (x - center) * scale + low."""
    for i in range(x.shape[0]):
        x_row, y_row = x[i], y[i]
        for j in range(x_row.size):
            y_row[j] = multiply_add(x_row[j] - center[j], scale[j], low)


@njit_inlined
def row_at(order, r, n):
    """Return order[r], clamped to the range 0 to n - 1."""
    return min(max(order[r], 0), n - 1)


# How many rows ahead to prefetch. Otherwise gathering shuffled rows of large data waits for memory.
AHEAD = 6


@njit
def prefetch_row(x, order, r, j_first, j_last):
    """Prefetch columns j_first to j_last of row order[r]."""
    if r < order.size:
        for j in range(j_first, j_last, 64 // x.itemsize):
            prefetch(x, row_at(order, r, x.shape[0]), j)


@njit_strict
def gather_rows(
    x,  # (N, C), or bytes
    order,  # row numbers
    first,  # order[first:last] are gathered
    last,
    center,  # (C,)
    scale,  # (C,)
    y,  # out (last - first, C)
):
    """y = (x[order[first:last]] - center) * scale: gather shuffled rows and scale them."""
    number = y.dtype.type
    for r in range(first, last):
        prefetch_row(x, order, r + AHEAD, 0, x.shape[1])
        x_row, y_row = x[row_at(order, r, x.shape[0])], y[r - first]
        for j in range(x_row.size):
            y_row[j] = (number(x_row[j]) - center[j]) * scale[j]


@njit_strict
def gather_panels(
    x,  # (N, C), or bytes
    order,  # row numbers
    first,  # order[first:last] are gathered
    last,
    center,  # (C,)
    scale,  # (C,)
    j_first,  # columns j_first to j_last; j_first is the start of a panel
    j_last,
    panels,  # out, flat: the panels of those columns, last - first rows each
):
    """Like `gather_rows`, but for some columns, and into panels (kernels/gemm.py)."""
    number = panels.dtype.type
    width = panel_width(panels)
    depth = last - first
    for r in range(first, last):
        prefetch_row(x, order, r + AHEAD, j_first, j_last)
        x_row = x[row_at(order, r, x.shape[0])]
        for j in range(j_first, j_last, width):
            start = (j - j_first) * depth + (r - first) * width
            part = x_row[j : min(j + width, x_row.size)]
            c, s = center[j : j + part.size], scale[j : j + part.size]
            target = panels[start : start + part.size]
            for i in range(part.size):
                target[i] = (number(part[i]) - c[i]) * s[i]
