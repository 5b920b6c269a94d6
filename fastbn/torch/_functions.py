"""Batch norm with LeakyReLU on the memory of PyTorch's tensors, as an autograd function."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from fastbn.functional.batchnorm import normalize_nc
from fastbn.kernels.addresses import differentiate_at, infer_at, statistics_at, train_at
from fastbn.kernels.running import update_running_statistics
from fastbn.parallel.dispatch import uses_pool
from fastbn.parallel.openmp import NO_POOL, find_pool
from fastbn.torch._memory import (
    address_of,
    as_kernels_take_it,
    empty_like,
    have_size,
    is_lazy,
)
from fastbn.torch._tracing import is_traced

# An array of each dtype; it tells kernels that take addresses which dtype is there.
LIKE: dict[torch.dtype, np.ndarray] = {
    torch.float32: np.zeros(1, np.float32),
    torch.float64: np.zeros(1),
}

# PyTorch's threads.
POOL = find_pool(torch._C.__file__)


def vectors(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return gamma and beta: ones and zeros if the module has none."""
    return (
        x.new_ones(x.shape[1]) if weight is None else weight,
        x.new_zeros(x.shape[1]) if bias is None else bias,
    )


def threads_for(size: int) -> int:
    """Return how many of PyTorch's threads work on this many numbers."""
    return torch.get_num_threads() if uses_pool(size) else 1


def leaves_threads_idle(size: int) -> bool:
    """Return whether the kernels would run on one thread where PyTorch uses several."""
    return POOL is NO_POOL and threads_for(size) > 1


# Represents momentum=None: running statistics are means over all batches.
MEAN_OF_ALL = math.nan


class NormArguments(NamedTuple):
    """Arguments of a call that have no gradients."""

    eps: float
    slope: float
    momentum: float  # or MEAN_OF_ALL
    running_mean: torch.Tensor | None
    running_var: torch.Tensor | None
    num_batches_tracked: torch.Tensor | None


class BatchNormTraining(torch.autograd.Function):
    """y = act(gamma * (z - mean) / sqrt(var + eps) + beta), and running statistics are updated.

    z is x, or x W^T + b. With the linear layer, this replaces five functions of PyTorch's graph.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, linear_weight: torch.Tensor | None,
        linear_bias: torch.Tensor | None, weight: torch.Tensor | None, bias: torch.Tensor | None,
        arguments: NormArguments,
    ) -> torch.Tensor:  # fmt: skip
        """Normalize z, and update running statistics."""
        z = x if linear_weight is None else functional.linear(x, linear_weight, linear_bias)
        y, stats = _train(z, weight, bias, arguments)
        linear = () if linear_weight is None else (linear_weight, linear_bias, z)
        ctx.save_for_backward(x, weight, bias, *linear)
        ctx.constants = stats, arguments
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        """Return the gradients of x, W, b, weight and bias."""
        (dy,) = grads
        x, weight, bias, *linear = ctx.saved_tensors
        linear_weight, linear_bias, z = linear or (None, None, x)
        stats, arguments = ctx.constants
        if needs_pytorch(dy):
            inputs = (x, linear_weight, linear_bias, weight, bias)
            with torch.enable_grad():
                if linear_weight is not None:
                    x = functional.linear(x, linear_weight, linear_bias)
                y = functional.batch_norm(x, None, None, weight, bias, True, 0.0, arguments.eps)
                y = activate(y, arguments.slope)
            return *differentiable(y, dy, inputs), None
        dz, dgamma, dbeta = differentiate(dy, z, weight, bias, stats, arguments.slope, True)
        needs = ctx.needs_input_grad
        dx: torch.Tensor | None = dz
        if linear_weight is not None:
            dx = torch.mm(dz, linear_weight) if needs[0] else None
        return (
            dx,
            torch.mm(dz.t(), x) if needs[1] else None,
            dz.sum(dim=0) if needs[2] else None,
            dgamma if needs[3] else None,
            dbeta if needs[4] else None,
            None,
        )


# `apply` without its check for functorch's transforms, which `is_traced` has done: this saves some
# microseconds.
normalize = super(torch.autograd.Function, BatchNormTraining).apply


def _train(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None,
    arguments: NormArguments,
) -> tuple[torch.Tensor, np.ndarray]:  # fmt: skip
    """Return y, and mean and rstd (2, C)."""
    x, sizes = as_kernels_take_it(x)
    gamma, beta = vectors(x, weight, bias)
    y, stats = empty_like(x), np.empty((2, sizes[2]), LIKE[x.dtype].dtype)
    eps, slope, momentum, mean, var, count = arguments
    running = (0, 0, 0)
    if mean is not None and var is not None and count is not None:
        running = address_of(mean), address_of(var), address_of(count)
    done = train_at(
        stats, POOL, threads_for(x.numel()), sizes,
        (address_of(x), address_of(gamma), address_of(beta), y.data_ptr()), eps, slope, momentum,
        running,
    )  # fmt: skip
    if not done:
        _train_wide(x, gamma, beta, arguments, y, stats)
    return y, stats


def needs_pytorch(dy: torch.Tensor) -> bool:
    """Return whether PyTorch's own formulas have to compute the gradients.

    This is so if the gradients will be differentiated, and if dy is traced or a batch of gradients.
    """
    return torch.is_grad_enabled() or not torch._C._has_storage(dy) or is_traced(dy)


def differentiate(
    dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None,
    stats: np.ndarray, slope: float, exact: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return dx, dgamma and dbeta of a batch that was normalized with `stats`, mean and rstd.

    x may be empty. If `exact` is False, mean and rstd are treated as constants.
    """
    _check_saved(dy, x, weight, bias, stats)
    if not x.numel():
        return torch.empty_like(x), *x.new_zeros(2, x.shape[1])
    gamma, beta = vectors(x, weight, bias)
    # hooks may have replaced them
    x, gamma, beta = _in_memory(x), _in_memory(gamma), _in_memory(beta)
    if not (gamma.is_contiguous() and beta.is_contiguous()):
        gamma, beta = gamma.contiguous(), beta.contiguous()
    x, sizes = as_kernels_take_it(x)
    if dy.stride() != x.stride() or is_lazy(dy):
        dy = torch.empty_like(x).copy_(dy)
    dx, dgamma, dbeta = empty_like(x), torch.empty_like(gamma), torch.empty_like(beta)
    differentiate_at(
        stats, POOL, threads_for(x.numel()), sizes,
        (address_of(dy), address_of(x), address_of(gamma), address_of(beta)), slope, exact,
        (dx.data_ptr(), dgamma.data_ptr(), dbeta.data_ptr()),
    )  # fmt: skip
    return dx, dgamma, dbeta


def _in_memory(x: torch.Tensor) -> torch.Tensor:
    """Return x, or a copy if its memory does not hold its numbers."""
    return torch.empty(x.shape, dtype=x.dtype).copy_(x) if is_lazy(x) else x


def _check_saved(
    dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None,
    stats: np.ndarray,
) -> None:  # fmt: skip
    """Refuse tensors that a hook has replaced and that kernels would read past their ends."""
    channels, dtype, tensors = stats.shape[1], dy.dtype, (dy, x, weight, bias)
    fits = x.shape == dy.shape and x.shape[1] == channels and have_size(channels, (weight, bias))
    fits = fits and dtype in LIKE and LIKE[dtype].dtype == stats.dtype
    for one in tensors:
        if one is not None and (one.dtype is not dtype or not one.is_cpu):
            fits = False
    if not fits:
        found = [
            f"{tuple(one.shape)} {one.dtype} {one.device}" for one in tensors if one is not None
        ]
        raise RuntimeError(
            f"batch norm: expected a gradient and saved tensors of {channels} channels, all "
            f"{stats.dtype} on the CPU, got {', '.join(found)}: a hook has replaced one"
        )


def statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and biased variance of each feature."""
    x, sizes = as_kernels_take_it(x)
    mean, var = x.new_empty(x.shape[1]), x.new_empty(x.shape[1])
    if not statistics_at(
        LIKE[x.dtype], POOL, threads_for(x.numel()), sizes, address_of(x), mean.data_ptr(),
        var.data_ptr(),
    ):  # fmt: skip
        var, mean = torch.var_mean(x.double(), axes_of(x), correction=0)
    return mean, var


def infer(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, mean: torch.Tensor,
    var: torch.Tensor, eps: float, slope: float,
) -> torch.Tensor:  # fmt: skip
    """Normalize with running statistics, without gradients."""
    x, sizes = as_kernels_take_it(x)
    gamma, beta = vectors(x, weight, bias)
    y = empty_like(x)
    infer_at(
        LIKE[x.dtype], POOL, threads_for(x.numel()), sizes,
        (address_of(x), address_of(gamma), address_of(beta), y.data_ptr()), eps, slope,
        (address_of(mean), address_of(var)),
    )  # fmt: skip
    return y


def _train_wide(
    x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor, arguments: NormArguments,
    y: torch.Tensor, stats: np.ndarray,
) -> None:  # fmt: skip
    """Do the same as `_train` with sums in float64, for squares that overflow float32 and NaN."""
    rows = x.detach().numpy()
    if x.dim() == 4:
        rows = rows.transpose(0, 2, 3, 1)
    source = np.ascontiguousarray(rows).reshape(-1, x.shape[1])
    target = np.empty_like(source)
    mean, wide, rstd = normalize_nc(
        source, gamma.detach().numpy(), beta.detach().numpy(), arguments.eps,
        source.dtype.type(arguments.slope), target,
    )  # fmt: skip
    result = torch.from_numpy(target.reshape(rows.shape))
    y.copy_(result.permute(0, 3, 1, 2) if x.dim() == 4 else result)
    stats[...] = mean, rstd
    _, _, momentum, running_mean, running_var, count = arguments
    if running_mean is not None and running_var is not None and count is not None:
        count += 1
        share = 1.0 / float(count) if math.isnan(momentum) else momentum
        with np.errstate(over="ignore"):  # var may overflow this dtype although y is finite
            var = wide.astype(mean.dtype, copy=False)
        update_running_statistics(
            mean, var, source.shape[0], share, True, running_mean.numpy(), running_var.numpy()
        )


def axes_of(x: torch.Tensor) -> list[int]:
    """Return the axes over which statistics are computed."""
    return [axis for axis in range(x.dim()) if axis != 1]


def activate(y: torch.Tensor, slope: float) -> torch.Tensor:
    """Apply LeakyReLU by PyTorch's code: ReLU for slope 0, the identity for slope 1."""
    if slope == 1:
        return y
    return functional.relu(y) if slope == 0 else functional.leaky_relu(y, slope)


def differentiable(
    y: torch.Tensor, dy: torch.Tensor, inputs: Sequence[torch.Tensor | None]
) -> list[torch.Tensor | None]:
    """Return the gradients of the inputs, which can be differentiated again."""
    needs = [tensor is not None and tensor.requires_grad for tensor in inputs]
    wanted: Any = list(itertools.compress(inputs, needs))
    found = iter(torch.autograd.grad(y, wanted, dy, create_graph=True))
    return [next(found) if need else None for need in needs]
