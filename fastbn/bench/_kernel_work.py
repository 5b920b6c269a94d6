"""The kernels' work that all contestants do: batch norm with LeakyReLU, Adam, input scaling."""

from __future__ import annotations

import dataclasses
import math

import numpy as np


class Runner:
    """A contestant: does its work, and shows the results of the last time."""

    def run(self, times: int) -> None:
        """Do the work so many times."""
        for _ in range(times):
            self.once()

    def once(self) -> None:
        """Do the work."""
        raise NotImplementedError

    def results(self) -> list[np.ndarray]:
        """Return what came out, in the same order and orientation on all sides."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class MatrixWork:
    """Work on a matrix: ``samples`` by ``features`` of float32."""

    samples: int
    features: int

    @property
    def name(self) -> str:
        """Return "1024x512"."""
        return f"{self.samples}x{self.features}"


@dataclasses.dataclass(frozen=True)
class BatchNormWork(MatrixWork):
    """Forward and backward of batch norm with LeakyReLU."""

    @property
    def bytes_moved(self) -> int:
        """Bytes to move where nothing stays in cache: x and y, then dy, x and dx."""
        return 5 * 4 * self.samples * self.features

    def data(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return x and dy (samples, features), gamma and beta (features,)."""
        generator = np.random.default_rng(0)
        shape = (self.samples, self.features)
        x, dy = generator.standard_normal((2, *shape), np.float32)
        gamma, beta = generator.standard_normal((2, self.features), np.float32)
        return x, dy, gamma, beta


BATCH_NORMS = [
    BatchNormWork(*shape)
    for shape in [
        (32, 32), (128, 128), (256, 256), (1024, 512), (6000, 32), (4096, 1024), (16384, 1024),
    ]
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class AdamWork:
    """A step of Adam on the tensors of a net of three square layers with batch norm."""

    name: str
    width: int

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Weight, gamma and beta of each layer."""
        return [(self.width, self.width), (self.width,), (self.width,)] * 3

    @property
    def size(self) -> int:
        """Parameters."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def bytes_moved(self) -> int:
        """Bytes to move where nothing stays in cache: four arrays read and three written."""
        return 7 * 4 * self.size

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Return parameters and gradients, flat, of float32."""
        generator = np.random.default_rng(0)
        params, grads = generator.standard_normal((2, self.size), np.float32)
        return params, grads

    def split(self, flat: np.ndarray) -> list[np.ndarray]:
        """Return the tensors that lie in a flat array, as views."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])
        parts = np.split(flat, ends[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]


class FlatAdam(Runner):
    """Adam on the flat buffers of a net's tensors."""

    def __init__(self, work: AdamWork) -> None:
        self.work = work
        self.params, self.grads = work.data()
        self.m, self.v = np.zeros_like(self.params), np.zeros_like(self.params)
        self.step = 0

    def results(self) -> list[np.ndarray]:
        return adam_results(self.work, self.params, self.m, self.v)


def adam_results(work: AdamWork, *state: np.ndarray) -> list[np.ndarray]:
    """Return how far the parameters have come, and both moments: flat params, m and v are given.

    The parameters themselves would hide a wrong step, which is small beside them.
    """
    params, m, v = state
    return [params - work.data()[0], m.copy(), v.copy()]


ADAMS = [
    AdamWork("1 k", 18),
    AdamWork("100 k", 182),
    AdamWork("1 M", 577),
    AdamWork("30 M", 3162),
]


@dataclasses.dataclass(frozen=True)
class ScaleWork(MatrixWork):
    """Fit the z-score of each feature, and apply it."""

    def data(self) -> np.ndarray:
        """Return x (samples, features)."""
        generator = np.random.default_rng(0)
        return generator.random((self.samples, self.features), np.float32) * np.float32(255)


SCALES = [ScaleWork(1000, 20), ScaleWork(6000, 784)]
