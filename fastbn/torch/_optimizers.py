"""Adam and AdamW: all parameters of a group in one compiled call, each in its own memory."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.autograd.graph import increment_version

from fastbn.kernels.optimizers import PART
from fastbn.kernels.tensors import GRAD, PARAM, STEP, TOP, M, V, adam_tensors
from fastbn.torch._functions import (
    DTYPES,
    LIKE,
    POOL,
    is_lazy,
    leaves_threads_idle,
    threads_for,
)
from fastbn.torch._memory import address_of
from fastbn.torch._tracing import PLAIN, is_traced


class _Tables(NamedTuple):
    """What a group of parameters was when a step began, as `adam_tensors` takes it."""

    places: list[Any]  # `_place` of steps, parameters and moments
    tensors: list[torch.Tensor]  # all that a step changes
    like: np.ndarray  # of the dtype of the parameters
    counter: np.ndarray  # of the dtype of the steps
    addresses: np.ndarray
    sizes: np.ndarray
    parts: np.ndarray


class FastAdam(torch.optim.Optimizer):
    """A step of our own for PyTorch's Adam and AdamW; what it does not cover takes PyTorch's.

    Those are parameters that are not dense contiguous CPU tensors of float32 or float64,
    `capturable`, `differentiable`, and what `torch.compile` traces.
    """

    _init_group: Callable[..., Any]  # of PyTorch's Adam and AdamW

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
        tables = [] if is_traced() else list(map(self._tables, self.param_groups))
        if not tables or None in tables:
            _unhooked(super().step)()
            return loss
        for group, table in zip(self.param_groups, tables, strict=True):
            if table is not None and table.places:
                # PyTorch 2.6 has no such option: there it is AdamW alone that decouples
                decoupled = group.get("decoupled_weight_decay", isinstance(self, torch.optim.AdamW))
                _step(group, table, decoupled)
                increment_version(table.tensors)
        return loss

    def _tables(self, group: dict[str, Any]) -> _Tables | None:
        """Find the tensors of a group that have gradients; None: not ours.

        What was found is kept for the next step, and looked at again where a tensor has moved.
        """
        if group["capturable"] or group["differentiable"] or hasattr(self, "grad_scale"):
            return None
        names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else MOMENTS
        params, grads, places = [], [], []
        dtype, state = None, self.state
        for param in group["params"]:
            grad = param.grad
            if grad is None:
                continue
            own = state.get(param)
            if not own:  # the first step, or the first of a parameter
                # lists to append to, and in PyTorch 2.6 the option amsgrad
                _, *arguments = inspect.signature(self._init_group).parameters
                self._init_group(group, *(group.get(name, []) for name in arguments))
                own = state[param]
            dtype = dtype or param.dtype
            if not _is_plain(grad, dtype) or not param.is_contiguous() or grad.shape != param.shape:
                return None
            params.append(param)
            grads.append(address_of(grad))
            places.append(_place(own["step"]))
            places.append(_place(param))
            places.extend([_place(own[name]) for name in names])
        kept: dict[int, _Tables] = self.__dict__.setdefault("_kept", {})
        tables = kept.get(id(group))
        if tables is None or tables.places != places:
            tables = _new_tables(params, [state[param] for param in params], names, places)
            if tables is None:
                return None
            kept[id(group)] = tables
        if leaves_threads_idle(int(tables.parts[-1]) * PART):
            return None
        tables.addresses[:, GRAD] = grads
        return tables


MOMENTS = ("exp_avg", "exp_avg_sq")


def _place(x: torch.Tensor) -> tuple[Any, ...]:
    """What a table depends on: other tensors, or other memory of one, make it anew."""
    return id(x), x.data_ptr(), x.shape, x.dtype, x.untyped_storage().nbytes()


def _new_tables(
    params: list[Any], states: list[Any], names: Sequence[str], places: list[Any]
) -> _Tables | None:
    """Make the tables anew; None where a tensor is not as the kernel takes it."""
    counts = [state["step"] for state in states]
    dtype = params[0].dtype if params else torch.float32
    counter = counts[0].dtype if counts else torch.float32
    for param, state in zip(params, states, strict=True):
        moments = [state[name] for name in names]
        if not all(_is_plain(one, dtype) for one in (param, *moments)):
            return None
        if any(one.shape != param.shape for one in moments):
            return None
    if not all(_is_plain(one, counter) and one.numel() == 1 for one in counts):
        return None
    sizes = np.array([param.numel() for param in params], np.int64)
    parts = np.zeros(sizes.size + 1, np.int64)
    np.cumsum(-(-sizes // PART), out=parts[1:])
    columns = [STEP, PARAM, M, V, TOP][: 2 + len(names)]
    addresses = np.zeros((sizes.size, 3 + len(names)), np.int64)
    for row, param, state in zip(addresses, params, states, strict=True):
        row[columns] = list(
            map(address_of, (state["step"], param, *(state[name] for name in names)))
        )
    changed = [*params, *(state[name] for state in states for name in ("step", *names))]
    return _Tables(places, changed, LIKE[dtype], LIKE[counter], addresses, sizes, parts)


def _step(group: dict[str, Any], tables: _Tables, decoupled: bool) -> None:
    beta1, beta2 = group["betas"]
    n = int(tables.parts[-1]) * PART
    adam_tensors(
        POOL, threads_for(n), tables.like, tables.counter, tables.addresses, tables.sizes,
        tables.parts, -1.0 if group["maximize"] else 1.0, float(group["lr"]),
        float(beta1), float(beta2), float(group["eps"]), float(group["weight_decay"]),
        bool(decoupled), bool(group["amsgrad"]),
    )  # fmt: skip


class Adam(FastAdam, torch.optim.Adam):
    """`torch.optim.Adam`, with the same arguments, options and state."""


class AdamW(FastAdam, torch.optim.AdamW):
    """`torch.optim.AdamW`, with the same arguments, options and state."""


def _unhooked(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return PyTorch's step without the hooks, which ours has called."""
    if getattr(step, "hooked", None):
        return functools.partial(step.__wrapped__, step.__self__)  # type: ignore[attr-defined]
    return step


def _is_plain(tensor: Any, dtype: torch.dtype) -> bool:
    """Tell whether it is a dense contiguous CPU tensor of this dtype, of float32 or float64."""
    return (
        tensor.dtype is dtype
        and dtype in DTYPES
        and tensor.is_cpu
        and type(tensor) in PLAIN
        and tensor.layout is torch.strided
        and tensor.is_contiguous()
        and not is_lazy(tensor)
    )
