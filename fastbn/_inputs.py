"""The model's inputs: the feature matrix, and its scaling by what the training data measured."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from fastbn._checks import kernel_input
from fastbn.functional.preprocessing import (
    fit_min_max,
    fit_standard,
    min_max_scales,
    standard_scales,
)

# Rows that are looked at at once, where an array of all would be as large as the data.
ROWS = 4096


def feature_matrix(
    name: str, value: Any, n_features: int, dtype: np.dtype, check_finite: bool = True
) -> np.ndarray:
    """Return `value` as a contiguous matrix (samples, n_features) of `dtype`, all of it finite.

    Bytes stay bytes, a quarter of what would have to be read: the kernels convert what they gather.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name}: expected an array of numbers, got dtype {array.dtype}")
    if array.ndim != 2 or array.shape[1] != n_features:
        raise ValueError(f"{name}: expected shape (samples, {n_features}), got {array.shape}")
    if array.dtype == np.uint8:
        return kernel_input(array)
    with np.errstate(over="ignore"):  # what does not fit the dtype is refused below
        matrix = kernel_input(array.astype(dtype, copy=False))
    for start in range(0, len(matrix) * check_finite, ROWS):  # as much as a cache holds
        finite = np.isfinite(matrix[start : start + ROWS])
        if not finite.all():
            row = start + int(np.flatnonzero(~finite.all(axis=1))[0])
            raise ValueError(f"{name}: expected finite numbers of {dtype}, got others in row {row}")
    return matrix


def weighted_moments(x: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of each column in float64, from a part of the rows at a time.

    All is measured from the first row, so that a constant column has the variance 0.
    """
    share = np.asarray(weight, np.float64) / weight.sum(dtype=np.float64)
    origin = x[0].astype(np.float64)
    parts = [slice(start, start + ROWS) for start in range(0, len(x), ROWS)]
    mean: Any = sum(share[part] @ (x[part] - origin) for part in parts)
    var: Any = sum(share[part] @ (x[part] - origin - mean) ** 2 for part in parts)
    return origin + mean, var


@dataclasses.dataclass(frozen=True)
class InputScaling:
    """``(x - center) * scale`` per feature; the identity where nothing is to be scaled."""

    mode: str | None  # None, "zscore" or "minmax"
    center: np.ndarray  # (features,)
    scale: np.ndarray  # (features,)
    is_fitted: bool

    @classmethod
    def unfitted(cls, mode: str | None, n_features: int, dtype: np.dtype) -> InputScaling:
        """Return the scaling before any data; without a mode there is nothing to fit."""
        return cls(mode, np.zeros(n_features, dtype), np.ones(n_features, dtype), mode is None)

    def fit(self, x: np.ndarray, weight: np.ndarray | None = None) -> InputScaling:
        """Return the scaling measured on x (samples, features); a fitted one is left as it is.

        With `weight` (samples,) means and deviations are weighted, and what has none is left out.
        """
        if self.is_fitted:
            return self
        dtype = self.center.dtype
        if weight is not None:
            x, weight = x[weight > 0], weight[weight > 0]
        if self.mode == "minmax":
            if x.dtype == dtype:
                minimum, maximum = fit_min_max(x)
            else:
                minimum, maximum = x.min(axis=0).astype(dtype), x.max(axis=0).astype(dtype)
            return InputScaling(
                self.mode, minimum, min_max_scales(minimum, maximum, 0.0, 1.0), True
            )
        if weight is None:
            mean, std = fit_standard(x.astype(dtype, copy=False))
        else:
            wide, var = weighted_moments(x, weight)
            mean, std = wide.astype(dtype), np.sqrt(var).astype(dtype)
        return InputScaling(self.mode, mean, standard_scales(std), True)

    def adopt(self, center: np.ndarray, scale: np.ndarray) -> InputScaling:
        """Return the scaling that training goes by from now on; a fitted one is left as it is."""
        return self if self.is_fitted else InputScaling(self.mode, center, scale, True)
