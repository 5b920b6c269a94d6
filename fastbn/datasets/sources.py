"""Load data sets by name or path."""

from __future__ import annotations

import importlib.resources
import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from fastbn.checks import integer, path_of
from fastbn.datasets.csv_columns import (
    Columns,
    Target,
    choose_by_position,
    columns_by_name,
    target_column,
)
from fastbn.datasets.csv_header import CsvHeader
from fastbn.datasets.csv_table import load_csv, read_csv
from fastbn.datasets.dataset import DataPart, Dataset, split
from fastbn.datasets.fashion_mnist import load_fashion_mnist
from fastbn.datasets.idx import load_idx, load_idx_folder, read_idx_folder
from fastbn.datasets.npz import load_npz, read_npz, read_parts
from fastbn.errors import DataFileError

Path = str | os.PathLike[str]

EXPECTED = "expected digits, fashion-mnist, a .csv or .npz file, or a folder of IDX files"


def load(source: Path, *, target: Target = None, test_size: float = 0.2, seed: int = 0) -> Dataset:
    """Load a data set by name or path, as the command line does.

    Parameters
    ----------
    source : "digits", "fashion-mnist", or the path of a CSV file, an NPZ file or an IDX folder
    target : str or int, optional
        Column of labels of a CSV file.
    test_size, seed
        As in `load_digits`, if the source has no test part.

    Raises
    ------
    DataFileError
        The source is not one of these, or cannot be read.
    """
    kind, path = _kind_of(source)
    if kind == "digits":
        return load_digits(test_size=test_size, seed=seed)
    if kind == "fashion-mnist":
        return load_fashion_mnist()
    if kind == ".csv":
        return load_csv(path, target, test_size=test_size, seed=seed)
    if kind == ".npz":
        return load_npz(path, test_size=test_size, seed=seed)
    if kind == "folder":
        return load_idx_folder(path)
    raise DataFileError(f"{path}: {EXPECTED}")


def load_parts(source: Path) -> tuple[str, list[DataPart]]:
    """Return the name and the samples of a source other than CSV; they may be of one class only.

    The samples are its training and test part, or one part if it has no test part.
    """
    kind, path = _kind_of(source)
    if kind == "digits":
        return kind, [_read_digits()]
    if kind == ".npz":
        return path.stem, read_parts(path)
    if kind == "folder":
        return path.name, [*read_idx_folder(path)]
    data = load(source)
    names = np.array(data.class_names)
    return data.name, [(data.X_train, names[data.y_train]), (data.X_test, names[data.y_test])]


def load_features(
    source: Path,
    *,
    n_features: int,
    target: Target = None,
    feature_names: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Load X for predictions and, if the source has them, its labels, which are not encoded.

    Parameters
    ----------
    source : as in `load`, or an IDX file of images
        If a data set has a test part, only that is loaded.
    n_features : int
        Features of the model. If a CSV file has one column more, its labels are in `target`.
    target : str or int, optional
    feature_names : sequence of str, optional
        Columns to read from a CSV file with a header, in any order. Other columns are ignored, and
        labels are read only if `target` is given. Without a header, and in all other sources,
        features are read in the order of the file.

    Raises
    ------
    DataFileError
        The source is not one of these, has another number of features, or does not have each of
        `feature_names` once; the message names those that are missing.
    """
    kind, path = _kind_of(source)
    n_features = integer("n_features", n_features, 1)
    if feature_names is not None:
        feature_names = _checked_names(feature_names, n_features)
    y: np.ndarray | None = None
    if kind == ".csv":
        X, y = _csv_features(path, n_features, target, feature_names)
    elif kind == ".npz":
        file = read_npz(path)
        suffix = "_test" if file.find("x") is None else ""
        X = file.features(f"x{suffix}")
        if file.find(f"y{suffix}") is not None:
            y = file.labels(f"y{suffix}", len(X))
    elif kind == "file":
        images = load_idx(path)
        X = images.reshape(len(images), -1) if images.size else images.reshape(0, n_features)
    else:
        data = load(source)
        X, y = data.X_test, np.array(data.class_names)[data.y_test]
    if X.shape[1] != n_features:
        raise DataFileError(f"{path}: expected {n_features} features, found {X.shape[1]}")
    return X, y


def _kind_of(source: Path) -> tuple[str, pathlib.Path]:
    """Return "digits", "fashion-mnist", ".csv", ".npz", "folder" or "file", and the path.

    "digits" and "fashion-mnist" mean the data sets even if there is a file of that name.
    """
    path = path_of("source", source)
    name = os.fspath(source)
    if name in ("digits", "fashion-mnist"):
        return name, path
    if path.suffix.lower() in (".csv", ".npz"):
        return path.suffix.lower(), path
    if path.is_dir():
        return "folder", path
    if path.is_file():
        return "file", path
    raise DataFileError(f"{name}: {EXPECTED}")


def _csv_features(
    path: pathlib.Path, n_features: int, target: Target, feature_names: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray | None]:
    def choose(header: CsvHeader) -> Columns:
        if feature_names is None or not header.named:
            return choose_by_position(header, n_features, target)
        features = columns_by_name(header, feature_names)
        return Columns(features, None if target is None else target_column(header, target))

    table = read_csv(path, choose, feature_names)
    return table.X, None if table.columns.label is None else table.labels.by_row()


def _checked_names(names: Sequence[str], n_features: int) -> list[str]:
    """Return the names of `n_features` columns, without the spaces around them."""
    is_sequence = isinstance(names, Iterable) and not isinstance(names, str)
    if not is_sequence or not all(isinstance(name, str) for name in names):
        raise TypeError(f"feature_names: expected names of columns, got {names!r}")
    stripped = [name.strip() for name in names]
    if len(stripped) != n_features or len(set(stripped)) < n_features:
        raise ValueError(
            f"feature_names: expected {n_features} different names, got {len(stripped)}, "
            f"{len(set(stripped))} of them different"
        )
    return stripped


def load_digits(*, test_size: float = 0.2, seed: int = 0) -> Dataset:
    """Return the embedded 1,797 handwritten digits, 8 x 8 pixels from 0 to 16.

    Parameters
    ----------
    test_size : float in (0, 1)
        Share of each class that becomes the test part.
    seed : int
        Seed of the split.

    Notes
    -----
    E. Alpaydin & C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
    Repository, 1998 (CC BY 4.0), in the copy that scikit-learn distributes.
    """
    X, y = _read_digits()
    return split(X, y, tuple("0123456789"), "digits", test_size, seed)


def _read_digits() -> DataPart:
    place = importlib.resources.files("fastbn") / "data" / "digits.npz"
    with place.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return arrays["X"], arrays["y"].astype(np.int64)
