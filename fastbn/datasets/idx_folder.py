"""Folders of four IDX files, named as those of MNIST."""

from __future__ import annotations

import os
import pathlib

import numpy as np

from fastbn.checks import path_of
from fastbn.datasets.dataset import Dataset
from fastbn.datasets.idx import load_idx
from fastbn.datasets.labels import check_classes, encode_labels
from fastbn.errors import DataFileError

IDX_FILES = {
    "X_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "X_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


def load_idx_folder(path: str | os.PathLike[str]) -> Dataset:
    """Return the four IDX files of a folder, named as those of MNIST, gzipped or not.

    Where a file is there both gzipped and not, both have to hold the same.

    Raises
    ------
    DataFileError
        A file is missing or malformed, or images and labels do not fit together.
    """
    folder = path_of("path", path)
    arrays = read_idx_folder(folder)
    raw = np.concatenate([arrays["y_train"], arrays["y_test"]])
    labels, class_names = encode_labels(str(folder), raw)
    check_classes(str(folder), raw, labels.size)
    n = arrays["y_train"].size
    return Dataset(
        arrays["X_train"], labels[:n], arrays["X_test"], labels[n:], class_names, folder.name
    )


def read_idx_folder(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Return the four arrays, images flattened and labels as they stand there."""
    found = {key: find_file(folder, name) for key, name in IDX_FILES.items()}
    arrays = {key: _load_same(paths) for key, paths in found.items()}
    paths = {key: paths[0] for key, paths in found.items()}
    for part in ("train", "test"):
        X, y = arrays[f"X_{part}"], arrays[f"y_{part}"]
        if X.ndim < 2 or X.size == 0:
            raise DataFileError(f"{paths[f'X_{part}']}: expected images, got shape {X.shape}")
        if y.ndim != 1 or y.dtype.kind not in "iu" or y.size != X.shape[0]:
            raise DataFileError(
                f"{paths[f'y_{part}']}: expected {X.shape[0]} integer labels as "
                f"{paths[f'X_{part}'].name} has images, got {y.dtype} {y.shape}"
            )
        if not np.isfinite(X).all():
            raise DataFileError(f"{paths[f'X_{part}']}: expected finite numbers, found others")
        arrays[f"X_{part}"] = X.reshape(X.shape[0], -1)
    if arrays["X_train"].shape[1] != arrays["X_test"].shape[1]:
        raise DataFileError(
            f"{folder}: expected training and test images of one size, "
            f"got {arrays['X_train'].shape[1]} and {arrays['X_test'].shape[1]} pixels"
        )
    return arrays


def find_file(folder: pathlib.Path, name: str) -> list[pathlib.Path]:
    """Return the file of that name, gzipped or not; both where both are there."""
    candidates = (folder / f"{name}.gz", folder / name)
    found = [candidate for candidate in candidates if candidate.is_file()]
    if not found:
        raise DataFileError(f"{folder}: expected the file {name}.gz or {name}, found neither")
    return found


def _load_same(paths: list[pathlib.Path]) -> np.ndarray:
    """Return what an IDX file holds; an error where its gzipped and its plain form differ."""
    arrays = [load_idx(path) for path in paths]
    for array in arrays[1:]:
        if array.dtype != arrays[0].dtype or not np.array_equal(array, arrays[0]):
            raise DataFileError(
                f"{paths[0].parent}: expected {paths[0].name} and {paths[1].name} to hold the "
                "same, found a difference"
            )
    return arrays[0]
