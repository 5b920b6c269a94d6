"""Weights of samples by their classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight

from fastbn.checks import shown
from fastbn.sklearn._base import naming


def check_class_weight(class_weight: Any) -> None:
    """Raise an error if `class_weight` is none of the allowed kinds."""
    for part in _parts(class_weight):
        if not (part is None or isinstance(part, dict) or _is_balanced(part)):
            kind = ValueError if isinstance(part, str) else TypeError
            raise kind(
                "class_weight: expected None, a dict of classes and their weights, 'balanced', or "
                f"for several labels a list of these, got {shown(class_weight)}"
            )


def needs_all_targets(class_weight: Any) -> bool:
    """Return whether the weights depend on how frequent the classes are."""
    return any(map(_is_balanced, _parts(class_weight)))


def _parts(class_weight: Any) -> list[Any]:
    return list(class_weight) if isinstance(class_weight, list | tuple) else [class_weight]


def _is_balanced(part: Any) -> bool:
    return isinstance(part, str) and part == "balanced"


def sample_weights(class_weight: Any, y: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the weight of each sample: that of its class, or the product over its labels.

    `classes` are all classes; y may lack some of them.
    """
    if y.ndim == 1:
        return _of_column(class_weight, y, classes)
    n_labels = y.shape[1]
    parts = [class_weight] * n_labels if _is_balanced(class_weight) else class_weight
    if isinstance(parts, dict) or len(parts) != n_labels:
        raise ValueError(
            f"class_weight: expected 'balanced', or a list with a dict for each of {n_labels} "
            f"labels, got {class_weight!r}"
        )
    columns = zip(parts, y.T, strict=True)
    return np.prod([_of_column(one, column, np.array([0, 1])) for one, column in columns], axis=0)


def _of_column(class_weight: Any, y: np.ndarray, classes: np.ndarray) -> np.ndarray:
    if isinstance(class_weight, list | tuple):
        raise ValueError(
            "class_weight: expected a dict of classes and their weights, or 'balanced', got "
            f"{shown(class_weight)}"
        )
    if _is_balanced(class_weight):  # compute_class_weight raises if y lacks a class
        return np.asarray(compute_sample_weight(class_weight, y), np.float64)
    with naming("class_weight"):
        weights = compute_class_weight(class_weight, classes=classes, y=y)
    return np.asarray(weights, np.float64)[np.searchsorted(classes, y)]
