"""Data sets: the embedded digits, Fashion-MNIST, and files of your own."""

from __future__ import annotations

import importlib.resources
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from fastbn.checks import integer, number, path_of
from fastbn.datasets import fashion_mnist
from fastbn.datasets.csv_table import (
    Columns,
    Header,
    Target,
    columns_by_name,
    columns_by_position,
    read_csv,
    target_column,
)
from fastbn.datasets.idx import load_idx
from fastbn.datasets.tables import check_classes, encode_labels, npz_features, npz_labels, read_npz
from fastbn.errors import DataFileError

__all__ = [
    "Dataset",
    "load",
    "load_csv",
    "load_digits",
    "load_fashion_mnist",
    "load_features",
    "load_idx",
    "load_idx_folder",
    "load_npz",
]

Path = str | os.PathLike[str]

# X (samples, features), and labels as they stand in a source.
Part = tuple[np.ndarray, np.ndarray]

IDX_FILES = {
    "X_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "X_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}

UNDERSTOOD = "expected digits, fashion-mnist, a .csv or .npz file, or a folder of IDX files"


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


def load_digits(*, test_size: float = 0.2, seed: int = 0) -> Dataset:
    """Return the embedded 1,797 handwritten digits, 8 x 8 pixels from 0 to 16.

    Parameters
    ----------
    test_size : float in (0, 1)
        Share of every class that is split off to test on.
    seed : int
        Of the split.

    Notes
    -----
    E. Alpaydin & C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
    Repository, 1998 (CC BY 4.0), in the copy that scikit-learn distributes.
    """
    X, y = _read_digits()
    return split(X, y, tuple("0123456789"), "digits", test_size, seed)


def _read_digits() -> Part:
    place = importlib.resources.files("fastbn") / "data" / "digits.npz"
    with place.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return arrays["X"], arrays["y"].astype(np.int64)


def load_idx_folder(path: Path) -> Dataset:
    """Return the four IDX files of a folder, named as those of MNIST, gzipped or not.

    Where a file is there both gzipped and not, both have to hold the same.

    Raises
    ------
    DataFileError
        A file is missing or malformed, or images and labels do not fit together.
    """
    folder = path_of("path", path)
    arrays = _read_idx_folder(folder)
    raw = np.concatenate([arrays["y_train"], arrays["y_test"]])
    labels, class_names = encode_labels(str(folder), raw)
    check_classes(str(folder), raw, labels.size)
    n = arrays["y_train"].size
    return Dataset(
        arrays["X_train"], labels[:n], arrays["X_test"], labels[n:], class_names, folder.name
    )


def _read_idx_folder(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Return the four arrays, images flattened and labels as they stand there."""
    found = {key: _find(folder, name) for key, name in IDX_FILES.items()}
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


def _find(folder: pathlib.Path, name: str) -> list[pathlib.Path]:
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


def load_fashion_mnist(path: Path | None = None, *, download: bool = True) -> Dataset:
    """Return Fashion-MNIST: 60,000 and 10,000 images of 784 pixels (uint8), ten classes.

    Parameters
    ----------
    path : path, optional
        Folder with the four IDX files. Without it: the folder that the environment variable
        ``FASTBN_DATA`` names, that of Debian's package ``dataset-fashion-mnist``, or a download.
    download : bool
        Allow the download, with pooch, into the user's cache folder.

    Raises
    ------
    DataFileError
        The files are missing or malformed, or cannot be downloaded.
    MissingExtraError
        A download is needed, and pooch is not installed.

    Notes
    -----
    Xiao, Rasul & Vollgraf 2017 (arXiv 1708.07747), MIT licence.
    """
    folder = fashion_mnist.find_folder(path, download)
    arrays = _read_idx_folder(folder)
    names = fashion_mnist.CLASSES
    for key in ("y_train", "y_test"):
        y = arrays[key]
        if y.min() < 0 or y.max() >= len(names):
            raise DataFileError(
                f"{_find(folder, IDX_FILES[key])[0]}: expected labels from 0 to {len(names) - 1}, "
                f"found {y.min()} to {y.max()}"
            )
        arrays[key] = y.astype(np.int64)
    X_train, y_train, X_test, y_test = (arrays[key] for key in IDX_FILES)
    return Dataset(X_train, y_train, X_test, y_test, names, "fashion-mnist")


def load_csv(
    path: Path, target: Target = None, *, test_size: float = 0.2, seed: int = 0
) -> Dataset:
    """Return a CSV file of numbers and one column of labels.

    Parameters
    ----------
    path : path
        Comma-separated, with or without a line of column names, which the data set then carries.
    target : str or int, optional
        Name or number of the column of labels, which are integers or names; the last one if left
        out. Without a header, columns are named by number.
    test_size, seed
        As in `load_digits`.

    Raises
    ------
    DataFileError
        The file is missing, empty, ragged, or holds something else than finite numbers; the message
        names the line and the column. Or the target looks like regression: its cells are numbers
        that are not all whole, or more than 100 different whole numbers, or more than 20 with fewer
        than three samples of each on average. Names, also numbers that begin with a zero, are
        always classes.
    """

    def choose(header: Header) -> Columns:
        label = target_column(header, target)
        features = [column for column in range(len(header.names)) if column != label]
        if not features:
            raise DataFileError(f"{path}: expected features beside the target column, found none")
        return Columns(features, label)

    (_, names, named), (features, label), X, labels = read_csv(path, choose)
    if not len(X):
        raise DataFileError(f"{path}: expected rows of numbers, found a header and no rows")
    target_name = names[cast(int, label)]
    y, class_names = encode_labels(f"{path}: {target_name}", labels.values, labels.codes)
    check_classes(f"{path}: {target_name}", labels.values, y.size)
    data = split(X, y, class_names, pathlib.Path(path).stem, test_size, seed)
    if not named:
        return data
    feature_names = tuple(names[column] for column in features)
    return data._replace(feature_names=feature_names, target_name=target_name)


def load_npz(path: Path, *, test_size: float = 0.2, seed: int = 0) -> Dataset:
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
    name, parts = path_of("path", path).stem, _read_npz_parts(path)
    raw = np.concatenate([labels for _, labels in parts])
    where = f"{path}: y" if len(parts) == 1 else f"{path}: y_train"
    y, class_names = encode_labels(where, raw)
    check_classes(where, raw, y.size)
    X, n = parts[0][0], len(parts[0][1])
    if len(parts) == 1:
        return split(X, y, class_names, name, test_size, seed)
    return Dataset(X, y[:n], parts[1][0], y[n:], class_names, name)


def _read_npz_parts(path: Path) -> list[Part]:
    """Return the one part, or training and test part, of an NPZ file."""
    arrays = read_npz(path)
    if "x" in arrays:
        X = npz_features(path, arrays, "x")
        return [(X, npz_labels(path, arrays, "y", X.shape[0]))]
    X_train, X_test = (npz_features(path, arrays, f"x_{part}") for part in ("train", "test"))
    if X_train.shape[1] != X_test.shape[1]:
        raise DataFileError(
            f"{path}: x_test: expected {X_train.shape[1]} features as x_train, "
            f"got {X_test.shape[1]}"
        )
    return [
        (X_train, npz_labels(path, arrays, "y_train", X_train.shape[0])),
        (X_test, npz_labels(path, arrays, "y_test", X_test.shape[0])),
    ]


def load(source: Path, *, target: Target = None, test_size: float = 0.2, seed: int = 0) -> Dataset:
    """Return a data set by name or path, as the command line takes it.

    Parameters
    ----------
    source : "digits", "fashion-mnist", or the path of a CSV file, an NPZ file or an IDX folder
    target : str or int, optional
        Column of labels of a CSV file.
    test_size, seed
        As in `load_digits`, where the source has no test part.

    Raises
    ------
    DataFileError
        The source is not one of these, or cannot be read.
    """
    path = path_of("source", source)
    source = os.fspath(source)
    if source == "digits":
        return load_digits(test_size=test_size, seed=seed)
    if source == "fashion-mnist":
        return load_fashion_mnist()
    if path.suffix.lower() == ".csv":
        return load_csv(path, target, test_size=test_size, seed=seed)
    if path.suffix.lower() == ".npz":
        return load_npz(path, test_size=test_size, seed=seed)
    if path.is_dir():
        return load_idx_folder(path)
    raise DataFileError(f"{source}: {UNDERSTOOD}")


def load_parts(source: Path) -> tuple[str, list[Part]]:
    """Return the name of a source and its samples, which may be of one class: for evaluating.

    The training part comes before the test part; there is one part where they are not split.

    Parameters
    ----------
    source : as in `load`, but no CSV file

    Raises
    ------
    DataFileError
        The source is not one of these, or cannot be read.
    """
    path = path_of("source", source)
    source = os.fspath(source)
    if source == "digits":
        return source, [_read_digits()]
    if source != "fashion-mnist" and path.suffix.lower() == ".npz":
        return path.stem, _read_npz_parts(path)
    if source != "fashion-mnist" and path.is_dir():
        arrays = _read_idx_folder(path)
        parts = [(arrays[f"X_{part}"], arrays[f"y_{part}"]) for part in ("train", "test")]
        return path.name, parts
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
    """Return X and, where the source has them, labels as they stand there: for predicting.

    Parameters
    ----------
    source : as in `load`, or an IDX file of images
        Of a data set with a test part, that part.
    n_features : int
        Features of the model. A CSV file with one column more has its labels in `target`.
    target : str or int, optional
    feature_names : sequence of str, optional
        Columns to take from a CSV file with a header, wherever they stand there; all others are
        left alone, and labels are read if there is a `target`. Without a header, and of all other
        sources, features are taken in the order in which they come.

    Raises
    ------
    DataFileError
        The source is not one of these, has another number of features, or does not have each of
        `feature_names` once; the message names those that are missing.
    """
    path, n_features = path_of("source", source), integer("n_features", n_features, 1)
    if feature_names is not None:
        feature_names = _names(feature_names, n_features)
    source = os.fspath(source)
    y: np.ndarray | None = None
    if path.suffix.lower() == ".csv":

        def choose(header: Header) -> Columns:
            if feature_names is None or not header.named:
                return columns_by_position(header, n_features, target)
            features = columns_by_name(header, feature_names)
            return Columns(features, None if target is None else target_column(header, target))

        table = read_csv(path, choose, feature_names)
        X = table.X
        if table.columns.label is not None:
            y = table.labels.as_they_stand()
    elif path.suffix.lower() == ".npz":
        arrays = read_npz(path)
        suffix = "" if "x" in arrays else "_test"
        X = npz_features(path, arrays, f"x{suffix}")
        if f"y{suffix}" in arrays:
            y = npz_labels(path, arrays, f"y{suffix}", X.shape[0])
    elif path.is_file() and source not in ("digits", "fashion-mnist"):
        images = load_idx(path)
        X = images.reshape(images.shape[0], -1) if images.size else images.reshape(0, n_features)
    else:
        data = load(source)
        X, y = data.X_test, np.array(data.class_names)[data.y_test]
    if X.shape[1] != n_features:
        raise DataFileError(f"{source}: expected {n_features} features, found {X.shape[1]}")
    return X, y


def _names(names: Sequence[str], n_features: int) -> list[str]:
    """Return the names of `n_features` columns, without the spaces around them."""
    if (
        isinstance(names, str)
        or not isinstance(names, Iterable)
        or not all(isinstance(name, str) for name in names)
    ):
        raise TypeError(f"feature_names: expected names of columns, got {names!r}")
    stripped = [name.strip() for name in names]
    if len(stripped) != n_features or len(set(stripped)) < n_features:
        raise ValueError(
            f"feature_names: expected {n_features} different names, got {len(stripped)}, "
            f"{len(set(stripped))} of them different"
        )
    return stripped
