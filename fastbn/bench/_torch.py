"""PyTorch's contestants."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from fastbn.bench import _step_work as steps
from fastbn.bench._kernel_work import AdamWork, BatchNormWork, Runner, ScaleWork, adam_results
from fastbn.bench._step_work import Stepper, StepWork


@contextlib.contextmanager
def threads_at(count: int) -> Iterator[None]:
    """Context in which PyTorch has so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def build_net(work: StepWork, inplace: bool) -> torch.nn.Sequential:
    """Linear (no bias), BatchNorm1d and, but for the last layer, LeakyReLU."""
    modules: list[torch.nn.Module] = []
    for index, ((n_in, n_out), weight) in enumerate(zip(work.layers, work.weights(), strict=True)):
        linear = torch.nn.Linear(n_in, n_out, bias=False)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight))
        modules += [linear, torch.nn.BatchNorm1d(n_out, eps=steps.EPS, momentum=steps.MOMENTUM)]
        if index < len(work.layers) - 1:
            modules.append(torch.nn.LeakyReLU(steps.SLOPE, inplace))
    return torch.nn.Sequential(*modules)


class TorchStepper(Stepper):
    """Adam(fused=True) on minibatches that are gathered by index, eager or compiled."""

    def __init__(self, work: StepWork, threads: int, compiled: bool) -> None:
        super().__init__(work)
        self.threads = threads
        x, y = work.data()
        self.x, self.y = torch.from_numpy(x), torch.from_numpy(y)
        self.order = torch.from_numpy(work.order())
        self.net = build_net(work, inplace=not compiled)  # which slows compiled code
        self.adam = torch.optim.Adam(
            self.net.parameters(), lr=steps.LR, betas=(steps.BETA1, steps.BETA2),
            eps=steps.ADAM_EPS, fused=True,
        )  # fmt: skip
        self.loss: Any = self._loss
        if compiled:
            self.loss = torch.compile(self._loss, dynamic=False)

    def _loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.net(x), y)

    def run(self, steps: int) -> np.ndarray:
        losses = []
        with threads_at(self.threads):
            for batch in self.batches(steps):
                rows = self.order[batch]
                loss = self.loss(self.x[rows], self.y[rows])
                self.adam.zero_grad(set_to_none=True)
                loss.backward()
                self.adam.step()
                losses.append(loss.detach())
        return torch.stack(losses).numpy()


class TorchRunner(Runner):
    """Something that PyTorch does with a number of threads."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def run(self, times: int) -> None:
        with threads_at(self.threads):
            super().run(times)


class BatchNorm(TorchRunner):
    """BatchNorm1d and LeakyReLU, sample-major as PyTorch has them; eager or compiled."""

    def __init__(self, work: BatchNormWork, threads: int, compiled: bool = False) -> None:
        super().__init__(threads)
        x, dy, gamma, beta = map(torch.from_numpy, work.data())
        self.x, self.dy = x.requires_grad_(), dy
        # no running statistics: the functions of the other sides keep none
        self.norm = torch.nn.BatchNorm1d(work.features, steps.EPS, track_running_stats=False)
        with torch.no_grad():
            self.norm.weight.copy_(gamma)
            self.norm.bias.copy_(beta)
        module = torch.nn.Sequential(self.norm, torch.nn.LeakyReLU(steps.SLOPE, not compiled))
        self.module: Any = torch.compile(module, dynamic=False) if compiled else module
        self.y = self.x

    def once(self) -> None:
        self.x.grad = self.norm.weight.grad = self.norm.bias.grad = None
        self.y = self.module(self.x)
        self.y.backward(self.dy)

    def results(self) -> list[np.ndarray]:
        tensors: list[Any] = [self.y, self.x.grad, self.norm.weight.grad, self.norm.bias.grad]
        return [tensor.detach().numpy() for tensor in tensors]


class Adam(TorchRunner):
    """torch.optim.Adam(fused=True) on a net's tensors."""

    def __init__(self, work: AdamWork, threads: int) -> None:
        super().__init__(threads)
        self.work = work
        params, grads = work.data()
        self.tensors = [torch.nn.Parameter(torch.from_numpy(part)) for part in work.split(params)]
        for tensor, grad in zip(self.tensors, work.split(grads), strict=True):
            tensor.grad = torch.from_numpy(grad)
        self.adam = torch.optim.Adam(
            self.tensors, lr=steps.LR, betas=(steps.BETA1, steps.BETA2), eps=steps.ADAM_EPS,
            fused=True,
        )  # fmt: skip

    def once(self) -> None:
        self.adam.step()

    def results(self) -> list[np.ndarray]:
        states = [self.adam.state[tensor] for tensor in self.tensors]
        moments = [[state[name] for state in states] for name in ("exp_avg", "exp_avg_sq")]
        return adam_results(
            self.work,
            *(
                np.concatenate([tensor.detach().numpy().ravel() for tensor in tensors])
                for tensors in (self.tensors, *moments)
            ),
        )


class Scale(TorchRunner):
    """Mean and standard deviation per feature, and the scaled tensor."""

    def __init__(self, work: ScaleWork, threads: int) -> None:
        super().__init__(threads)
        self.x = torch.from_numpy(work.data())
        self.last = self.x

    def once(self) -> None:
        std, mean = torch.std_mean(self.x, dim=0, correction=0)
        self.last = (self.x - mean).div_(std)

    def results(self) -> list[np.ndarray]:
        return [self.last.numpy()]
