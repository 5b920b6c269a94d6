"""Update running statistics, normalize with them, and fold them into weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastbn.checks import (
    LARGEST_COUNT,
    as_array,
    flag,
    float_array,
    float_vector,
    integer,
    kernel_input,
    nonnegative_vector,
    number,
    overlapping,
    overlaps_itself,
    slope_of,
)
from fastbn.functional._layout import (
    as_feature_rows,
    delivered,
    is_sample_major,
    layout_input,
    n_features,
    output_for,
)
from fastbn.functional._usual import is_usual_batch
from fastbn.kernels import batchnorm_cn as cn
from fastbn.kernels import batchnorm_nc as nc
from fastbn.kernels import running as kernels
from fastbn.options import FusedActivation, Layout
from fastbn.parallel.dispatch import dispatch


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
    running_mean, running_var : writeable arrays (C,) of float32 or float64
        Become ``(1 - momentum) * running + momentum * batch``.
    mean, var : arrays (C,)
        Those of the batch, `var` biased, as `batch_statistics` returns them.
    n : int
        Number of values per feature in the batch; at least 1.
    momentum : float in [0, 1] or None
        The weight of the new batch, as in PyTorch. None is the cumulative average, which needs
        `num_batches_tracked`.
    num_batches_tracked : int, optional
        Number of batches averaged so far, without this one.
    unbiased : bool
        Store ``n / (n - 1) * var``, as PyTorch does.

    Raises
    ------
    TypeError
        A running statistic is not an array of one dimension, an array is not float32 or float64, or
        another argument has the wrong type. Nothing is changed.
    ValueError
        Shapes or dtypes differ, a running statistic is read-only or shares memory with the other
        one, a variance is negative, or a number is not as described above. Nothing is changed.

    Notes
    -----
    PyTorch's rule (`torch.nn.BatchNorm1d`), as an equation in docs/batchnorm.md.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn import update_running_statistics
    >>> running_mean, running_var = np.zeros(2), np.ones(2)
    >>> batch = np.array([10.0, 20.0]), np.array([3.0, 0.0])
    >>> update_running_statistics(running_mean, running_var, *batch, n=4)
    >>> running_mean, running_var
    (array([1., 2.]), array([1.3, 0.9]))
    """
    for name, array in (("running_mean", running_mean), ("running_var", running_var)):
        if type(array) not in (np.ndarray, np.memmap) or array.ndim != 1:
            raise TypeError(f"{name}: expected a 1-D array to update, got {type(array).__name__}")
        if not array.flags.writeable or not array.dtype.isnative:
            raise ValueError(f"{name}: expected a writeable array of native byte order")
        float_array(name, array)
        if overlaps_itself(array):
            raise ValueError(f"{name}: expected no overlapping elements, got some")
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


def batch_norm_inference(
    x: Any,
    running_mean: Any,
    running_var: Any,
    gamma: Any = None,
    beta: Any = None,
    *,
    eps: float = 1e-5,
    layout: Layout = "NC",
    activation: FusedActivation | None = None,
    negative_slope: float = 0.01,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Normalize with running statistics: ``act(gamma * (x - mean) / sqrt(var + eps) + beta)``.

    Parameters
    ----------
    x : array of float32 or float64, (N, C), (N, C, *spatial) or with ``layout="CN"`` (C, N)
        Any number of samples, including 0.
    running_mean, running_var : arrays (C,)
        Variances are at least 0.
    gamma, beta, eps, layout, activation, negative_slope, out
        As in `batch_norm`.

    Returns
    -------
    y : array of the shape and dtype of `x`

    Raises
    ------
    TypeError, ValueError
        As in `batch_norm`, but `x` may have one value per feature, or none; or a running variance
        is negative.

    Notes
    -----
    Ioffe & Szegedy 2015 (arXiv 1502.03167), algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn import batch_norm_inference
    >>> x = np.array([[0.0, 10.0], [2.0, 30.0]])
    >>> batch_norm_inference(x, np.array([1.0, 10.0]), np.array([1.0, 100.0]), eps=0.0)
    array([[-1.,  0.],
           [ 1.,  2.]])
    """
    inputs = None  # in a usual call
    if is_usual_batch(layout, (x,), out, (running_mean, running_var, gamma, beta), 1):
        running_var = nonnegative_vector("running_var", running_var, running_var.size, x.dtype)
    else:
        source = as_array("x", x)
        x = layout_input("x", x, layout)
        features = n_features(x, layout)
        running_mean = float_vector("running_mean", running_mean, features, x.dtype)
        running_var = nonnegative_vector("running_var", running_var, features, x.dtype)
        gamma = float_vector("gamma", gamma, features, x.dtype, 1.0)
        beta = float_vector("beta", beta, features, x.dtype, 0.0)
        inputs = (source, running_mean, running_var, gamma, beta)
    eps = number("eps", eps, 0.0)
    slope = slope_of(activation, negative_slope, x.dtype)
    y = output_for(out, x, inputs)
    if x.size == 0:
        return delivered(y, out)
    if is_sample_major(x, layout):
        dispatch(
            nc.batch_norm_inference_nc, nc.batch_norm_inference_nc_parallel, x.size,
            x, running_mean, running_var, gamma, beta, eps, slope, y,
        )  # fmt: skip
    else:
        dispatch(
            cn.batch_norm_inference_cn, cn.batch_norm_inference_cn_parallel, x.size,
            as_feature_rows(x, layout), running_mean, running_var, gamma, beta, eps, slope,
            0, gamma.size, as_feature_rows(y, layout),
        )  # fmt: skip
    return delivered(y, out)


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
        Weights of the layer before the normalization. The layer has no bias.
    gamma, beta : arrays (C,) or None
        Scale and shift; None stands for 1 and 0.
    running_mean, running_var : arrays (C,)
        Variances are at least 0.
    eps : float
        Added to the variance; at least 0.

    Returns
    -------
    W' : array of the shape and dtype of `W`
        ``W * gamma / sqrt(running_var + eps)``.
    b' : array (C,)
        ``beta - running_mean * gamma / sqrt(running_var + eps)``.

    Raises
    ------
    TypeError
        An array is not float32 or float64, or `eps` is not a number.
    ValueError
        `W` has fewer than two dimensions, another array has the wrong shape, or a variance or `eps`
        is negative.

    Notes
    -----
    Jacob et al. 2018 (arXiv 1712.05877), eq. 14.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn import fold_batch_norm
    >>> W = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> mean, var = np.array([1.0, 10.0]), np.array([1.0, 4.0])
    >>> fold_batch_norm(W, None, None, mean, var, eps=0.0)
    (array([[1. , 2. ],
           [1.5, 2. ]]), array([-1., -5.]))
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
