"""Batch norm with LeakyReLU on the memory of PyTorch's tensors, as an autograd function."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from fastbn.functional.batchnorm import normalize_nc
from fastbn.kernels.addresses import differentiate_at, infer_at, statistics_at, train_at
from fastbn.kernels.running import update_running_statistics
from fastbn.parallel.dispatch import is_forked
from fastbn.parallel.openmp import NO_POOL, find_pool
from fastbn.torch._memory import address_of, empty_like
from fastbn.torch._tracing import PLAIN, is_traced

DTYPES = (torch.float32, torch.float64)

# An array of each dtype, for kernels that take addresses.
LIKE: dict[torch.dtype, np.ndarray] = {
    torch.float32: np.zeros(1, np.float32),
    torch.float64: np.zeros(1),
}

# PyTorch's own threads.
POOL = find_pool(torch._C.__file__)

# Numbers from which they share the work, as PyTorch's own operations do.
PARALLEL = 32768


def is_covered(x: Any, *others: torch.Tensor | None) -> bool:
    """Tell whether the kernels take x, and contiguous parameters or buffers of its dtype.

    Plain dense tensors on the CPU. The caller has asked `is_traced`.
    """
    dtype = x.dtype
    if dtype not in DTYPES or not x.is_cpu or type(x) not in PLAIN:
        return False
    for other in others:
        if other is not None and (
            other.dtype is not dtype
            or not other.is_cpu
            or type(other) not in PLAIN
            or not other.is_contiguous()
        ):
            return False
    return x.layout is torch.strided and not is_lazy(x)


def is_lazy(x: torch.Tensor) -> bool:
    """Tell whether the memory of x does not hold its numbers: negated, or zeros without memory."""
    return x.is_neg() or x._is_zerotensor()


def have_size(size: int, vectors: tuple[torch.Tensor | None, ...]) -> bool:
    """Tell whether all vectors have so many numbers: the kernels see addresses alone."""
    return all(vector is None or vector.numel() == size for vector in vectors)


def as_kernels_take_it(x: torch.Tensor) -> tuple[torch.Tensor, tuple[bool, int, int, int]]:
    """Return x, copied if it must be, and how its memory is laid out.

    That is whether it is sample-major ((N, C) or channels-last), and B, C and L of the array
    (B, C, L) that it is otherwise; sample-major L is 1.
    """
    shape = x.shape
    if len(shape) == 2:
        if x.is_contiguous():
            return x, (True, *shape, 1)
        if x.t().is_contiguous():
            return x, (False, 1, shape[1], shape[0])
        return x.contiguous(), (True, *shape, 1)
    if not x.is_contiguous():
        if len(shape) == 4 and x.is_contiguous(memory_format=torch.channels_last):
            return x, (True, x.numel() // shape[1], shape[1], 1)
        x = x.contiguous()
    return x, (False, shape[0], shape[1], x.numel() // (shape[0] * shape[1]))


def vectors(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return gamma and beta."""
    return (
        x.new_ones(x.shape[1]) if weight is None else weight,
        x.new_zeros(x.shape[1]) if bias is None else bias,
    )


def threads_for(size: int) -> int:
    """Return how many of PyTorch's threads are to work on so many numbers."""
    return torch.get_num_threads() if size >= PARALLEL and not is_forked() else 1


def leaves_threads_idle(size: int) -> bool:
    """Tell whether the kernels would work alone where PyTorch shares the work."""
    return POOL is NO_POOL and threads_for(size) > 1


# A momentum: running statistics are means of all batches.
MEAN_OF_ALL = math.nan


class Recipe(NamedTuple):
    """What a module says of a call, beside the tensors that have gradients."""

    eps: float
    slope: float
    momentum: float  # or MEAN_OF_ALL
    running_mean: torch.Tensor | None
    running_var: torch.Tensor | None
    num_batches_tracked: torch.Tensor | None


class BatchNormTraining(torch.autograd.Function):
    """y = act(gamma * (x - mean) / sqrt(var + eps) + beta); running statistics move in place."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None,
        recipe: Recipe,
    ) -> torch.Tensor:  # fmt: skip
        """Normalize x, and let running statistics follow."""
        y, stats = _train(x, weight, bias, recipe)
        ctx.save_for_backward(x, weight, bias)
        ctx.constants = stats, recipe
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        """Gradients of x, weight and bias."""
        (dy,) = grads
        x, weight, bias = ctx.saved_tensors
        stats, recipe = ctx.constants
        if is_pytorchs(dy):
            with torch.enable_grad():
                y = native(x, weight, bias, recipe)
            return *differentiable(y, dy, (x, weight, bias)), None
        dx, dgamma, dbeta = differentiate(dy, x, weight, bias, stats, recipe.slope, True)
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        return (
            dx if needs_x else None,
            dgamma if needs_weight else None,
            dbeta if needs_bias else None,
            None,
        )


class LinearBatchNormTraining(torch.autograd.Function):
    """The same of z = x W^T + b: one function, where PyTorch's graph has five."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, linear_weight: torch.Tensor, linear_bias: torch.Tensor | None,
        weight: torch.Tensor | None, bias: torch.Tensor | None, recipe: Recipe,
    ) -> torch.Tensor:  # fmt: skip
        """Normalize x W^T + b, and let running statistics follow."""
        z = functional.linear(x, linear_weight, linear_bias)
        y, stats = _train(z, weight, bias, recipe)
        ctx.save_for_backward(x, linear_weight, linear_bias, weight, bias, z)
        ctx.constants = stats, recipe
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        """Gradients of x, W, b, weight and bias."""
        (dy,) = grads
        x, linear_weight, linear_bias, weight, bias, z = ctx.saved_tensors
        stats, recipe = ctx.constants
        if is_pytorchs(dy):
            with torch.enable_grad():
                y = native(functional.linear(x, linear_weight, linear_bias), weight, bias, recipe)
            inputs = (x, linear_weight, linear_bias, weight, bias)
            return *differentiable(y, dy, inputs), None
        dz, dgamma, dbeta = differentiate(dy, z, weight, bias, stats, recipe.slope, True)
        needs = ctx.needs_input_grad
        return (
            torch.mm(dz, linear_weight) if needs[0] else None,
            torch.mm(dz.t(), x) if needs[1] else None,
            dz.sum(dim=0) if needs[2] else None,
            dgamma if needs[3] else None,
            dbeta if needs[4] else None,
            None,
        )


# `apply` without what looks for functorch's transforms, which `is_covered` has done: some
# microseconds less.
normalize = super(torch.autograd.Function, BatchNormTraining).apply
normalize_linear = super(torch.autograd.Function, LinearBatchNormTraining).apply


def _train(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, recipe: Recipe
) -> tuple[torch.Tensor, np.ndarray]:
    """Return y, and mean and rstd (2, C)."""
    x, sizes = as_kernels_take_it(x)
    gamma, beta = vectors(x, weight, bias)
    y, stats = empty_like(x), np.empty((2, sizes[2]), LIKE[x.dtype].dtype)
    eps, slope, momentum, mean, var, count = recipe
    running = (0, 0, 0)
    if mean is not None and var is not None and count is not None:
        running = address_of(mean), address_of(var), address_of(count)
    done = train_at(
        stats, POOL, threads_for(x.numel()), *sizes, address_of(x), address_of(gamma),
        address_of(beta), eps, slope, momentum, *running, y.data_ptr(),
    )  # fmt: skip
    if not done:
        _train_wide(x, gamma, beta, recipe, y, stats)
    return y, stats


def is_pytorchs(dy: torch.Tensor) -> bool:
    """Tell whether gradients are to have gradients themselves, or dy is a batch of them or traced.

    Then they are those of PyTorch's own formulas.
    """
    return torch.is_grad_enabled() or not torch._C._has_storage(dy) or is_traced(dy)


def differentiate(
    dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None,
    stats: np.ndarray, slope: float, exact: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return dx, dgamma and dbeta of a batch that was normalized with `stats`, mean and rstd.

    x may be empty. Without `exact` mean and rstd are constants.
    """
    _check_saved(dy, x, weight, bias, stats)
    if not x.numel():
        return torch.empty_like(x), *x.new_zeros(2, x.shape[1])
    x, sizes = as_kernels_take_it(x)
    gamma, beta = vectors(x, weight, bias)
    if not (gamma.is_contiguous() and beta.is_contiguous()):  # by hooks of saved tensors
        gamma, beta = gamma.contiguous(), beta.contiguous()
    if dy.stride() != x.stride() or is_lazy(dy):
        dy = torch.empty_like(x).copy_(dy)
    dx, dgamma, dbeta = empty_like(x), torch.empty_like(gamma), torch.empty_like(beta)
    differentiate_at(
        stats, POOL, threads_for(x.numel()), *sizes, address_of(dy), address_of(x),
        address_of(gamma), address_of(beta), slope, exact, dx.data_ptr(), dgamma.data_ptr(),
        dbeta.data_ptr(),
    )  # fmt: skip
    return dx, dgamma, dbeta


def _check_saved(
    dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None,
    stats: np.ndarray,
) -> None:  # fmt: skip
    """Refuse what a hook has replaced by tensors that the kernels would read past their ends."""
    dtype, shape = dy.dtype, dy.shape
    if (
        x.shape != shape
        or stats.shape[1] != shape[1]
        or dtype not in LIKE
        or LIKE[dtype].dtype != stats.dtype
    ):
        raise RuntimeError(
            f"batch norm: expected the saved input and its gradient alike, {stats.shape[1]} "
            f"channels of {stats.dtype}, got {tuple(x.shape)} of {x.dtype} and {tuple(shape)} of "
            f"{dtype}: a hook has replaced one"
        )
    for tensor in (dy, x, weight, bias):
        if tensor is not None and (tensor.dtype is not dtype or not tensor.is_cpu):
            raise RuntimeError(
                f"batch norm: expected saved tensors of {dtype} on the CPU, got {tensor.dtype} on "
                f"{tensor.device}: a hook has replaced one"
            )
    if not have_size(shape[1], (weight, bias)):
        raise RuntimeError(
            f"batch norm: expected saved parameters of {shape[1]} numbers, got "
            f"{[tuple(one.shape) for one in (weight, bias) if one is not None]}: a hook has "
            "replaced one"
        )


def statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance of each feature."""
    x, sizes = as_kernels_take_it(x)
    mean, var = x.new_empty(x.shape[1]), x.new_empty(x.shape[1])
    if not statistics_at(
        LIKE[x.dtype], POOL, threads_for(x.numel()), *sizes, address_of(x), mean.data_ptr(),
        var.data_ptr(),
    ):  # fmt: skip
        axes = [axis for axis in range(x.dim()) if axis != 1]
        var, mean = torch.var_mean(x.double(), axes, correction=0)
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
        LIKE[x.dtype], POOL, threads_for(x.numel()), *sizes, address_of(x), address_of(gamma),
        address_of(beta), eps, slope, address_of(mean), address_of(var), y.data_ptr(),
    )  # fmt: skip
    return y


def _train_wide(
    x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor, recipe: Recipe, y: torch.Tensor,
    stats: np.ndarray,
) -> None:  # fmt: skip
    """With sums in float64: where squares overflow float32, and where there are NaNs."""
    rows = x.detach().numpy()
    if x.dim() == 4:
        rows = rows.transpose(0, 2, 3, 1)
    source = np.ascontiguousarray(rows).reshape(-1, x.shape[1])
    target = np.empty_like(source)
    mean, wide, rstd = normalize_nc(
        source, gamma.detach().numpy(), beta.detach().numpy(), recipe.eps,
        source.dtype.type(recipe.slope), target,
    )  # fmt: skip
    result = torch.from_numpy(target.reshape(rows.shape))
    y.copy_(result.permute(0, 3, 1, 2) if x.dim() == 4 else result)
    stats[...] = mean, rstd
    _, _, momentum, running_mean, running_var, count = recipe
    if running_mean is not None and running_var is not None and count is not None:
        count += 1
        share = 1.0 / float(count) if math.isnan(momentum) else momentum
        with np.errstate(over="ignore"):  # var may overflow this dtype although y is finite
            var = wide.astype(mean.dtype, copy=False)
        update_running_statistics(
            mean, var, source.shape[0], share, True, running_mean.numpy(), running_var.numpy()
        )


def native(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, recipe: Recipe
) -> torch.Tensor:
    """Say the same in PyTorch's own words."""
    y = functional.batch_norm(x, None, None, weight, bias, True, 0.0, recipe.eps)
    return activate(y, recipe.slope)


def activate(y: torch.Tensor, slope: float) -> torch.Tensor:
    """LeakyReLU by PyTorch: ReLU with slope 0, and nothing with 1."""
    if slope == 1:
        return y
    return functional.relu(y) if slope == 0 else functional.leaky_relu(y, slope)


def differentiable(
    y: torch.Tensor, dy: torch.Tensor, inputs: tuple[torch.Tensor | None, ...]
) -> list[torch.Tensor | None]:
    """Gradients that have gradients themselves."""
    needs = [tensor is not None and tensor.requires_grad for tensor in inputs]
    wanted: Any = list(itertools.compress(inputs, needs))
    found = iter(torch.autograd.grad(y, wanted, dy, create_graph=True))
    return [next(found) if need else None for need in needs]
