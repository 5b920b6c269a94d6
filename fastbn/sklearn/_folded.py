"""The weights of a plain network with the same predictions as a trained model."""

from __future__ import annotations

import itertools

import numpy as np

from fastbn.functional import fold_batch_norm
from fastbn.model import BatchNormMLP


def folded_layers(model: BatchNormMLP) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return weight (outputs, inputs) and bias of each layer, float64 and read-only.

    Batch norm and the scalings of inputs and targets are folded in. float32 could not represent the
    result for features or targets far from zero.
    """
    state = model.snapshot()

    def tensors(layer: int, *names: str) -> list[np.ndarray]:
        return [state[f"layers.{layer}.{name}"].astype(np.float64) for name in names]

    layers = []
    for layer in range(len(model.config.layer_sizes) - 1):
        if model.config.normalized(layer):
            names = ("weight", "gamma", "beta", "running_mean", "running_var")
            weight, gamma, beta, mean, var = tensors(layer, *names)
            layers.append(fold_batch_norm(weight, gamma, beta, mean, var, model.config.eps))
        else:
            weight, bias = tensors(layer, "weight", "bias")
            layers.append((weight, bias))
    inputs, targets = model.scaling, model.target_scaling
    weight, bias = layers[0]
    shift = (weight * (inputs.center * inputs.scale)).sum(axis=1)
    layers[0] = weight * inputs.scale, bias - shift
    weight, bias = layers[-1]
    layers[-1] = weight / targets.scale[:, None], targets.undo(bias)
    for array in itertools.chain(*layers):
        array.flags.writeable = False
    return layers
