"""fastbn's contestant, and the bare matrix products of the step."""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_limits

from fastbn import BatchNormMLP
from fastbn.bench import _step_work as steps
from fastbn.bench._step_work import Stepper, StepWork


class FastbnStepper(Stepper):
    """What `BatchNormMLP.fit` calls: many steps in one compiled call."""

    def __init__(self, work: StepWork) -> None:
        super().__init__(work)
        self.model = BatchNormMLP(
            work.sizes, negative_slope=steps.SLOPE, eps=steps.EPS, momentum=steps.MOMENTUM,
            lr=steps.LR, betas=(steps.BETA1, steps.BETA2), optimizer_eps=steps.ADAM_EPS,
        )  # fmt: skip
        parameters = dict(self.model.named_parameters())
        for index, weight in enumerate(work.weights()):
            parameters[f"layers.{index}.weight"][...] = weight
        self.samples = self.model._training_samples(*work.data(), None)
        self.order = work.order()

    def run(self, steps_: int) -> np.ndarray:
        order = self.order[self.batches(steps_)].reshape(-1)
        bounds = np.arange(steps_ + 1) * self.work.batch
        losses, _ = self.model.run_steps(self.samples, order, bounds, np.full(steps_, steps.LR))
        return losses


class BareGemms(Stepper):
    """The matrix products of a step and nothing else, feature-major as fastbn's."""

    def __init__(self, work: StepWork, threads: int) -> None:
        super().__init__(work)
        self.threads = threads
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
        with threadpool_limits(self.threads, "blas"):
            for _ in range(steps_):
                for a, b, out in self.products:
                    np.dot(a, b, out)
        return np.empty(0)
