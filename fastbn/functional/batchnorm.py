"""Batch normalization of a training batch: statistics, forward and backward (docs/batchnorm.md)."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np

from fastbn.checks import (
    as_array,
    choice,
    converted,
    float_array,
    float_vector,
    kernel_input,
    number,
    same_shape,
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
from fastbn.kernels import statistics_cn, statistics_nc
from fastbn.kernels.reductions import SMALL
from fastbn.options import FusedActivation, Gradient, Layout
from fastbn.parallel.dispatch import dispatch

GRADIENTS = get_args(Gradient)

_Arrays3 = tuple[np.ndarray, np.ndarray, np.ndarray]


def _training_input(value: Any, layout: Any) -> np.ndarray:
    x = layout_input("x", value, layout)
    if x.size < 2 * n_features(x, layout):
        raise ValueError(
            f"x: expected more than 1 value per feature when training, got shape {x.shape}"
        )
    return x


def _moments_nc(x: np.ndarray, least: float = 0.0) -> _Arrays3:
    """Return shift, mean - shift and biased variance of the columns of x (N, C), all (C,).

    The last two are float64. Squares are computed in float64 if they overflow float32, or if a
    variance is below `least`.
    """
    features = x.shape[1]
    partials = np.empty((3, statistics_nc.count_chunks(x), features), x.dtype)
    dispatch(statistics_nc.moments_nc, statistics_nc.moments_nc_parallel, x.size, x, *partials)
    shift, delta, var = np.empty(features, x.dtype), np.empty(features), np.empty(features)
    statistics_nc.combine_moments_nc(*partials, x.shape[0], shift, delta, var)
    if x.dtype == np.float32 and not ((var >= least) & (var < np.inf)).all():
        with np.errstate(over="ignore"):
            mean, rest, var = _moments_nc(x.astype(np.float64))
            shift = mean.astype(x.dtype)
        delta = mean - shift + rest
    return shift, delta, var


def batch_statistics(x: Any, *, layout: Layout = "NC") -> tuple[np.ndarray, np.ndarray]:
    """Compute mean and biased variance of each feature over the batch.

    Parameters
    ----------
    x : array of float32 or float64, (N, C), (N, C, *spatial) or with ``layout="CN"`` (C, N)
    layout : "NC" or "CN"

    Returns
    -------
    mean, var : arrays (C,) of the dtype of `x`
        ``var`` is ``sum((x - mean)**2) / n``.

    Raises
    ------
    TypeError
        `x` is not float32 or float64.
    ValueError
        `x` has the wrong number of dimensions or no values, or `layout` is neither "NC" nor "CN".

    Notes
    -----
    Corrected two-pass algorithm: Chan, Golub & LeVeque, "Algorithms for computing the sample
    variance", The American Statistician 37 (1983), eq. 1.7 and 2.1.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn import batch_statistics
    >>> batch_statistics(np.array([[0.0, 10.0], [2.0, 30.0]]))
    (array([ 1., 20.]), array([  1., 100.]))
    """
    x = layout_input("x", x, layout)
    if x.size == 0:
        raise ValueError(f"x: expected at least one sample, got shape {x.shape}")
    if is_sample_major(x, layout):
        shift, delta, var = _moments_nc(x)
        return (shift + delta).astype(x.dtype), var.astype(x.dtype)
    mean, var, work = np.empty((3, n_features(x, layout)), x.dtype)
    dispatch(
        statistics_cn.statistics_cn, statistics_cn.statistics_cn_parallel, x.size,
        as_feature_rows(x, layout), 0, mean.size, mean, var, work,
    )  # fmt: skip
    return mean, var


def batch_norm(
    x: Any,
    gamma: Any = None,
    beta: Any = None,
    *,
    eps: float = 1e-5,
    layout: Layout = "NC",
    activation: FusedActivation | None = None,
    negative_slope: float = 0.01,
    out: np.ndarray | None = None,
) -> _Arrays3:
    """Normalize a training batch: ``act(gamma * (x - mean) / sqrt(var + eps) + beta)``.

    Parameters
    ----------
    x : array of float32 or float64, (N, C), (N, C, *spatial) or with ``layout="CN"`` (C, N)
        A batch of more than one value per feature.
    gamma, beta : arrays (C,), optional
        Scale and shift; None stands for 1 and 0.
    eps : float
        Added to the variance; at least 0.
    layout : "NC" or "CN"
    activation : None, "leaky_relu", "relu" or "identity"
        Applied in the same pass; "identity" is the same as None.
    negative_slope : float
        Slope of LeakyReLU.
    out : array of the shape and dtype of `x`, optional
        Receives the result; may be `x` itself.

    Returns
    -------
    y : array of the shape and dtype of `x`
    mean, rstd : arrays (C,) of the dtype of `x`
        ``rstd`` is ``1 / sqrt(var + eps)``; `batch_norm_backward` needs both.

    Raises
    ------
    TypeError
        An array is not float32 or float64, or `eps` or `negative_slope` is not a number.
    ValueError
        `x` has the wrong number of dimensions, or one value per feature; `gamma`, `beta` or `out`
        has the wrong shape, or `out` the wrong dtype; an option or a number is not as described
        above.

    Notes
    -----
    Ioffe & Szegedy 2015 (arXiv 1502.03167), algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn import batch_norm
    >>> x = np.array([[0.0, 10.0], [2.0, 30.0]])
    >>> y, mean, rstd = batch_norm(x, beta=np.array([0.0, 5.0]), eps=0.0)
    >>> y
    array([[-1.,  4.],
           [ 1.,  6.]])
    >>> mean, rstd
    (array([ 1., 20.]), array([1. , 0.1]))
    """
    inputs = None  # in a usual call
    if not is_usual_batch(layout, (x,), out, (gamma, beta), 2):
        source = as_array("x", x)
        x = _training_input(x, layout)
        features = n_features(x, layout)
        gamma = float_vector("gamma", gamma, features, x.dtype, 1.0)
        beta = float_vector("beta", beta, features, x.dtype, 0.0)
        inputs = (source, gamma, beta)
    eps = number("eps", eps, 0.0)
    slope = slope_of(activation, negative_slope, x.dtype)
    y = output_for(out, x, inputs)
    if is_sample_major(x, layout):
        mean, _, rstd = normalize_nc(x, gamma, beta, eps, slope, y)
    else:
        features, dtype = gamma.size, x.dtype
        mean, rstd = np.empty(features, dtype), np.empty(features, dtype)
        dispatch(
            cn.batch_norm_forward_cn, cn.batch_norm_forward_cn_parallel, x.size,
            as_feature_rows(x, layout), (mean, rstd, gamma, beta), eps, slope, 0, features,
            as_feature_rows(y, layout), np.empty(features, dtype),
        )  # fmt: skip
    return delivered(y, out), mean, rstd


def normalize_nc(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float, slope: Any, y: np.ndarray
) -> _Arrays3:
    """Write y = act(batch norm of x), both (N, C); return mean, float64 var and rstd. No checks."""
    features = gamma.size
    mean, var, rstd = np.empty(features, x.dtype), np.empty(features), np.empty(features, x.dtype)
    done = dispatch(
        nc.batch_norm_forward_nc, nc.batch_norm_forward_nc_parallel, x.size,
        x, (mean, rstd, gamma, beta), eps, slope, y, var,
    )  # fmt: skip
    if not done:  # squares overflow or underflow float32, or there are NaNs
        shift, delta, var = _moments_nc(x, SMALL - eps)
        mean[:] = shift + delta
        scale, offset = np.empty((2, features), x.dtype)
        nc.derive_affine_nc(gamma, beta, delta, var, eps, scale, offset, rstd)
        nc.affine_activation_nc(x, shift, scale, offset, slope, y)
    return mean, var, rstd


def batch_norm_backward(
    dy: Any,
    x: Any,
    gamma: Any,
    beta: Any,
    mean: Any,
    rstd: Any,
    *,
    layout: Layout = "NC",
    activation: FusedActivation | None = None,
    negative_slope: float = 0.01,
    gradient: Gradient = "exact",
    out: np.ndarray | None = None,
) -> _Arrays3:
    """Compute the gradients of `batch_norm` with respect to x, gamma and beta.

    Parameters
    ----------
    dy : array of the shape and dtype of `x`
        Gradient with respect to the result of `batch_norm`.
    x, gamma, beta
        The arguments of `batch_norm`; gamma and beta may be None.
    mean, rstd : arrays (C,)
        As returned by `batch_norm`.
    layout, activation, negative_slope
        As in `batch_norm`.
    gradient : "exact" or "detached"
        "detached" treats mean and rstd as constants. It exists for comparisons.
    out : array of the shape and dtype of `x`, optional
        Receives dx; may be `dy` or `x` itself.

    Returns
    -------
    dx : array of the shape and dtype of `x`
    dgamma, dbeta : arrays (C,) of the dtype of `x`

    Raises
    ------
    TypeError
        An array is not float32 or float64, or `negative_slope` is not a number.
    ValueError
        `x` has the wrong number of dimensions, or one value per feature; another array has the
        wrong shape, or `out` the wrong dtype; an option or a number is not as described above.

    Notes
    -----
    Ioffe & Szegedy 2015 (arXiv 1502.03167), section 3, with like terms combined.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn import batch_norm, batch_norm_backward
    >>> x = np.array([[0.0], [2.0], [4.0], [2.0]])
    >>> y, mean, rstd = batch_norm(x, eps=0.0)
    >>> dy = np.array([[1.0], [0.0], [0.0], [0.0]])  # the gradient of the loss y[0, 0]
    >>> dx, dgamma, dbeta = batch_norm_backward(dy, x, None, None, mean, rstd)
    >>> dx.ravel().round(3).tolist()
    [0.177, -0.177, 0.177, -0.177]
    >>> dgamma.round(3), dbeta
    (array([-1.414]), array([1.]))
    """
    inputs = None  # in a usual call
    if not is_usual_batch(layout, (x, dy), out, (gamma, beta, mean, rstd), 2):
        sources = (as_array("dy", dy), as_array("x", x))
        x = _training_input(x, layout)
        dy = float_array("dy", dy)
        same_shape("dy", dy, "x", x)
        dy = kernel_input(converted("dy", dy, x.dtype))
        features = n_features(x, layout)
        gamma = float_vector("gamma", gamma, features, x.dtype, 1.0)
        beta = float_vector("beta", beta, features, x.dtype, 0.0)
        mean = float_vector("mean", mean, features, x.dtype)
        rstd = float_vector("rstd", rstd, features, x.dtype)
        inputs = (*sources, gamma, beta, mean, rstd)
    slope = slope_of(activation, negative_slope, x.dtype)
    exact = choice("gradient", gradient, GRADIENTS) == "exact"
    dx = output_for(out, x, inputs)
    norm, features = (mean, rstd, gamma, beta), gamma.size
    dgamma, dbeta = np.empty(features, x.dtype), np.empty(features, x.dtype)
    if is_sample_major(x, layout):
        dispatch(
            nc.batch_norm_backward_nc, nc.batch_norm_backward_nc_parallel, x.size,
            dy, x, norm, slope, exact, dx, dgamma, dbeta,
        )  # fmt: skip
    else:
        dispatch(
            cn.batch_norm_backward_cn, cn.batch_norm_backward_cn_parallel, x.size,
            as_feature_rows(dy, layout), as_feature_rows(x, layout), norm, slope, exact,
            0, features, as_feature_rows(dx, layout), dgamma, dbeta,
        )  # fmt: skip
    return delivered(dx, out), dgamma, dbeta
