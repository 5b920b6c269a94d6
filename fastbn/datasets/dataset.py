"""The type of a data set, the encoding of labels, and the split into training and test part."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastbn.checks import integer, number
from fastbn.errors import DataFileError

# Whole numbers are not classes if there are more than MOST_CLASSES different ones, or more than
# MANY_CLASSES with fewer than FEW_SAMPLES samples of each on average.
MOST_CLASSES = 100
MANY_CLASSES = 20
FEW_SAMPLES = 3

REGRESSION = (
    "this looks like regression, which the command line does not support yet; in Python, use "
    'BatchNormMLP(loss="squared_error") or fastbn.sklearn.BatchNormMLPRegressor. If each number '
    "is a class, write them as names, with a letter in front: c7 instead of 7"
)

# X (samples, features), and the labels as the source has them.
DataPart = tuple[np.ndarray, np.ndarray]


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
    """There are too few samples to split off a test part."""


def check_test_size(test_size: Any) -> None:
    """Check that a share is between 0 and 1."""
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
            "leaves no test samples"
        )
    is_test = np.zeros(y.size, bool)
    for of_class in np.split(np.argsort(y, kind="stable"), np.cumsum(counts)[:-1]):
        members = generator.permutation(of_class)
        is_test[members[: min(round(test_size * members.size), members.size - 1)]] = True
    return Dataset(X[~is_test], y[~is_test], X[is_test], y[is_test], class_names, name)


def joined(where: str, name: str, train: DataPart, test: DataPart) -> Dataset:
    """Return a data set of a training and a test part, encoding their labels together."""
    y, class_names = encode_labels(where, np.concatenate([train[1], test[1]]))
    n = len(train[1])
    return Dataset(train[0], y[:n], test[0], y[n:], class_names, name)


def encode_labels(
    where: str, raw: np.ndarray, codes: np.ndarray | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return labels 0 to K - 1 and the names of the classes, sorted; at least two of them.

    With `codes` the labels are ``raw[codes]``. Numbers that look like regression are refused.
    """
    raw = np.asarray(raw)
    is_number = raw.dtype.kind in "iuf"
    if raw.dtype.kind == "f":
        if all_whole(raw):
            raw = raw.astype(np.int64)
        elif np.isfinite(raw).all() and (broken := raw[raw != np.round(raw)]).size:
            raise DataFileError(
                f"{where}: expected labels that are integers or names, got numbers that are not "
                f"whole, such as {broken[0]:g}: {REGRESSION}"
            )
    if raw.dtype.kind not in "iubUS":
        raise DataFileError(f"{where}: expected labels that are integers or names, got {raw.dtype}")
    classes, labels = np.unique(raw, return_inverse=True)
    if classes.size < 2:
        raise DataFileError(
            f"{where}: expected at least two classes, found {classes.tolist()!r:.200}"
        )
    labels = labels.reshape(-1).astype(np.int64)
    labels = labels if codes is None else labels[codes]
    few = classes.size > MANY_CLASSES and labels.size < FEW_SAMPLES * classes.size
    if is_number and (few or classes.size > MOST_CLASSES):
        raise DataFileError(
            f"{where}: expected labels of classes, got {classes.size:,} different whole numbers in "
            f"{labels.size:,} samples: {REGRESSION}"
        )
    return labels, tuple(str(name) for name in classes)


def all_whole(values: np.ndarray) -> bool:
    """Return whether all are whole numbers small enough for float64 to be exact."""
    return bool((np.abs(values) < 2**53).all() and (values == np.round(values)).all())
