"""PyTorch as a contestant, and `fastbn.torch` in the same loops."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

import fastbn.torch
from fastbn.bench import _work as constants
from fastbn.bench._predict import PredictWork
from fastbn.bench._work import (
    AdamWork,
    BatchNormWork,
    ModuleWork,
    Runner,
    ScaleWork,
    Stepper,
    StepWork,
)
from fastbn.bench.scripts.torch_net import build

ADAM: dict[str, Any] = {
    "lr": constants.LR, "betas": (constants.BETA1, constants.BETA2), "eps": constants.ADAM_EPS,
}  # fmt: skip


@contextlib.contextmanager
def threads_at(count: int) -> Iterator[None]:
    """Let PyTorch use `count` threads in this context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def adam_of(tensors: Iterable[torch.Tensor], way: str) -> Any:
    """Return `fastbn.torch.Adam` for "accelerated", and PyTorch's fused Adam otherwise."""
    if way == "accelerated":
        return fastbn.torch.Adam(tensors, **ADAM)
    return torch.optim.Adam(tensors, fused=True, **ADAM)


class TorchStepper(Stepper):
    """Training with Adam: eager, compiled or accelerated; minibatches are gathered by index."""

    def __init__(self, work: StepWork, threads: int, way: str = "eager") -> None:
        self.threads = threads
        self.x, self.y = map(torch.from_numpy, work.data())
        self.order = torch.from_numpy(work.order())
        self.net = build(work.weights(), constants, inplace=way != "compiled")  # slower if compiled
        if way == "accelerated":
            fastbn.torch.accelerate(self.net, verbose=False)
        self.adam = adam_of(self.net.parameters(), way)
        self.loss: Any = self._loss
        if way == "compiled":
            self.loss = torch.compile(self._loss, dynamic=False)

    def _loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.net(x), y)

    def minibatches(self) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
        return ((self.x[rows], self.y[rows]) for rows in self.order)

    def run(self, times: int) -> None:
        losses = []
        with threads_at(self.threads):
            for _ in range(times):
                for x, y in self.minibatches():
                    loss = self.loss(x, y)
                    self.adam.zero_grad(set_to_none=True)
                    loss.backward()
                    self.adam.step()
                    losses.append(loss.detach())
        self.losses = torch.stack(losses).numpy()


class TorchCaller(TorchStepper):
    """The same loop over minibatches that exist already."""

    def __init__(self, work: StepWork, threads: int, way: str = "eager") -> None:
        super().__init__(work, threads, way)
        self.ready = list(super().minibatches())

    def minibatches(self) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
        return self.ready


class TorchRunner(Runner):
    """A contestant that runs PyTorch with a number of threads."""

    last: Any  # a tensor

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def run(self, times: int) -> None:
        with threads_at(self.threads):
            super().run(times)

    def results(self) -> list[np.ndarray]:
        return [self.last.numpy()]


class TorchPredictor(TorchRunner):
    """The network and softmax, in evaluation and inference mode, eager or compiled."""

    def __init__(self, work: PredictWork, threads: int, way: str = "eager") -> None:
        super().__init__(threads)
        self.x = torch.from_numpy(work.rows())
        net = build(work.weights(), constants, inplace=way != "compiled")
        norms = [module for module in net if isinstance(module, torch.nn.BatchNorm1d)]
        for norm, arrays in zip(norms, work.norms(), strict=True):
            names = ("weight", "bias", "running_mean", "running_var")
            tensors = dict(zip(names, map(torch.from_numpy, arrays), strict=True))
            norm.load_state_dict(tensors, strict=False)
        net = net.append(torch.nn.Softmax(dim=1)).eval()
        self.net: Any = torch.compile(net, dynamic=False) if way == "compiled" else net

    @torch.inference_mode()
    def run(self, times: int) -> None:
        super().run(times)

    def once(self) -> None:
        self.last = self.net(self.x)


class BatchNorm(TorchRunner):
    """A batch norm module with or without LeakyReLU: eager, compiled or accelerated."""

    def __init__(self, work: BatchNormWork | ModuleWork, threads: int, way: str = "eager") -> None:
        super().__init__(threads)
        x, dy, gamma, beta = map(torch.from_numpy, work.data())
        layout: Any = torch.channels_last if work.channels_last else torch.contiguous_format
        self.x, self.dy = x.to(memory_format=layout).requires_grad_(), dy.to(memory_format=layout)
        kind = torch.nn.BatchNorm2d if x.dim() == 4 else torch.nn.BatchNorm1d
        # no running statistics if the other sides are functions
        keeps = isinstance(work, ModuleWork)
        self.norm = kind(x.shape[1], constants.EPS, constants.MOMENTUM, track_running_stats=keeps)
        with torch.no_grad():
            self.norm.weight.copy_(gamma)
            self.norm.bias.copy_(beta)
        module: Any = self.norm
        if work.activation:
            activation = torch.nn.LeakyReLU(constants.SLOPE, inplace=way != "compiled")
            module = torch.nn.Sequential(self.norm, activation)
        if way == "compiled":
            module = torch.compile(module, dynamic=False)
        elif way == "accelerated":
            fastbn.torch.accelerate(module, verbose=False)
        self.module = module

    def once(self) -> None:
        self.x.grad = self.norm.weight.grad = self.norm.bias.grad = None
        self.y = self.module(self.x)
        self.y.backward(self.dy)

    def results(self) -> list[np.ndarray]:
        tensors: list[Any] = [self.y, self.x.grad, self.norm.weight.grad, self.norm.bias.grad]
        if self.norm.track_running_stats:
            tensors += [self.norm.running_mean, self.norm.running_var]
        return [tensor.detach().contiguous().numpy() for tensor in tensors]


class Adam(TorchRunner):
    """Adam on a network's tensors, PyTorch's or `fastbn.torch`'s."""

    def __init__(self, work: AdamWork, threads: int, way: str = "eager") -> None:
        super().__init__(threads)
        self.work = work
        params, grads = work.data()
        self.tensors = [torch.nn.Parameter(torch.from_numpy(part)) for part in work.split(params)]
        for tensor, grad in zip(self.tensors, work.split(grads), strict=True):
            tensor.grad = torch.from_numpy(grad)
        self.adam = adam_of(self.tensors, way)

    def once(self) -> None:
        self.adam.step()

    def results(self) -> list[np.ndarray]:
        states = [self.adam.state[tensor] for tensor in self.tensors]
        moments = [[state[name] for state in states] for name in ("exp_avg", "exp_avg_sq")]
        parts = ([t.detach().numpy() for t in some] for some in (self.tensors, *moments))
        return self.work.results(*parts)


class Scale(TorchRunner):
    """Scaling by mean and standard deviation of each feature."""

    def __init__(self, work: ScaleWork, threads: int) -> None:
        super().__init__(threads)
        self.x = torch.from_numpy(work.data())

    def once(self) -> None:
        std, mean = torch.std_mean(self.x, dim=0, correction=0)
        self.last = (self.x - mean).div_(std)
