"""A data set, and the split into a training and a test part."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastbn.checks import integer, number
from fastbn.errors import DataFileError

# X (samples, features), and labels as they stand in a source.
Part = tuple[np.ndarray, np.ndarray]


class Dataset(NamedTuple):
    """Training and test samples: X (samples, features), y int64 labels from 0.

    `feature_names` and `target_name` are the names of the columns of a CSV file with a header.
    """

    X_train: np.ndarray
    y_train: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    class_names: tuple[str, ...]
    name: str
    feature_names: tuple[str, ...] | None = None
    target_name: str | None = None


class NoTestPartError(DataFileError):
    """Samples are too few to split off a part to test on."""


def check_test_size(test_size: Any) -> None:
    """Refuse what is no part of the samples."""
    number("test_size", test_size, 0.0, 1.0, open_low=True, open_high=True)


def split(
    X: np.ndarray,
    y: np.ndarray,
    class_names: tuple[str, ...],
    name: str,
    test_size: float,
    seed: int,
) -> Dataset:
    """Split off a test part: the same share of every class, at least one sample to train on."""
    check_test_size(test_size)
    generator = np.random.default_rng(integer("seed", seed, 0))
    counts = np.bincount(y, minlength=len(class_names))
    if min(round(test_size * counts.max()), counts.max() - 1) < 1:
        raise NoTestPartError(
            f"{name}: test_size={test_size:g} of {y.size} samples in {len(class_names)} classes "
            "leaves none to test on"
        )
    is_test = np.zeros(y.size, bool)
    for of_class in np.split(np.argsort(y, kind="stable"), np.cumsum(counts)[:-1]):
        members = generator.permutation(of_class)
        is_test[members[: min(round(test_size * members.size), members.size - 1)]] = True
    return Dataset(X[~is_test], y[~is_test], X[is_test], y[is_test], class_names, name)
