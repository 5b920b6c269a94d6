"""Preparation of data: from the arguments of a call to the arrays of the kernels.

Each function is one step:

    fit                       training_data -> fitted_scalings -> kernel_samples
    partial_fit, train_step   training_samples, which does these three steps
    evaluate, validation      labelled_data -> kernel_samples
    predict                   prediction_samples

X is not copied if the kernels can read it directly: they scale uint8 data and data of the model's
dtype while they gather a minibatch. All other data are converted to the model's dtype here, once.
`model` is a `BatchNormMLP` or its engine.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastbn.checks import as_array, is_plain, kernel_input, weights_array
from fastbn.kernels.network import Samples
from fastbn.model.measures import refuse_nonfinite
from fastbn.model.scaling import InputScaling, TargetScaling
from fastbn.model.targets import targets_for_loss


class Data(NamedTuple):
    """Checked data. Arrays that will be scaled in float64 still have their original dtype."""

    x: np.ndarray  # (N, inputs)
    labels: np.ndarray  # (N,) int64, or (0,) if the loss takes targets
    targets: np.ndarray  # (N, outputs), or (0, outputs) if it takes labels
    weight: np.ndarray  # (N,), or (0,) for equal weights
    names: tuple[str, str] = ("X", "y")  # for errors
    check_finite: bool = True


class TrainingSamples(NamedTuple):
    """The arrays that the kernels train on, and their scalings."""

    arrays: Samples
    inputs: InputScaling
    outputs: TargetScaling


def feature_matrix(name: str, value: Any, model: Any, check_finite: bool = True) -> np.ndarray:
    """Return `value` as a finite matrix (samples, inputs), contiguous, for the kernels.

    Its dtype is the model's, or uint8, which the kernels convert while they gather. An array that
    will be scaled in float64 keeps its dtype.
    """
    dtype, n_features = model.scaling.dtype, model.config.layer_sizes[0]
    if is_plain(value) and value.dtype is dtype and value.shape[1:] == (n_features,):
        if check_finite:  # the usual case
            refuse_nonfinite(name, value, dtype)
        return value
    array = as_array(name, value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name}: expected an array of numbers, got dtype {array.dtype}")
    if array.ndim != 2 or array.shape[1] != n_features:
        raise ValueError(f"{name}: expected shape (samples, {n_features}), got {array.shape}")
    if array.dtype == np.uint8:
        return kernel_input(array)
    if array.dtype == dtype:
        array = kernel_input(array)
    elif model.scaling.is_wide(array):
        dtype = np.dtype(np.float64)
    else:
        with np.errstate(over="ignore"):  # refused below
            array = array.astype(dtype, order="C")
    if check_finite:
        refuse_nonfinite(name, array, dtype)
    return array


def labelled_data(
    model: Any, X: Any, y: Any, names: tuple[str, str] = ("X", "y"), *, least: int = 1,
    check_finite: bool = True,
) -> Data:  # fmt: skip
    """Check data with labels or targets, and at least `least` samples."""
    x = feature_matrix(names[0], X, model, check_finite)
    if len(x) < least:
        raise ValueError(f"{names[0]}: expected at least {least} samples, got {len(x)}")
    labels, targets = targets_for_loss(names[1], y, len(x), model.config)
    return Data(x, labels, targets, np.empty(0, model.scaling.dtype), names, check_finite)


def training_data(
    model: Any, X: Any, y: Any, sample_weight: Any, check_finite: bool = True
) -> Data:
    """Check data to train on; batch norm needs two samples."""
    least = 1 + model.config.batch_norm
    data = labelled_data(model, X, y, least=least, check_finite=check_finite)
    if sample_weight is None:
        return data
    weight = weights_array("sample_weight", sample_weight, len(data.x), model.scaling.dtype)
    return data._replace(weight=weight)


def fitted_scalings(model: Any, data: Data) -> tuple[InputScaling, TargetScaling]:
    """Return the scalings of inputs and targets; fit them to the data if they are not fitted."""
    weight, rows = None, None
    if data.weight.size:
        weight = data.weight if model.config.weighted else None
        rows = None if data.weight.all() else np.flatnonzero(data.weight)  # weight 0 does not count
    inputs = model.scaling.fit(data.x, weight, rows)
    return inputs, model.target_scaling.fit(data.targets, weight, rows)


def kernel_samples(data: Data, inputs: InputScaling, targets: TargetScaling) -> Samples:
    """Return the arguments of the kernels; raises ValueError if scaled data overflow."""
    x, center, scale = inputs.apply(data.names[0], data.x, data.check_finite)
    scaled = targets.apply(data.names[1], data.targets)
    return Samples(x, data.labels, scaled, data.weight, center, scale)


def training_samples(
    model: Any, X: Any, y: Any, sample_weight: Any = None, check_finite: bool = True
) -> TrainingSamples:
    """Check and scale data to train on; the model does not change."""
    data = training_data(model, X, y, sample_weight, check_finite)
    inputs, targets = fitted_scalings(model, data)
    return TrainingSamples(kernel_samples(data, inputs, targets), inputs, targets)


def prediction_samples(model: Any, X: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check data to predict from; return them with center and scale for the kernels."""
    x, center, scale = model.scaling.apply("X", feature_matrix("X", X, model), True)
    return x, center, scale
