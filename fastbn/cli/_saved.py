"""The inputs and outputs of a saved model, from its configuration and metadata."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from fastbn.cli._output import listed
from fastbn.cli._presets import TEST_SIZE
from fastbn.errors import DataFileError

if TYPE_CHECKING:
    from fastbn.model import BatchNormMLP

Model = Annotated[
    pathlib.Path, typer.Argument(metavar="MODEL", help="A model file that fastbn has saved.")
]


def load_classifier(path: pathlib.Path) -> BatchNormMLP:
    """Load a model; refuse one that does not predict one class per sample."""
    from fastbn.model import BatchNormMLP

    network = BatchNormMLP.load(path)
    kind = output_kind(network)
    if kind != "classes":
        what = "numbers (regression)" if kind == "numbers" else "several yes-or-no labels"
        raise ValueError(
            f"{path}: expected a model that predicts one class per sample, got one that predicts "
            f"{what} with loss {network.config.loss!r}, which the command line does not support "
            f"yet; in Python, use predict and evaluate of BatchNormMLP.load({str(path)!r})"
        )
    return network


def output_kind(network: BatchNormMLP) -> str:
    """Return what a model predicts: one of "classes", "numbers", or yes-or-no "labels"."""
    config = network.config
    if config.predicts_numbers:
        return "numbers"
    return "classes" if config.predicts_one_class or config.layer_sizes[-1] == 1 else "labels"


def class_names(network: BatchNormMLP) -> list[str]:
    """Return the names of the model's classes, or their indices if it has no names."""
    n_classes = network.config.layer_sizes[-1]
    if output_kind(network) == "classes" and n_classes == 1:
        n_classes = 2
    names = network.metadata.get("class_names")
    if not isinstance(names, list) or len(names) != n_classes:
        names = range(n_classes)
    return [str(name) for name in names]


def class_indices(labels: np.ndarray, names: list[str], where: str = "labels") -> np.ndarray:
    """Return the index of each label's class; DataFileError for an unknown label.

    If no label is the name of a class, whole numbers are taken as indices.
    """
    distinct, codes = np.unique(labels, return_inverse=True)
    found = [
        str(int(label) if isinstance(label, float) and label.is_integer() else label)
        for label in distinct.tolist()
    ]
    indices = {name: index for index, name in enumerate(names)}
    if not set(indices) & set(found) and all(map(str.isdecimal, found)):
        indices = {str(index): index for index in range(len(names))}
    unknown = sorted(set(found) - set(indices))
    if unknown:
        raise DataFileError(
            f"{where}: expected classes of the model ({listed(names)}), got {listed(unknown)}"
        )
    return np.array([indices[label] for label in found], np.int64)[codes.reshape(-1)]


def feature_names(network: BatchNormMLP) -> list[str] | None:
    """Return the names of the model's features, or None if it has no usable names."""
    names = network.metadata.get("feature_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    names = [name.strip() for name in names]
    return names if len(names) == network.config.layer_sizes[0] == len(set(names)) else None


def split_of(network: BatchNormMLP) -> dict[str, Any]:
    """Return the `target` and `test_size` that the model was trained with."""
    stored = network.metadata.get("split")
    defaults = {"target": None, "test_size": TEST_SIZE}
    return defaults | stored if isinstance(stored, dict) else defaults
