"""Labels of classes: integers or names, encoded from 0."""

from __future__ import annotations

import numpy as np

from fastbn.errors import DataFileError

# Whole numbers are no classes if there are more different ones than MOST_CLASSES, or more than
# MANY_CLASSES and on average fewer than FEW_SAMPLES samples of each.
MOST_CLASSES = 100
MANY_CLASSES = 20
FEW_SAMPLES = 3

REGRESSION = (
    "this looks like regression, which the command line does not do yet; in Python "
    'BatchNormMLP(loss="squared_error") and fastbn.sklearn.BatchNormMLPRegressor do. If each '
    "number is a class, write them as names, with a letter in front: c7 instead of 7"
)


def encode_labels(
    where: str, raw: np.ndarray, codes: np.ndarray | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return labels 0 to K - 1 and the names of the classes, sorted; at least two of them.

    With `codes` the labels are ``raw[codes]``.
    """
    raw = np.asarray(raw)
    if raw.dtype.kind == "f" and all_whole(raw):
        raw = raw.astype(np.int64)
    if raw.dtype.kind not in "iubUS":
        raise DataFileError(
            f"{where}: expected labels that are integers or names, got {_dtype(raw)}"
        )
    classes, labels = np.unique(raw, return_inverse=True)
    if classes.size < 2:
        raise DataFileError(
            f"{where}: expected at least two classes, found {classes.tolist()!r:.200}"
        )
    labels = labels.reshape(-1).astype(np.int64)
    return labels if codes is None else labels[codes], tuple(str(name) for name in classes)


def _dtype(raw: np.ndarray) -> str:
    """Return the dtype of labels, and of numbers that are not whole what they look like."""
    broken = raw[raw != np.round(raw)] if raw.dtype.kind == "f" else raw[:0]
    if not broken.size or not np.isfinite(raw).all():
        return str(raw.dtype)
    return f"numbers that are not whole, such as {broken[0]:g}: {REGRESSION}"


def check_classes(where: str, raw: np.ndarray, n_samples: int) -> None:
    """Refuse whole numbers that are too many to be classes; names are never refused."""
    if raw.dtype.kind not in "iuf":
        return
    n_classes = np.unique(raw).size
    if n_classes > MOST_CLASSES or (
        n_classes > MANY_CLASSES and n_samples < FEW_SAMPLES * n_classes
    ):
        raise DataFileError(
            f"{where}: expected labels of classes, got {n_classes:,} different whole numbers in "
            f"{n_samples:,} samples: {REGRESSION}"
        )


def all_whole(values: np.ndarray) -> bool:
    """Return whether all are whole numbers that a float64 tells from their neighbours."""
    return bool((np.abs(values) < 2**53).all() and (values == np.round(values)).all())
