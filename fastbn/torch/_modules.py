"""Batch norm, alone, with LeakyReLU, and behind a linear layer."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from fastbn.functional import batch_norm_inference
from fastbn.torch._functions import (
    BatchNormTraining,
    Recipe,
    as_kernels_take_it,
    feature_rows,
    is_covered,
    samples,
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
        if not is_covered(x, weight, bias, mean, var) or x.numel() < SMALLEST:
            return self._by_pytorch(x)
        if not self.training and (mean is not None or var is not None):
            return self._infer(x)
        if x.shape[1] != self.num_features or x.numel() == self.num_features:
            return self._by_pytorch(x)  # which says what is wrong
        recipe = Recipe(self.eps, self.slope, 0.0, None, None)
        if self.training and self.track_running_stats:
            count: Any = buffers["num_batches_tracked"]
            count += 1
            momentum = 1.0 / float(count) if self.momentum is None else self.momentum
            recipe = Recipe(self.eps, self.slope, momentum, mean, var)
        result: torch.Tensor = BatchNormTraining.apply(x, weight, bias, recipe)
        return result

    def _infer(self, x: torch.Tensor) -> torch.Tensor:
        """With running statistics; what needs gradients goes to PyTorch."""
        needs = torch.is_grad_enabled() and any(
            tensor is not None and tensor.requires_grad for tensor in (x, self.weight, self.bias)
        )
        if needs or x.shape[1] != self.num_features or not x.numel():
            return self._by_pytorch(x)
        x, layout = as_kernels_take_it(x)
        y = torch.empty_like(x)
        vectors = [
            None if tensor is None else tensor.detach().numpy()
            for tensor in (self.running_mean, self.running_var, self.weight, self.bias)
        ]
        view = samples if layout == "NC" else feature_rows
        source, target = view(x), view(y)
        if layout == "CN" and x.dim() == 2:  # a matrix of one batch; images are (N, C, H * W)
            source, target = source[0], target[0]
        else:
            layout = "NC"
        batch_norm_inference(
            source, *vectors, eps=self.eps, layout=layout, activation="leaky_relu",
            negative_slope=self.slope, out=target,
        )  # fmt: skip
        return y

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
