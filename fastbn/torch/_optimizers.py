"""Adam and AdamW: all parameters of a group in one compiled call, each in its own memory."""

from __future__ import annotations

import functools
import inspect
import itertools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.autograd.graph import increment_version

from fastbn.kernels.optimizers import PART
from fastbn.kernels.tensors import GRAD, PARAM, STEP, TOP, M, V, adam_tensors
from fastbn.torch._functions import LIKE, POOL, leaves_threads_idle, threads_for
from fastbn.torch._memory import DTYPES, address_of, is_lazy
from fastbn.torch._tracing import PLAIN, is_traced


class _Tables(NamedTuple):
    """The tensors of a group, as `adam_tensors` takes them, kept from step to step."""

    tensors: list[torch.Tensor]  # parameters, their steps and moments; a step changes all
    shapes: list[Any]  # shapes and dtypes of parameters
    places: list[int]  # addresses of the tensors
    storages: list[torch.UntypedStorage]  # held, so that no other tensor gets their memory
    nbytes: list[int]  # of the storages
    like: np.ndarray  # of the dtype of the parameters
    counter: np.ndarray  # of the dtype of the steps
    addresses: np.ndarray
    sizes: np.ndarray
    parts: np.ndarray

    def hold(self, tensors: list[torch.Tensor], shapes: list[Any]) -> bool:
        """Tell whether these are still the tensors, in the same memory, as long as it was."""
        return (
            self.shapes == shapes
            and len(self.tensors) == len(tensors)
            and all(map(operator.is_, self.tensors, tensors))
            and self.places == [one.data_ptr() for one in tensors]
            and self.nbytes == [storage.nbytes() for storage in self.storages]
        )


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
        tables = None if is_traced() else list(map(self._tables, self.param_groups))
        if tables is None or None in tables:
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
        """Find the tensors of a group that have gradients; None where the kernel cannot take them.

        The tables are kept for the next step, and made anew where a tensor has moved.
        """
        if group["capturable"] or group["differentiable"] or hasattr(self, "grad_scale"):
            return None
        kept: dict[int, _Tables] = self.__dict__.setdefault("_kept", {})
        tables = kept.pop(id(group), None)
        # lists to append to, and in PyTorch 2.6 the option amsgrad
        names = _parameters_of(type(self)._init_group)[2:]
        found: dict[str, Any] = {name: group.get(name, []) for name in names}
        self._init_group(group, *found.values())
        params, grads = found["params_with_grad"], found["grads"]
        columns = ["state_steps", "exp_avgs", "exp_avg_sqs"]
        columns += ["max_exp_avg_sqs"] * group["amsgrad"]
        tensors = list(itertools.chain(params, *(found[name] for name in columns)))
        shapes = [(one.shape, one.dtype) for one in params]
        for param, grad in zip(params, grads, strict=True):
            if (
                grad.shape != param.shape
                or not param.is_contiguous()
                or not _is_plain(grad, params[0].dtype)
            ):
                return None
        if tables is None or not tables.hold(tensors, shapes):
            tables = _new_tables(tensors, shapes)
            if tables is None:
                return None
        kept[id(group)] = tables
        if leaves_threads_idle(int(tables.parts[-1]) * PART):
            return None
        tables.addresses[:, GRAD] = [address_of(one) for one in grads]
        return tables


@functools.cache
def _parameters_of(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def _new_tables(tensors: list[torch.Tensor], shapes: list[Any]) -> _Tables | None:
    """Make the tables of parameters, steps and moments; None where the kernel cannot take one."""
    n = len(shapes)
    params, steps = tensors[:n], tensors[n : 2 * n]
    dtype, counter = (one[0].dtype if n else torch.float32 for one in (params, steps))
    if dtype not in DTYPES or counter not in DTYPES:
        return None
    for index, one in enumerate(tensors):
        if n <= index < 2 * n:
            if not _is_plain(one, counter) or one.numel() != 1:
                return None
        elif not _is_plain(one, dtype) or one.shape != params[index % n].shape:
            return None
    sizes = np.array([one.numel() for one in params], np.int64)
    parts = np.zeros(n + 1, np.int64)
    np.cumsum(-(-sizes // PART), out=parts[1:])
    columns = [PARAM, STEP, M, V, TOP][: len(tensors) // n if n else 4]
    addresses = np.zeros((n, 1 + len(columns)), np.int64)
    addresses[:, columns] = np.reshape([address_of(one) for one in tensors], (len(columns), n)).T
    storages = [one.untyped_storage() for one in tensors]
    return _Tables(
        tensors, shapes, [one.data_ptr() for one in tensors], storages,
        [storage.nbytes() for storage in storages], LIKE[dtype], LIKE[counter], addresses, sizes,
        parts,
    )  # fmt: skip


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
    """Tell whether this is a dense contiguous CPU tensor of this dtype."""
    return (
        tensor.dtype is dtype
        and tensor.is_cpu
        and type(tensor) in PLAIN
        and tensor.layout is torch.strided
        and tensor.is_contiguous()
        and not is_lazy(tensor)
    )
