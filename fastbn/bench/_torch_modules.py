"""Contestants that PyTorch's own training loops are made of, and those of `fastbn.torch`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import fastbn.torch
from fastbn.bench import _step_work as steps
from fastbn.bench._kernel_work import AdamWork
from fastbn.bench._module_work import ModuleWork
from fastbn.bench._step_work import StepWork
from fastbn.bench._torch import Adam, TorchRunner, TorchStepper


class Module(TorchRunner):
    """A batch norm module, and LeakyReLU: PyTorch's, eager or compiled, or accelerated."""

    def __init__(self, work: ModuleWork, threads: int, way: str) -> None:
        super().__init__(threads)
        x, dy, weight, bias = map(torch.from_numpy, work.data())
        layout: Any = torch.channels_last if work.channels_last else torch.contiguous_format
        self.x, self.dy = x.to(memory_format=layout).requires_grad_(), dy.to(memory_format=layout)
        kind = torch.nn.BatchNorm2d if x.dim() == 4 else torch.nn.BatchNorm1d
        self.norm = kind(x.shape[1], steps.EPS, steps.MOMENTUM)
        with torch.no_grad():
            self.norm.weight.copy_(weight)
            self.norm.bias.copy_(bias)
        module: Any = self.norm
        if work.activation:
            activation = torch.nn.LeakyReLU(steps.SLOPE, inplace=way != "compiled")
            module = torch.nn.Sequential(self.norm, activation)
        if way == "compiled":
            module = torch.compile(module, dynamic=False)
        elif way == "accelerated":
            fastbn.torch.accelerate(module, verbose=False)
        self.module, self.y = module, self.x

    def once(self) -> None:
        self.x.grad = self.norm.weight.grad = self.norm.bias.grad = None
        self.y = self.module(self.x)
        self.y.backward(self.dy)

    def results(self) -> list[np.ndarray]:
        tensors: list[Any] = [self.y, self.x.grad, self.norm.weight.grad, self.norm.bias.grad]
        tensors += [self.norm.running_mean, self.norm.running_var]
        return [tensor.detach().contiguous().numpy() for tensor in tensors]


class FastAdam(Adam):
    """`fastbn.torch.Adam`."""

    def __init__(self, work: AdamWork, threads: int) -> None:
        super().__init__(work, threads)
        self.adam = fastbn.torch.Adam(
            self.tensors, lr=steps.LR, betas=(steps.BETA1, steps.BETA2), eps=steps.ADAM_EPS
        )


class AcceleratedStepper(TorchStepper):
    """The same loop: the net accelerated, and the optimizer `fastbn.torch.Adam`."""

    def __init__(self, work: StepWork, threads: int) -> None:
        super().__init__(work, threads, compiled=False)
        fastbn.torch.accelerate(self.net, verbose=False)
        self.adam = fastbn.torch.Adam(
            self.net.parameters(), lr=steps.LR, betas=(steps.BETA1, steps.BETA2),
            eps=steps.ADAM_EPS,
        )  # fmt: skip
