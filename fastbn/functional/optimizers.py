"""Optimizer steps on NumPy arrays, in place."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastbn.checks import (
    LARGEST_COUNT,
    flag,
    float_array,
    integer,
    kernel_input,
    number,
    overlapping,
    overlaps_itself,
    pair,
    same_shape,
)
from fastbn.functional._usual import are_usual_buffers
from fastbn.kernels import optimizers as kernels
from fastbn.parallel.dispatch import dispatch


def _state(name: str, value: Any) -> np.ndarray:
    """Check an array that is updated in place, and return it."""
    if type(value) not in (np.ndarray, np.memmap):
        raise TypeError(f"{name}: expected a NumPy array to update, got {type(value).__name__}")
    array = float_array(name, value)
    if array.dtype != value.dtype:
        raise TypeError(f"{name}: expected native byte order, got dtype {value.dtype}")
    if not array.flags.writeable:
        raise ValueError(f"{name}: expected a writeable array, got a read-only one")
    if overlaps_itself(array):
        raise ValueError(f"{name}: expected no overlapping elements, got some")
    return array


def _update_in_place(kernel: Callable[..., None], states: dict[str, np.ndarray], grad: Any) -> None:
    """Check the arrays and call ``kernel(grad, *states)`` on them as flat contiguous buffers."""
    usual = (grad, *states.values())
    if are_usual_buffers(usual):
        kernel(*usual if grad.ndim == 1 else [array.ravel() for array in usual])
        return
    arrays: dict[str, np.ndarray] = {}
    for name, value in [*states.items(), ("grad", grad)]:
        array = float_array(name, value) if name == "grad" else _state(name, value)
        param = arrays.get("param", array)
        same_shape(name, array, "param", param)
        if array.dtype != param.dtype:
            raise TypeError(f"{name}: expected dtype {param.dtype} as param has, got {array.dtype}")
        for shared in overlapping(array, arrays.values()):
            owner = next(owner for owner, other in arrays.items() if other is shared)
            raise ValueError(f"{name}: expected memory of its own, got that of {owner}")
        arrays[name] = array
    grad = kernel_input(arrays.pop("grad")).ravel()
    buffers = {name: kernel_input(array).ravel() for name, array in arrays.items()}
    kernel(grad, *buffers.values())
    for name, buffer in buffers.items():
        if not arrays[name].flags.carray:
            arrays[name][...] = buffer.reshape(param.shape)


def _max_norm(value: float | None) -> float:
    return math.inf if value is None else number("max_norm", value, 0.0, open_low=True)


def _clip(grad: np.ndarray, max_norm: float) -> float:
    return 1.0 if max_norm == math.inf else kernels.clip_factor(grad, max_norm)


def adam_step(
    param: np.ndarray,
    grad: Any,
    m: np.ndarray,
    v: np.ndarray,
    *,
    step: int,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    max_norm: float | None = None,
) -> None:
    """Take one step of Adam, or with ``decoupled=True`` of AdamW, in place.

    Parameters
    ----------
    param, m, v : writeable arrays of the same shape and dtype, float32 or float64
        Parameters and both moments; the moments start at 0.
    grad : array of the same shape and dtype
        Not changed.
    step : int
        Number of this step, starting with 1.
    lr, betas, eps : as in `torch.optim.Adam`
    weight_decay : float
        Adds ``weight_decay * param`` to the gradient, or, with `decoupled`, subtracts
        ``lr * weight_decay * param`` from the parameters.
    decoupled : bool
    max_norm : float, optional
        A gradient with a larger norm is scaled down to this one.

    Raises
    ------
    TypeError, ValueError
        An argument is not as described above. In that case nothing is changed.

    Notes
    -----
    Kingma & Ba 2015 (arXiv 1412.6980), algorithm 1; Loshchilov & Hutter 2019 (arXiv 1711.05101),
    algorithm 2.
    """
    t = integer("step", step, 1, LARGEST_COUNT)
    lr, eps = number("lr", lr, 0.0), number("eps", eps, 0.0)
    first, second = pair("betas", betas)
    beta1 = number("betas[0]", first, 0.0, 1.0, open_high=True)
    beta2 = number("betas[1]", second, 0.0, 1.0, open_high=True)
    decay, decoupled = number("weight_decay", weight_decay, 0.0), flag("decoupled", decoupled)
    norm = _max_norm(max_norm)

    def kernel(grad: np.ndarray, param: np.ndarray, m: np.ndarray, v: np.ndarray) -> None:
        settings = (
            _clip(grad, norm), lr, beta1, beta2, eps, 1.0 - beta1**t, 1.0 - beta2**t, False, decay,
        )  # fmt: skip
        dispatch(
            kernels.adam_values, kernels.adam_parallel, param.size,
            param, grad, m, v, settings, decoupled, 0, param.size,
        )  # fmt: skip

    _update_in_place(kernel, {"param": param, "m": m, "v": v}, grad)


def sgd_step(
    param: np.ndarray,
    grad: Any,
    m: np.ndarray,
    *,
    lr: float = 1e-3,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    max_norm: float | None = None,
) -> None:
    """Take one step of SGD with momentum, in place.

    Parameters
    ----------
    param, m : writeable arrays of the same shape and dtype, float32 or float64
        Parameters and velocity; the velocity starts at 0.
    grad : array of the same shape and dtype
        Not changed.
    lr, momentum, nesterov, weight_decay : as in `torch.optim.SGD`
    max_norm : float, optional
        A gradient with a larger norm is scaled down to this one.

    Raises
    ------
    TypeError, ValueError
        An argument is not as described above. In that case nothing is changed.

    Notes
    -----
    Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning".
    """
    lr = number("lr", lr, 0.0)
    momentum = number("momentum", momentum, 0.0, 1.0, open_high=True)
    nesterov, decay = flag("nesterov", nesterov), number("weight_decay", weight_decay, 0.0)
    norm = _max_norm(max_norm)

    def kernel(grad: np.ndarray, param: np.ndarray, m: np.ndarray) -> None:
        clip = _clip(grad, norm)
        kernels.sgd(param, grad, m, clip, lr, momentum, nesterov, decay, 0, param.size)

    _update_in_place(kernel, {"param": param, "m": m}, grad)


def rmsprop_step(
    param: np.ndarray,
    grad: Any,
    v: np.ndarray,
    *,
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    max_norm: float | None = None,
) -> None:
    """Take one step of RMSprop, in place.

    Parameters
    ----------
    param, v : writeable arrays of the same shape and dtype, float32 or float64
        Parameters and mean squares; the latter start at 0.
    grad : array of the same shape and dtype
        Not changed.
    lr, alpha, eps, weight_decay : as in `torch.optim.RMSprop`
    max_norm : float, optional
        A gradient with a larger norm is scaled down to this one.

    Raises
    ------
    TypeError, ValueError
        An argument is not as described above. In that case nothing is changed.

    Notes
    -----
    Tieleman & Hinton 2012, Coursera "Neural Networks for Machine Learning", lecture 6.5.
    """
    lr, eps = number("lr", lr, 0.0), number("eps", eps, 0.0)
    alpha = number("alpha", alpha, 0.0, 1.0, open_high=True)
    decay, norm = number("weight_decay", weight_decay, 0.0), _max_norm(max_norm)

    def kernel(grad: np.ndarray, param: np.ndarray, v: np.ndarray) -> None:
        clip = _clip(grad, norm)
        kernels.rmsprop(param, grad, v, clip, lr, alpha, eps, decay, 0, param.size)

    _update_in_place(kernel, {"param": param, "v": v}, grad)
