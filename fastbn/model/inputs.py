"""The data that a model is given: checked features, their scaling, and what the kernels take."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fastbn.checks import as_array, kernel_input
from fastbn.functional.preprocessing import (
    fit_min_max,
    fit_standard,
    fit_standard_of,
    min_max_scales,
    standard_scales,
)
from fastbn.kernels.network import Samples
from fastbn.model.scaling import (
    ROWS,
    Scaling,
    blocks,
    float64_blocks,
    inverses,
    is_constant,
    minimum_and_range,
    moments,
    refuse_nonfinite,
    rows_at_once,
)
from fastbn.model.targets import TargetScaling

__all__ = ["ROWS", "Data", "InputScaling", "TrainingSamples", "feature_matrix"]


def feature_matrix(
    name: str, value: Any, n_features: int, scaling: InputScaling, check_finite: bool = True
) -> np.ndarray:
    """Return `value` as a matrix (samples, n_features), all of it finite.

    It is contiguous and of the model's dtype, or bytes, a quarter of what would have to be read:
    the kernels convert what they gather. Where the scaling is to be done in float64, it is the
    array as it came.
    """
    array = as_array(name, value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name}: expected an array of numbers, got dtype {array.dtype}")
    if array.ndim != 2 or array.shape[1] != n_features:
        raise ValueError(f"{name}: expected shape (samples, {n_features}), got {array.shape}")
    if array.dtype == np.uint8:
        return kernel_input(array)
    dtype = scaling.dtype
    if scaling.is_wide(array):
        dtype = np.dtype(np.float64)
    else:
        with np.errstate(over="ignore"):  # what does not fit the dtype is refused below
            array = kernel_input(array.astype(dtype, order="C", copy=False))
    if check_finite:
        refuse_nonfinite(name, array, dtype, f"finite numbers of {dtype}")
    return array


@dataclasses.dataclass(frozen=True)
class InputScaling(Scaling):
    """The scaling of the features by z-scores, or to the range from 0 to 1.

    Data of the model's dtype, and bytes, are scaled by the kernels as they gather a minibatch.
    Other data are scaled in float64 before they are rounded to the model's dtype, which would lose
    the digits of a feature far from zero. So are all data where the dtype does not hold exactly
    what was measured in float64.
    """

    def is_wide(self, x: np.ndarray) -> bool:
        """Tell whether x is of a dtype that is scaled in float64."""
        if self.mode is None or self.dtype == np.float64 or x.dtype in (self.dtype, np.uint8):
            return False
        return x.dtype.newbyteorder("=") != self.dtype

    def in_dtype(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Center and scale in the model's dtype; None where it does not hold them exactly."""
        if self.mode is None or self.dtype == np.float64:
            return self.center.astype(self.dtype), self.scale.astype(self.dtype)
        with np.errstate(over="ignore", under="ignore"):
            center, scale = self.center.astype(self.dtype), self.scale.astype(self.dtype)
        is_exact = np.array_equal(center, self.center) and np.array_equal(scale, self.scale)
        return (center, scale) if is_exact else None

    def apply(
        self, name: str, x: np.ndarray, check_finite: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return features, center and scale for the kernels: these are 0 and 1 of scaled ones."""
        measured = None if self.is_wide(x) else self.in_dtype()
        if measured is not None:
            return x, *measured
        argument = f"input_normalization={self.mode!r}"
        identity = np.zeros(x.shape[1], self.dtype), np.ones(x.shape[1], self.dtype)
        return self.scaled(name, argument, x, check_finite), *identity

    def fit(
        self, x: np.ndarray, weight: np.ndarray | None = None, rows: np.ndarray | None = None
    ) -> InputScaling:
        """Return the scaling measured on x (samples, features); a fitted one is left as it is.

        With `weight` (samples,) means and deviations are weighted; `rows`, if not None, are those
        that count.
        """
        if self.is_fitted or self.mode is None:
            return self
        n = len(x) if rows is None else len(rows)
        if self.is_wide(x):
            if self.mode == "minmax":
                center, span = minimum_and_range(x, rows)
            else:
                center, span = moments(x, weight, rows, rows_at_once(x))
            scale = inverses(center, span, n)
        else:
            center, span, scale = self._measured_by_kernels(x, weight, rows)
            if self.dtype == np.float64:
                scale[is_constant(center, span, n)] = 1.0
        _check_range(span)
        wide = center.astype(np.float64), scale.astype(np.float64)
        return InputScaling(self.mode, *wide, True, self.dtype)

    def _measured_by_kernels(
        self, x: np.ndarray, weight: np.ndarray | None, rows: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Center, range or deviation, and scale in the model's dtype."""
        dtype = self.dtype
        if self.mode == "minmax":
            center, maximum = _minimum_and_maximum(x, rows, dtype)
            with np.errstate(over="ignore"):
                return center, maximum - center, min_max_scales(center, maximum, 0.0, 1.0)
        if weight is None and rows is None:
            center, span = fit_standard(x) if x.dtype == dtype else fit_standard_of(x, dtype)
            if x.dtype == np.float64:
                _measure_extremes(x, center, span)
        else:
            center, span = (part.astype(dtype) for part in moments(x, weight, rows))
        return center, span, standard_scales(span)


def _measure_extremes(x: np.ndarray, center: np.ndarray, span: np.ndarray) -> None:
    """Correct mean and deviation of columns whose squares are beyond float64, or close to 0."""
    is_usual = np.isfinite(center) & (span >= np.sqrt(np.finfo(np.float64).tiny)) & (span < np.inf)
    if is_usual.all():
        return
    low, high = fit_min_max(x)
    odd = np.flatnonzero(~is_usual & (low != high))  # others are constant, as the kernel says
    if odd.size:
        center[odd], span[odd] = moments(x[:, odd], None, None)


def _minimum_and_maximum(
    x: np.ndarray, rows: np.ndarray | None, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest number of each column of x, or of some rows of it."""
    if rows is None and x.dtype == dtype:
        return fit_min_max(x)
    extremes = [(block.min(axis=0), block.max(axis=0)) for block in blocks(x, rows)]
    low = np.min([pair[0] for pair in extremes], axis=0)
    return low.astype(dtype), np.max([pair[1] for pair in extremes], axis=0).astype(dtype)


def _check_range(span: np.ndarray) -> None:
    """Refuse features that are divided by more than their dtype has an inverse of."""
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


@dataclasses.dataclass(frozen=True)
class Data:
    """Checked data; what is scaled in float64 is as it came. Names are for errors."""

    x: np.ndarray  # (N, inputs)
    labels: np.ndarray  # (N,) int64, or (0,) where the loss takes targets
    targets: np.ndarray  # (N, outputs), or (0, outputs) where it takes labels
    weight: np.ndarray  # (N,), or (0,) for equal weights
    check_finite: bool = True
    x_name: str = "X"
    y_name: str = "y"

    def samples(self, inputs: InputScaling, outputs: TargetScaling) -> Samples:
        """Return what the kernels are given; ValueError for what the dtype does not hold then."""
        x, center, scale = inputs.apply(self.x_name, self.x, self.check_finite)
        targets = outputs.apply(self.y_name, self.targets)
        return Samples(x, self.labels, targets, self.weight, center, scale)

    def contents(self, inputs: InputScaling, outputs: TargetScaling) -> Iterator[np.ndarray]:
        """Yield all of the data as contiguous arrays, whatever the scaling has been fitted on."""
        yield from float64_blocks(self.x) if inputs.is_wide(self.x) else [self.x]
        yield self.labels
        yield from float64_blocks(self.targets) if outputs.mode is not None else [self.targets]
        yield self.weight


class TrainingSamples(NamedTuple):
    """What the kernels are given to train on, and what it was scaled by."""

    arrays: Samples
    inputs: InputScaling
    outputs: TargetScaling
