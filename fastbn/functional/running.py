"""Running statistics, and folding them into weights for inference."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastbn.checks import (
    LARGEST_COUNT,
    flag,
    float_array,
    float_vector,
    integer,
    kernel_input,
    number,
    overlapping,
    overlaps_itself,
)
from fastbn.functional.batchnorm import nonnegative_vector
from fastbn.kernels import running as kernels


def update_running_statistics(
    running_mean: np.ndarray,
    running_var: np.ndarray,
    mean: Any,
    var: Any,
    n: int,
    *,
    momentum: float | None = 0.1,
    num_batches_tracked: int | None = None,
    unbiased: bool = True,
) -> None:
    """Move running statistics towards those of a batch, in place.

    Parameters
    ----------
    running_mean, running_var : writeable arrays (C,)
        Become ``(1 - momentum) * running + momentum * batch``.
    mean, var : arrays (C,)
        Those of the batch, `var` biased, as `batch_statistics` returns them.
    n : int
        Number of values per feature in the batch.
    momentum : float in [0, 1] or None
        The weight of the new batch, as in PyTorch. None is the cumulative average, which needs
        `num_batches_tracked`.
    num_batches_tracked : int, optional
        Number of batches averaged so far, without this one.
    unbiased : bool
        Store ``n / (n - 1) * var``, as PyTorch does.

    Raises
    ------
    TypeError, ValueError
        An argument is not as described above. In that case nothing is changed.
    """
    for name, array in (("running_mean", running_mean), ("running_var", running_var)):
        if type(array) not in (np.ndarray, np.memmap) or array.ndim != 1:
            raise TypeError(f"{name}: expected a 1-D array to update, got {type(array).__name__}")
        if not array.flags.writeable or not array.dtype.isnative:
            raise ValueError(f"{name}: expected a writeable array of native byte order")
        float_array(name, array)
        if overlaps_itself(array):
            raise ValueError(f"{name}: expected memory for each element, got some for several")
    if running_var.dtype != running_mean.dtype or running_var.shape != running_mean.shape:
        raise ValueError(
            f"running_var: expected {running_mean.dtype} {running_mean.shape} as running_mean, "
            f"got {running_var.dtype} {running_var.shape}"
        )
    if overlapping(running_mean, [running_var]):
        raise ValueError("running_var: expected memory of its own, got that of running_mean")
    size, dtype = running_mean.size, running_mean.dtype
    mean = float_vector("mean", mean, size, dtype)
    var = nonnegative_vector("var", var, size, dtype)
    n = integer("n", n, 1, LARGEST_COUNT)
    if momentum is None:
        if num_batches_tracked is None:
            raise ValueError("num_batches_tracked: expected a count with momentum=None, got None")
        count = integer("num_batches_tracked", num_batches_tracked, 0, LARGEST_COUNT)
        momentum = 1.0 / (count + 1)
    weight = number("momentum", momentum, 0.0, 1.0)
    unbiased = flag("unbiased", unbiased)
    new_mean, new_var = running_mean.copy(), running_var.copy()
    kernels.update_running_statistics(mean, var, n, weight, unbiased, new_mean, new_var)
    running_mean[...], running_var[...] = new_mean, new_var


def fold_batch_norm(
    W: Any,
    gamma: Any,
    beta: Any,
    running_mean: Any,
    running_var: Any,
    eps: float = 1e-5,
) -> tuple[np.ndarray, np.ndarray]:
    """Fold inference batch norm into the weights before it: ``W' x + b' == BN(W x)``.

    Parameters
    ----------
    W : array (C, K) or (C, K, *kernel) of float32 or float64
        Weights of the layer that precedes the normalization, which has no bias.
    gamma, beta : arrays (C,) or None
    running_mean, running_var : arrays (C,)
    eps : float

    Returns
    -------
    W' : array of the shape and dtype of `W`
        ``W * gamma / sqrt(running_var + eps)``.
    b' : array (C,)
        ``beta - running_mean * gamma / sqrt(running_var + eps)``.

    Raises
    ------
    TypeError, ValueError
        An argument is not as described above.

    Notes
    -----
    Jacob et al. 2018 (arXiv 1712.05877), eq. 14.
    """
    W = float_array("W", W)
    if W.ndim < 2:
        raise ValueError(f"W: expected shape (C, K) or (C, K, *kernel), got {W.shape}")
    size, dtype = W.shape[0], W.dtype
    gamma = float_vector("gamma", gamma, size, dtype, 1.0)
    beta = float_vector("beta", beta, size, dtype, 0.0)
    running_mean = float_vector("running_mean", running_mean, size, dtype)
    running_var = nonnegative_vector("running_var", running_var, size, dtype)
    eps = number("eps", eps, 0.0)
    weight = kernel_input(W).reshape(size, int(np.prod(W.shape[1:])))
    folded, bias = np.empty_like(weight), np.empty(size, dtype)
    kernels.fold(weight, gamma, beta, running_mean, running_var, eps, folded, bias)
    return folded.reshape(W.shape), bias
