"""Weights packed for predictions of one sample, which would otherwise pack them in every call."""

from __future__ import annotations

import sys

import numpy as np

from fastbn.kernels import network as kernels
from fastbn.model.buffers import aligned_zeros
from fastbn.model.layout import BufferLayout, rounded_up


class PackedWeights:
    """The packed weights of a model, kept until its parameters may change.

    Code that writes parameters makes a view of them first, calls `forget`, and drops the view after
    writing. While there is a view, nothing is packed, and `forget` discards what was packed before.
    So this also holds for views that users keep, and for predictions in other threads. A bare
    address of the memory is not a view.
    """

    def __init__(self, layout: BufferLayout, params: np.ndarray) -> None:
        outputs = [rounded_up(n) for n in layout.table[:, kernels.N_OUT].tolist()]
        self._size = int(np.dot(layout.table[:, kernels.N_IN], outputs))
        self._params = params
        self._memory = params.base  # every view refers to it, and not to `params`
        self._references = sys.getrefcount(self._memory)
        self.none = np.empty(0, params.dtype)
        self.forget()

    def forget(self) -> None:
        """Discard the packed weights, and those that another thread is packing now."""
        self._kept: list[np.ndarray] = []

    def panels(self, layers: np.ndarray) -> np.ndarray:
        """Return the packed weights, or an empty array if it is not worthwhile to pack them.

        It is worthwhile in the second call, if the parameters have not changed since the first one.
        """
        kept = self._kept
        if sys.getrefcount(self._memory) != self._references:
            return self.none
        if not kept:
            kept.append(self.none)
        elif kept[-1] is self.none:
            try:
                panels = aligned_zeros(self._size, self._params.dtype)
                kernels.pack_weights(layers, self._params, panels)
            except MemoryError:
                panels = self.none[:]  # do not try again
            if kept[-1] is self.none:  # no other thread has packed them meanwhile
                kept.append(panels)
        return kept[-1]

    def holds(self, panels: np.ndarray) -> bool:
        """Return whether these panels are still those of the parameters."""
        return bool(self._kept) and self._kept[-1] is panels
