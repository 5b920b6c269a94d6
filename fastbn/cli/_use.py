"""`fastbn evaluate` and `fastbn predict`: use a saved model on data."""

from __future__ import annotations

import csv
import pathlib
from typing import Annotated

import numpy as np
import typer

from fastbn.cli._columns import is_csv, read_csv_for
from fastbn.cli._output import (
    check_ending,
    check_writable,
    compile_notice,
    complain,
    percent,
    print_rows,
)
from fastbn.cli._saved import Model, class_indices, class_names, load_classifier, split_of
from fastbn.errors import DataFileError
from fastbn.files.atomic import atomic_write

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="digits, fashion-mnist, FILE.csv, FILE.npz or a folder of IDX files."
    ),
]


def evaluate(
    model: Model,
    data: Data,
    target: Annotated[
        str | None,
        typer.Option(
            help="Column of the labels in a CSV, by name or by number from 0.",
            show_default="as in training, or the last one",
        ),
    ] = None,
    test_size: Annotated[
        float | None,
        typer.Option(help="Share of the samples to test on.", show_default="as in training"),
    ] = None,
    all_samples: Annotated[
        bool, typer.Option("--all", help="Use all samples, not only the test part.")
    ] = False,
) -> None:
    """Measure loss and accuracy of MODEL on the test part of DATA.

    Data without a test part are split as they were in training. Columns of a CSV are matched by
    name if MODEL was trained on a CSV with a header and DATA has one too, otherwise by position.
    """
    from fastbn.datasets import dataset, sources

    network = load_classifier(model)
    if test_size is not None:
        dataset.check_test_size(test_size)
    names = class_names(network)
    notes: list[str] = []
    if is_csv(data):
        X, raw, notes = read_csv_for(data, network, target, labelled=True)
        if not len(X):
            raise DataFileError(f"{data}: expected rows of numbers, found a header and no rows")
        name, parts = pathlib.Path(data).stem, [(X, raw)]
    else:
        name, parts = sources.load_parts(data)
    n_features = network.config.layer_sizes[0]
    for X, _ in parts:
        if X.shape[1] != n_features:
            raise DataFileError(f"{data}: expected {n_features} features, found {X.shape[1]}")
    is_split = len(parts) > 1
    if is_split and not all_samples:
        parts = parts[1:]
    X = parts[0][0] if len(parts) == 1 else np.concatenate([X for X, _ in parts])
    labels = np.concatenate([class_indices(y, names, f"{data}: labels") for _, y in parts])
    if not is_split and not all_samples:
        size = split_of(network)["test_size"] if test_size is None else test_size
        try:
            part = dataset.split(X, labels, tuple(names), name, size, seed=0)
            X, labels = part.X_test, part.y_test
        except dataset.NoTestPartError:  # so these are not the data of the training
            notes.append(f"{data}: too few samples to split off a test part, so all are used")
    for note in notes:
        complain(note)
    with compile_notice():
        loss, accuracy = network.evaluate(X, labels)
    print_rows(
        [
            ("data", f"{name}: {len(labels):,} samples"),
            ("accuracy", percent(accuracy)),
            ("loss", f"{loss:.4f}"),
        ]
    )


def predict(
    model: Model,
    data: Data,
    out: Annotated[
        pathlib.Path,
        typer.Option(metavar="FILE", help="Where to write: a .csv, .npz or .npy file."),
    ],
    target: Annotated[
        str | None,
        typer.Option(
            help="Column of a CSV to leave out, such as known labels.",
            show_default="as in training, if the file has it",
        ),
    ] = None,
    proba: Annotated[bool, typer.Option("--proba", help="Write probabilities too.")] = False,
) -> None:
    """Write the most probable class of every sample of DATA, in the order of the data.

    If DATA has a test part, only that part is used.

    Columns of a CSV are matched by name if MODEL was trained on a CSV with a header and DATA has
    one too: their order does not matter, and other columns are ignored. Otherwise columns are
    matched by position.

    A CSV has the column label, and with --proba one column p_<class> for each class. An .npz has
    the arrays label and class_names, and proba. An .npy holds the labels, or with --proba the
    probabilities (samples, classes).
    """
    check_ending(out, "--out", (".csv", ".npz", ".npy"))
    check_writable({"--out": out}, inputs=[str(model), data])
    from fastbn import datasets

    network = load_classifier(model)
    names = class_names(network)
    notes: list[str] = []
    if is_csv(data):
        X, _, notes = read_csv_for(data, network, target, labelled=False)
    else:
        n_features = network.config.layer_sizes[0]
        X, _ = datasets.load_features(data, n_features=n_features)
    for note in notes:
        complain(note)
    with compile_notice():
        probabilities = network.predict_proba(X)
    if probabilities.shape[1] < len(names):  # one output: the probability of the second class
        probabilities = np.concatenate([1.0 - probabilities, probabilities], axis=1)
    labels = np.array(names)[probabilities.argmax(axis=1)]
    _write_predictions(out, labels, probabilities if proba else None, names)
    typer.echo(f"{out}: {len(labels):,} predictions")


def _write_predictions(
    path: pathlib.Path, labels: np.ndarray, probabilities: np.ndarray | None, names: list[str]
) -> None:
    """Write labels, and probabilities if given, in the format of the path's ending."""
    ending = path.suffix.lower()
    if ending == ".csv":
        with atomic_write(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if probabilities is None:
                writer.writerow(["label"])
                writer.writerows([label] for label in labels)
            else:
                writer.writerow(["label", *(f"p_{name}" for name in names)])
                for label, row in zip(labels, probabilities, strict=True):
                    writer.writerow([label, *(f"{p:.6g}" for p in row)])
        return
    with atomic_write(path, "wb") as file:
        if ending == ".npz":
            arrays = {"label": labels, "class_names": np.array(names)}
            if probabilities is not None:
                arrays["proba"] = probabilities
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        else:
            np.save(file, labels if probabilities is None else probabilities)
