"""Choose the columns of a CSV file, for training and for a saved model."""

from __future__ import annotations

import pathlib
import shlex
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn.cli._saved import feature_names, split_of
from fastbn.errors import DataFileError

if TYPE_CHECKING:
    from fastbn.datasets import Dataset
    from fastbn.datasets.csv_columns import Columns
    from fastbn.datasets.csv_header import CsvHeader


def is_csv(data: str) -> bool:
    """Tell whether the data are read as CSV."""
    return pathlib.Path(data).suffix.lower() == ".csv"


# -- to train on -----------------------------------------------------------------------------------


def check_columns(data: str, dataset: Dataset, target: str | None) -> None:
    """Refuse a CSV file with columns of the same name, or one that seems to have several labels."""
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
        f"{data}: the last {len(labels)} columns, {quoted(labels)}, have only 0 and 1. They may be "
        "several labels per sample, which the command line does not support yet: --target "
        f"{shlex.quote(last)} trains on that column, with all others as features; in Python "
        'BatchNormMLP(loss="sigmoid_cross_entropy") trains on several labels'
    )


def _is_yes_or_no(dataset: Dataset, feature: int) -> bool:
    """Tell whether a feature is 0 in some samples and 1 in all others."""
    column = np.concatenate([dataset.X_train[:, feature], dataset.X_test[:, feature]])
    return np.array_equal(np.unique(column), [0, 1])


def target_row(data: str, dataset: Dataset, target: str | None) -> list[tuple[str, str]]:
    """Return a row for the final table that names the target column of a CSV file."""
    if not is_csv(data):
        return []
    column = dataset.X_train.shape[1] if target is None else target
    if dataset.target_name is not None:
        column = repr(dataset.target_name)
    return [("target", f"column {column}" + (", the last one" if target is None else ""))]


def sample_notes(data: str) -> list[str]:
    """Return a note on the first line of a CSV file without a header, if it looks like one."""
    from fastbn.datasets.csv_header import doubtful_sample

    line = doubtful_sample(data)
    return [] if line is None else [f"{data}: the first line, {line:.80}, was taken as a sample"]


# -- for a saved model -----------------------------------------------------------------------------


def read_csv_for(
    data: str, network: Any, target: str | None, *, labelled: bool
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the model's features, the labels if `labelled`, and notes for the user.

    Columns are taken by name if both the model and the file have names, otherwise by position.
    """
    from fastbn.datasets.csv_columns import Columns, quoted
    from fastbn.datasets.csv_table import read_csv

    names = feature_names(network)
    notes: list[str] = []

    def choose(header: CsvHeader) -> Columns:
        if names is not None and header.named:
            columns, others = _by_name(header, network, names, target, labelled)
            if others:
                notes.append(f"{data}: ignoring columns that the model lacks: {quoted(others)}")
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
    return X, labels.by_row(), notes


def _by_name(
    header: CsvHeader, network: Any, names: list[str], target: str | None, labelled: bool
) -> tuple[Columns, list[str]]:
    """Return the columns of these names and of the labels, and the names of all other columns.

    The labels are in `target`, by default the target of the training.
    """
    from fastbn.datasets.csv_columns import Columns, columns_by_name, target_column

    features = columns_by_name(header, names)
    trained = network.metadata.get("target_name")
    label = None
    if target is not None or labelled:
        if target is None and trained is not None and trained not in header.names:
            raise DataFileError(
                f"{header.path}: expected labels in the column {trained!r}, as in training, found "
                "no such column; --target takes another one"
            )
        label = target_column(header, trained if target is None else target)
        if label in features:
            raise DataFileError(
                f"{header.path}: target: expected a column that is not a feature of the model, got "
                f"{header.names[label]!r}"
            )
    taken = {*features, label}
    others = [name for i, name in enumerate(header.names) if i not in taken and name != trained]
    return Columns(features, label), others


def _by_position(header: CsvHeader, network: Any, target: str | None, labelled: bool) -> Columns:
    """Return the columns of the features and of the labels, in the order of the file.

    `target` defaults to that of the training. A file to predict from need not have it.
    """
    from fastbn.datasets.csv_columns import choose_by_position

    n_features = network.config.layer_sizes[0]
    trained = split_of(network)["target"]
    wanted = trained if target is None else target
    try:
        return choose_by_position(header, n_features, wanted, labelled=labelled)
    except DataFileError:
        if labelled or target is not None or trained is None:
            raise
        if len(header.names) == n_features + 1:
            raise  # do not drop the last column by mistake
        return choose_by_position(header, n_features, None)
