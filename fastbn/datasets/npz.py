"""Samples and labels in NPZ files. Nothing in a file is executed."""

from __future__ import annotations

import os
import pathlib
import zipfile
import zlib
from typing import NamedTuple

import numpy as np

from fastbn.checks import path_of
from fastbn.datasets.dataset import Dataset, Part, split
from fastbn.datasets.labels import check_classes, encode_labels
from fastbn.errors import DataFileError

# The arrays of an NPZ file that are read, whatever the case of their names.
NPZ_KEYS = ("x", "y", "x_train", "y_train", "x_test", "y_test")

# What NumPy and zipfile let through from a file that is damaged, encrypted, or announces an array
# that fits no memory.
NPZ_ERRORS = (
    OSError, ValueError, EOFError, MemoryError, OverflowError, RuntimeError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def load_npz(path: str | os.PathLike[str], *, test_size: float = 0.2, seed: int = 0) -> Dataset:
    """Return the arrays ``X, y`` or ``X_train, y_train, X_test, y_test`` of an NPZ file.

    Parameters
    ----------
    path : path
        Labels are integers or names; features of more dimensions than two are flattened.
    test_size, seed
        As in `load_digits`, where the file has no test part.

    Raises
    ------
    DataFileError
        The file is missing or malformed, or an array is not as described above. Of two arrays whose
        names differ in case alone none is taken.
    """
    name, parts = path_of("path", path).stem, read_parts(path)
    raw = np.concatenate([labels for _, labels in parts])
    where = f"{path}: y" if len(parts) == 1 else f"{path}: y_train"
    y, class_names = encode_labels(where, raw)
    check_classes(where, raw, y.size)
    X, n = parts[0][0], len(parts[0][1])
    if len(parts) == 1:
        return split(X, y, class_names, name, test_size, seed)
    return Dataset(X, y[:n], parts[1][0], y[n:], class_names, name)


def read_parts(path: str | os.PathLike[str]) -> list[Part]:
    """Return the one part, or training and test part, of an NPZ file."""
    file = read_npz(path)
    if "x" in file.arrays:
        X = file.features("x")
        return [(X, file.labels("y", X.shape[0]))]
    X_train, X_test = file.features("x_train"), file.features("x_test")
    if X_train.shape[1] != X_test.shape[1]:
        raise DataFileError(
            f"{path}: x_test: expected {X_train.shape[1]} features as x_train, "
            f"got {X_test.shape[1]}"
        )
    return [
        (X_train, file.labels("y_train", X_train.shape[0])),
        (X_test, file.labels("y_test", X_test.shape[0])),
    ]


class NpzFile(NamedTuple):
    """What was read of an NPZ file: the names as they stand there, and arrays by lower case."""

    path: pathlib.Path
    names: list[str]
    arrays: dict[str, np.ndarray]

    def _array(self, key: str) -> np.ndarray:
        if key not in self.arrays:
            raise DataFileError(
                f"{self.path}: expected the key {key!r}, found {sorted(self.names)}"
            )
        return self.arrays[key]

    def features(self, key: str) -> np.ndarray:
        """Return an array as a matrix of finite numbers; more dimensions are flattened."""
        x = self._array(key)
        if x.dtype.kind not in "fiub" or x.ndim < 2 or x.size == 0:
            raise DataFileError(
                f"{self.path}: {key}: expected numbers of shape (samples, features), "
                f"got {x.dtype} {x.shape}"
            )
        x = x.reshape(x.shape[0], -1)
        if not np.isfinite(x).all():
            raise DataFileError(f"{self.path}: {key}: expected finite numbers, found others")
        return x

    def labels(self, key: str, n_samples: int) -> np.ndarray:
        """Return an array as it is, one label per sample."""
        y = self._array(key)
        if y.shape != (n_samples,):
            several = y.ndim == 2 and y.shape[0] == n_samples and y.shape[1] > 1
            more = ": several labels or numbers of a sample are read in Python only"
            raise DataFileError(
                f"{self.path}: {key}: expected shape ({n_samples},), got {y.shape}"
                + (more if several else "")
            )
        try:
            return np.char.decode(y, "utf-8") if y.dtype.kind == "S" else y
        except UnicodeDecodeError as error:
            raise DataFileError(f"{self.path}: {key}: expected names in UTF-8: {error}") from error


def read_npz(path: str | os.PathLike[str]) -> NpzFile:
    """Return the arrays of an NPZ file."""
    target = path_of("path", path)
    key = ""
    try:
        with open(target, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise DataFileError(f"{target}: expected an NPZ file, found a single array")
            names: list[str] = loaded.files
            for wanted in NPZ_KEYS:
                same = [name for name in names if name.lower() == wanted]
                if len(same) > 1:
                    found = " and ".join(map(repr, same))
                    raise DataFileError(f"{target}: expected one array {wanted!r}, found {found}")
            arrays = {}
            for name in names:
                key = f" {name}:"
                arrays[name.lower()] = loaded[name]
            return NpzFile(target, names, arrays)
    except NPZ_ERRORS as error:
        if isinstance(error, DataFileError):
            raise
        raise DataFileError(f"{target}:{key} cannot be read as NPZ: {error}") from error
