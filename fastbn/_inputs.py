"""The model's inputs: the feature matrix, and its scaling by what the training data measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastbn._checks import as_array, kernel_input
from fastbn.functional.preprocessing import (
    fit_min_max,
    fit_standard,
    fit_standard_of,
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
    array = as_array(name, value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name}: expected an array of numbers, got dtype {array.dtype}")
    if array.ndim != 2 or array.shape[1] != n_features:
        raise ValueError(f"{name}: expected shape (samples, {n_features}), got {array.shape}")
    if array.dtype == np.uint8:
        return kernel_input(array)
    with np.errstate(over="ignore"):  # what does not fit the dtype is refused below
        matrix = kernel_input(array.astype(dtype, order="C", copy=False))
    for start in range(0, len(matrix) * check_finite, ROWS):  # as much as a cache holds
        finite = np.isfinite(matrix[start : start + ROWS])
        if not finite.all():
            row = start + int(np.flatnonzero(~finite.all(axis=1))[0])
            raise ValueError(f"{name}: expected finite numbers of {dtype}, got others in row {row}")
    return matrix


def blocks(x: np.ndarray, rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Yield x (N, C), or some rows of it, from a part of the rows at a time."""
    n = len(x) if rows is None else len(rows)
    for start in range(0, n, ROWS):
        part = slice(start, start + ROWS)
        yield x[part] if rows is None else x[rows[part]]


def weighted_moments(
    x: np.ndarray, weight: np.ndarray, rows: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of each column of x, or some rows of it, in float64 and by blocks.

    All is measured from the first row, so that a constant column has the variance 0. Without a
    BLAS, whose bits may depend on its threads.
    """
    weight = weight if rows is None else weight[rows]
    share = np.asarray(weight, np.float64) / weight.sum(dtype=np.float64)
    over = "i,ij->j"
    origin = x[0 if rows is None else rows[0]].astype(np.float64)
    shares = [share[start : start + ROWS] for start in range(0, len(share), ROWS)]
    with np.errstate(over="ignore", invalid="ignore"):  # what no float64 holds is refused later
        pairs = zip(shares, blocks(x, rows), strict=True)
        mean: Any = sum(np.einsum(over, part, block - origin) for part, block in pairs)
        pairs = zip(shares, blocks(x, rows), strict=True)
        var: Any = sum(np.einsum(over, part, (block - origin - mean) ** 2) for part, block in pairs)
    return origin + mean, var


def minimum_and_maximum(
    x: np.ndarray, rows: np.ndarray | None, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest number of each column of x, or of some rows of it."""
    if rows is None and x.dtype == dtype:
        return fit_min_max(x)
    extremes = [(block.min(axis=0), block.max(axis=0)) for block in blocks(x, rows)]
    low = np.min([pair[0] for pair in extremes], axis=0)
    return low.astype(dtype), np.max([pair[1] for pair in extremes], axis=0).astype(dtype)


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
        rows = None
        if weight is not None and not weight.all():
            rows = np.flatnonzero(weight)
        if self.mode == "minmax":
            center, maximum = minimum_and_maximum(x, rows, dtype)
            scale = min_max_scales(center, maximum, 0.0, 1.0)
            with np.errstate(over="ignore"):
                span = maximum - center
        else:
            if weight is None:
                center, span = fit_standard(x) if x.dtype == dtype else fit_standard_of(x, dtype)
            else:
                wide, var = weighted_moments(x, weight, rows)
                center, span = wide.astype(dtype), np.sqrt(var).astype(dtype)
            scale = standard_scales(span)
        self._check_range(span)
        return InputScaling(self.mode, center, scale, True)

    @staticmethod
    def _check_range(span: np.ndarray) -> None:
        """Refuse features that are divided by more than the dtype has an inverse of."""
        if np.isnan(span).any():
            feature = int(np.flatnonzero(np.isnan(span))[0])
            raise ValueError(f"X: expected finite numbers to scale, got NaN in feature {feature}")
        largest = 1.0 / np.finfo(span.dtype).tiny
        odd = np.flatnonzero(span > largest)
        if odd.size:
            raise ValueError(
                f"X: expected ranges and deviations of at most {largest:.2g} to scale, "
                f"got {span[odd[0]]:.2g} in feature {odd[0]}"
            )

    def adopt(self, center: np.ndarray, scale: np.ndarray) -> InputScaling:
        """Return the scaling that training goes by from now on; a fitted one is left as it is."""
        return self if self.is_fitted else InputScaling(self.mode, center, scale, True)
