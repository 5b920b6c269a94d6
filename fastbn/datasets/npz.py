"""Samples and labels in NPZ files. Loading a file executes nothing in it."""

from __future__ import annotations

import os
import pathlib
from typing import NamedTuple

import numpy as np

from fastbn.checks import path_of
from fastbn.datasets.dataset import DataPart, Dataset, encode_labels, joined, split
from fastbn.errors import DataFileError


def load_npz(path: str | os.PathLike[str], *, test_size: float = 0.2, seed: int = 0) -> Dataset:
    """Load the arrays ``X, y`` or ``X_train, y_train, X_test, y_test`` of an NPZ file.

    Parameters
    ----------
    path : path
        The names of arrays may be in upper or lower case. Labels are integers or names;
        features of more dimensions than two are flattened.
    test_size, seed
        As in `load_digits`, if the file has no test part.

    Raises
    ------
    DataFileError
        The file is missing or malformed, or an array is not as described above, or two of these
        arrays have names that differ only in case.
    """
    name, parts = path_of("path", path).stem, read_parts(path)
    if len(parts) == 2:
        return joined(f"{path}: y_train", name, *parts)
    X, raw = parts[0]
    y, class_names = encode_labels(f"{path}: y", raw)
    return split(X, y, class_names, name, test_size, seed)


def read_parts(path: str | os.PathLike[str]) -> list[DataPart]:
    """Return the one part, or training and test part, of an NPZ file."""
    file = read_npz(path)
    suffixes = ("_train", "_test") if file.find("x") is None else ("",)
    parts = []
    for suffix in suffixes:
        X = file.features(f"x{suffix}")
        parts.append((X, file.labels(f"y{suffix}", len(X))))
    n_features, in_test = parts[0][0].shape[1], parts[-1][0].shape[1]
    if in_test != n_features:
        raise DataFileError(
            f"{path}: x_test: expected {n_features} features as x_train, got {in_test}"
        )
    return parts


class NpzFile(NamedTuple):
    """The arrays of an NPZ file."""

    path: pathlib.Path
    arrays: dict[str, np.ndarray]

    def find(self, key: str) -> np.ndarray | None:
        """Return the array of this name, in lower or upper case, or None."""
        found = [name for name in self.arrays if name.lower() == key]
        if len(found) > 1:
            listed = " and ".join(map(repr, found))
            raise DataFileError(f"{self.path}: expected one array {key!r}, found {listed}")
        return self.arrays[found[0]] if found else None

    def _array(self, key: str) -> np.ndarray:
        array = self.find(key)
        if array is None:
            raise DataFileError(
                f"{self.path}: expected the key {key!r}, found {sorted(self.arrays)}"
            )
        return array

    def features(self, key: str) -> np.ndarray:
        """Return an array as a matrix of finite numbers; more dimensions are flattened."""
        x = self._array(key)
        if x.dtype.kind not in "fiub" or x.ndim < 2 or x.size == 0:
            raise DataFileError(
                f"{self.path}: {key}: expected numbers of shape (samples, features), "
                f"got {x.dtype} {x.shape}"
            )
        if not np.isfinite(x).all():
            raise DataFileError(
                f"{self.path}: {key}: expected finite numbers, found NaN or infinity"
            )
        return x.reshape(x.shape[0], -1)

    def labels(self, key: str, n_samples: int) -> np.ndarray:
        """Return an array as it is, one label per sample."""
        y = self._array(key)
        if y.shape != (n_samples,):
            several = y.ndim == 2 and y.shape[0] == n_samples and y.shape[1] > 1
            more = ": several labels or numbers per sample work only in Python"
            raise DataFileError(
                f"{self.path}: {key}: expected shape ({n_samples},), got {y.shape}"
                f"{more if several else ''}"
            )
        try:
            return np.char.decode(y, "utf-8") if y.dtype.kind == "S" else y
        except UnicodeDecodeError as error:
            raise DataFileError(f"{self.path}: {key}: expected names in UTF-8: {error}") from error


def read_npz(path: str | os.PathLike[str]) -> NpzFile:
    """Return the arrays of an NPZ file."""
    target = path_of("path", path)
    arrays: dict[str, np.ndarray] = {}
    reading = ""
    try:
        with open(target, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise ValueError("it is a single array")
            for name in loaded.files:
                reading = f" {name}:"
                arrays[name] = loaded[name]
    except Exception as error:  # what NumPy and zipfile raise depends on the damage
        raise DataFileError(f"{target}:{reading} cannot be read as NPZ: {error}") from error
    return NpzFile(target, arrays)
