"""Load Fashion-MNIST from a local folder, or download it and verify the files."""

from __future__ import annotations

import os
import pathlib

import numpy as np

from fastbn.checks import path_of
from fastbn.datasets.dataset import Dataset
from fastbn.datasets.idx import IDX_FILES, read_idx_folder
from fastbn.errors import DataFileError, missing_extra

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
SHA256 = {  # of the gzipped files
    "X_train": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "y_train": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "X_test": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "y_test": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
DEBIAN_FOLDER = pathlib.Path("/usr/share/datasets/fashion-mnist")
WHAT_TO_DO = "set FASTBN_DATA to a folder that holds the four files, or pass it as path"


def load_fashion_mnist(
    path: str | os.PathLike[str] | None = None, *, download: bool = True
) -> Dataset:
    """Return Fashion-MNIST: 60,000 and 10,000 images of 784 pixels (uint8), ten classes.

    Parameters
    ----------
    path : path, optional
        Folder with the four IDX files. Without it: the folder that the environment variable
        ``FASTBN_DATA`` names, Debian's package ``dataset-fashion-mnist``, or a download.
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
    folder = _find_folder(path, download)
    (X_train, y_train), (X_test, y_test) = read_idx_folder(folder)
    for key, y in (("y_train", y_train), ("y_test", y_test)):
        if y.min() < 0 or y.max() >= len(CLASSES):
            raise DataFileError(
                f"{folder / IDX_FILES[key]}: expected labels from 0 to {len(CLASSES) - 1}, "
                f"found {y.min()} to {y.max()}"
            )
    y_train, y_test = y_train.astype(np.int64), y_test.astype(np.int64)
    return Dataset(X_train, y_train, X_test, y_test, CLASSES, "fashion-mnist")


def _find_folder(path: str | os.PathLike[str] | None, download: bool) -> pathlib.Path:
    """Return the folder to read, without checking one that the caller or FASTBN_DATA names."""
    named = path if path is not None else os.environ.get("FASTBN_DATA") or None
    if named is not None:
        return path_of("path", named)
    if all((DEBIAN_FOLDER / f"{name}.gz").is_file() for name in IDX_FILES.values()):
        return DEBIAN_FOLDER
    if download:
        return _download()
    raise DataFileError(
        "Fashion-MNIST: expected a path, FASTBN_DATA or Debian's dataset-fashion-mnist, "
        f"found none of them; {WHAT_TO_DO}"
    )


def _download() -> pathlib.Path:
    try:
        import pooch
    except ImportError as error:
        raise missing_extra("downloading Fashion-MNIST", "pooch", "data") from error
    folder = pathlib.Path(pooch.os_cache("fastbn")) / "fashion-mnist"
    for key, sha256 in SHA256.items():
        name = f"{IDX_FILES[key]}.gz"
        try:
            pooch.retrieve(f"{URL}{name}", f"sha256:{sha256}", fname=name, path=folder)
        except Exception as error:  # pooch raises whatever the network does
            raise DataFileError(
                f"{name}: could not be downloaded from {URL} ({error}); {WHAT_TO_DO}"
            ) from error
    return folder
