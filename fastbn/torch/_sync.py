"""Batch norm over the joined batch of several processes, on the CPU (gloo)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

from fastbn.torch._functions import (
    activate,
    axes_of,
    differentiable,
    differentiate,
    infer,
    needs_pytorch,
    statistics,
)
from fastbn.torch._memory import have_size, is_covered
from fastbn.torch._modules import FastBatchNorm, by_pytorch
from fastbn.torch._tracing import is_traced, refusal

TOO_FEW = "Expected more than 1 value per channel when training"

HALVES = (torch.bfloat16, torch.float16)


class SyncBatchNorm(_BatchNorm):
    """`torch.nn.SyncBatchNorm`, with the same arguments and state, for tensors on the CPU.

    It is not a subclass of PyTorch's class, which `DistributedDataParallel` refuses on the CPU.

    Statistics, outputs and gradients are those of the joined batch of all processes of the group.
    The batches of the processes may differ in size, or be empty. As in PyTorch, the gradients of
    weight and bias are this process's part of the sum.

    The kernels compute float32 and float64. PyTorch's operations compute the rest in float64:
    inputs in bfloat16 or float16, with parameters of that dtype or float32; second derivatives; and
    calls that `torch.compile` traces. `torch.export` keeps the exchange between processes as an
    operation of its graph. Other tracers cannot, so call `eval()` before you use them.
    """

    slope = 1.0  # of the activation of the converted module

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

    _check_input_dim: Any = torch.nn.SyncBatchNorm._check_input_dim  # at least two dimensions

    def _normalize(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != "cpu":
            elsewhere: torch.Tensor = torch.nn.SyncBatchNorm.forward(self, x)  # type: ignore[arg-type]
            return elsewhere
        if not (self.training and dist.is_available()):
            return by_pytorch(self, x)
        if not dist.is_initialized() or dist.get_world_size(self.process_group) < 2:
            return by_pytorch(self, x)  # PyTorch's class would require a GPU
        self._check_input_dim(x)
        if x.shape[1] == 0:
            raise ValueError("SyncBatchNorm number of input channels should be non-zero")
        vectors = self.weight, self.bias, self.running_mean, self.running_var
        if not have_size(x.shape[1], vectors):
            raise ValueError(
                f"input: expected {self.num_features} channels as the module has, got {x.shape[1]}"
            )
        for vector in vectors:
            if vector is None or x.dtype is vector.dtype:
                continue
            if vector.dtype is not torch.float32 or x.dtype not in HALVES:
                raise TypeError(f"input: expected {vector.dtype} as the module is, got {x.dtype}")
        compiling = torch.compiler.is_compiling()
        if is_traced(x) and not compiling:
            raise RuntimeError(
                "SyncBatchNorm: in training with several processes only torch.compile and "
                "torch.export can trace it, and tensors have to be plain: call eval() first"
            )
        count = self.num_batches_tracked if self.track_running_stats else None
        momentum: Any = self.momentum
        if momentum is None:
            momentum = 0.0 if count is None else 1.0 / float(count + 1)
        running = (None, None) if count is None else (self.running_mean, self.running_var)
        arguments = x, self.weight, self.bias, *running, momentum, self.eps, self.process_group
        by_kernels = not compiling and is_covered(x, *vectors)
        normalize = _Synchronized.apply if by_kernels else _by_operations
        result: torch.Tensor = normalize(*arguments)
        if count is not None:
            count.add_(1)
        return result

    def __prepare_scriptable__(self) -> None:
        raise refusal("torch.jit.script", self)

    @classmethod
    def convert_sync_batchnorm(cls, module: torch.nn.Module, process_group: Any = None) -> Any:
        """Replace the batch norms of a module tree, as PyTorch's method does; parameters stay."""
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
            raise ValueError(f"{TOO_FEW}, got input size {count}")
        rstd = (var + eps).rsqrt()
        mean_, var_ = mean.to(x.dtype), var.to(x.dtype)
        y = infer(x, weight, bias, mean_, var_, eps, 1.0) if x.numel() else torch.empty_like(x)
        _update_running(running_mean, running_var, mean, var, count, momentum)
        ctx.save_for_backward(x, weight, bias)
        ctx.constants = mean, rstd, count, eps, group
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (dy,) = grads
        x, weight, bias = ctx.saved_tensors
        mean, rstd, count, eps, group = ctx.constants
        if needs_pytorch(dy):
            with torch.enable_grad():
                y = _by_operations(x, weight, bias, None, None, 0.0, eps, group)
            return *differentiable(y, dy, (x, weight, bias)), *[None] * 5
        stats = torch.stack([mean, rstd]).to(x.dtype).numpy()
        # this process's sums, and gamma * rstd * dy, which needs no sums of other processes
        dx, dgamma, dbeta = differentiate(dy, x, weight, None, stats, 1.0, exact=False)
        sums = torch.stack([dbeta, dgamma]).double()
        dist.all_reduce(sums, group=group)
        mean_g, mean_gx = sums / count
        scale = rstd if weight is None else rstd * weight.double()
        constant = (scale * (mean_g - mean * rstd * mean_gx)).to(x.dtype)
        linear = (scale * rstd * mean_gx).to(x.dtype)
        dx = dx.sub_(_along(constant, x)).addcmul_(_along(linear, x), x, value=-1)
        needs = ctx.needs_input_grad
        found = zip((dx, dgamma, dbeta), needs[:3], strict=True)
        return *[grad if need else None for grad, need in found], *[None] * 5


class _Sum(torch.autograd.Function):
    """Sum of a tensor over all processes; its gradient is the sum of all gradients."""

    @staticmethod
    def forward(ctx: Any, part: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group = group
        total = part.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return _Sum.apply(grads[0].contiguous(), ctx.group), None


def _by_operations(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None,
    running_mean: torch.Tensor | None, running_var: torch.Tensor | None,
    momentum: float, eps: float, group: Any,
) -> torch.Tensor:  # fmt: skip
    """Compute the same as `_Synchronized`, in float64 and differentiable any number of times."""
    axes = axes_of(x)
    wide = x.double()
    own = wide.new_full((1,), x.numel() // x.shape[1])
    sums = _Sum.apply(torch.cat([wide.sum(axes), own]), group)
    count = sums[-1]
    if torch.compiler.is_compiling():
        torch._assert_async(count > 1, TOO_FEW)
    elif count < 2:
        raise ValueError(f"{TOO_FEW}, got input size {int(count)}")
    mean = sums[:-1] / count
    wide = wide - _along(mean, x)
    var = _Sum.apply(wide.square().sum(axes), group) / count
    y = wide * _along((var + eps).rsqrt(), x)
    if weight is not None:
        y = y * _along(weight.double(), x)
    if bias is not None:
        y = y + _along(bias.double(), x)
    _update_running(
        running_mean, running_var, mean.detach(), var.detach(), count.detach(), momentum
    )
    return y.to(x.dtype)


def _joined_statistics(x: torch.Tensor, group: Any) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Return values per feature, mean and biased variance over all processes, in float64.

    Chan, Golub & LeVeque 1983, eq. 2.1. The order of the sums is that of the ranks, so all
    processes get the same bits.
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


def _update_running(
    running_mean: torch.Tensor | None, running_var: torch.Tensor | None, mean: torch.Tensor,
    var: torch.Tensor, count: Any, momentum: float,
) -> None:  # fmt: skip
    """Update running statistics from those of a batch of `count` values per feature."""
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((var * (count / (count - 1))).to(running_var.dtype), momentum)


def _along(vector: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return a vector with one number per feature in a shape that broadcasts with x."""
    return vector.view(-1, *[1] * (x.dim() - 2))
