"""The minibatches that a training call is given from outside: checked, and copied."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastbn.checks import as_array
from fastbn.kernels.network import Samples
from fastbn.model.config import ModelConfig
from fastbn.model.inputs import TrainingSamples
from fastbn.model.scaling import InputScaling, Scaling, TargetScaling


def check_samples(
    samples: Any, config: ModelConfig, scaling: InputScaling, target_scaling: TargetScaling
) -> None:
    """Refuse samples that are not of a model's kind, or scaled in another way than its are."""
    if not (isinstance(samples, TrainingSamples) and isinstance(samples.arrays, Samples)):
        raise TypeError(f"samples: expected what `training_samples` returned, got {samples!r:.80}")
    arrays = samples.arrays
    n, inputs, outputs = len(arrays.x), config.layer_sizes[0], config.layer_sizes[-1]
    dtype, one_class = np.dtype(config.dtype), config.predicts_one_class
    shapes = {
        "x": (n, inputs),
        "labels": (n if one_class else 0,),
        "targets": (0 if one_class else n, outputs),
        "weight": (n if arrays.weight.size else 0,),
        "center": (inputs,),
        "scale": (inputs,),
    }
    for name, shape in shapes.items():
        array = getattr(arrays, name)
        if array.shape != shape:
            raise ValueError(f"samples.arrays.{name}: expected shape {shape}, got {array.shape}")
    if arrays.x.dtype not in (dtype, np.uint8):
        raise TypeError(f"samples.arrays.x: expected dtype {dtype} or uint8, got {arrays.x.dtype}")
    dtypes = dict.fromkeys(shapes, dtype) | {"x": arrays.x.dtype, "labels": np.dtype(np.int64)}
    for name, expected in dtypes.items():
        got = getattr(arrays, name).dtype
        if got != expected:
            raise TypeError(f"samples.arrays.{name}: expected dtype {expected}, got {got}")
    _check_range("samples.arrays.labels", arrays.labels, outputs)
    _check_scaling("samples.inputs", samples.inputs, scaling)
    _check_scaling("samples.outputs", samples.outputs, target_scaling)


def _check_scaling(name: str, scaling: Scaling, own: Scaling) -> None:
    """Refuse another scaling than that of a model, which has one once it has seen data."""
    for part in ("center", "scale"):
        got: Any = getattr(scaling, part, None)
        if own.is_fitted and not np.array_equal(got, getattr(own, part)):
            raise ValueError(
                f"{name}.{part}: expected that of the model, got another: samples have to be made "
                "by the model as it is scaled now"
            )


def minibatches(
    order: Any, bounds: Any, lrs: Any, n_samples: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows of all minibatches, where each begins and ends in them, and learning rates.

    Kernels find their memory by the first two: they are copied before they are checked, so that
    nobody changes them afterwards.
    """
    bounds = _integers("bounds", bounds)
    if bounds.size < 2 or (np.diff(bounds) < 1).any():
        raise ValueError(f"bounds: expected two or more ascending integers, got {bounds!r:.80}")
    size = as_array("order", order).size
    if bounds[0] < 0 or bounds[-1] > size:
        raise ValueError(
            f"bounds: expected places in order, from 0 to {size}, got {bounds[0]} to {bounds[-1]}"
        )
    rows = _integers("order", order[bounds[0] : bounds[-1]])
    _check_range("order", rows, n_samples)
    rates = np.array(as_array("lrs", lrs), np.float64)
    if rates.shape != (bounds.size - 1,):
        raise ValueError(f"lrs: expected shape ({bounds.size - 1},), got {rates.shape}")
    return rows, bounds - bounds[0], rates


def _integers(name: str, value: Any) -> np.ndarray:
    """Return a copy of a vector of integers."""
    array = as_array(name, value)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise TypeError(
            f"{name}: expected a vector of integers, got shape {array.shape}, dtype {array.dtype}"
        )
    return np.array(array, np.int64)


def _check_range(name: str, array: np.ndarray, end: int) -> None:
    if array.size and (array.min() < 0 or array.max() >= end):
        raise ValueError(
            f"{name}: expected integers from 0 to {end - 1}, got {array.min()} to {array.max()}"
        )
