"""fastbn's contestants, and what limits them: the bare matrix products of a step, and a copy."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

import fastbn
from fastbn import BatchNormMLP
from fastbn.bench import _step_work as steps
from fastbn.bench._kernel_work import BatchNormWork, FlatAdam, Runner, ScaleWork
from fastbn.bench._step_work import Stepper, StepWork
from fastbn.kernels.streams import stream
from fastbn.model.inputs import training_samples


class FastbnStepper(Stepper):
    """What `BatchNormMLP.fit` calls: many steps in one compiled call."""

    def __init__(self, work: StepWork, threads: int | None = None) -> None:
        super().__init__(work)
        self.threads = threads  # None: as many as fastbn thinks fit
        self.model = BatchNormMLP(
            work.sizes, negative_slope=steps.SLOPE, eps=steps.EPS, momentum=steps.MOMENTUM,
            lr=steps.LR, betas=(steps.BETA1, steps.BETA2), optimizer_eps=steps.ADAM_EPS,
        )  # fmt: skip
        parameters = dict(self.model.named_parameters())
        for index, weight in enumerate(work.weights()):
            parameters[f"layers.{index}.weight"][...] = weight
        self.samples = training_samples(self.model, *work.data())
        self.order = work.order()

    def run(self, steps_: int) -> np.ndarray:
        order = self.order[self.batches(steps_)].reshape(-1)
        bounds = np.arange(steps_ + 1) * self.work.batch
        with limited(self.threads):
            lrs = np.full(steps_, steps.LR)
            losses, _ = self.model._engine.run_steps(self.samples, order, bounds, lrs)
        return losses


@contextlib.contextmanager
def limited(threads: int | None) -> Iterator[None]:
    """Let fastbn's teams have so many threads; None changes nothing."""
    before = os.environ.get("FASTBN_NUM_THREADS")
    if threads is not None:
        os.environ["FASTBN_NUM_THREADS"] = str(threads)
    try:
        yield
    finally:
        if threads is not None:
            os.environ.pop("FASTBN_NUM_THREADS")
            if before is not None:
                os.environ["FASTBN_NUM_THREADS"] = before


class BareGemms(Stepper):
    """The matrix products of a step and nothing else, feature-major as fastbn's."""

    def __init__(self, work: StepWork, threads: int) -> None:
        super().__init__(work)
        self.threads = threads
        self.pools = ThreadpoolController()  # looks for them at all libraries: not within a sample
        generator = np.random.default_rng(0)

        def normal(*shape: int) -> np.ndarray:
            return generator.standard_normal(shape, np.float32)

        x = normal(work.batch, work.sizes[0]).T
        self.products = []
        backward = []
        for index, (n_in, n_out) in enumerate(work.layers):
            weight, z, dz = (
                normal(n_out, n_in),
                normal(n_out, work.batch),
                normal(n_out, work.batch),
            )
            self.products.append((weight, x, z))
            backward.append((dz, x.T, np.empty_like(weight)))
            if index > 0:
                backward.append((weight.T, dz, np.empty((n_in, work.batch), np.float32)))
            x = z
        self.products += backward[::-1]

    def run(self, steps_: int) -> np.ndarray:
        with self.pools.limit(limits=self.threads, user_api="blas"):
            for _ in range(steps_):
                for a, b, out in self.products:
                    np.dot(a, b, out)
        return np.empty(0)


class BatchNorm(Runner):
    """`batch_norm` and `batch_norm_backward`, with ``out=`` or allocating."""

    def __init__(self, work: BatchNormWork, layout: str, out: bool) -> None:
        x, dy, self.gamma, self.beta = work.data()
        self.layout = layout
        if layout == "CN":
            x, dy = x.T.copy(), dy.T.copy()
        self.x, self.dy = x, dy
        self.y = np.empty_like(x) if out else None
        self.dx = np.empty_like(x) if out else None
        self.settings: dict[str, Any] = {
            "layout": layout, "activation": "leaky_relu", "negative_slope": steps.SLOPE
        }  # fmt: skip
        self.last: list[np.ndarray] = []

    def once(self) -> None:
        y, mean, rstd = fastbn.batch_norm(
            self.x, self.gamma, self.beta, eps=steps.EPS, out=self.y, **self.settings
        )
        dx, dgamma, dbeta = fastbn.batch_norm_backward(
            self.dy, self.x, self.gamma, self.beta, mean, rstd, out=self.dx, **self.settings
        )
        self.last = [y, dx, dgamma, dbeta]

    def results(self) -> list[np.ndarray]:
        return [array.T if self.layout == "CN" else array for array in self.last]


class Adam(FlatAdam):
    """`adam_step` on the flat buffers of a net's tensors, as the model keeps them."""

    def once(self) -> None:
        self.step += 1
        fastbn.adam_step(
            self.params, self.grads, self.m, self.v, step=self.step, lr=steps.LR,
            betas=(steps.BETA1, steps.BETA2), eps=steps.ADAM_EPS,
        )  # fmt: skip


class Scale(Runner):
    """`standardize`, fitted and applied."""

    def __init__(self, work: ScaleWork) -> None:
        self.x = self.last = work.data()

    def once(self) -> None:
        self.last, _, _ = fastbn.standardize(self.x)

    def results(self) -> list[np.ndarray]:
        return [self.last]


class Copy(Runner):
    """A copy, NumPy's or past the caches, by one thread or more: the bandwidth."""

    def __init__(self, size: int, threads: int, past_the_caches: bool) -> None:
        self.source = np.ones(size // 4, np.float32)
        self.target = np.ones_like(self.source)
        cuts = [self.source.size * part // threads for part in range(threads + 1)]
        self.parts = [slice(*cut) for cut in itertools.pairwise(cuts)]
        self.copy: Any = stream if past_the_caches else self._copy

    @staticmethod
    def _copy(source: np.ndarray, target: np.ndarray) -> None:
        np.copyto(target, source)

    def run(self, times: int) -> None:
        with ThreadPoolExecutor(len(self.parts)) as pool:
            for _ in range(times):
                list(pool.map(self._copy_part, self.parts))

    def _copy_part(self, part: slice) -> None:
        self.copy(self.source[part], self.target[part])
