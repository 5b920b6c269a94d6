"""Find the first layer with non-finite values, for the error message of a refused step."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fastbn.jit.intrinsics import PANEL_BYTES
from fastbn.kernels import network as kernels
from fastbn.kernels.gemm import DEPTH
from fastbn.model.config import ModelConfig


def columns_of_panels(panels: np.ndarray, first: int, size: int, n: int) -> list[np.ndarray]:
    """Return the first n columns of a packed right operand: units first to first + size."""
    width = PANEL_BYTES // panels.itemsize
    padded = -(-n // width) * width
    own = panels[first * padded : (first + size) * padded]
    slabs = np.split(own, range(DEPTH * padded, own.size, DEPTH * padded))
    columns = [slab.reshape(padded // width, -1, width).swapaxes(1, 2) for slab in slabs]
    return [slab.reshape(padded, -1)[:n] for slab in columns]


def nonfinite_layer(
    config: ModelConfig, samples: kernels.Samples, rows: np.ndarray, work: kernels.Workspace,
    layers: np.ndarray, gradients: Iterable[tuple[str, np.ndarray]],
) -> str:  # fmt: skip
    """Return "inputs" or "layers.<number>" for the first values that are not finite, or "loss".

    `work` and `gradients` are the results of a step on these rows.
    """
    n = rows.size
    with np.errstate(all="ignore"):
        x = (samples.x[rows].astype(work.z.dtype) - samples.center) * samples.scale
        if not np.isfinite(x).all():
            return "inputs"
        for index, layer in enumerate(layers):
            first, size = layer[kernels.UNIT], layer[kernels.N_OUT]
            z, var = work.z[first * n : (first + size) * n], work.var[first : first + size]
            if index == len(layers) - 1:
                a = [work.a[: size * n]]
            else:
                a = columns_of_panels(work.a_panels, first, size, n)
            if not all(np.isfinite(numbers).all() for numbers in (z, var, *a)):
                return f"layers.{index}"
        for name, gradient in gradients:
            norm = np.sqrt(np.square(gradient, dtype=np.float64).sum())
            if not (np.isfinite(norm) and (np.abs(gradient) < config.gradient_limit).all()):
                return name.rpartition(".")[0]
    return "loss"
