"""Where a model's tensors lie in its flat buffers, and the scratch memory of its steps."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import operator
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from fastbn.checks import as_array
from fastbn.jit.intrinsics import PANEL_BYTES
from fastbn.kernels import network as kernels
from fastbn.kernels.gemm import DEPTH
from fastbn.model.config import ModelConfig

# Tensors start on multiples of this many elements: a cache line in float32.
ALIGNMENT = 16
LINE_BYTES = 64

# Features of the first layer, for each member of a team but one, from which gathering all of a
# minibatch takes less than half of the time of its product.
KEPT_UNITS = 64


# Samples per GEMM in inference; fixed, so that a sample's logits do not depend on what came before.
INFERENCE_ROWS = 512

# Whole panels are multiples of this many elements, in either dtype.
PANEL = PANEL_BYTES // 4


# Of a tensor in a flat buffer: start and shape.
Place = tuple[int, tuple[int, ...]]


def rounded_up(size: int) -> int:
    """Return `size` rounded up to whole panels."""
    return -(-size // PANEL) * PANEL


class _Memory:
    """Zeros for an array to lie in (NumPy's array interface), with no method to resize them."""

    def __init__(self, size: int) -> None:
        self._zeros = np.zeros(size, np.uint8)  # an array: it gets pages as they are needed
        self.__array_interface__ = self._zeros.__array_interface__


def aligned_zeros(size: int, dtype: np.dtype) -> np.ndarray:
    """Zeros whose first element starts a cache line, in memory that `resize` cannot take away.

    Not even that of `base`, which does not own the memory either.
    """
    raw = np.asarray(_Memory(size * dtype.itemsize + LINE_BYTES))
    start = -raw.ctypes.data % LINE_BYTES
    return raw[start : start + size * dtype.itemsize].view(dtype)


def copy_numbers(name: str, target: np.ndarray, value: Any) -> None:
    """Copy an array into `target`; refuse another shape or dtype, byte order aside."""
    array = as_array(name, value)
    if array.dtype.newbyteorder("=") != target.dtype:
        raise TypeError(f"{name}: expected dtype {target.dtype}, got {array.dtype}")
    if array.shape != target.shape:
        raise ValueError(f"{name}: expected shape {target.shape}, got {array.shape}")
    target[...] = array


def assign_all(assignments: Iterable[tuple[Any, Any, Any]]) -> None:
    """Do ``container[key] = value`` for each triple: all of them, whatever a signal's handler does.

    Python runs handlers, which may raise, between two of its instructions; this is one.
    """
    containers, keys, values = zip(*assignments, strict=True)
    collections.deque(map(operator.setitem, containers, keys, values), maxlen=0)


class Buffer:
    """A model's attribute that is a flat array: setting it copies the numbers into the array.

    Kernels rely on its size, so that what is read is a view, of whose shape and dtype the model
    does not depend.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, model: Any, owner: type | None = None) -> np.ndarray:
        if model is None:
            raise AttributeError(f"{self._name}: expected a model, got its class")
        view: np.ndarray = model._buffers[self._name][:]
        return view

    def __set__(self, model: Any, value: Any) -> None:
        copy_numbers(self._name, model._buffers[self._name], value)


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """Names, shapes and places of the tensors in a flat buffer, and the kernels' layer table.

    Gaps between tensors hold zeros, which no gradient ever reaches. Nothing of it can be changed:
    memory is allocated by it.
    """

    size: int  # elements of a flat buffer, gaps included
    units: int  # outputs of all layers together
    padded_units: int  # each layer's rounded up to whole panels
    widest: int  # outputs of the largest layer
    places: Mapping[str, Place]
    statistics_places: Mapping[str, Place]  # of each normalized layer's part of a (units,) buffer
    table: np.ndarray

    @classmethod
    def of(cls, config: ModelConfig) -> Layout:
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
            np.frombuffer(numbers.tobytes(), np.int64).reshape(numbers.shape),  # of constant bytes
        )  # fmt: skip

    @property
    def inputs(self) -> int:
        """Number of input features."""
        return int(self.table[0, kernels.N_IN])

    def keeps_rows(self, rows: int, members: int) -> bool:
        """Tell whether each member of a team keeps its features of the first layer to itself.

        It then gathers all of the minibatch, twice. That pays where a member has features enough to
        multiply with it, and where the others' part of the data is less than what would go from
        core to core instead: z, dz, the weight and its gradient.
        """
        inputs, units = self.inputs, int(self.table[0, kernels.N_OUT])
        others = members - 1
        enough = units >= KEPT_UNITS * others
        return others > 0 and enough and others * rows * inputs <= units * (rows + inputs)

    def barriers(self, rows: int) -> int:
        """Barriers of a training step of two threads (kernels/train_step.py)."""
        return 2 * len(self.table) + (1 if self.keeps_rows(rows, 2) else 4)

    def gemm_flops(self, rows: int) -> float:
        """Floating point operations of a step's matrix products; the first layer has no dX."""
        products = self.table[:, kernels.N_IN] * self.table[:, kernels.N_OUT]
        return 2.0 * rows * (3 * int(products.sum()) - int(products[0]))

    @property
    def n_parameters(self) -> int:
        """Trained numbers, gaps left out."""
        return sum(math.prod(shape) for _, shape in self.places.values())

    @staticmethod
    def view(buffer: np.ndarray, start: int, shape: tuple[int, ...]) -> np.ndarray:
        """View of `shape` that begins at `start` of a flat buffer."""
        return buffer[start : start + math.prod(shape)].reshape(shape)

    def named_views(self, buffer: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the name and the view of every tensor in `buffer`."""
        for name, (start, shape) in self.places.items():
            yield name, self.view(buffer, start, shape)


def workspace_sizes(layout: Layout, rows: int, members: int, trains: bool) -> dict[str, int]:
    """Return the elements of scratch memory, for up to `rows` samples and a team of `members`.

    Predictions need the first five alone.
    """
    padded_rows = rounded_up(rows)
    sizes = {
        "weight": rows,
        "x": members * DEPTH * rounded_up(layout.inputs),
        "z": rows * layout.units,
        "a": rows * layout.widest,
        "a_panels": padded_rows * layout.units,
    }
    for_training = {
        "at_panels": rows * layout.padded_units,
        "da": rows * layout.widest,
        "dz": rows * layout.widest,
        "loss": rows * 3,
        "mean": layout.units,
        "var": layout.units,
        "rstd": layout.units,
        "dz_panels": 2 * padded_rows * layout.widest,
    }
    return {**sizes, **{name: size * trains for name, size in for_training.items()}}


def allocate_workspace(
    layout: Layout, rows: int, dtype: np.dtype, members: int, trains: bool
) -> kernels.Workspace:
    """Allocate scratch memory for minibatches of up to `rows` samples and a team of `members`."""
    sizes = workspace_sizes(layout, rows, members, trains)
    arrays = {name: aligned_zeros(size, dtype) for name, size in sizes.items()}
    arrays["x"] = arrays["x"].reshape(members, -1)
    arrays["dz_panels"] = arrays["dz_panels"].reshape(2, -1)
    parts = -(-rows // kernels.PART_ROWS)
    return kernels.Workspace(
        labels=np.zeros(rows, np.int64), partial=np.zeros(parts), hits=np.zeros(parts, np.int64),
        **arrays,
    )  # fmt: skip


# Scratch memory of so many predictions at once is kept for the next ones, or of the last team.
KEPT = 4

# Training's is given back after so many calls on end that needed none, or little of it.
UNNEEDED_CALLS = 100


class Workspaces:
    """A model's scratch memory: lent to one call at a time, and then kept for the next ones.

    A call that raises gives nothing back, and the next one allocates.
    """

    def __init__(self, layout: Layout, dtype: np.dtype) -> None:
        self._layout, self._dtype = layout, dtype
        self._of_predictions: list[kernels.Workspace] = []
        self._of_training: list[kernels.Workspace] = []  # at most one
        self._unneeded = 0  # calls since the last that needed training's

    def lend_to_training(self, rows: int, members: int) -> kernels.Workspace:
        """Return scratch memory for minibatches of `rows` and a team of `members`."""
        work = self._pop(self._of_training, rows, members)
        is_large = work is not None and work.weight.size > 4 * rows
        self._unneeded = self._unneeded + 1 if is_large else 0
        if work is None or self._unneeded >= UNNEEDED_CALLS:
            work = None  # before there is another
            work = allocate_workspace(self._layout, rows, self._dtype, members, True)
        return work

    def take_back(self, work: kernels.Workspace) -> None:
        """Keep scratch memory of a training call, which is done."""
        self._of_training[:] = [work]

    def lend_to_prediction(self, rows: int) -> kernels.Workspace:
        """Return scratch memory for one thread that predicts `rows` at a time."""
        work = self._pop(self._of_predictions, rows, 1)
        return work or allocate_workspace(self._layout, rows, self._dtype, 1, False)

    def take_back_all(self, spaces: list[kernels.Workspace]) -> None:
        """Keep scratch memory of a prediction, which is done."""
        self._of_predictions.extend(spaces)
        del self._of_predictions[: -max(KEPT, len(spaces))]
        self._unneeded += 1
        if self._unneeded >= UNNEEDED_CALLS:
            self._of_training.clear()

    @staticmethod
    def _pop(kept: list[kernels.Workspace], rows: int, members: int) -> kernels.Workspace | None:
        """Take the last one, which no other thread then gets; one too small is dropped."""
        try:
            work = kept.pop()
        except IndexError:
            return None
        return work if work.weight.size >= rows and len(work.x) >= members else None
