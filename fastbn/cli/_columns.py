"""The columns of a CSV file: those that a training takes, and those that its model takes later."""

from __future__ import annotations

import pathlib
import shlex
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastbn.cli._recipes import TEST_SIZE
from fastbn.errors import DataFileError

if TYPE_CHECKING:
    from fastbn.datasets import Dataset
    from fastbn.datasets.csv_columns import Columns
    from fastbn.datasets.csv_header import Header


class Samples(NamedTuple):
    """What was read for a model, labels where they were asked for, and what a user should know."""

    X: np.ndarray
    labels: np.ndarray
    notes: list[str]


def is_csv(data: str) -> bool:
    """Tell whether data are read as CSV."""
    return pathlib.Path(data).suffix.lower() == ".csv"


# -- to train on -----------------------------------------------------------------------------------


def check_columns(data: str, dataset: Dataset, target: str | None) -> None:
    """Refuse a CSV file whose columns predict could not tell apart, or that has several labels."""
    from fastbn.datasets.csv_columns import check_names_differ, quoted

    if dataset.feature_names is not None and dataset.target_name is not None:
        check_names_differ(data, [*dataset.feature_names, dataset.target_name])
    if target is not None or not is_csv(data) or dataset.class_names != ("0", "1"):
        return
    first = n_features = dataset.X_train.shape[1]
    while first and _is_yes_or_no(dataset, first - 1):
        first -= 1
    if not 0 < first < n_features:
        return
    names = [*(dataset.feature_names or map(str, range(n_features)))]
    last = dataset.target_name or str(n_features)
    labels = [*names[first:], last]
    raise DataFileError(
        f"{data}: the last {len(labels)} columns, {quoted(labels)}, hold nothing but 0 and 1, as "
        "several labels of a sample do, which the command line does not do yet: --target "
        f"{shlex.quote(last)} trains on that column, and all others are features; in Python "
        'BatchNormMLP(loss="sigmoid_cross_entropy") trains on several labels'
    )


def _is_yes_or_no(dataset: Dataset, feature: int) -> bool:
    """Tell whether a feature is 0 or 1 in all samples, and not the same in all of them."""
    column = np.concatenate([dataset.X_train[:, feature], dataset.X_test[:, feature]])
    return bool(((column == 0) | (column == 1)).all() and column.min() < column.max())


def target_row(data: str, dataset: Dataset, target: str | None) -> list[tuple[str, str]]:
    """Return which column of a CSV file is the target, as a row of a table."""
    if not is_csv(data):
        return []
    if dataset.target_name is not None:
        column = f"column {dataset.target_name!r}"
    else:
        column = f"column {dataset.X_train.shape[1] if target is None else target}"
    return [("target", column + (", the last one" if target is None else ""))]


def sample_notes(data: str) -> list[str]:
    """Return a note on the first line of a CSV file without a header, if it looks like one."""
    from fastbn.datasets.csv_header import doubtful_sample

    line = doubtful_sample(data)
    return [] if line is None else [f"{data}: the first line, {line:.80}, was taken as a sample"]


# -- for a model -----------------------------------------------------------------------------------


def feature_names(network: Any) -> list[str] | None:
    """Return the names of the model's features; None where it has none that can be used."""
    names = network.metadata.get("feature_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    names = [name.strip() for name in names]
    fits = len(names) == network.config.layer_sizes[0] == len(set(names))
    return names if fits else None


def split_of(network: Any) -> dict[str, Any]:
    """Return how the model's data were split: target and test_size."""
    stored = network.metadata.get("split")
    return {
        "target": None,
        "test_size": TEST_SIZE,
        **(stored if isinstance(stored, dict) else {}),
    }


def read_csv_for(data: str, network: Any, target: str | None, *, labelled: bool) -> Samples:
    """Return the model's features of a CSV file, and its labels where `labelled` demands them.

    Columns are taken by name where the model and the file have names, and else by position.
    """
    from fastbn.datasets.csv_columns import Columns, quoted
    from fastbn.datasets.csv_table import read_csv

    names = feature_names(network)
    notes: list[str] = []

    def choose(header: Header) -> Columns:
        if names is not None and header.named:
            columns, others = _by_name(header, network, names, target, labelled)
            if others:
                notes.append(f"{data}: columns that the model does not take: {quoted(others)}")
        else:
            columns = _by_position(header, network, target, labelled)
            if names is not None:
                notes.append(f"{data}: no header, so columns are taken in the model's order")
            elif header.named:
                notes.append(
                    f"{data}: the model has no names of columns, so they are taken in the file's "
                    "order"
                )
        return columns if labelled else Columns(columns.features, None)

    header, _, X, labels = read_csv(data, choose, names)
    notes += [] if header.named else sample_notes(data)
    return Samples(X, labels.as_they_stand(), notes)


def _by_name(
    header: Header, network: Any, names: list[str], target: str | None, labelled: bool
) -> tuple[Columns, list[str]]:
    """Return the columns of these names and the labels', and the names of all other columns.

    Labels are in `target`, or where they were when the model was trained.
    """
    from fastbn.datasets.csv_columns import Columns, columns_by_name, target_column

    features = columns_by_name(header, names)
    trained = network.metadata.get("target_name")
    label = None
    if target is not None or labelled:
        if target is None and trained is not None and trained not in header.names:
            raise DataFileError(
                f"{header.path}: expected labels in the column {trained!r}, as in training, or in "
                "that of --target, found no such column"
            )
        label = target_column(header, trained if target is None else target)
        if label in features:
            raise DataFileError(
                f"{header.path}: target: expected another column than the model's features, got "
                f"{header.names[label]!r}"
            )
    taken = {*features, label}
    others = [name for i, name in enumerate(header.names) if i not in taken and name != trained]
    return Columns(features, label), others


def _by_position(header: Header, network: Any, target: str | None, labelled: bool) -> Columns:
    """Return the columns of the features and the labels', in the order of the file.

    Without `target` it is that of the training, unless the file has no column for it.
    """
    from fastbn.datasets.csv_columns import choose_by_position

    n_features = network.config.layer_sizes[0]
    trained = split_of(network)["target"]
    if labelled:
        return choose_by_position(
            header, n_features, trained if target is None else target, labelled=True
        )
    if target is not None or trained is None:
        return choose_by_position(header, n_features, target)
    try:
        return choose_by_position(header, n_features, trained)
    except DataFileError:
        if len(header.names) == n_features + 1:
            raise  # the last column would be left out, by mistake
        return choose_by_position(header, n_features, None)
