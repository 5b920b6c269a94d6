"""fastbn as a contestant, and its limits: the bare matrix products of a step, and a copy."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import fastbn
from fastbn import BatchNormMLP
from fastbn.bench import _work as constants
from fastbn.bench._work import (
    BATCHES,
    BatchNormWork,
    BlasRunner,
    FlatAdam,
    Runner,
    ScaleWork,
    Stepper,
    StepWork,
)
from fastbn.kernels.streams import stream
from fastbn.model.edges import run_steps
from fastbn.model.inputs import training_samples
from fastbn.parallel.cores import at_most
from fastbn.parallel.costs import measured_costs


def model_of(work: StepWork) -> BatchNormMLP:
    """Return a model with the work's weights."""
    model = BatchNormMLP(
        work.sizes, negative_slope=constants.SLOPE, eps=constants.EPS, momentum=constants.MOMENTUM,
        lr=constants.LR, betas=(constants.BETA1, constants.BETA2), optimizer_eps=constants.ADAM_EPS,
    )  # fmt: skip
    parameters = dict(model.named_parameters())
    for index, weight in enumerate(work.weights()):
        parameters[f"layers.{index}.weight"][...] = weight
    return model


class FastbnStepper(Stepper):
    """Training as in `BatchNormMLP.fit`: many steps in one compiled call."""

    def __init__(self, work: StepWork, threads: int | None = None) -> None:
        self.work, self.threads = work, threads  # None: fastbn chooses
        measured_costs()  # now, since it may compile a kernel
        self.model = model_of(work)
        self.samples = training_samples(self.model, *work.data())
        self.epoch = work.order().reshape(-1)

    def run(self, times: int) -> None:
        steps = times * BATCHES
        order, bounds = np.tile(self.epoch, times), np.arange(steps + 1) * self.work.batch
        lrs = np.full(steps, constants.LR)
        with at_most(self.threads):
            self.losses = run_steps(self.model, self.samples, order, bounds, lrs)


class FastbnCaller(Stepper):
    """Training by `train_step`, called once a minibatch."""

    def __init__(self, work: StepWork) -> None:
        x, y = work.data()
        self.model = model_of(work)
        self.minibatches = [(x[rows], y[rows]) for rows in work.order()]

    def train_epoch(self) -> list[float]:
        return [self.model.train_step(x, y) for x, y in self.minibatches]


class BareGemms(BlasRunner):
    """Only the matrix products of an epoch, in NumPy, feature-major like fastbn's."""

    def __init__(self, work: StepWork, threads: int) -> None:
        super().__init__(threads)
        generator = np.random.default_rng(0)

        def normal(*shape: int) -> np.ndarray:
            return generator.standard_normal(shape, np.float32)

        x = normal(work.batch, work.sizes[0]).T
        self.products = []
        backward = []
        for index, (n_in, n_out) in enumerate(work.layers):
            weight = normal(n_out, n_in)
            z, dz = normal(n_out, work.batch), normal(n_out, work.batch)
            self.products.append((weight, x, z))
            backward.append((dz, x.T, np.empty_like(weight)))
            if index > 0:
                backward.append((weight.T, dz, np.empty((n_in, work.batch), np.float32)))
            x = z
        self.products += backward[::-1]

    def once(self) -> None:
        for _ in range(BATCHES):
            for a, b, out in self.products:
                np.dot(a, b, out)


class BatchNorm(Runner):
    """`batch_norm` and `batch_norm_backward`, with ``out=`` or without."""

    def __init__(self, work: BatchNormWork, layout: str, out: bool = False) -> None:
        x, dy, self.gamma, self.beta = work.data()
        self.layout = layout
        if layout == "CN":
            x, dy = x.T.copy(), dy.T.copy()
        self.x, self.dy = x, dy
        self.y = np.empty_like(x) if out else None
        self.dx = np.empty_like(x) if out else None
        self.settings: dict[str, Any] = {
            "layout": layout, "activation": "leaky_relu", "negative_slope": constants.SLOPE
        }  # fmt: skip

    def once(self) -> None:
        y, mean, rstd = fastbn.batch_norm(
            self.x, self.gamma, self.beta, eps=constants.EPS, out=self.y, **self.settings
        )
        dx, dgamma, dbeta = fastbn.batch_norm_backward(
            self.dy, self.x, self.gamma, self.beta, mean, rstd, out=self.dx, **self.settings
        )
        self.last = [y, dx, dgamma, dbeta]

    def results(self) -> list[np.ndarray]:
        return [array.T if self.layout == "CN" else array for array in self.last]


class Adam(FlatAdam):
    """`adam_step` on flat buffers, as in the model."""

    def once(self) -> None:
        self.step += 1
        fastbn.adam_step(
            self.params, self.grads, self.m, self.v, step=self.step, lr=constants.LR,
            betas=(constants.BETA1, constants.BETA2), eps=constants.ADAM_EPS,
        )  # fmt: skip


class Scale(Runner):
    """`standardize`."""

    def __init__(self, work: ScaleWork) -> None:
        self.x = work.data()

    def once(self) -> None:
        self.last = [fastbn.standardize(self.x)[0]]


class Copy(Runner):
    """A copy by NumPy, or by stores that bypass the caches: the bandwidth of memory."""

    def __init__(self, size: int, threads: int, past_the_caches: bool) -> None:
        source, target = (np.ones(size // 4, np.float32) for _ in range(2))
        self.parts = [np.array_split(array, threads) for array in (target, source)]
        self.copy: Any = _stream if past_the_caches else np.copyto

    def run(self, times: int) -> None:
        with ThreadPoolExecutor(len(self.parts[0])) as pool:
            for _ in range(times):
                list(pool.map(self.copy, *self.parts))


def _stream(target: np.ndarray, source: np.ndarray) -> None:
    stream(source, target)
