"""Fashion-MNIST: from a folder of this computer, or a verified download."""

from __future__ import annotations

import gzip
import hashlib
import os
import pathlib
import zlib

import numpy as np

from fastbn.checks import path_of
from fastbn.datasets.dataset import Dataset
from fastbn.datasets.idx_folder import IDX_FILES, find_file, read_idx_folder
from fastbn.errors import DataFileError, missing_extra

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
# MD5 of the gzipped files, as their authors publish them.
MD5 = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
# SHA-256 of what they unpack to: the connection is not encrypted, and MD5 alone is weak.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
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
    folder = find_folder(path, download)
    arrays = read_idx_folder(folder)
    names = CLASSES
    for key in ("y_train", "y_test"):
        y = arrays[key]
        if y.min() < 0 or y.max() >= len(names):
            file = find_file(folder, IDX_FILES[key])[0]
            raise DataFileError(
                f"{file}: expected labels from 0 to {len(names) - 1}, found {y.min()} to {y.max()}"
            )
        arrays[key] = y.astype(np.int64)
    X_train, y_train, X_test, y_test = (arrays[key] for key in IDX_FILES)
    return Dataset(X_train, y_train, X_test, y_test, names, "fashion-mnist")


def find_folder(path: str | os.PathLike[str] | None, download: bool) -> pathlib.Path:
    """Return the folder to read; one that the caller or FASTBN_DATA names is taken as it is."""
    named = path if path is not None else os.environ.get("FASTBN_DATA") or None
    if named is not None:
        return path_of("path", named)
    if all((DEBIAN_FOLDER / f"{name}.gz").is_file() for name in MD5):
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
    for name, md5 in MD5.items():
        try:
            pooch.retrieve(f"{URL}{name}.gz", f"md5:{md5}", fname=f"{name}.gz", path=folder)
        except Exception as error:  # pooch passes on whatever the network raises
            raise DataFileError(
                f"{name}.gz: could not be downloaded from {URL} ({error}); {WHAT_TO_DO}"
            ) from error
        _verify(folder / f"{name}.gz", SHA256[name])
    return folder


def _verify(path: pathlib.Path, expected: str) -> None:
    """Check the SHA-256 of what `path` unpacks to."""
    digest = hashlib.sha256()
    try:
        with gzip.open(path, "rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except (OSError, EOFError, zlib.error) as error:
        raise DataFileError(f"{path}: cannot be unpacked: {error}; {WHAT_TO_DO}") from error
    if digest.hexdigest() != expected:
        raise DataFileError(
            f"{path}: unpacked, expected the SHA-256 {expected}, found {digest.hexdigest()}; "
            f"{WHAT_TO_DO}"
        )
