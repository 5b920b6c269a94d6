"""Adam and AdamW: all parameters of a group in one compiled call, each in its own memory."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.autograd.graph import increment_version

from fastbn.kernels.optimizers import PART
from fastbn.kernels.tensors import GRAD, PARAM, STEP, TOP, M, V, adam_tensors
from fastbn.torch._functions import LIKE, POOL, leaves_threads_idle, threads_for
from fastbn.torch._memory import address_of, is_covered
from fastbn.torch._tracing import PLAIN, is_traced


class _Tables(NamedTuple):
    """The tensors of a group, as `adam_tensors` takes them, kept from step to step."""

    tensors: list[torch.Tensor]  # each parameter with its step and moments; a step changes all
    places: list[int]  # their addresses
    shapes: list[Any]  # shapes and dtypes of parameters
    storages: list[torch.UntypedStorage]  # kept, so that no other tensor gets their memory
    nbytes: list[int]  # sizes of the storages
    like: np.ndarray  # an array with the dtype of the parameters
    counter: np.ndarray  # an array with the dtype of the steps
    addresses: np.ndarray
    sizes: np.ndarray
    parts: np.ndarray

    def hold(self, tensors: list[torch.Tensor], places: list[int], shapes: list[Any]) -> bool:
        """Return whether these are the same tensors in the same memory, of the same size."""
        return (
            self.places == places
            and self.shapes == shapes
            and all(map(operator.is_, self.tensors, tensors))
            and [storage.nbytes() for storage in self.storages] == self.nbytes
        )


class FastAdam(torch.optim.Optimizer):
    """PyTorch's Adam and AdamW with a step of our own.

    PyTorch's step is used if a parameter is not a dense contiguous CPU tensor of float32 or
    float64, with `capturable` or `differentiable`, and if `torch.compile` traces the step.
    """

    _init_group: Callable[..., Any]  # of PyTorch's Adam and AdamW

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Parameters
        ----------
        closure : callable, optional
            Computes the loss and its gradients again, and returns the loss.

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
            if table is not None and table.tensors:
                # PyTorch 2.6 has no such option: only its AdamW decouples
                decoupled = group.get("decoupled_weight_decay", isinstance(self, torch.optim.AdamW))
                _step(group, table, decoupled)
                increment_version(table.tensors)
        return loss

    def _tables(self, group: dict[str, Any]) -> _Tables | None:
        """Return the tables of a group's tensors, or None if the kernel cannot take one.

        They have the parameters with gradients. They are kept for the next step, and made again if
        a tensor has moved.
        """
        if group["capturable"] or group["differentiable"] or hasattr(self, "grad_scale"):
            return None
        names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else MOMENTS
        tensors: list[torch.Tensor] = []
        grads: list[int] = []
        shapes: list[Any] = []
        dtype, state = None, self.state
        kept: dict[int, _Tables] = self.__dict__.setdefault("_kept", {})
        tables = kept.pop(id(group), None)
        for param in group["params"]:
            grad = param.grad
            if grad is None:
                continue
            own = state.get(param)
            if not own:  # the first step of this parameter
                # further arguments are lists to append to, and in PyTorch 2.6 the option amsgrad
                _, *arguments = inspect.signature(self._init_group).parameters
                self._init_group(group, *(group.get(name, []) for name in arguments))
                own = state[param]
            shape, own_dtype = param.shape, param.dtype
            dtype = dtype or own_dtype
            if grad.shape != shape or not param.is_contiguous():
                return None
            place = _gradient_at(grad, dtype)
            if place is None:
                return None
            grads.append(place)
            shapes += shape, own_dtype
            tensors += param, own["step"], *[own[name] for name in names]
        places = [one.data_ptr() for one in tensors]
        if tables is None or not tables.hold(tensors, places, shapes):
            tables = _new_tables(tensors, places, shapes, 2 + len(names))
            if tables is None:
                return None
        kept[id(group)] = tables
        if leaves_threads_idle(int(tables.parts[-1]) * PART):
            return None
        tables.addresses[:, GRAD] = grads
        return tables


MOMENTS = ("exp_avg", "exp_avg_sq")


def _gradient_at(grad: torch.Tensor, dtype: torch.dtype) -> int | None:
    """Return the address of a gradient, or None if the kernel cannot take it.

    This joins `_is_plain` and `address_of`, because each step checks each gradient.
    """
    if (
        grad.dtype is not dtype
        or type(grad) not in PLAIN
        or not grad.is_cpu
        or grad.layout is not torch.strided
        or not grad.is_contiguous()
        or grad.is_neg()
    ):
        return None
    first = grad.storage_offset()
    if grad.nbytes + (first and first * grad.itemsize) <= grad.untyped_storage().nbytes():
        return grad.data_ptr()
    return None if grad._is_zerotensor() else address_of(grad)  # raises the error


def _new_tables(
    tensors: list[torch.Tensor], places: list[int], shapes: list[Any], width: int
) -> _Tables | None:
    """Return the tables for rows of `width` tensors, or None if the kernel cannot take one."""
    rows = [tensors[first : first + width] for first in range(0, len(tensors), width)]
    dtype = rows[0][0].dtype if rows else torch.float32
    counter = rows[0][1].dtype if rows else torch.float32
    for param, count, *moments in rows:
        if not all(_is_plain(one, dtype) for one in (param, *moments)):
            return None
        if any(one.shape != param.shape for one in moments):
            return None
        if not (_is_plain(count, counter) and count.numel() == 1):
            return None
    sizes = np.array([row[0].numel() for row in rows], np.int64)
    parts = np.zeros(sizes.size + 1, np.int64)
    np.cumsum(-(-sizes // PART), out=parts[1:])
    addresses = np.zeros((sizes.size, 1 + width), np.int64)
    columns = [PARAM, STEP, M, V, TOP][:width]
    addresses[:, columns] = np.reshape([address_of(one) for one in tensors], (-1, width))
    storages = [one.untyped_storage() for one in tensors]
    nbytes = [storage.nbytes() for storage in storages]
    return _Tables(
        tensors, places, shapes, storages, nbytes, LIKE[dtype], LIKE[counter], addresses, sizes,
        parts,
    )  # fmt: skip


def _step(group: dict[str, Any], tables: _Tables, decoupled: bool) -> None:
    beta1, beta2 = group["betas"]
    sign = -1.0 if group["maximize"] else 1.0
    lr, eps, weight_decay = float(group["lr"]), float(group["eps"]), float(group["weight_decay"])
    n = int(tables.parts[-1]) * PART
    adam_tensors(
        POOL, threads_for(n), tables.like, tables.counter, tables.addresses, tables.sizes,
        tables.parts, (sign, lr, float(beta1), float(beta2), eps, weight_decay), bool(decoupled),
        bool(group["amsgrad"]),
    )  # fmt: skip


class Adam(FastAdam, torch.optim.Adam):
    """`torch.optim.Adam`, with the same arguments, options and state."""


class AdamW(FastAdam, torch.optim.AdamW):
    """`torch.optim.AdamW`, with the same arguments, options and state."""


def _unhooked(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return PyTorch's step without its hooks, because those of our own step run."""
    if getattr(step, "hooked", None):
        return functools.partial(step.__wrapped__, step.__self__)  # type: ignore[attr-defined]
    return step


def _is_plain(tensor: Any, dtype: torch.dtype) -> bool:
    """Return whether this is a dense contiguous CPU tensor of this dtype, float32 or float64."""
    return tensor.dtype is dtype and is_covered(tensor) and tensor.is_contiguous()
