"""The places of a model's tensors in its flat buffers."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import types
from collections.abc import Iterator, Mapping

import numpy as np

from fastbn.jit.intrinsics import PANEL_BYTES, TILE_ROWS
from fastbn.kernels import network as kernels
from fastbn.model.config import ModelConfig
from fastbn.parallel.team_size import Product, TeamWork

# Tensors start on multiples of this many elements: a cache line in float32.
ALIGNMENT = 16

# If the first layer has at least this many features for each member of a team but one, gathering
# the whole minibatch takes less than half as long as multiplying with it.
KEPT_UNITS = 64

# Whole panels are multiples of this many elements, in either dtype.
PANEL = PANEL_BYTES // 4

# Start and shape of a tensor in a flat buffer.
Place = tuple[int, tuple[int, ...]]


def rounded_up(size: int) -> int:
    """Return `size` rounded up to whole panels."""
    return -(-size // PANEL) * PANEL


@dataclasses.dataclass(frozen=True, eq=False)
class BufferLayout:
    """Names, shapes and places of the tensors in a flat buffer, and the kernels' layer table.

    Gaps between tensors contain zeros. A layout is immutable, since kernels compute addresses from
    it.
    """

    size: int  # elements of a flat buffer, gaps included
    units: int  # outputs of all layers together
    padded_units: int  # outputs of all layers, each rounded up to whole panels
    widest: int  # outputs of the largest layer
    places: Mapping[str, Place]
    statistics_places: Mapping[str, Place]  # places of normalized layers in a (units,) buffer
    table: np.ndarray

    @classmethod
    def of(cls, config: ModelConfig) -> BufferLayout:
        """Return the layout of a model of this configuration."""
        size = units = padded_units = 0
        places: dict[str, Place] = {}
        statistics_places: dict[str, Place] = {}
        rows = []

        def place(name: str, *shape: int) -> int:
            nonlocal size
            start = size
            places[name] = (start, shape)
            size += -(-math.prod(shape) // ALIGNMENT) * ALIGNMENT
            return start

        for index, (n_in, n_out) in enumerate(itertools.pairwise(config.layer_sizes)):
            layer, normalized = f"layers.{index}", config.normalized(index)
            weight = place(f"{layer}.weight", n_out, n_in)
            gamma = place(f"{layer}.gamma", n_out) if normalized else -1
            beta = place(f"{layer}.{'beta' if normalized else 'bias'}", n_out)
            if normalized:
                statistics_places[layer] = (units, (n_out,))
            rows.append((n_in, n_out, weight, gamma, beta, units, padded_units, normalized))
            units += n_out
            padded_units += rounded_up(n_out)
        numbers = np.array(rows, np.int64)
        return cls(
            size, units, padded_units, max(config.layer_sizes[1:]),
            types.MappingProxyType(places), types.MappingProxyType(statistics_places),
            np.frombuffer(numbers.tobytes(), np.int64).reshape(numbers.shape),  # read-only
        )  # fmt: skip

    @property
    def inputs(self) -> int:
        """Number of input features."""
        return int(self.table[0, kernels.N_IN])

    def gathers_whole_batch(self, rows: int, members: int) -> bool:
        """Return whether each member of a team gathers the whole minibatch for its features.

        This is faster if a member has enough features to multiply with it, and if the data that it
        gathers in addition are fewer than the numbers that cores would exchange otherwise: z, dz,
        the weight and its gradient.
        """
        inputs, units = self.inputs, int(self.table[0, kernels.N_OUT])
        others = members - 1
        enough = units >= KEPT_UNITS * others
        return others > 0 and enough and others * rows * inputs <= units * (rows + inputs)

    def barriers(self, rows: int) -> int:
        """Return the barriers of a training step of two threads (kernels/train_step.py)."""
        return 2 * len(self.table) + (1 if self.gathers_whole_batch(rows, 2) else 4)

    def team_work(self, rows: int, dtype: np.dtype) -> TeamWork:
        """Return what the threads of a team share in a training step.

        The members exchange activations, transposed and not, their gradients, and weights.
        """
        kept = self.gathers_whole_batch(rows, 2) * math.prod(self.places["layers.0.weight"][1])
        exchanged = 3 * rows * self.units + self.n_parameters - kept
        return TeamWork(
            self.gemm_flops(rows), self.barriers(rows), exchanged * dtype.itemsize,
            tuple(self.products(rows, dtype)),
        )  # fmt: skip

    def products(self, rows: int, dtype: np.dtype) -> Iterator[Product]:
        """Yield the matrix products of a training step, cut as for a team of many threads.

        They are cut into tiles of rows; those of the data also into panels (`share_tasks`).
        """
        width = PANEL_BYTES // dtype.itemsize
        for index, (n_in, n_out) in enumerate(
            self.table[:, [kernels.N_IN, kernels.N_OUT]].tolist()
        ):
            flops, tiles = 2.0 * rows * n_in * n_out, -(-n_out // TILE_ROWS)
            if index == 0:
                yield Product(flops, tiles * -(-rows // width))  # z
                yield Product(flops, tiles * -(-n_in // width))  # gradient of the weight
            else:
                yield Product(flops, tiles)
                yield Product(flops, tiles)
                yield Product(flops, -(-n_in // TILE_ROWS))  # gradient of the input

    def gemm_flops(self, rows: int) -> float:
        """Return the floating point operations of a step's matrix products."""
        first = math.prod(self.places["layers.0.weight"][1])  # no dX of the first layer
        return 3 * self.prediction_flops(rows) - 2.0 * rows * first

    def prediction_flops(self, rows: int) -> float:
        """Return the floating point operations of a prediction's matrix products."""
        return 2.0 * rows * self._n_weights

    @functools.cached_property
    def _n_weights(self) -> int:
        return int(np.dot(self.table[:, kernels.N_IN], self.table[:, kernels.N_OUT]))

    @property
    def packed_size(self) -> int:
        """Number of elements of the packed weights (`kernels.pack_weights`), at most."""
        outputs = [rounded_up(n) for n in self.table[:, kernels.N_OUT].tolist()]
        return int(np.dot(self.table[:, kernels.N_IN], outputs))

    @property
    def n_parameters(self) -> int:
        """Number of trained numbers, without gaps."""
        return sum(math.prod(shape) for _, shape in self.places.values())

    @staticmethod
    def view(buffer: np.ndarray, start: int, shape: tuple[int, ...]) -> np.ndarray:
        """Return the view of `shape` that begins at `start` of a flat buffer."""
        return buffer[start : start + math.prod(shape)].reshape(shape)

    def named_views(self, buffer: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the name and the view of every tensor in `buffer`."""
        for name, (start, shape) in self.places.items():
            yield name, self.view(buffer, start, shape)
