"""Batch norm, alone, with LeakyReLU, and behind a linear layer."""

from __future__ import annotations

import torch
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from fastbn.torch._functions import (
    Recipe,
    have_size,
    infer,
    is_covered,
    leaves_threads_idle,
    normalize,
    normalize_linear,
)


class FastBatchNorm(_BatchNorm):
    """PyTorch's batch norm, by kernels where they cover the input.

    Subclasses have PyTorch's constructors. `slope` is that of the activation: 1 is none. `linear`
    holds a linear layer that the input goes through first, which is no submodule.
    """

    slope = 1.0
    linear: tuple[torch.nn.Linear] | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # PyTorch's name
        """Normalize a batch: with its own statistics in training, else with the running ones."""
        if self.linear is not None:
            return self.behind(*self.linear, input)
        return self._normalize(input)

    def behind(self, linear: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        """Normalize the result of a linear layer; in training in one function of PyTorch's graph.

        Parameters
        ----------
        linear : torch.nn.Linear
            Its hooks are not called.
        x : tensor (N, in_features)
        """
        # not by their names, which a module looks up in three places
        weight: torch.Tensor = linear._parameters["weight"]  # type: ignore[assignment]
        bias = linear._parameters["bias"]
        vectors = self._vectors()
        if (
            self.training
            and is_covered(x, weight, bias, *vectors)
            and x.dim() == 2
            and x.shape[0] > 1
            and weight.shape == (self.num_features, x.shape[1])
            and have_size(self.num_features, vectors)
            and (vectors[2] is None) == (vectors[3] is None)
            and not torch.is_autocast_enabled("cpu")
            and not leaves_threads_idle(x.shape[0] * self.num_features)
        ):
            recipe = self._recipe()
            if recipe is not None:
                y: torch.Tensor = normalize_linear(x, weight, bias, *vectors[:2], recipe)
                return y
        return self._normalize(functional.linear(x, weight, bias))

    def _normalize(self, x: torch.Tensor) -> torch.Tensor:
        self._check_input_dim(x)
        weight, bias, mean, var = vectors = self._vectors()
        size = x.numel()
        if not is_covered(x, *vectors) or leaves_threads_idle(size):
            return self._by_pytorch(x)
        features = x.shape[1]
        if size <= features or features != self.num_features or not have_size(features, vectors):
            return self._by_pytorch(x)  # which says what is wrong
        if (mean is None) != (var is None):
            return self._by_pytorch(x)
        if not self.training and mean is not None and var is not None:
            needs = torch.is_grad_enabled() and any(
                tensor is not None and tensor.requires_grad for tensor in (x, weight, bias)
            )
            if needs:
                return self._by_pytorch(x)
            return infer(x, weight, bias, mean, var, self.eps, self.slope)
        recipe = self._recipe()
        if recipe is None:
            return self._by_pytorch(x)
        y: torch.Tensor = normalize(x, weight, bias, recipe)
        return y

    def _vectors(self) -> tuple[torch.Tensor | None, ...]:
        parameters, buffers = self._parameters, self._buffers
        return (
            parameters["weight"], parameters["bias"], buffers["running_mean"],
            buffers["running_var"],
        )  # fmt: skip

    def _recipe(self) -> Recipe | None:
        """What a training batch is to be normalized with; None where a kernel cannot."""
        if not (self.training and self.track_running_stats):
            return Recipe(self.eps, self.slope, 0.0, None, None, None)
        buffers = self._buffers
        count = buffers["num_batches_tracked"]
        if count is not None and not (count.dtype is torch.int64 and count.is_cpu):
            return None
        momentum = -1.0 if self.momentum is None else self.momentum
        return Recipe(
            self.eps, self.slope, momentum, buffers["running_mean"], buffers["running_var"], count
        )

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


class LinearBatchNormLeakyReLU(torch.nn.Module):
    """A linear layer without bias, batch norm and LeakyReLU, in one function of PyTorch's graph.

    Hooks of its two parts are not called.

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
        self.linear = torch.nn.Linear(in_features, out_features, False, device, dtype)
        self.norm = BatchNormLeakyReLU(
            out_features, negative_slope, eps, momentum, affine, track_running_stats, device, dtype
        )

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # PyTorch's name
        """act(BN(W x)) of (N, in_features)."""
        return self.norm.behind(self.linear, input)
