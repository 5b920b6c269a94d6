"""Losses and their gradients on NumPy arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastbn.checks import as_array, converted, labels_array, number, same_shape, weights_array
from fastbn.functional._layout import layout_input, n_features
from fastbn.kernels import losses as kernels
from fastbn.options import Layout


def softmax_cross_entropy(
    logits: Any,
    labels: Any,
    *,
    layout: Layout = "NC",
    sample_weight: Any = None,
    label_smoothing: float = 0.0,
) -> tuple[float, np.ndarray]:
    """Compute the mean cross-entropy of softmax(logits) and integer labels, and its gradient.

    The loss of a sample with logits z is ``-sum(t * log(softmax(z)))``, and its gradient is
    ``softmax(z) - t``. Without label smoothing, the target t is 1 at the label and 0 elsewhere.

    Parameters
    ----------
    logits : array of float32 or float64, (N, C), (N, C, *spatial) or with ``layout="CN"`` (C, N)
    labels : integer array (N,) or (N, *spatial)
        Classes from 0 to C - 1.
    layout : "NC" or "CN"
    sample_weight : array of the shape of `labels`, optional
        Finite, at least 0, not all 0. The loss is ``sum(w * loss) / sum(w)``.
    label_smoothing : float in [0, 1]
        Share s of the target that is spread evenly over the classes: t is ``1 - s + s / C`` at the
        label and ``s / C`` elsewhere.

    Returns
    -------
    loss : float
    dlogits : array of the shape and dtype of `logits`

    Raises
    ------
    TypeError
        `logits` is not float32 or float64, or `labels` is not an integer array.
    ValueError
        A shape or a number is not as described above, there are no samples, a label is out of
        range, or all weights are 0.

    Notes
    -----
    Label smoothing: Szegedy et al. 2016 (arXiv 1512.00567), section 7.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> logits = np.array([[2.0, 0.0], [0.0, 1.0]])
    >>> loss, dlogits = fastbn.softmax_cross_entropy(logits, np.array([0, 1]))
    >>> round(loss, 4)
    0.2201
    >>> dlogits.round(4)
    array([[-0.0596,  0.0596],
           [ 0.1345, -0.1345]])
    """
    logits, shape = _samples("logits", logits, layout)
    classes = n_features(logits, layout)
    labels = labels_array("labels", labels, shape, classes).ravel()
    smoothing = number("label_smoothing", label_smoothing, 0.0, 1.0)
    weight = _normalized(sample_weight, shape, logits.dtype)
    if layout == "CN":
        work, dlogits = np.empty((3, labels.size), logits.dtype), np.empty_like(logits)
        loss = kernels.softmax_cross_entropy_cn(
            logits, labels, weight, smoothing, 0, labels.size, work, dlogits
        )
        return float(loss), dlogits
    # move the classes to the last axis, which changes nothing for (N, C)
    last = np.ascontiguousarray(np.moveaxis(logits, 1, -1))
    rows = last.reshape(-1, classes)
    gradient = np.empty_like(rows)
    loss = kernels.softmax_cross_entropy_nc(rows, labels, weight, smoothing, gradient)
    return float(loss), np.ascontiguousarray(np.moveaxis(gradient.reshape(last.shape), -1, 1))


def sigmoid_cross_entropy(
    logits: Any,
    targets: Any,
    *,
    layout: Layout = "NC",
    sample_weight: Any = None,
    label_smoothing: float = 0.0,
) -> tuple[float, np.ndarray]:
    """Compute the cross-entropy of sigmoid(logits) and targets, and its gradient.

    The loss of a sample is the sum over its outputs z, with targets t, of
    ``-t * log(sigmoid(z)) - (1 - t) * log(1 - sigmoid(z))``; the result is the mean over the
    samples.

    Parameters
    ----------
    logits : array of float32 or float64, (N, C), (N, C, *spatial) or with ``layout="CN"`` (C, N)
        C yes-or-no outputs.
    targets : array of the shape of `logits`
        Numbers from 0 to 1.
    layout : "NC" or "CN"
    sample_weight : array (N,) or (N, *spatial), optional
        Finite, at least 0, not all 0. The loss is ``sum(w * loss) / sum(w)``.
    label_smoothing : float in [0, 1]
        The target is ``(1 - s) * t + s / 2``.

    Returns
    -------
    loss : float
    dlogits : array of the shape and dtype of `logits`

    Raises
    ------
    TypeError
        `logits` is not float32 or float64, or `targets` are not numbers.
    ValueError
        A shape or a number is not as described above, there are no samples, or all weights are 0.

    Notes
    -----
    Computed as ``max(z, 0) - z * t + log(1 + exp(-abs(z)))``, whose exponential cannot overflow.
    Label smoothing: Szegedy et al. 2016 (arXiv 1512.00567), section 7, for two classes.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> loss, dlogits = fastbn.sigmoid_cross_entropy(np.array([[2.0, -1.0]]), np.array([[1, 0]]))
    >>> round(loss, 4)
    0.4402
    >>> dlogits.round(4)
    array([[-0.1192,  0.2689]])
    """
    smoothing = number("label_smoothing", label_smoothing, 0.0, 1.0)
    z, d, weight = _with_targets("logits", logits, targets, layout, sample_weight)
    if not ((d >= 0) & (d <= 1)).all():
        raise ValueError("targets: expected numbers from 0 to 1, got others")
    loss = kernels.sigmoid_cross_entropy_cn(z, weight, smoothing, 0, weight.size, d)
    return float(loss), _from_rows(d, logits, layout)


def squared_error(
    outputs: Any, targets: Any, *, layout: Layout = "NC", sample_weight: Any = None
) -> tuple[float, np.ndarray]:
    """Compute half the squared error and its gradient.

    The loss of a sample is the sum of ``(outputs - targets)**2 / 2`` over its outputs; the result
    is the mean over the samples.

    Parameters
    ----------
    outputs : array of float32 or float64, (N, C), (N, C, *spatial) or with ``layout="CN"`` (C, N)
    targets : array of numbers, of the shape of `outputs`
    layout : "NC" or "CN"
    sample_weight : array (N,) or (N, *spatial), optional
        Finite, at least 0, not all 0. The loss is ``sum(w * loss) / sum(w)``.

    Returns
    -------
    loss : float
    doutputs : array of the shape and dtype of `outputs`

    Raises
    ------
    TypeError
        `outputs` is not float32 or float64, or `targets` are not numbers.
    ValueError
        A shape or a number is not as described above, there are no samples, or all weights are 0.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> loss, doutputs = fastbn.squared_error(np.array([[1.0], [3.0]]), np.array([[0.0], [1.0]]))
    >>> loss
    1.25
    >>> doutputs.tolist()
    [[0.5], [1.0]]
    """
    z, d, weight = _with_targets("outputs", outputs, targets, layout, sample_weight)
    loss = kernels.squared_error_cn(z, weight, 0, weight.size, d)
    return float(loss), _from_rows(d, outputs, layout)


def _samples(name: str, value: Any, layout: Layout) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return a checked array of at least one sample, and the shape of its samples."""
    array = layout_input(name, value, layout)
    if array.size == 0:
        raise ValueError(f"{name}: expected at least one sample, got shape {array.shape}")
    return array, array.shape[1:] if layout == "CN" else (array.shape[0], *array.shape[2:])


def _normalized(sample_weight: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return the weights of the samples as a vector whose sum is 1."""
    size = math.prod(shape)
    if sample_weight is None:
        return np.full(size, 1.0 / size, dtype)
    weight = as_array("sample_weight", sample_weight)
    if weight.shape != shape:
        raise ValueError(f"sample_weight: expected shape {shape}, got {weight.shape}")
    weight = weights_array("sample_weight", weight.ravel(), size, np.dtype(np.float64))
    return (weight / weight.sum()).astype(dtype)


def _with_targets(
    name: str, outputs: Any, targets: Any, layout: Layout, sample_weight: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return outputs (C, N), a copy of the targets of that shape, and weights (N,)."""
    outputs, shape = _samples(name, outputs, layout)
    targets = as_array("targets", targets)
    if targets.dtype.kind not in "fiub":
        raise TypeError(f"targets: expected numbers, got dtype {targets.dtype}")
    same_shape("targets", targets, name, outputs)
    weight = _normalized(sample_weight, shape, outputs.dtype)
    rows = _as_rows(outputs, layout)
    targets = converted("targets", _as_rows(targets, layout), rows.dtype)
    return np.ascontiguousarray(rows), np.array(targets), weight


def _as_rows(x: np.ndarray, layout: Layout) -> np.ndarray:
    """Return x as (C, N)."""
    return x if layout == "CN" else np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)


def _from_rows(rows: np.ndarray, like: Any, layout: Layout) -> np.ndarray:
    """Return `rows` (C, N) in the shape of `like`."""
    if layout == "CN":
        return rows
    shape = np.shape(like)
    first = rows.reshape(shape[1], shape[0], *shape[2:])
    return np.ascontiguousarray(np.moveaxis(first, 0, 1))
