"""Where a model's tensors lie in its flat buffers, and the scratch memory of its steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from fastbn.config import ModelConfig
from fastbn.kernels import network as kernels

# Tensors start on multiples of this many elements: a cache line in float32.
ALIGNMENT = 16
LINE_BYTES = 64


def aligned_zeros(size: int, dtype: np.dtype) -> np.ndarray:
    """Zeros whose first element starts a cache line."""
    raw = np.zeros(size * dtype.itemsize + LINE_BYTES, np.uint8)
    start = -raw.ctypes.data % LINE_BYTES
    return raw[start : start + size * dtype.itemsize].view(dtype)


class Layout:
    """Names, shapes and places of the tensors in a flat buffer, and the kernels' layer table.

    Gaps between tensors hold zeros, which no gradient ever reaches.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.size = 0  # elements of a flat buffer, gaps included
        self.units = 0  # outputs of all layers together
        self.places: dict[str, tuple[int, tuple[int, ...]]] = {}  # name: (start, shape)
        rows = []
        sizes = config.layer_sizes
        for index, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
            normalized = config.normalized(index)
            weight = self._place(f"layers.{index}.weight", (n_out, n_in))
            gamma = self._place(f"layers.{index}.gamma", (n_out,)) if normalized else -1
            beta = self._place(f"layers.{index}.{'beta' if normalized else 'bias'}", (n_out,))
            rows.append((n_in, n_out, weight, gamma, beta, self.units, normalized))
            self.units += n_out
        self.table = np.array(rows, np.int64)
        self.widest = int(self.table[:, kernels.N_OUT].max())

    def _place(self, name: str, shape: tuple[int, ...]) -> int:
        start = self.size
        self.places[name] = (start, shape)
        self.size += -(-math.prod(shape) // ALIGNMENT) * ALIGNMENT
        return start

    @property
    def inputs(self) -> int:
        """Number of input features."""
        return int(self.table[0, kernels.N_IN])

    @property
    def n_parameters(self) -> int:
        """Trained numbers, gaps left out."""
        return sum(math.prod(shape) for _, shape in self.places.values())

    @property
    def statistics_places(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Name, start and shape of each normalized layer's part of a (units,) buffer."""
        return {
            f"layers.{index}": (int(layer[kernels.UNIT]), (int(layer[kernels.N_OUT]),))
            for index, layer in enumerate(self.table)
            if layer[kernels.NORMALIZED]
        }

    @staticmethod
    def view(buffer: np.ndarray, start: int, shape: tuple[int, ...]) -> np.ndarray:
        """View of `shape` that begins at `start` of a flat buffer."""
        return buffer[start : start + math.prod(shape)].reshape(shape)

    def named_views(self, buffer: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the name and the view of every tensor in `buffer`."""
        for name, (start, shape) in self.places.items():
            yield name, self.view(buffer, start, shape)


def allocate_workspace(layout: Layout, rows: int, dtype: np.dtype) -> kernels.Workspace:
    """Allocate scratch memory for minibatches of up to `rows` samples."""
    sizes = {
        "x": rows * layout.inputs,
        "weight": rows,
        "z": rows * layout.units,
        "a": rows * layout.units,
        "da": rows * layout.widest,
        "dz": rows * layout.widest,
        "loss": rows * 3,
        "mean": layout.units,
        "var": layout.units,
        "rstd": layout.units,
    }
    arrays = {name: aligned_zeros(size, dtype) for name, size in sizes.items()}
    return kernels.Workspace(labels=np.zeros(rows, np.int64), **arrays)
