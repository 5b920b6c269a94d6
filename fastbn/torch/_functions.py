"""Batch norm with LeakyReLU on the memory of PyTorch's tensors, as an autograd function."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from fastbn import _jit
from fastbn.functional.batchnorm import gradients_cn, gradients_nc, normalize_cn, normalize_nc
from fastbn.kernels.addresses import differentiate_at, train_at
from fastbn.kernels.batchnorm import update_running_statistics

DTYPES = (torch.float32, torch.float64)
PLAIN = (torch.Tensor, torch.nn.Parameter)

# An array of each dtype, for kernels that take addresses.
LIKE = {torch.float32: np.zeros(1, np.float32), torch.float64: np.zeros(1)}


def is_covered(x: Any, *others: torch.Tensor | None) -> bool:
    """Tell whether the kernels take x, and parameters or buffers of its dtype.

    Plain dense tensors on the CPU, while nothing traces what is called.
    """
    dtype = x.dtype
    if dtype not in DTYPES or not x.is_cpu or type(x) not in PLAIN:
        return False
    for other in others:
        if other is not None and other.dtype is not dtype:
            return False
    tracing = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return x.layout is torch.strided and not tracing


def as_kernels_take_it(x: torch.Tensor) -> tuple[torch.Tensor, str]:
    """Return x, copied if it must be, and its memory's layout.

    "NC" is (N, C) or channels-last, "CN" what `feature_rows` turns into (B, C, L).
    """
    if x.dim() == 2:
        if x.is_contiguous():
            return x, "NC"
        return (x, "CN") if x.t().is_contiguous() else (x.contiguous(), "NC")
    if x.is_contiguous():
        return x, "CN"
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x, "NC"
    return x.contiguous(), "CN"


def samples(x: torch.Tensor) -> np.ndarray:
    """View (N, C) of the memory of a sample-major or channels-last tensor."""
    array = x.detach().numpy()
    return array if x.dim() == 2 else array.transpose(0, 2, 3, 1).reshape(-1, x.shape[1])


def feature_rows(x: torch.Tensor) -> np.ndarray:
    """View (B, C, L) of the memory of a feature-major matrix, or of (N, C, *spatial)."""
    array = x.detach().numpy()
    return array.T[None] if x.dim() == 2 else array.reshape(*x.shape[:2], -1)


def native(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float,
    slope: float,
) -> torch.Tensor:  # fmt: skip
    """Say the same in PyTorch's own words."""
    y = functional.batch_norm(x, None, None, weight, bias, True, 0.0, eps)
    return y if slope == 1 else functional.leaky_relu(y, slope)


class Recipe(NamedTuple):
    """What a module says of a call, beside the tensors that have gradients."""

    eps: float
    slope: float
    momentum: float
    running_mean: torch.Tensor | None
    running_var: torch.Tensor | None


class BatchNormTraining(torch.autograd.Function):
    """y = act(gamma * (x - mean) / sqrt(var + eps) + beta); running statistics move in place."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None,
        recipe: Recipe,
    ) -> torch.Tensor:  # fmt: skip
        """Normalize x, and let running statistics follow."""
        x, layout = as_kernels_take_it(x)
        features = x.shape[1]
        gamma = x.new_ones(features) if weight is None else weight.contiguous()
        beta = x.new_zeros(features) if bias is None else bias.contiguous()
        y, stats = torch.empty_like(x), x.new_empty(2, features)
        if x.numel() >= _jit.PARALLEL_ELEMENTS or not _train_small(
            x, gamma, beta, recipe, layout, y, stats
        ):
            _train_large(x, gamma, beta, recipe, layout, y, stats)
        ctx.save_for_backward(x, weight, bias, stats)
        ctx.constants = layout, gamma, beta, recipe
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        """Gradients of x, weight and bias."""
        (dy,) = grads
        x, weight, bias, stats = ctx.saved_tensors
        layout, gamma, beta, recipe = ctx.constants
        if torch.is_grad_enabled():  # of the gradient, too: by PyTorch's own formulas
            return *_differentiable(dy, x, weight, bias, recipe), None
        if dy.stride() != x.stride():
            dy = torch.empty_like(x).copy_(dy)
        dx, dvectors = torch.empty_like(x), torch.empty_like(stats)
        if x.numel() < _jit.PARALLEL_ELEMENTS:
            differentiate_at(
                LIKE[x.dtype], layout == "NC", *_sizes(x, layout), dy.data_ptr(), x.data_ptr(),
                gamma.data_ptr(), beta.data_ptr(), stats.data_ptr(), recipe.slope,
                dx.data_ptr(), dvectors.data_ptr(),
            )  # fmt: skip
        else:
            kernel, view = KERNELS[layout][1:]
            mean, rstd = stats.numpy()
            vectors = kernel(
                view(dy), view(x), gamma.detach().numpy(), beta.detach().numpy(), mean, rstd,
                mean.dtype.type(recipe.slope), True, view(dx),
            )  # fmt: skip
            dvectors.numpy()[...] = vectors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        dgamma, dbeta = dvectors.unbind()
        return (
            dx if needs_x else None,
            dgamma if needs_weight else None,
            dbeta if needs_bias else None,
            None,
        )


def _sizes(x: torch.Tensor, layout: str) -> tuple[int, int, int]:
    """B, C and L of the array that the kernels take."""
    features = x.shape[1]
    if layout == "NC":
        return x.numel() // features, features, 1
    if x.dim() == 2:
        return 1, features, x.shape[0]
    return x.shape[0], features, x.numel() // (x.shape[0] * features)


def _train_small(
    x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor, recipe: Recipe, layout: str,
    y: torch.Tensor, stats: torch.Tensor,
) -> bool:  # fmt: skip
    """On this thread; False where squares overflow float32."""
    mean, var = recipe.running_mean, recipe.running_var
    running = (0, 0) if mean is None or var is None else (mean.data_ptr(), var.data_ptr())
    done: bool = train_at(
        LIKE[x.dtype], layout == "NC", *_sizes(x, layout), x.data_ptr(), gamma.data_ptr(),
        beta.data_ptr(), recipe.eps, recipe.slope, recipe.momentum, *running,
        y.data_ptr(), stats.data_ptr(),
    )  # fmt: skip
    return done


def _train_large(
    x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor, recipe: Recipe, layout: str,
    y: torch.Tensor, stats: torch.Tensor,
) -> None:  # fmt: skip
    """On several threads, or with sums in float64."""
    kernel, _, view = KERNELS[layout]
    array = view(x)
    mean, var, rstd = kernel(
        array, gamma.detach().numpy(), beta.detach().numpy(), recipe.eps,
        array.dtype.type(recipe.slope), view(y),
    )  # fmt: skip
    stats.numpy()[...] = mean, rstd
    if recipe.running_mean is not None and recipe.running_var is not None:
        with np.errstate(over="ignore"):  # a variance may be no number of this dtype
            var = var.astype(mean.dtype, copy=False)
        update_running_statistics(
            mean, var, x.numel() // gamma.numel(),
            recipe.momentum, True, recipe.running_mean.numpy(), recipe.running_var.numpy(),
        )  # fmt: skip


# forward, backward and view of each layout
KERNELS: dict[str, tuple[Any, Any, Any]] = {
    "NC": (normalize_nc, gradients_nc, samples),
    "CN": (normalize_cn, gradients_cn, feature_rows),
}


def _differentiable(
    dy: torch.Tensor, x: torch.Tensor, weight: Any, bias: Any, recipe: Recipe
) -> list[torch.Tensor | None]:
    """Gradients that have gradients themselves."""
    wanted = [tensor for tensor in (x, weight, bias) if tensor is not None and tensor.requires_grad]
    y = native(x, weight, bias, recipe.eps, recipe.slope)
    found = iter(torch.autograd.grad(y, wanted, dy, create_graph=True))
    return [
        next(found) if tensor is not None and tensor.requires_grad else None
        for tensor in (x, weight, bias)
    ]
