"""The targets of each loss, and predictions and scores from logits."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from fastbn.checks import as_array, labels_array, target_matrix, targets_array
from fastbn.functional.losses import sigmoid_cross_entropy, softmax_cross_entropy, squared_error
from fastbn.kernels.losses import are_classes, sigmoid, softmax_nc
from fastbn.model.config import ModelConfig
from fastbn.model.measures import refuse_nonfinite
from fastbn.options import LOSSES

# The function that computes each loss, by its name.
FUNCTIONS: dict[str, Callable[..., tuple[float, np.ndarray]]] = {
    "softmax_cross_entropy": softmax_cross_entropy,
    "sigmoid_cross_entropy": sigmoid_cross_entropy,
    "squared_error": squared_error,
}

INT64 = np.dtype(np.int64)

NO_LABELS = np.empty(0, np.int64)


@functools.lru_cache
def no_targets(outputs: int, dtype: np.dtype) -> np.ndarray:
    """Return the targets (0, outputs) of data that have labels, or neither."""
    return np.empty((0, outputs), dtype)


def targets_for_loss(
    name: str, y: Any, n_samples: int, config: ModelConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (samples,) and targets (samples, outputs), one of which is empty.

    They are copies, since a caller might change or free y while kernels read it. Targets that will
    be normalized are copied later.
    """
    outputs, dtype = config.layer_sizes[-1], np.dtype(config.dtype)
    allowed = LOSSES[config.loss].targets
    if allowed is None:
        labels = np.array(as_array(name, y), order="C")
        is_usual = labels.dtype is INT64 and labels.shape == (n_samples,)
        if not (is_usual and are_classes(labels, outputs)):
            labels = labels_array(name, labels, (n_samples,), outputs)
        return labels, no_targets(outputs, dtype)
    none, shape = NO_LABELS, (n_samples, outputs)
    if config.target_normalization is not None:
        targets = target_matrix(name, y, shape)
        refuse_nonfinite(name, targets, np.dtype(np.float64))
        return none, targets
    given = as_array(name, y)
    targets = targets_array(name, given, shape, dtype, *allowed)
    return none, targets.copy() if np.may_share_memory(targets, given) else targets


def decisions(logits: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Return classes (samples,), or (samples, outputs): 1 for yes and 0 for no, or numbers."""
    if config.predicts_one_class:
        return logits.argmax(axis=1)
    return logits if config.predicts_numbers else (logits > 0).astype(np.int64)


def to_probabilities(logits: np.ndarray, config: ModelConfig) -> None:
    """Turn logits (samples, outputs) into probabilities, in place."""
    if config.predicts_numbers:
        raise ValueError(f"predict_proba: expected a loss of classes, got loss={config.loss!r}")
    if config.predicts_one_class:
        softmax_nc(logits)
    else:
        sigmoid(logits.reshape(-1))


def loss_and_score(
    logits: np.ndarray, labels: np.ndarray, targets: np.ndarray, config: ModelConfig
) -> tuple[float, float]:
    """Return the mean loss and the accuracy, or R2 for numbers."""
    loss, _ = FUNCTIONS[config.loss](logits, labels if config.predicts_one_class else targets)
    if config.predicts_one_class:
        return loss, float((logits.argmax(axis=1) == labels).mean())
    if config.predicts_numbers:
        return loss, r2(logits, targets)
    return loss, float(((logits > 0) == (targets > 0.5)).all(axis=1).mean())


def r2(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Return the coefficient of determination, averaged over the outputs.

    It is 1 minus the ratio of the squared error to that of predicting the mean of the targets. For
    constant targets it is 1 without errors, else 0, as in `sklearn.metrics.r2_score`.
    """
    errors = ((outputs.astype(np.float64) - targets) ** 2).sum(axis=0)
    total = ((targets - targets.mean(axis=0, dtype=np.float64)) ** 2).sum(axis=0)
    met = (errors == 0).astype(np.float64)
    return float(np.where(total > 0, 1.0 - errors / np.where(total > 0, total, 1.0), met).mean())
