"""Scaling of inputs by their range or standard deviation."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastbn.reference._arrays import Array, Layout, axes, f64
from fastbn.reference.batchnorm import batch_statistics


def min_max_fit(x: Any, layout: Layout = "NC") -> tuple[Array, Array]:
    """Return minimum and maximum per feature."""
    x = f64(x)
    reduced, _ = axes(x, layout)
    return x.min(axis=reduced), x.max(axis=reduced)


def standard_fit(x: Any, layout: Layout = "NC") -> tuple[Array, Array]:
    """Return mean and standard deviation per feature; for a constant feature, its value and 0."""
    mean, var = batch_statistics(x, layout)
    minimum, maximum = min_max_fit(x, layout)
    constant = minimum == maximum
    return np.where(constant, minimum, mean), np.where(constant, 0.0, np.sqrt(var))


def min_max_scale(
    x: Any,
    feature_range: tuple[float, float] = (0.0, 1.0),
    layout: Layout = "NC",
    statistics: tuple[Any, Any] | None = None,
) -> Array:
    """Return low + (x - min) / (max - min) * (high - low); a constant feature becomes low."""
    x = f64(x)
    _, shape = axes(x, layout)
    low, high = feature_range
    minimum, maximum = map(f64, statistics or min_max_fit(x, layout))
    span = np.where(maximum > minimum, maximum - minimum, 1.0)
    return low + (x - minimum.reshape(shape)) / span.reshape(shape) * (high - low)


def standardize(x: Any, layout: Layout = "NC", statistics: tuple[Any, Any] | None = None) -> Array:
    """Return (x - mean) / std per feature; a constant feature becomes 0."""
    x = f64(x)
    _, shape = axes(x, layout)
    mean, std = map(f64, statistics or standard_fit(x, layout))
    return (x - mean.reshape(shape)) / np.where(std == 0, 1.0, std).reshape(shape)
