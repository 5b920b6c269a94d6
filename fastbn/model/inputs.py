"""The way of the data, from the arrays that a call is given to what the kernels read.

Each function takes one step, and none goes back:

    fit                       training_data -> fitted_scalings -> kernel_samples
    partial_fit, train_step   the same, as training_samples
    evaluate, validation      labelled_data -> kernel_samples
    predict                   prediction_samples

X is not copied where the kernels can read it as it is: data of the model's dtype, and bytes, are
scaled as a minibatch is gathered. All else becomes an array of the model's dtype here, once.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastbn.checks import as_array, kernel_input, weights_array
from fastbn.kernels.network import Samples
from fastbn.model.config import ModelConfig
from fastbn.model.measures import refuse_nonfinite
from fastbn.model.scaling import InputScaling, TargetScaling
from fastbn.model.targets import targets_for_loss


class Owner(Protocol):
    """What data are checked and scaled for: a model, or its engine."""

    @property
    def config(self) -> ModelConfig:
        """The arguments of the model."""

    @property
    def scaling(self) -> InputScaling:
        """How inputs are scaled."""

    @property
    def target_scaling(self) -> TargetScaling:
        """How targets are scaled."""


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


class TrainingSamples(NamedTuple):
    """What the kernels are given to train on, and what it was scaled by."""

    arrays: Samples
    inputs: InputScaling
    outputs: TargetScaling


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


def training_data(
    model: Owner, X: Any, y: Any, sample_weight: Any, check_finite: bool = True
) -> Data:
    """Check data to train on."""
    config, dtype = model.config, model.scaling.dtype
    x = feature_matrix("X", X, config.layer_sizes[0], model.scaling, check_finite)
    n = x.shape[0]
    labels, targets = targets_for_loss("y", y, n, config)
    if n < 1 + config.batch_norm:
        raise ValueError(f"X: expected more samples to train on, got shape {x.shape}")
    weight = np.empty(0, dtype)
    if sample_weight is not None:
        weight = weights_array("sample_weight", sample_weight, n, dtype)
    return Data(x, labels, targets, weight, check_finite)


def fitted_scalings(model: Owner, data: Data) -> tuple[InputScaling, TargetScaling]:
    """Return the scalings of inputs and targets, measured on data if they have seen none."""
    weight, rows = None, None
    if data.weight.size:
        weight = data.weight if model.config.weighted else None
        rows = None if data.weight.all() else np.flatnonzero(data.weight)  # others do not count
    inputs = model.scaling.fit(data.x, weight, rows)
    return inputs, model.target_scaling.fit(data.targets, weight, rows)


def kernel_samples(data: Data, inputs: InputScaling, targets: TargetScaling) -> Samples:
    """Return what the kernels are given; ValueError for what the dtype does not hold then."""
    x, center, scale = inputs.apply(data.x_name, data.x, data.check_finite)
    scaled = targets.apply(data.y_name, data.targets)
    return Samples(x, data.labels, scaled, data.weight, center, scale)


def training_samples(
    model: Owner, X: Any, y: Any, sample_weight: Any = None, check_finite: bool = True
) -> TrainingSamples:
    """Check data to train on, and scale them; the model is left as it is."""
    data = training_data(model, X, y, sample_weight, check_finite)
    inputs, targets = fitted_scalings(model, data)
    return TrainingSamples(kernel_samples(data, inputs, targets), inputs, targets)


def labelled_data(model: Owner, X: Any, y: Any, x_name: str = "X", y_name: str = "y") -> Data:
    """Check data to evaluate on."""
    config = model.config
    x = feature_matrix(x_name, X, config.layer_sizes[0], model.scaling)
    if x.shape[0] == 0:
        raise ValueError(f"{x_name}: expected at least one sample, got none")
    labels, targets = targets_for_loss(y_name, y, x.shape[0], config)
    none = np.empty(0, model.scaling.dtype)
    return Data(x, labels, targets, none, x_name=x_name, y_name=y_name)


def prediction_samples(model: Owner, X: Any) -> Samples:
    """Check and scale data to predict from."""
    scaling, sizes = model.scaling, model.config.layer_sizes
    x, center, scale = scaling.apply("X", feature_matrix("X", X, sizes[0], scaling), True)
    targets, weight = np.empty((0, sizes[-1]), scaling.dtype), np.empty(0, scaling.dtype)
    return Samples(x, np.empty(0, np.int64), targets, weight, center, scale)
