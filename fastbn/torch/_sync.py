"""Batch norm over the joined batch of several processes, on the CPU (gloo)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from fastbn.functional import batch_norm_inference, batch_statistics
from fastbn.functional.batchnorm import gradients_cn
from fastbn.kernels.batchnorm import update_running_statistics
from fastbn.torch._functions import is_covered


class SyncBatchNorm(torch.nn.SyncBatchNorm):
    """`torch.nn.SyncBatchNorm`, with the same arguments and state, for tensors on the CPU, too.

    Statistics, forward and backward are those of the joined batch of all processes of the group,
    whose batches may differ in size, or be empty. As in PyTorch the gradients of weight and bias
    are a process's own part of the sum.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # PyTorch's name
        """Normalize this process's part of the batch."""
        x = input
        if x.device.type != "cpu" or not (self.training and dist.is_available()):
            return super().forward(x)
        if not dist.is_initialized() or dist.get_world_size(self.process_group) < 2:
            return self._alone(x)
        self._check_input_dim(x)
        self._check_non_zero_input_channels(x)
        if not is_covered(x, self.weight, self.running_mean):
            raise TypeError(f"input: expected float32 or float64 as the module is, got {x.dtype}")
        momentum: float = 0.0
        running: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)
        if self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            share = 1.0 / float(self.num_batches_tracked)
            momentum = share if self.momentum is None else self.momentum
            running = self.running_mean, self.running_var
        result: torch.Tensor = _Synchronized.apply(
            x, self.weight, self.bias, *running, momentum, self.eps, self.process_group
        )
        return result

    def _alone(self, x: torch.Tensor) -> torch.Tensor:
        """Do without the others: PyTorch asks for a GPU before it looks whether there are any."""
        self._check_input_dim(x)
        return torch.nn.modules.batchnorm._BatchNorm.forward(self, x)

    @classmethod
    def convert_sync_batchnorm(cls, module: torch.nn.Module, process_group: Any = None) -> Any:
        """Replace the batch norms of a module tree, as PyTorch's does; parameters are shared."""
        converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(module, process_group)
        for part in converted.modules():
            if type(part) is torch.nn.SyncBatchNorm:
                part.__class__ = cls
        return converted


class _Synchronized(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None,
        running_mean: torch.Tensor | None, running_var: torch.Tensor | None,
        momentum: float, eps: float, group: Any,
    ) -> torch.Tensor:  # fmt: skip
        x = x.contiguous()
        rows = _rows(x)
        count, mean, var = _joined_statistics(rows, group)
        if count < 2:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {count}"
            )
        dtype = rows.dtype
        gamma, beta = (
            None if tensor is None else tensor.detach().contiguous().numpy()
            for tensor in (weight, bias)
        )
        mean_, var_ = mean.astype(dtype), var.astype(dtype)
        y = batch_norm_inference(rows, mean_, var_, gamma, beta, eps=eps)
        if running_mean is not None and running_var is not None:
            update_running_statistics(
                mean_, var_, count, momentum, True, running_mean.numpy(), running_var.numpy()
            )
        ctx.save_for_backward(x, weight)
        rstd = (1.0 / np.sqrt(var + eps)).astype(dtype)
        ctx.constants = mean_, rstd, count, group
        return torch.from_numpy(y.reshape(x.shape))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (dy,) = grads
        x, weight = ctx.saved_tensors
        mean, rstd, count, group = ctx.constants
        rows = _rows(x)
        d = _rows(dy.contiguous())
        gamma = np.ones_like(mean) if weight is None else weight.detach().contiguous().numpy()
        dx = np.empty_like(rows)
        zero, one = np.zeros_like(gamma), rows.dtype.type(1)
        dgamma, dbeta = np.zeros((2, gamma.size), rows.dtype)
        if rows.size:  # this process's sums, and gamma * rstd * dy, which the others do not enter
            dgamma, dbeta = gradients_cn(d, rows, gamma, zero, mean, rstd, one, False, dx)
        sums = torch.from_numpy(np.concatenate([dbeta, dgamma]).astype(np.float64))
        dist.all_reduce(sums, group=group)
        mean_g, mean_gx = (sums.numpy() / count).reshape(2, -1)
        scale = (gamma * rstd.astype(np.float64)).astype(rows.dtype)
        constant = (scale * (mean_g - mean * rstd.astype(np.float64) * mean_gx)).astype(rows.dtype)
        linear = (scale * rstd * mean_gx).astype(rows.dtype)
        dx -= constant[:, None] + linear[:, None] * rows
        needs = ctx.needs_input_grad
        return (
            torch.from_numpy(dx.reshape(x.shape)) if needs[0] else None,
            torch.from_numpy(dgamma) if needs[1] else None,
            torch.from_numpy(dbeta) if needs[2] else None,
            *[None] * 5,
        )


def _rows(x: torch.Tensor) -> np.ndarray:
    """View (B, C, L) of a contiguous tensor, which may be empty."""
    return x.detach().numpy().reshape(*x.shape[:2], x.shape[2:].numel())


def _joined_statistics(rows: np.ndarray, group: Any) -> tuple[int, np.ndarray, np.ndarray]:
    """Values per feature, mean and biased variance of all processes' rows (B, C, L), in float64.

    Chan, Golub & LeVeque 1983, eq. 2.1, in the order of the ranks: all processes get the same bits.
    """
    features = rows.shape[1]
    own = np.zeros(2 * features + 1)
    if rows.size:
        own[0] = rows.size // features
        own[1:] = np.concatenate(batch_statistics(rows))
    parts = [torch.empty(own.size, dtype=torch.float64) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, torch.from_numpy(own), group=group)
    table = torch.stack(parts).numpy()
    counts, means, variances = table[:, 0], table[:, 1 : features + 1], table[:, features + 1 :]
    count = counts.sum()
    share = (counts / max(count, 1.0))[:, None]
    mean = (share * means).sum(axis=0)
    var = (share * (variances + (means - mean) ** 2)).sum(axis=0)
    return int(count), mean, var
