"""Find the first layer with non-finite values, for the error message of a refused step."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fastbn.jit.intrinsics import PANEL_BYTES
from fastbn.kernels import network as kernels
from fastbn.model.config import ModelConfig


def nonfinite_layer(
    config: ModelConfig, samples: kernels.Samples, rows: np.ndarray, work: kernels.Workspace,
    layers: np.ndarray, gradients: Iterable[tuple[str, np.ndarray]],
) -> str:  # fmt: skip
    """Return "inputs" or "layers.<number>" for the first values that are not finite, or "loss".

    `work` and `gradients` are the results of a step on these rows.
    """
    n, width = rows.size, PANEL_BYTES // work.z.itemsize
    with np.errstate(all="ignore"):
        x = (samples.x[rows].astype(work.z.dtype) - samples.center) * samples.scale
        if not np.isfinite(x).all():
            return "inputs"
        for index, layer in enumerate(layers):
            first, size = layer[kernels.UNIT], layer[kernels.N_OUT]
            z, var = work.z[first * n : (first + size) * n], work.var[first : first + size]
            if index == len(layers) - 1:
                a = work.a[: size * n]
            else:  # panels (panels, units, columns), the last one with columns to spare
                padded = -(-n // width) * width
                panels = work.a_panels[first * padded : (first + size) * padded]
                a = panels.reshape(-1, size, width).swapaxes(0, 1).reshape(size, padded)[:, :n]
            if not all(np.isfinite(numbers).all() for numbers in (z, var, a)):
                return f"layers.{index}"
        for name, gradient in gradients:
            norm = np.sqrt(np.square(gradient, dtype=np.float64).sum())
            if not (np.isfinite(norm) and (np.abs(gradient) < config.gradient_limit).all()):
                return name.rpartition(".")[0]
    return "loss"
