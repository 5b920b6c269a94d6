"""Labels of classes, and tables of samples in NPZ files."""

from __future__ import annotations

import os
import pathlib
import zipfile
import zlib

import numpy as np

from fastbn.checks import path_of
from fastbn.errors import DataFileError

# The arrays of an NPZ file that are read, whatever the case of their names.
NPZ_KEYS = ("x", "y", "x_train", "y_train", "x_test", "y_test")

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

# What NumPy and zipfile let through from a file that is damaged, encrypted, or announces an array
# that fits no memory.
NPZ_ERRORS = (
    OSError, ValueError, EOFError, MemoryError, OverflowError, RuntimeError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


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


def read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the arrays of an NPZ file, keys in lower case; nothing in it is executed."""
    target = path_of("path", path)
    try:
        with open(target, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise DataFileError(f"{target}: expected an NPZ file, found a single array")
            _check_keys(target, loaded.files)
            return {name.lower(): _read_array(target, loaded, name) for name in loaded.files}
    except NPZ_ERRORS as error:
        if isinstance(error, DataFileError):
            raise
        raise DataFileError(f"{target}: cannot be read as NPZ: {error}") from error


def _check_keys(path: pathlib.Path, names: list[str]) -> None:
    """Refuse two arrays of one name, as X and x are."""
    for key in NPZ_KEYS:
        same = [name for name in names if name.lower() == key]
        if len(same) > 1:
            raise DataFileError(
                f"{path}: expected one array {key!r}, found {' and '.join(map(repr, same))}"
            )


def _read_array(path: pathlib.Path, loaded: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    try:
        return loaded[key]
    except NPZ_ERRORS as error:
        raise DataFileError(f"{path}: {key}: cannot be read as NPZ: {error}") from error


def _no_key(path: str | os.PathLike[str], key: str) -> DataFileError:
    """Return the error of an NPZ file without an array, with the names as they stand there."""
    with np.load(path, allow_pickle=False) as loaded:
        return DataFileError(f"{path}: expected the key {key!r}, found {sorted(loaded.files)}")


def npz_features(
    path: str | os.PathLike[str], arrays: dict[str, np.ndarray], key: str
) -> np.ndarray:
    """Return arrays[key] as a matrix of finite numbers; more dimensions are flattened."""
    if key not in arrays:
        raise _no_key(path, key)
    x = arrays[key]
    if x.dtype.kind not in "fiub" or x.ndim < 2 or x.size == 0:
        raise DataFileError(
            f"{path}: {key}: expected numbers of shape (samples, features), got {x.dtype} {x.shape}"
        )
    x = x.reshape(x.shape[0], -1)
    if not np.isfinite(x).all():
        raise DataFileError(f"{path}: {key}: expected finite numbers, found others")
    return x


def npz_labels(
    path: str | os.PathLike[str], arrays: dict[str, np.ndarray], key: str, n_samples: int
) -> np.ndarray:
    """Return arrays[key] as it is, one label per sample."""
    if key not in arrays:
        raise _no_key(path, key)
    y = arrays[key]
    if y.shape != (n_samples,):
        several = y.ndim == 2 and y.shape[0] == n_samples and y.shape[1] > 1
        raise DataFileError(
            f"{path}: {key}: expected shape ({n_samples},), got {y.shape}"
            + (": several labels or numbers of a sample are read in Python only" if several else "")
        )
    try:
        return np.char.decode(y, "utf-8") if y.dtype.kind == "S" else y
    except UnicodeDecodeError as error:
        raise DataFileError(f"{path}: {key}: expected names in UTF-8: {error}") from error
