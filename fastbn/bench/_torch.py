"""PyTorch's contestants."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fastbn.bench import _step_work as steps
from fastbn.bench._step_work import Stepper, StepWork


def build_net(work: StepWork) -> torch.nn.Sequential:
    """Linear (no bias), BatchNorm1d and, but for the last layer, LeakyReLU."""
    modules: list[torch.nn.Module] = []
    for index, ((n_in, n_out), weight) in enumerate(zip(work.layers, work.weights(), strict=True)):
        linear = torch.nn.Linear(n_in, n_out, bias=False)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight))
        modules += [linear, torch.nn.BatchNorm1d(n_out, eps=steps.EPS, momentum=steps.MOMENTUM)]
        if index < len(work.layers) - 1:
            modules.append(torch.nn.LeakyReLU(steps.SLOPE))
    return torch.nn.Sequential(*modules)


class TorchStepper(Stepper):
    """Adam(fused=True) on minibatches that are gathered by index, eager or compiled."""

    def __init__(self, work: StepWork, threads: int, compiled: bool) -> None:
        super().__init__(work)
        self.threads = threads
        x, y = work.data()
        self.x, self.y = torch.from_numpy(x), torch.from_numpy(y)
        self.order = torch.from_numpy(work.order())
        self.net = build_net(work)
        self.adam = torch.optim.Adam(
            self.net.parameters(), lr=steps.LR, betas=(steps.BETA1, steps.BETA2),
            eps=steps.ADAM_EPS, fused=True,
        )  # fmt: skip
        self.loss: Any = self._loss
        if compiled:
            self.loss = torch.compile(self._loss)

    def _loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.net(x), y)

    def run(self, steps: int) -> np.ndarray:
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        losses = []
        try:
            for batch in self.batches(steps):
                rows = self.order[batch]
                loss = self.loss(self.x[rows], self.y[rows])
                self.adam.zero_grad(set_to_none=True)
                loss.backward()
                self.adam.step()
                losses.append(loss.detach())
        finally:
            torch.set_num_threads(before)
        return torch.stack(losses).numpy()
