"""The data that a model is given: checked features, their scaling, and what the kernels take."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fastbn.checks import as_array, kernel_input
from fastbn.kernels.network import Samples
from fastbn.model.measures import float64_blocks, refuse_nonfinite
from fastbn.model.scaling import InputScaling, TargetScaling


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
