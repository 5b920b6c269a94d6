"""Batch norm, alone, with LeakyReLU, and behind a linear layer."""

from __future__ import annotations

import torch
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from fastbn.torch._functions import (
    Recipe,
    infer,
    is_covered,
    leaves_threads_idle,
    normalize,
)

# Below so many numbers PyTorch's own code is as fast: a call of ours costs some microseconds.
SMALLEST = 128 * 128


class FastBatchNorm(_BatchNorm):
    """PyTorch's batch norm, by kernels where they cover the input and are worth their call.

    Subclasses have PyTorch's constructors. `slope` is that of the activation: 1 is none.
    """

    slope = 1.0

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # PyTorch's name
        """Normalize a batch: with its own statistics in training, else with the running ones."""
        x = input
        self._check_input_dim(x)
        # not by their names, which a module looks up in three places
        parameters, buffers = self._parameters, self._buffers
        weight, bias = parameters["weight"], parameters["bias"]
        mean, var = buffers["running_mean"], buffers["running_var"]
        if not is_covered(x, weight, bias, mean, var):
            return self._by_pytorch(x)
        size, training = x.numel(), self.training
        if size < SMALLEST or x.shape[1] != self.num_features or size == self.num_features:
            return self._by_pytorch(x)  # which says what is wrong
        if leaves_threads_idle(size):
            return self._by_pytorch(x)
        if not training and mean is not None and var is not None:
            needs = torch.is_grad_enabled() and (
                x.requires_grad
                or (weight is not None and weight.requires_grad)
                or (bias is not None and bias.requires_grad)
            )
            if needs or not size:
                return self._by_pytorch(x)
            return infer(x, weight, bias, mean, var, self.eps, self.slope)
        if training and self.track_running_stats:
            count = buffers["num_batches_tracked"]
            if count is not None and not (count.dtype is torch.int64 and count.is_cpu):
                return self._by_pytorch(x)
            momentum = -1.0 if self.momentum is None else self.momentum
            recipe = Recipe(self.eps, self.slope, momentum, mean, var, count)
        else:
            recipe = Recipe(self.eps, self.slope, 0.0, None, None, None)
        result: torch.Tensor = normalize(x, weight, bias, recipe)
        return result

    def _by_pytorch(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y if self.slope == 1 else functional.leaky_relu(y, self.slope)


class BatchNorm1d(FastBatchNorm, torch.nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d`, for (N, C) and (N, C, L), with the same arguments and state."""


class BatchNorm2d(FastBatchNorm, torch.nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, for (N, C, H, W), with the same arguments and state."""


class BatchNormLeakyReLU(FastBatchNorm):
    """Batch norm and LeakyReLU in one pass, for (N, C, *spatial).

    Parameters
    ----------
    num_features : int
    negative_slope : float
        0 is ReLU, 1 no activation at all.
    eps, momentum, affine, track_running_stats, device, dtype
        As in `torch.nn.BatchNorm1d`.
    """

    def __init__(
        self,
        num_features: int,
        negative_slope: float = 0.01,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        self.slope = float(negative_slope)

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")

    def extra_repr(self) -> str:
        """Show the slope, too."""
        return f"{super().extra_repr()}, negative_slope={self.slope}"


class FeatureMajorLinear(torch.nn.Linear):
    """`torch.nn.Linear` whose result (N, C) is laid out feature by feature, for batch norm."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # PyTorch's name
        """W x, transposed in memory."""
        covered = is_covered(input, self.weight) and not torch.is_autocast_enabled("cpu")
        if not covered or input.dim() != 2 or input.shape[0] * self.out_features < SMALLEST:
            return super().forward(input)
        if self.bias is None:
            return torch.mm(self.weight, input.t()).t()
        return torch.addmm(self.bias[:, None], self.weight, input.t()).t()


class LinearBatchNormLeakyReLU(torch.nn.Module):
    """A linear layer without bias, batch norm and LeakyReLU, laid out feature by feature.

    Parameters
    ----------
    in_features, out_features : int
    negative_slope, eps, momentum, affine, track_running_stats, device, dtype
        As in `BatchNormLeakyReLU`.

    Attributes
    ----------
    linear : torch.nn.Linear
    norm : BatchNormLeakyReLU
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        negative_slope: float = 0.01,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.linear = FeatureMajorLinear(in_features, out_features, False, device, dtype)
        self.norm = BatchNormLeakyReLU(
            out_features, negative_slope, eps, momentum, affine, track_running_stats, device, dtype
        )

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # PyTorch's name
        """act(BN(W x)) of (N, in_features)."""
        result: torch.Tensor = self.norm(self.linear(input))
        return result
