"""Operations and bytes of each kernel of a training step.

They are counted from the formulas, per step, for all threads together. An addition, multiplication,
comparison, division or root is one operation; a fused multiply-add counts as two, and an
exponential as twenty. The bytes are those of a kernel that touches each array once.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from fastbn.kernels import network_arrays as kernels
from fastbn.kernels.optimizers import WORK

if TYPE_CHECKING:
    from fastbn.model import BatchNormMLP

NAMES = {
    kernels.GATHER: "gather",
    kernels.PRODUCT: "product",
    kernels.FORWARD: "forward",
    kernels.DROPOUT: "dropout",
    kernels.PACK: "pack",
    kernels.LOSS: "loss",
    kernels.INPUT_GRADIENT: "input gradient",
    kernels.BACKWARD: "backward",
    kernels.PACK_GRADIENT: "pack gradient",
    kernels.GATHER_AGAIN: "gather again",
    kernels.WEIGHT_GRADIENT: "weight gradient",
    kernels.CLIP: "gradient norm",
    kernels.UPDATE: "optimizer",
    kernels.WAIT: "wait for others",
    kernels.BEGIN: "between steps",
}

# Operations per element, with and without batch norm. Batch norm forward: moments (4),
# normalization (2) and activation (2); backward: normalization (2), activation (2), two sums (3)
# and dx (4).
FORWARD_FLOPS = {True: 8, False: 3}
BACKWARD_FLOPS = {True: 11, False: 3}
LOSS_FLOPS = 26


@dataclasses.dataclass(frozen=True)
class Work:
    """Operations and bytes of one step."""

    flops: float = 0.0
    read: float = 0.0  # bytes
    written: float = 0.0


def step_work(model: BatchNormMLP, rows: int) -> dict[tuple[int, int], Work]:
    """Return the work in a step of `rows` samples, by kind of mark and layer: (kind, layer)."""
    config, size = model.config, model.dtype.itemsize
    optimizer_flops, moments = WORK[config.optimizer]
    reads, writes = 2 + len(moments), 1 + len(moments)  # parameters, gradients and moments
    last = len(config.layer_sizes) - 2
    found: dict[tuple[int, int], Work] = {}
    for layer in range(last + 1):
        n_in, n_out = config.layer_sizes[layer : layer + 2]
        normalized = config.normalized(layer)
        weight, a, z = n_in * n_out * size, rows * n_in * size, rows * n_out * size
        flops = 2.0 * rows * n_in * n_out
        elements = rows * n_out
        found[kernels.PRODUCT, layer] = Work(flops, weight + a, z)
        found[kernels.FORWARD, layer] = Work(FORWARD_FLOPS[normalized] * elements, z, z)
        found[kernels.BACKWARD, layer] = Work(BACKWARD_FLOPS[normalized] * elements, 2 * z, z)
        found[kernels.WEIGHT_GRADIENT, layer] = Work(flops, z + a, weight)
        n_params = n_in * n_out + n_out * (1 + normalized)
        found[kernels.UPDATE, layer] = Work(
            optimizer_flops * n_params, reads * n_params * size, writes * n_params * size,
        )  # fmt: skip
        if layer == 0:
            gathered = Work(2.0 * rows * n_in, a, a)
            found[kernels.GATHER, 0] = found[kernels.GATHER_AGAIN, 0] = gathered
        else:
            found[kernels.INPUT_GRADIENT, layer] = Work(flops, weight + z, a)
            found[kernels.PACK_GRADIENT, layer] = Work(0.0, z, z)
        if layer < last:
            found[kernels.PACK, layer] = Work(0.0, z, 2 * z)
            # applied in the forward and in the backward pass
            found[kernels.DROPOUT, layer] = Work(2.0 * elements, 2 * z, 2 * z)
        else:
            found[kernels.LOSS, layer] = Work(LOSS_FLOPS * elements, z + 8 * rows, z)
    if model.config.max_norm is not None:
        found[kernels.CLIP, 0] = Work(
            2.0 * model.layout.n_parameters, model.layout.n_parameters * size
        )
    return found
