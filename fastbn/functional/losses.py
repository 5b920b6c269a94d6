"""Softmax cross-entropy on NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastbn._checks import labels_array, number, weights_array
from fastbn.functional._layout import layout_input, n_features
from fastbn.kernels import losses as kernels


def softmax_cross_entropy(
    logits: Any,
    labels: Any,
    *,
    layout: str = "NC",
    sample_weight: Any = None,
    label_smoothing: float = 0.0,
) -> tuple[float, np.ndarray]:
    """Mean cross-entropy of softmax(logits) with integer labels, and its gradient, in one pass.

    Parameters
    ----------
    logits : array of float32 or float64, (N, C), (N, C, *spatial) or with ``layout="CN"`` (C, N)
    labels : integer array (N,) or (N, *spatial)
        Classes from 0 to C - 1.
    layout : "NC" or "CN"
    sample_weight : array of the shape of `labels`, optional
        Non-negative. The loss is ``sum(w * loss) / sum(w)``.
    label_smoothing : float in [0, 1]
        The target is ``1 - s`` on the label plus ``s / C`` everywhere.

    Returns
    -------
    loss : float
    dlogits : array of the shape and dtype of `logits`

    Raises
    ------
    TypeError
        `logits` is not of float32 or float64, or `labels` not of integers.
    ValueError
        A shape or a number is not as described above, a label is out of range, or all weights are
        0.

    Notes
    -----
    Label smoothing: Szegedy et al. 2016 (arXiv 1512.00567), section 7.
    """
    logits = layout_input("logits", logits, layout)
    if logits.size == 0:
        raise ValueError(f"logits: expected at least one sample, got shape {logits.shape}")
    classes = n_features(logits, layout)
    shape = (logits.shape[1],) if layout == "CN" else (logits.shape[0], *logits.shape[2:])
    labels = labels_array("labels", labels, shape, classes).ravel()
    smoothing = number("label_smoothing", label_smoothing, 0.0, 1.0)
    if sample_weight is None:
        weight = np.full(labels.size, 1.0 / labels.size, logits.dtype)
    else:
        weight = np.asarray(sample_weight)
        if weight.shape != shape:
            raise ValueError(f"sample_weight: expected shape {shape}, got {weight.shape}")
        weight = weights_array("sample_weight", weight.ravel(), labels.size, np.dtype(np.float64))
        weight = (weight / weight.sum()).astype(logits.dtype)
    if layout == "CN":
        work, dlogits = np.empty((3, labels.size), logits.dtype), np.empty_like(logits)
        loss = kernels.softmax_cross_entropy_cn(
            logits, labels, weight, smoothing, 0, labels.size, work, dlogits
        )
        return float(loss), dlogits
    # classes last: for (N, C) this is the array itself
    last = np.ascontiguousarray(np.moveaxis(logits, 1, -1))
    rows = last.reshape(-1, classes)
    gradient = np.empty_like(rows)
    loss = kernels.softmax_cross_entropy_nc(rows, labels, weight, smoothing, gradient)
    return float(loss), np.ascontiguousarray(np.moveaxis(gradient.reshape(last.shape), -1, 1))
