"""Weights of samples by their classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight

from fastbn.checks import shown
from fastbn.sklearn._base import naming


def check_class_weight(class_weight: Any) -> None:
    """Raise an error where the argument is not class weights."""
    several = isinstance(class_weight, list | tuple)
    for one in class_weight if several else [class_weight]:
        is_balanced = isinstance(one, str) and one == "balanced"
        if not (is_balanced or one is None or isinstance(one, dict)):
            kind = ValueError if isinstance(one, str) else TypeError
            raise kind(
                "class_weight: expected None, a dict of classes and their weights, 'balanced', or "
                f"for several labels a list of these, got {shown(class_weight)}"
            )


def sample_weights(class_weight: Any, y: Any, classes: np.ndarray) -> np.ndarray:
    """Return the weight of each sample: that of its class, or the product over its labels.

    A dict is read by `classes`, which may be more than those in `y`, a part of the data.
    """
    if y.ndim == 1:
        return _of_column(class_weight, y, classes)
    labels = y.toarray() if issparse(y) else y
    n_labels = labels.shape[1]
    if isinstance(class_weight, str):
        class_weight = [class_weight] * n_labels
    if isinstance(class_weight, dict) or len(class_weight) != n_labels:
        raise ValueError(
            f"class_weight: expected 'balanced', or a list with a dict for each of {n_labels} "
            f"labels, got {class_weight!r}"
        )
    columns = zip(class_weight, labels.T, strict=True)
    return np.prod([_of_column(one, column, np.array([0, 1])) for one, column in columns], axis=0)


def needs_all_targets(class_weight: Any) -> bool:
    """Tell whether the weights depend on how frequent the classes are."""
    parts = class_weight if isinstance(class_weight, list | tuple) else [class_weight]
    return any(isinstance(part, str) for part in parts)


def _of_column(class_weight: Any, y: np.ndarray, classes: np.ndarray) -> np.ndarray:
    if isinstance(class_weight, list | tuple):
        raise ValueError(
            "class_weight: expected a dict of classes and their weights, or 'balanced', got "
            f"{shown(class_weight)}"
        )
    if isinstance(class_weight, str):
        return np.asarray(compute_sample_weight(class_weight, y), np.float64)
    with naming("class_weight"):
        weights = compute_class_weight(class_weight, classes=classes, y=y)
    return np.asarray(weights, np.float64)[np.searchsorted(classes, y)]
