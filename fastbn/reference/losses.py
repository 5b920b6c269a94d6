"""Losses with their gradients, softmax, and the number of correct predictions."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastbn.reference._arrays import Array, Layout, f64
from fastbn.reference.activations import sigmoid


def softmax_cross_entropy(
    logits: Any,
    labels: Any,
    layout: Layout = "NC",
    sample_weight: Any = None,
    label_smoothing: float = 0.0,
) -> tuple[float, Array]:
    """Return sum(w * -q log softmax(z)) / sum(w), q = (1 - s) onehot + s / C, and the gradient."""
    z = np.moveaxis(f64(logits), {"NC": 1, "CN": 0}[layout], -1)
    labels = np.asarray(labels)
    classes = z.shape[-1]
    w = np.ones(labels.shape) if sample_weight is None else f64(sample_weight)
    w = (w / w.sum())[..., None]
    z = z - z.max(axis=-1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    q = (1 - label_smoothing) * np.eye(classes)[labels] + label_smoothing / classes
    loss = -(w * q * log_p).sum()
    dz = w * (np.exp(log_p) - q)
    return float(loss), np.moveaxis(dz, -1, {"NC": 1, "CN": 0}[layout])


def softmax(logits: Any, layout: Layout = "NC") -> Array:
    """Return exp(z) / sum(exp(z)) over the classes."""
    axis = {"NC": 1, "CN": 0}[layout]
    z = f64(logits)
    p = np.exp(z - z.max(axis=axis, keepdims=True))
    return p / p.sum(axis=axis, keepdims=True)


def sigmoid_cross_entropy(
    logits: Any,
    targets: Any,
    layout: Layout = "NC",
    sample_weight: Any = None,
    label_smoothing: float = 0.0,
) -> tuple[float, Array]:
    """Return sum(w * sum(log(1 + e^z) - z t)) / sum(w), t = (1 - s) t + s / 2, and the gradient."""
    z, t = f64(logits), (1 - label_smoothing) * f64(targets) + label_smoothing / 2
    w = _normalized_weight(z, layout, sample_weight)
    loss = (w * (np.logaddexp(0, z) - z * t)).sum()
    return float(loss), w * (sigmoid(z) - t)


def squared_error(
    outputs: Any, targets: Any, layout: Layout = "NC", sample_weight: Any = None
) -> tuple[float, Array]:
    """Return sum(w * sum((z - t)^2) / 2) / sum(w), and the gradient."""
    z, t = f64(outputs), f64(targets)
    w = _normalized_weight(z, layout, sample_weight)
    return float((w * (z - t) ** 2 / 2).sum()), w * (z - t)


def _normalized_weight(z: Array, layout: Layout, sample_weight: Any) -> Array:
    """Return weights of the samples that add up to 1, with an axis of length 1 for outputs."""
    axis = {"NC": 1, "CN": 0}[layout]
    shape = z.shape[:axis] + z.shape[axis + 1 :]
    w = np.ones(shape) if sample_weight is None else f64(sample_weight)
    return np.expand_dims(w / w.sum(), axis)


def count_correct(logits: Any, labels: Any, layout: Layout = "NC") -> int:
    """Count the samples whose label has the largest logit; ties go to the lowest class."""
    return int((f64(logits).argmax(axis={"NC": 1, "CN": 0}[layout]) == np.asarray(labels)).sum())
