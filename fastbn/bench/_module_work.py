"""The work of PyTorch's modules and optimizers that `fastbn.torch` has counterparts of."""

from __future__ import annotations

import dataclasses

import numpy as np

from fastbn import reference
from fastbn.bench._kernel_work import AdamWork

# How far from LeakyReLU's corner, where gradients jump, its inputs stay: rounding is far smaller.
CORNER = 1e-4


@dataclasses.dataclass(frozen=True)
class ModuleWork:
    """Forward and backward of a batch norm module in training, with LeakyReLU behind it or not."""

    shape: tuple[int, ...]  # (N, C, *spatial)
    activation: bool
    channels_last: bool = False

    @property
    def name(self) -> str:
        """Return "128x64x50, LeakyReLU"."""
        parts = ["x".join(map(str, self.shape))]
        parts += ["channels last"] * self.channels_last + ["LeakyReLU"] * self.activation
        return ", ".join(parts)

    def data(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return x and dy of the shape, weight and bias (C,)."""
        generator = np.random.default_rng(0)
        x, dy = (generator.standard_normal(self.shape, np.float32) for _ in "xd")
        weight, bias = generator.standard_normal((2, self.shape[1]), np.float32)
        if self.activation:
            y, _, rstd = reference.batch_norm(x, weight, bias)
            per_number = (rstd * weight).reshape(-1, *[1] * (x.ndim - 2))
            x += np.where(np.abs(y) < CORNER, np.copysign(CORNER, y), 0) / per_number
        return x, dy, weight, bias


SHAPES: list[tuple[int, ...]] = [
    (64, 64), (128, 128), (256, 256), (1024, 512), (6000, 32), (4096, 1024),
    (128, 64, 50), (32, 64, 32, 32), (32, 128, 16, 16), (32, 64, 56, 56),
]  # fmt: skip
CHANNELS_LAST = (32, 64, 32, 32)

MODULES = [
    ModuleWork(shape, activation, channels_last)
    for shape, channels_last in [*((shape, False) for shape in SHAPES), (CHANNELS_LAST, True)]
    for activation in (False, True)
]

OPTIMIZERS = [
    AdamWork("1 k", 18),
    AdamWork("10 k", 57),
    AdamWork("100 k", 182),
    AdamWork("1 M", 577),
    AdamWork("30 M", 3162),
]
