"""Batch norm over the joined batch of several processes, on the CPU (gloo)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

from fastbn.torch._functions import (
    activate,
    differentiate,
    have_size,
    infer,
    is_covered,
    statistics,
)
from fastbn.torch._modules import FastBatchNorm, by_pytorch


class SyncBatchNorm(_BatchNorm):
    """`torch.nn.SyncBatchNorm`, with the same arguments and state, for tensors on the CPU.

    It is no subclass of PyTorch's, which `DistributedDataParallel` refuses to have on the CPU.

    Statistics, forward and backward are those of the joined batch of all processes of the group,
    whose batches may differ in size, or be empty. As in PyTorch the gradients of weight and bias
    are a process's own part of the sum.
    """

    slope = 1.0  # of the activation that a converted module had

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: Any = None,
        **options: bool,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, **options
        )
        self.process_group = process_group

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # PyTorch's name
        """Normalize this process's part of the batch."""
        if not isinstance(input, torch.Tensor):
            raise TypeError(f"input: expected a tensor, got {type(input).__name__}")
        return activate(self._normalize(input), self.slope)

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")

    def _normalize(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != "cpu":
            elsewhere: torch.Tensor = torch.nn.SyncBatchNorm.forward(self, x)  # type: ignore[arg-type]
            return elsewhere
        if not (self.training and dist.is_available()):
            return by_pytorch(self, x)
        if not dist.is_initialized() or dist.get_world_size(self.process_group) < 2:
            return by_pytorch(self, x)  # PyTorch asks for a GPU before it looks for others
        self._check_input_dim(x)
        if x.shape[1] == 0:
            raise ValueError("SyncBatchNorm number of input channels should be non-zero")
        vectors = self.weight, self.bias, self.running_mean, self.running_var
        if not is_covered(x, *vectors):
            raise TypeError(f"input: expected float32 or float64 as the module is, got {x.dtype}")
        if not have_size(x.shape[1], vectors):
            raise ValueError(
                f"input: expected {self.num_features} channels as the module has, got {x.shape[1]}"
            )
        momentum: float = 0.0
        running: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)
        if self.track_running_stats and self.num_batches_tracked is not None:
            share = 1.0 / float(self.num_batches_tracked + 1)
            momentum = share if self.momentum is None else self.momentum
            running = self.running_mean, self.running_var
        result: torch.Tensor = _Synchronized.apply(
            x, self.weight, self.bias, *running, momentum, self.eps, self.process_group
        )
        if self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return result

    @classmethod
    def convert_sync_batchnorm(cls, module: torch.nn.Module, process_group: Any = None) -> Any:
        """Replace the batch norms of a module tree, as PyTorch's does; parameters are shared."""
        slopes = {
            name: part.slope
            for name, part in module.named_modules()
            if isinstance(part, FastBatchNorm)
        }
        converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(module, process_group)
        for part in converted.modules():
            if type(part) is torch.nn.SyncBatchNorm:
                part.__class__ = cls  # type: ignore[assignment]
        for name, slope in slopes.items():
            if slope != 1:
                converted.get_submodule(name).slope = slope
        return converted


class _Synchronized(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None,
        running_mean: torch.Tensor | None, running_var: torch.Tensor | None,
        momentum: float, eps: float, group: Any,
    ) -> torch.Tensor:  # fmt: skip
        count, mean, var = _joined_statistics(x, group)
        if count < 2:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {count}"
            )
        rstd = (var + eps).rsqrt()
        mean_, var_ = mean.to(x.dtype), var.to(x.dtype)
        y = infer(x, weight, bias, mean_, var_, eps, 1.0) if x.numel() else torch.empty_like(x)
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean_, momentum)
            running_var.lerp_((var * (count / (count - 1))).to(x.dtype), momentum)
        ctx.save_for_backward(x, weight)
        ctx.constants = mean, rstd, count, group
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (dy,) = grads
        x, weight = ctx.saved_tensors
        mean, rstd, count, group = ctx.constants
        stats = torch.stack([mean, rstd]).to(x.dtype).numpy()
        # this process's sums, and gamma * rstd * dy, which the others do not enter
        dx, dgamma, dbeta = differentiate(dy, x, weight, None, stats, 1.0, exact=False)
        sums = torch.stack([dbeta, dgamma]).double()
        dist.all_reduce(sums, group=group)
        mean_g, mean_gx = sums / count
        scale = rstd if weight is None else rstd * weight.double()
        constant = (scale * (mean_g - mean * rstd * mean_gx)).to(x.dtype)
        linear = (scale * rstd * mean_gx).to(x.dtype)
        shape = (-1, *[1] * (x.dim() - 2))
        dx = dx.sub_(constant.view(shape)).addcmul_(linear.view(shape), x, value=-1)
        needs = ctx.needs_input_grad
        return (
            dx if needs[0] else None,
            dgamma if needs[1] else None,
            dbeta if needs[2] else None,
            *[None] * 5,
        )


def _joined_statistics(x: torch.Tensor, group: Any) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Values per feature, mean and biased variance of all processes' batches, in float64.

    Chan, Golub & LeVeque 1983, eq. 2.1, in the order of the ranks: all processes get the same bits.
    """
    features = x.shape[1]
    own = torch.zeros(2 * features + 1, dtype=torch.float64)
    if x.numel():
        own[0] = x.numel() // features
        own[1:] = torch.cat(statistics(x))
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, own, group=group)
    table = torch.stack(parts)
    counts, means, variances = table[:, :1], table[:, 1 : features + 1], table[:, features + 1 :]
    count = float(counts.sum())
    share = counts / max(count, 1.0)
    mean = (share * means).sum(dim=0)
    var = (share * (variances + (means - mean) ** 2)).sum(dim=0)
    return int(count), mean, var
