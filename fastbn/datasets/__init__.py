"""Data sets: the embedded digits, Fashion-MNIST, and files of your own."""

from __future__ import annotations

from fastbn.datasets.csv_table import load_csv
from fastbn.datasets.dataset import Dataset
from fastbn.datasets.fashion_mnist import load_fashion_mnist
from fastbn.datasets.idx import IDX_FILES, load_idx, load_idx_folder
from fastbn.datasets.npz import load_npz
from fastbn.datasets.sources import load, load_digits, load_features

__all__ = [
    "IDX_FILES",
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
