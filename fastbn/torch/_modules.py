"""Batch norm alone, with LeakyReLU, and after a linear layer."""

from __future__ import annotations

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import (
    _global_backward_hooks,
    _global_backward_pre_hooks,
    _global_forward_hooks,
    _global_forward_pre_hooks,
)

from fastbn.checks import number
from fastbn.torch._functions import (
    MEAN_OF_ALL,
    NormArguments,
    activate,
    infer,
    leaves_threads_idle,
    normalize,
)
from fastbn.torch._memory import have_size, is_covered
from fastbn.torch._tracing import as_leaf, is_traced, refusal


def has_global_hooks() -> bool:
    """Return whether there are global hooks, which every call of a module runs."""
    return bool(
        _global_backward_pre_hooks
        or _global_backward_hooks
        or _global_forward_pre_hooks
        or _global_forward_hooks
    )


def is_bare(part: torch.nn.Module) -> bool:
    """Return whether a call of this module runs nothing but the forward of its class."""
    return not (
        part._forward_pre_hooks
        or part._forward_hooks
        or part._backward_pre_hooks
        or part._backward_hooks
        or "forward" in part.__dict__
    )


def by_pytorch(norm: _BatchNorm, x: torch.Tensor) -> torch.Tensor:
    """Call PyTorch's batch norm; a batch that it refuses is not counted."""
    if is_traced(x):
        return _BatchNorm.forward(norm, x)
    try:
        return _BatchNorm.forward(norm, x)
    except Exception:
        norm._check_input_dim(x)  # raises again if it refused the batch, before counting
        if norm.training and norm.track_running_stats and norm.num_batches_tracked is not None:
            norm.num_batches_tracked.sub_(1)
        raise


class FastBatchNorm(_BatchNorm):
    """PyTorch's batch norm, computed by fastbn's kernels if they can take the input.

    Subclasses have PyTorch's constructors. `slope` is the slope of the activation, 1 for none. A
    module that is called alone leaves inputs with fewer numbers than `least` to PyTorch.
    """

    slope = 1.0
    least = 0

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # PyTorch's name
        """Normalize a batch with its own statistics in training, and else with the running ones."""
        if is_traced(input):
            is_proxy = isinstance(input, torch.fx.Proxy)
            leaf: torch.Tensor | None = as_leaf(self, input) if is_proxy else None
            return self._by_pytorch(input, self.slope) if leaf is None else leaf
        if not isinstance(input, torch.Tensor):
            raise TypeError(f"input: expected a tensor, got {type(input).__name__}")
        if self.least and input.numel() < self.least:
            return self._by_pytorch(input, self.slope)
        return self._normalize(input, self.slope)

    def __prepare_scriptable__(self) -> None:
        raise refusal("torch.jit.script", self)

    def normalize_between(
        self, linear: torch.nn.Linear | None, x: torch.Tensor, activation: torch.nn.Module | None
    ) -> torch.Tensor:
        """Apply a linear layer, this batch norm and LeakyReLU or ReLU, without calling hooks."""
        if is_traced(x):
            traced: torch.Tensor = self(x if linear is None else linear(x))
            return traced if activation is None else activation(traced)
        slope = self.slope
        if activation is not None:
            slope = float(getattr(activation, "negative_slope", 0.0))
        if linear is None:
            return self._normalize(x, slope)
        # `linear.weight` would be slower, because a module looks names up in three places
        weight: torch.Tensor = linear._parameters["weight"]  # type: ignore[assignment]
        bias = linear._parameters["bias"]
        vectors = self._vectors()
        if (
            self.training
            and isinstance(x, torch.Tensor)
            and is_covered(x, weight, bias, *vectors)
            and x.dim() == 2
            and x.shape[0] > 1
            and weight.shape == (self.num_features, x.shape[1])
            and have_size(self.num_features, vectors)
            and not torch.is_autocast_enabled("cpu")
            and not leaves_threads_idle(x.shape[0] * self.num_features)
        ):
            arguments = self._arguments(slope, *vectors[2:])
            if arguments is not None:
                y: torch.Tensor = normalize(x, weight, bias, *vectors[:2], arguments)
                return y
        return self._normalize(linear(x), slope)

    def _normalize(self, x: torch.Tensor, slope: float) -> torch.Tensor:
        self._check_input_dim(x)
        weight, bias, mean, var = vectors = self._vectors()
        size = x.numel()
        if not is_covered(x, *vectors) or leaves_threads_idle(size):
            return self._by_pytorch(x, slope)
        features = x.shape[1]
        if size <= features or features != self.num_features or not have_size(features, vectors):
            return self._by_pytorch(x, slope)  # it may raise an error
        arguments = self._arguments(slope, mean, var)
        if arguments is None:
            return self._by_pytorch(x, slope)
        if not self.training and mean is not None and var is not None:
            if torch.is_grad_enabled() and any(
                tensor is not None and tensor.requires_grad for tensor in (x, weight, bias)
            ):
                return self._by_pytorch(x, slope)
            return infer(x, weight, bias, mean, var, arguments.eps, slope)
        y: torch.Tensor = normalize(x, None, None, weight, bias, arguments)
        return y

    def _vectors(self) -> tuple[torch.Tensor | None, ...]:
        parameters, buffers = self._parameters, self._buffers
        try:
            return (
                parameters["weight"], parameters["bias"], buffers["running_mean"],
                buffers["running_var"],
            )  # fmt: skip
        except KeyError:  # pruning and parametrizations move them
            return self.weight, self.bias, self.running_mean, self.running_var

    def _arguments(
        self, slope: float, mean: torch.Tensor | None, var: torch.Tensor | None
    ) -> NormArguments | None:
        """Return the arguments of a kernel, or None if PyTorch's code has to take the call."""
        eps = float(self.eps)
        if not eps > 0 or (mean is None) != (var is None):
            return None
        if not (self.training and self.track_running_stats):
            return NormArguments(eps, slope, 0.0, None, None, None)
        count = self._buffers.get("num_batches_tracked")
        if count is None or not (
            count.dtype is torch.int64 and count.is_cpu and count.numel() == 1
        ):
            return None
        momentum = MEAN_OF_ALL if self.momentum is None else float(self.momentum)
        return NormArguments(eps, slope, momentum, mean, var, count)

    def _by_pytorch(self, x: torch.Tensor, slope: float) -> torch.Tensor:
        return activate(by_pytorch(self, x), slope)


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
        0 is ReLU, 1 is no activation.
    eps, momentum, affine, track_running_stats, device, dtype
        As in `torch.nn.BatchNorm1d`.
    **options
        Other options of `torch.nn.BatchNorm1d` in the installed PyTorch, such as `bias`.
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
        **options: bool,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, **options
        )
        self.slope = number("negative_slope", negative_slope)

    _check_input_dim = torch.nn.SyncBatchNorm._check_input_dim  # at least two dimensions

    def extra_repr(self) -> str:
        """Show the slope, too."""
        return f"{super().extra_repr()}, negative_slope={self.slope}"


class LinearBatchNormLeakyReLU(torch.nn.Module):
    """A linear layer without bias, batch norm and LeakyReLU, in one function of PyTorch's graph.

    Parameters
    ----------
    in_features, out_features : int
    negative_slope, eps, momentum, affine, track_running_stats, device, dtype, **options
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
        **options: bool,
    ) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(in_features, out_features, False, device, dtype)
        self.norm = BatchNormLeakyReLU(
            out_features, negative_slope, eps, momentum, affine, track_running_stats, device, dtype,
            **options,
        )  # fmt: skip

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # PyTorch's name
        """Return act(BN(x W^T)) for a batch x (N, in_features)."""
        linear, norm = self.linear, self.norm
        if (
            type(linear) is torch.nn.Linear
            and type(norm) is BatchNormLeakyReLU
            and is_bare(linear)
            and is_bare(norm)
            and not has_global_hooks()
        ):
            return norm.normalize_between(linear, input, None)
        y: torch.Tensor = norm(linear(input))
        return y
