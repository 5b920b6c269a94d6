"""Which layer the numbers of a network cease to be finite in, after a loss that is not."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from fastbn.functional.batchnorm import batch_norm
from fastbn.kernels.network import Samples
from fastbn.model.config import ModelConfig

CURVES: dict[str | None, Callable[[np.ndarray], np.ndarray]] = {
    None: lambda a: a,
    "tanh": np.tanh,
    "logistic": lambda a: 1.0 / (1.0 + np.exp(-a)),
}


def culprit(
    config: ModelConfig, parameters: dict[str, np.ndarray], samples: Samples, rows: np.ndarray
) -> str:
    """Return "layers.<number>" for the first layer whose numbers are not finite, or "loss".

    "inputs" where they are not to begin with. A forward pass in training, without dropout.
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
                a = CURVES[config.saturating_activation](a)
            if not all(np.isfinite(numbers).all() for numbers in (z, var, a)):
                return name
    return "loss"
