"""The work of all contestants: training steps, batch norm, Adam, scaling of inputs, fits."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from fastbn import reference

BATCHES = 8  # minibatches of a step's data set
SLOPE, EPS, MOMENTUM = 0.01, 1e-5, 0.1
LR, BETA1, BETA2, ADAM_EPS = 1e-3, 0.9, 0.999, 1e-8

# Inputs of LeakyReLU stay this far from 0, where its gradient jumps; rounding errors are smaller.
CORNER = 1e-4


class Runner:
    """A contestant: does its work, and returns the results of the last run."""

    last: list[np.ndarray]

    def run(self, times: int) -> None:
        """Do the work `times` times."""
        for _ in range(times):
            self.once()

    def once(self) -> None:
        """Do the work."""
        raise NotImplementedError

    def results(self) -> list[np.ndarray]:
        """Return the results, in the same order and layout for all sides."""
        return self.last


class BlasRunner(Runner):
    """A contestant that uses a number of BLAS threads."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.pools = ThreadpoolController()  # slow: it searches all loaded libraries

    def run(self, times: int) -> None:
        with self.pools.limit(limits=self.threads, user_api="blas"):
            super().run(times)


# -- training steps --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class StepWork:
    """A network of ``sizes`` with batch norm in every layer, and minibatches of ``batch``."""

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
        """Operations of the matrix products: three per layer, except the gradient of the inputs."""
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
        """Return the initial weights (out, in) of every layer, float32."""
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


def random_steps(count: int) -> list[StepWork]:
    """Draw networks with widths, depths and batches that are not round numbers."""
    generator = np.random.default_rng(0)

    def draw(low: int, high: int) -> int:
        """Draw an integer with a uniformly distributed logarithm."""
        return int(np.exp(generator.uniform(np.log(low), np.log(high + 1))))

    works = []
    for _ in range(count):
        hidden = [draw(8, 1024) for _ in range(draw(1, 5))]
        batch = int(generator.choice([37, 1000, draw(16, 4096)]))
        works.append(StepWork((draw(4, 1024), *hidden, draw(2, 100)), batch))
    return works


CALLS = [StepWork((20, 64, 64, 2), 64), StepWork((16, 48, 48, 3), 64)]


class Stepper(Runner):
    """Trains for epochs of BATCHES steps; the results are the losses before each step."""

    losses: np.ndarray

    def run(self, times: int) -> None:
        self.losses = np.array([loss for _ in range(times) for loss in self.train_epoch()])

    def train_epoch(self) -> Iterable[Any]:
        """Take BATCHES steps; return their losses."""
        raise NotImplementedError

    def results(self) -> list[np.ndarray]:
        return [self.losses]


# -- kernels ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class MatrixWork:
    """Work on a matrix: ``samples`` by ``features`` of float32."""

    samples: int
    features: int

    @property
    def name(self) -> str:
        """Return "1024x512"."""
        return f"{self.samples}x{self.features}"


class BatchNormWork(MatrixWork):
    """Forward and backward of batch norm with LeakyReLU."""

    activation, channels_last = True, False

    @property
    def bytes_moved(self) -> int:
        """Bytes to move if nothing stays in the caches: x and y, then dy, x and dx."""
        return 5 * 4 * self.samples * self.features

    def data(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return x and dy (samples, features), gamma and beta (features,)."""
        generator = np.random.default_rng(0)
        x, dy = generator.standard_normal((2, self.samples, self.features), np.float32)
        gamma, beta = generator.standard_normal((2, self.features), np.float32)
        return x, dy, gamma, beta


class ScaleWork(MatrixWork):
    """Fit the z-score of each feature, and apply it."""

    def data(self) -> np.ndarray:
        """Return x (samples, features)."""
        generator = np.random.default_rng(0)
        return generator.random((self.samples, self.features), np.float32) * np.float32(255)


@dataclasses.dataclass(frozen=True)
class AdamWork:
    """A step of Adam on the tensors of three square layers with batch norm."""

    name: str
    width: int

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Weight, gamma and beta of each layer."""
        return [(self.width, self.width), (self.width,), (self.width,)] * 3

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def bytes_moved(self) -> int:
        """Bytes to move if nothing stays in the caches: four arrays read and three written."""
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

    def results(self, *state: list[np.ndarray]) -> list[np.ndarray]:
        """Return the change of the parameters, m and v, flat, from lists of tensors.

        A wrong step would hardly show in the parameters themselves, which are much larger.
        """
        params, m, v = (np.concatenate([part.ravel() for part in parts]) for parts in state)
        return [params - self.data()[0], m, v]


class FlatAdam(Runner):
    """Adam on the flat buffers of a network's tensors."""

    def __init__(self, work: AdamWork) -> None:
        self.work = work
        self.params, self.grads = work.data()
        self.m, self.v = np.zeros_like(self.params), np.zeros_like(self.params)
        self.step = 0

    def results(self) -> list[np.ndarray]:
        return self.work.results([self.params], [self.m], [self.v])


BATCH_NORMS = [
    BatchNormWork(*shape)
    for shape in [
        (32, 32), (128, 128), (256, 256), (1024, 512), (6000, 32), (4096, 1024), (16384, 1024),
    ]
]  # fmt: skip
ADAMS = [
    AdamWork("1 k", 18), AdamWork("100 k", 182), AdamWork("400 k", 365), AdamWork("1 M", 577),
    AdamWork("12 M", 2000), AdamWork("30 M", 3162),
]  # fmt: skip
SCALES = [ScaleWork(1000, 20), ScaleWork(6000, 784)]


# -- PyTorch's modules -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ModuleWork:
    """Forward and backward of a batch norm module in training, with or without LeakyReLU."""

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
    AdamWork("1 k", 18), AdamWork("10 k", 57), AdamWork("100 k", 182), AdamWork("1 M", 577),
    AdamWork("30 M", 3162),
]  # fmt: skip


# -- estimators ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class FitWork:
    """`epochs` of an estimator on a data set of scikit-learn."""

    name: str
    hidden: tuple[int, ...] = (100,)
    batch: int = 32
    epochs: int = 50
    lr: float = 0.01

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Return X (samples, features) float32 with mean 0 and variance 1, and y (samples,)."""
        from sklearn import datasets

        x, y = getattr(datasets, f"load_{self.name}")(return_X_y=True)
        x -= x.mean(axis=0)
        x /= np.maximum(x.std(axis=0), 1e-6)  # some pixels are constant
        return x.astype(np.float32), y


FITS = [FitWork(name) for name in ("iris", "wine", "digits")]
