"""The weights packed for predictions, so that not every call has to pack them."""

from __future__ import annotations

import sys

import numpy as np

from fastbn.kernels import network as kernels
from fastbn.model.buffers import aligned_zeros
from fastbn.model.layout import BufferLayout


class PackedWeights:
    """The packed weights of a model, kept until its parameters may change.

    Code that writes parameters makes a view of them first, calls `forget`, and drops the view after
    writing. While there is a view, nothing is kept. So this also holds for views that users keep,
    and for predictions in other threads. A bare address of the memory is not a view.
    """

    def __init__(self, layout: BufferLayout, params: np.ndarray) -> None:
        self._layout = layout
        self._params = params
        self._memory = params.base  # every view refers to it, and not to `params`
        self._references = sys.getrefcount(self._memory)
        self.forget()

    def forget(self) -> None:
        """Discard the packed weights, and those that another thread is packing now."""
        self.kept: list[np.ndarray] = []  # at most one array; a new list after every change

    def panels(self) -> np.ndarray | None:
        """Return the packed weights, or None while there is a view."""
        kept = self.kept
        if not kept:
            if sys.getrefcount(self._memory) != self._references:
                return None
            panels = self.empty()
            kernels.pack_weights(self._layout.table, self._params, panels)
            if not kept:  # otherwise another thread has packed them meanwhile
                kept.append(panels)
        return kept[0]

    def empty(self) -> np.ndarray:
        """Return memory for the packed weights."""
        return aligned_zeros(self._layout.packed_size, self._params.dtype)
