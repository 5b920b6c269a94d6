"""The training step that all contestants take: one net, one data set, one order of the samples."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

BATCHES = 8  # minibatches of the data set
SLOPE, EPS, MOMENTUM = 0.01, 1e-5, 0.1
LR, BETA1, BETA2, ADAM_EPS = 1e-3, 0.9, 0.999, 1e-8


@dataclasses.dataclass(frozen=True)
class StepWork:
    """A net, ``sizes`` with batch norm in every layer, and shuffled minibatches of ``batch``."""

    sizes: tuple[int, ...]
    batch: int

    @property
    def name(self) -> str:
        """Return "20-64-64-2 @ 64"."""
        return f"{'-'.join(map(str, self.sizes))} @ {self.batch}"

    @property
    def layers(self) -> list[tuple[int, int]]:
        """Inputs and outputs of each layer."""
        return list(itertools.pairwise(self.sizes))

    @property
    def flops(self) -> float:
        """Of the matrix products: three for each layer, but no gradient of the inputs."""
        products = [2.0 * n_in * n_out * self.batch for n_in, n_out in self.layers]
        return 3 * sum(products) - products[0]

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Return X (samples, inputs) float32 and y (samples,) int64, of BATCHES minibatches."""
        generator = np.random.default_rng(1)
        n = self.batch * BATCHES
        x = generator.standard_normal((n, self.sizes[0]), np.float32)
        return x, generator.integers(0, self.sizes[-1], n)

    def order(self) -> np.ndarray:
        """Return (BATCHES, batch) row numbers: an epoch's shuffled minibatches."""
        generator = np.random.default_rng(2)
        return generator.permutation(self.batch * BATCHES).reshape(BATCHES, self.batch)

    def weights(self) -> list[np.ndarray]:
        """Initial weights (out, in) of every layer, float32."""
        generator = np.random.default_rng(3)
        return [
            generator.standard_normal((n_out, n_in), np.float32)
            * np.float32(np.sqrt(2.0 / (1.0 + SLOPE**2) / n_in))
            for n_in, n_out in self.layers
        ]


STEPS = [
    StepWork((20, 64, 64, 2), 64),
    StepWork((64, 128, 10), 128),
    StepWork((30, 256, 128, 2), 256),
    StepWork((784, 256, 128, 10), 128),
    StepWork((784, 32, 10), 6000),
    StepWork((784, 1024, 1024, 10), 256),
    StepWork((256, 512, 512, 512, 10), 1024),
]


def _scaled(kind: str) -> list[StepWork]:
    """Return a net, and it with its features, batch or depth doubled three times."""
    factors = [1, 2, 4, 8]
    if kind == "features":
        return [StepWork((128 * f,) * 3 + (10,), 128) for f in factors]
    if kind == "batch":
        return [StepWork((128,) * 3 + (10,), 128 * f) for f in factors]
    return [StepWork((128,) * (1 + 2 * f) + (10,), 128) for f in factors]


SCALING = {kind: _scaled(kind) for kind in ("features", "batch", "depth")}


def random_works(count: int, seed: int = 0) -> list[StepWork]:
    """Draw nets as they are found in the wild: widths, depths and batches of no round numbers."""
    generator = np.random.default_rng(seed)

    def draw(low: int, high: int) -> int:
        return int(np.exp(generator.uniform(np.log(low), np.log(high + 1))))

    works = []
    for _ in range(count):
        hidden = [draw(8, 1024) for _ in range(draw(1, 5))]
        batch = int(generator.choice([37, 1000, draw(16, 4096)]))
        works.append(StepWork((draw(4, 1024), *hidden, draw(2, 100)), batch))
    return works


class Stepper:
    """A contestant: it trains on the minibatches in turn, and tells the losses of the last call."""

    def __init__(self, work: StepWork) -> None:
        self.work = work
        self.position = 0  # in the epoch

    def batches(self, steps: int) -> list[int]:
        """Numbers of the next minibatches."""
        first = self.position
        self.position = (first + steps) % BATCHES
        return [(first + s) % BATCHES for s in range(steps)]

    def run(self, steps: int) -> np.ndarray:
        """Take `steps` steps; the losses (steps,) before each."""
        raise NotImplementedError
