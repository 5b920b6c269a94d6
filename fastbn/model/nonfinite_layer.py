"""Find the first layer with non-finite values, for the error of a step that is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from fastbn.functional.batchnorm import batch_norm
from fastbn.kernels.network import Samples
from fastbn.model.config import ModelConfig

SATURATING: dict[str | None, Callable[[np.ndarray], np.ndarray]] = {
    None: lambda a: a,
    "tanh": np.tanh,
    "logistic": lambda a: 1.0 / (1.0 + np.exp(-a)),
}


def nonfinite_layer(
    config: ModelConfig, parameters: dict[str, np.ndarray], gradients: dict[str, np.ndarray],
    samples: Samples, rows: np.ndarray,
) -> str:  # fmt: skip
    """Return "inputs" or "layers.<number>" for the first values that are not finite, or "loss".

    A forward pass in training, without dropout, and after it the gradients of the refused step.
    """
    dtype = np.dtype(config.dtype)
    with np.errstate(all="ignore"):
        a = (samples.x[rows].astype(dtype) - samples.center) * samples.scale
        if not np.isfinite(a).all():
            return "inputs"
        sizes = list(itertools.pairwise(config.layer_sizes))
        for index in range(len(sizes)):
            name, var = f"layers.{index}", dtype.type(0)
            slope = 1.0 if index == len(sizes) - 1 else config.slope
            z = a @ parameters[f"{name}.weight"].T
            if config.normalized(index):
                var = z.var(axis=0, dtype=np.float64).astype(dtype)
                gamma, beta = parameters[f"{name}.gamma"], parameters[f"{name}.beta"]
                a, _, _ = batch_norm(
                    z, gamma, beta, eps=config.eps, activation="leaky_relu", negative_slope=slope
                )
            else:
                z += parameters[f"{name}.bias"]
                a = np.where(z > 0, z, slope * z)
            if index < len(sizes) - 1:
                a = SATURATING[config.saturating_activation](a)
            if not all(np.isfinite(numbers).all() for numbers in (z, var, a)):
                return name
        for name, gradient in gradients.items():
            norm = np.sqrt(np.square(gradient, dtype=np.float64).sum())
            if not (np.isfinite(norm) and (np.abs(gradient) < config.gradient_limit).all()):
                return name.rpartition(".")[0]
    return "loss"
