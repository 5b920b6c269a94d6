"""Adam and AdamW: all parameters of a group in one compiled call, each in its own memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from fastbn._jit import run
from fastbn.kernels.optimizers import PART
from fastbn.kernels.tensors import adam_tensors, adam_tensors_parallel
from fastbn.torch._functions import DTYPES, LIKE, PLAIN


class FastAdam(torch.optim.Adam):
    """PyTorch's Adam with a step of our own; what it does not cover takes PyTorch's.

    Those are parameters that are not dense contiguous CPU tensors of float32 or float64,
    `capturable`, `differentiable`, and what `torch.compile` traces.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Parameters
        ----------
        closure : callable, optional
            Computes the loss anew, with its gradients, and returns it.

        Returns
        -------
        The loss that `closure` returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        tables = [] if torch.compiler.is_compiling() else list(map(self._table, self.param_groups))
        if not tables or None in tables:
            _unhooked(super().step)()
            return loss
        for group, table in zip(self.param_groups, tables, strict=True):
            if table:
                _step(group, table)
        return loss

    def _table(self, group: dict[str, Any]) -> list[list[torch.Tensor]] | None:
        """Tensors as `adam_tensors` takes them, [steps, params, ...]; None: not ours."""
        params = [param for param in group["params"] if param.grad is not None]
        if not params:
            return []
        names = ["step", "exp_avg", "exp_avg_sq"] + ["max_exp_avg_sq"] * group["amsgrad"]
        if group["capturable"] or group["differentiable"] or hasattr(self, "grad_scale"):
            return None
        dtype = params[0].dtype
        grads = [param.grad for param in params]
        if dtype not in DTYPES or not (_are_plain(params, dtype) and _are_plain(grads, dtype)):
            return None
        if not all(map(self.state.get, params)):  # the first step, or the first of a parameter
            self._init_group(group, *([] for _ in range(6)))
        states = [self.state[param] for param in params]
        counts, *moments = ([state[name] for state in states] for name in names)
        if not all(_are_plain(row, dtype) for row in moments):
            return None
        if not _are_plain(counts, counts[0].dtype) or counts[0].dtype not in DTYPES:
            return None
        return [counts, params, grads, *moments]


def _step(group: dict[str, Any], table: list[list[torch.Tensor]]) -> None:
    counts, params = table[:2]
    rows = table if group["amsgrad"] else [*table, params]
    sizes = np.array([param.numel() for param in params], np.int64)
    parts = np.zeros(len(params) + 1, np.int64)
    np.cumsum(-(-sizes // PART), out=parts[1:])
    addresses = np.array([[tensor.data_ptr() for tensor in row] for row in rows], np.int64)
    beta1, beta2 = group["betas"]
    run(
        adam_tensors, adam_tensors_parallel, int(sizes.sum()),
        LIKE[params[0].dtype], LIKE[counts[0].dtype], addresses, sizes, parts,
        -1.0 if group["maximize"] else 1.0, float(group["lr"]), float(beta1), float(beta2),
        float(group["eps"]), float(group["weight_decay"]),
        bool(group["decoupled_weight_decay"]), bool(group["amsgrad"]),
    )  # fmt: skip


class Adam(FastAdam):
    """`torch.optim.Adam`, with the same arguments, options and state."""


class AdamW(FastAdam, torch.optim.AdamW):
    """`torch.optim.AdamW`, with the same arguments, options and state."""


def _unhooked(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return PyTorch's step without the hooks, which ours has called."""
    if getattr(step, "hooked", None):
        return functools.partial(step.__wrapped__, step.__self__)  # type: ignore[attr-defined]
    return step


def _are_plain(tensors: Sequence[Any], dtype: torch.dtype) -> bool:
    """Tell whether all are dense contiguous CPU tensors of this dtype."""
    for tensor in tensors:
        if (
            tensor.dtype is not dtype
            or not tensor.is_cpu
            or type(tensor) not in PLAIN
            or tensor.layout is not torch.strided
            or not tensor.is_contiguous()
        ):
            return False
    return True
