"""Min-max and z-score scaling of sample-major data: y = (x - center) * scale + low, per feature.

A constant feature has no range and no deviation to divide by: its scale is 1, so that it comes out
as `low` (min-max) or 0 (z-score).
"""

from __future__ import annotations

import math

import numpy as np

from fastbn._jit import njit


@njit
def min_max_fit(
    x,  # (N, C)
    minimum,  # out (C,)
    maximum,  # out (C,)
):
    """Smallest and largest value of each feature; NaN where the feature has one."""
    for j in range(minimum.size):
        minimum[j] = x[0, j]
        maximum[j] = x[0, j]
    for i in range(1, x.shape[0]):
        row = x[i]
        for j in range(row.size):
            value = row[j]
            # the second comparison lets a NaN in, and the first keeps it there
            minimum[j] = minimum[j] if minimum[j] <= value or minimum[j] != minimum[j] else value
            maximum[j] = maximum[j] if maximum[j] >= value or maximum[j] != maximum[j] else value


@njit
def min_max_scale_of(
    minimum,  # (C,)
    maximum,  # (C,)
    low,  # of the range to map to
    high,
    scale,  # out (C,)
):
    """scale = (high - low) / (maximum - minimum)."""
    for j in range(scale.size):
        span = np.float64(maximum[j]) - np.float64(minimum[j])
        scale[j] = (high - low) / span if span != 0 else 1.0
        if scale[j] == math.inf:  # the span is too small for this dtype: as if constant
            scale[j] = 1.0


@njit
def standard_scale_of(
    std,  # (C,)
    scale,  # out (C,)
):
    """scale = 1 / std."""
    one = std.dtype.type(1)
    for j in range(scale.size):
        scale[j] = one / std[j] if std[j] != 0 else one


@njit
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
            y_row[j] = (x_row[j] - center[j]) * scale[j] + low


@njit
def gather_rows(
    x,  # (N, C)
    order,  # (M,) row numbers
    center,  # (C,)
    scale,  # (C,)
    y,  # out (M, C)
):
    """y[r] = (x[order[r]] - center) * scale: a shuffled minibatch, scaled on the way."""
    for r in range(order.size):
        x_row, y_row = x[order[r]], y[r]
        for j in range(x_row.size):
            y_row[j] = (x_row[j] - center[j]) * scale[j]
