"""Scratch memory of training steps and predictions, kept from one call to the next."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from fastbn.jit.intrinsics import TILE_ROWS
from fastbn.kernels import network as kernels
from fastbn.kernels.gemm import DEPTH
from fastbn.model.buffers import aligned_zeros
from fastbn.model.layout import PANEL, BufferLayout, rounded_up

Space = TypeVar("Space", kernels.Workspace, kernels.PredictionWorkspace)

# Samples per matrix product in inference, at most. Inputs and outputs of a layer stay in cache.
INFERENCE_ROWS = 256

# Workspaces kept for predictions, or more if the last call had more threads.
KEPT = 4

# The training workspace is freed after this many consecutive calls that use little or none of it.
UNNEEDED_CALLS = 100


def prediction_shares(layout: BufferLayout, n: int, threads: int) -> tuple[int, int, int]:
    """Return how threads share a prediction of n samples: teams, members of a team, and rows.

    Each team predicts its share of the samples, so many rows at a time; its members share the units
    of the layers. A team has one member, unless there are too few samples to give each thread a
    tile of a matrix product.
    """
    tiles = -(-n // TILE_ROWS)
    if n < 2 or threads == 1:
        return 1, 1, max(1, min(INFERENCE_ROWS, n))
    if tiles < threads:
        return 1, min(threads, -(-layout.widest // PANEL)), n
    return threads, 1, min(INFERENCE_ROWS, -(-tiles // threads) * TILE_ROWS)


def prediction_sizes(layout: BufferLayout, rows: int) -> dict[str, int]:
    """Return the number of elements of each array, to predict up to `rows` samples at a time."""
    return {
        "x": rows * layout.inputs,
        "a": 2 * rows * layout.widest,
        "shift": layout.units,
        "scale": layout.units,
    }


def training_sizes(layout: BufferLayout, rows: int, members: int) -> dict[str, int]:
    """Return the number of elements of each array, for minibatches of up to `rows` samples."""
    return {
        "x": members * (DEPTH + 1) * rounded_up(layout.inputs),
        "z": rows * layout.units,
        "a": rows * layout.widest,
        "a_panels": rounded_up(rows) * layout.units,
        "weight": rows,
        "at_panels": rows * layout.padded_units,
        "da": rows * layout.widest,
        "dz": rows * layout.widest,
        "loss": rows * 3,
        "mean": layout.units,
        "var": layout.units,
        "rstd": layout.units,
        "dz_panels": 2 * rounded_up(rows) * layout.widest,
    }


def _allocate(sizes: dict[str, int], dtype: np.dtype) -> dict[str, np.ndarray]:
    return {name: aligned_zeros(size, dtype) for name, size in sizes.items()}


def prediction_workspace(
    layout: BufferLayout, rows: int, dtype: np.dtype
) -> kernels.PredictionWorkspace:
    """Allocate scratch memory for a thread that predicts up to `rows` samples at a time."""
    arrays = _allocate(prediction_sizes(layout, rows), dtype)
    arrays["a"] = arrays["a"].reshape(2, -1)
    return kernels.PredictionWorkspace(order=np.zeros(rows, np.int64), **arrays)


def training_workspace(
    layout: BufferLayout, rows: int, dtype: np.dtype, members: int
) -> kernels.Workspace:
    """Allocate scratch memory for minibatches of up to `rows` samples and a team of `members`."""
    arrays = _allocate(training_sizes(layout, rows, members), dtype)
    arrays["x"] = arrays["x"].reshape(members, -1)
    arrays["dz_panels"] = arrays["dz_panels"].reshape(2, -1)
    parts = -(-rows // kernels.PART_ROWS)
    return kernels.Workspace(
        labels=np.zeros(rows, np.int64), partial=np.zeros(parts), hits=np.zeros(parts, np.int64),
        overflows=np.zeros(members, np.int64), **arrays,
    )  # fmt: skip


def last_of(kept: list[Space]) -> Space | None:
    """Remove and return the last workspace, or None; other threads may take it first."""
    try:
        return kept.pop()
    except IndexError:
        return None


class Workspaces:
    """The scratch memory of a model, lent to one call at a time and kept for later ones.

    A call that raises an exception does not return it, and the next call allocates new memory.
    """

    def __init__(self, layout: BufferLayout, dtype: np.dtype) -> None:
        self._layout, self._dtype = layout, dtype
        self._of_predictions: list[kernels.PredictionWorkspace] = []
        self._of_training: list[kernels.Workspace] = []  # at most one
        self._unneeded = 0  # calls since the last one that needed the training workspace

    def lend_to_training(self, rows: int, members: int) -> kernels.Workspace:
        """Return scratch memory for minibatches of `rows` and a team of `members`."""
        work = last_of(self._of_training)
        if work is not None and not (work.weight.size >= rows and len(work.x) >= members):
            work = None
        is_large = work is not None and work.weight.size > 4 * rows
        self._unneeded = self._unneeded + 1 if is_large else 0
        if work is None or self._unneeded >= UNNEEDED_CALLS:
            work = None  # frees its memory before allocating
            work = training_workspace(self._layout, rows, self._dtype, members)
        return work

    def take_back(self, work: kernels.Workspace) -> None:
        """Keep the scratch memory of a training call."""
        self._of_training[:] = [work]

    def lend_to_prediction(self, rows: int) -> kernels.PredictionWorkspace:
        """Return scratch memory for a thread that predicts `rows` at a time."""
        work = last_of(self._of_predictions)
        if work is None or work.order.size < rows:
            work = None
            self._of_predictions.clear()  # frees their memory before allocating
            work = prediction_workspace(self._layout, rows, self._dtype)
        return work

    def take_back_all(self, spaces: list[kernels.PredictionWorkspace]) -> None:
        """Keep the scratch memory of a prediction."""
        self._of_predictions.extend(spaces)
        del self._of_predictions[: -max(KEPT, len(spaces))]
        self._unneeded += 1
        if self._unneeded >= UNNEEDED_CALLS:
            self._of_training.clear()
