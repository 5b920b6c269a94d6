"""`fastbn evaluate`, `fastbn predict` and `fastbn info`: what a saved model is good for."""

from __future__ import annotations

import csv
import itertools
import pathlib
from typing import Annotated, Any

import numpy as np
import typer

from fastbn.cli._columns import feature_names, is_csv, read_csv_for, split_of
from fastbn.cli._output import (
    check_writable,
    compile_notice,
    complain,
    listed,
    on_one_line,
    percent,
    print_rows,
)
from fastbn.errors import DataFileError
from fastbn.files.atomic import atomic_write

ENDINGS = (".csv", ".npz", ".npy")

# What the last layer's outputs become in a prediction, by the loss.
OUTPUTS = {
    "softmax_cross_entropy": "softmax",
    "sigmoid_cross_entropy": "logistic",
    "squared_error": "identity",
}

Model = Annotated[
    pathlib.Path, typer.Argument(metavar="MODEL", help="A model file that fastbn has saved.")
]
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
            help="Column of the labels in a CSV, by name, or by number from 0.",
            show_default="as in training, or the last one",
        ),
    ] = None,
    test_size: Annotated[
        float | None,
        typer.Option(help="Part of the samples to test on.", show_default="as in training"),
    ] = None,
    all_samples: Annotated[
        bool, typer.Option("--all", help="Take all samples, not the test part alone.")
    ] = False,
) -> None:
    """Measure loss and accuracy of MODEL on the test part of DATA.

    Data that are not split already are split as they were in training. Columns of a CSV are matched
    by name where MODEL was trained on one with a header and DATA has one, too; else by position.
    """
    from fastbn.datasets import dataset, sources
    from fastbn.model import BatchNormMLP

    network = BatchNormMLP.load(model)
    check_classifier(model, network)
    if test_size is not None:
        dataset.check_test_size(test_size)
    n_features = network.config.layer_sizes[0]
    notes: list[str] = []
    if is_csv(data):
        X, raw, notes = read_csv_for(data, network, target, labelled=True)
        if not len(X):
            raise DataFileError(f"{data}: expected rows of numbers, found a header and no rows")
        name, parts = pathlib.Path(data).stem, [(X, raw)]
    else:
        name, parts = sources.load_parts(data)
    for X, _ in parts:
        if X.shape[1] != n_features:
            raise DataFileError(f"{data}: expected {n_features} features, found {X.shape[1]}")
    is_split = len(parts) > 1
    if is_split and not all_samples:
        del parts[0]
    names = class_names(network)
    X = parts[0][0] if len(parts) == 1 else np.concatenate([X for X, _ in parts])
    labels = np.concatenate([class_indices(y, names, f"{data}: labels") for _, y in parts])
    if not is_split and not all_samples:
        size = split_of(network)["test_size"] if test_size is None else test_size
        try:
            part = dataset.split(X, labels, tuple(names), name, size, seed=0)
            X, labels = part.X_test, part.y_test
        except dataset.NoTestPartError:
            # nothing was trained on such a file, as it could not have been split then either
            notes.append(f"{data}: too few samples to split off a test part, so all are taken")
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
            show_default="as in training, if it is there",
        ),
    ] = None,
    proba: Annotated[bool, typer.Option("--proba", help="Write probabilities too.")] = False,
) -> None:
    """Write the most probable class of every sample of DATA, in the order of the data.

    Of data that are split already it takes the test part.

    Columns of a CSV are matched by name where MODEL was trained on one with a header and DATA has
    one, too: they may be in any order, and others beside them are left alone. Else they are taken
    by position, all of them.

    A CSV has the column label, and with --proba one column p_<class> for each class. An .npz has
    the arrays label and class_names, and proba. An .npy holds the labels, or with --proba the
    probabilities (samples, classes).
    """
    if out.suffix.lower() not in ENDINGS:
        raise typer.BadParameter(
            f"expected an ending out of {', '.join(ENDINGS)}, got {out.name!r}",
            param_hint="'--out'",
        )
    check_writable(out, "--out", inputs=[str(model), data])
    from fastbn import datasets
    from fastbn.model import BatchNormMLP

    network = BatchNormMLP.load(model)
    check_classifier(model, network)
    names = class_names(network)
    notes: list[str] = []
    if is_csv(data):
        X, _, notes = read_csv_for(data, network, target, labelled=False)
    else:
        n_features = network.config.layer_sizes[0]
        X, _ = datasets.load_features(data, n_features=n_features, target=target)
    for note in notes:
        complain(note)
    with compile_notice():
        probabilities = network.predict_proba(X)
    if probabilities.shape[1] < len(names):  # one output tells how probable the second class is
        probabilities = np.concatenate([1.0 - probabilities, probabilities], axis=1)
    labels = np.array(names)[probabilities.argmax(axis=1)]
    write_predictions(out, labels, probabilities if proba else None, names)
    typer.echo(f"{out}: {len(labels):,} predictions")


def info(model: Model) -> None:
    """Print what MODEL is made of, how it is trained and on what it was."""
    from fastbn.model import BatchNormMLP

    network = BatchNormMLP.load(model)
    config, metadata = network.config.to_dict(), network.metadata
    sizes = config.pop("layer_sizes")
    rows = [
        ("file", f"{model}, {model.stat().st_size / 1e6:.2f} MB"),
        ("parameters", f"{network.layout.n_parameters:,}"),
        ("trained", f"{network.steps:,} steps, {network.epochs:,} epochs"),
        ("data", on_one_line(str(metadata.get("data", "unknown")))),
        features_row(network),
        outputs_row(network),
        ("written by", f"fastbn {metadata.get('fastbn_version', '(unknown version)')}"),
    ]
    for index, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        last = index == len(sizes) - 2
        norm = "batch norm" if network.config.normalized(index) else "bias"
        activation = OUTPUTS[network.config.loss] if last else config["activation"]
        rows.append((f"layer {index + 1}", f"{n_in} to {n_out}, {norm}, {activation}"))
    rows += [(name, _as_typed(value)) for name, value in config.items()]
    print_rows(rows)


def check_classifier(model: pathlib.Path, network: Any) -> None:
    """Refuse a model whose outputs are numbers or several labels."""
    kind = output_kind(network)
    if kind != "classes":
        what = {
            "numbers": "numbers (regression)",
            "labels": "several labels, each yes or no,",
        }[kind]
        raise ValueError(
            f"{model}: expected a model that predicts one class of a sample, got one that predicts "
            f"{what} with loss {network.config.loss!r}, which the command line does not do yet; in "
            f"Python BatchNormMLP.load({str(model)!r}) has predict and evaluate"
        )


def output_kind(network: Any) -> str:
    """Return what a model predicts: "classes", "numbers" or "labels", several in a sample."""
    config = network.config
    if config.loss == "squared_error":
        return "numbers"
    several = config.loss == "sigmoid_cross_entropy" and config.layer_sizes[-1] > 1
    return "labels" if several else "classes"


def outputs_row(network: Any) -> tuple[str, str]:
    """Return what a model predicts, as a row of a table."""
    kind, n_outputs = output_kind(network), network.config.layer_sizes[-1]
    if kind == "numbers":
        return "outputs", f"{n_outputs}: numbers"
    if kind == "labels":
        return "labels", f"{n_outputs}, each yes or no: {listed(class_names(network))}"
    names = class_names(network)
    return "classes", f"{len(names)}: {listed(names)}"


def features_row(network: Any) -> tuple[str, str]:
    """Return how many features a model takes, and their names, as a row of a table."""
    names = feature_names(network)
    n_features = network.config.layer_sizes[0]
    return "features", f"{n_features}: {listed(names) if names else 'without names'}"


def class_names(network: Any) -> list[str]:
    """Return the names of the model's classes; their numbers where it has no names."""
    n_classes = network.config.layer_sizes[-1]
    if network.config.loss == "sigmoid_cross_entropy" and n_classes == 1:
        n_classes = 2
    names = network.metadata.get("class_names")
    if not isinstance(names, list) or len(names) != n_classes:
        return [str(index) for index in range(n_classes)]
    return [str(name) for name in names]


def class_indices(labels: np.ndarray, names: list[str], where: str = "labels") -> np.ndarray:
    """Return the model's number for each label; an error for a label that it does not know.

    Where no label is the name of a class, whole numbers from 0 are taken for positions.
    """
    from fastbn.datasets.labels import all_whole

    if labels.dtype.kind == "f" and all_whole(labels):
        labels = labels.astype(np.int64)
    distinct, codes = np.unique(labels, return_inverse=True)
    found = [str(label) for label in distinct]
    indices = {name: index for index, name in enumerate(names)}
    if not set(indices) & set(found) and all(map(str.isdecimal, found)):
        indices = {str(index): index for index in range(len(names))}
    unknown = sorted(set(found) - set(indices))
    if unknown:
        raise DataFileError(
            f"{where}: expected classes of the model ({listed(names)}), got {listed(unknown)}"
        )
    return np.array([indices[label] for label in found], np.int64)[codes.reshape(-1)]


def write_predictions(
    path: pathlib.Path, labels: np.ndarray, probabilities: np.ndarray | None, names: list[str]
) -> None:
    """Write labels, and probabilities if given, in the format that the path's ending tells."""
    ending = path.suffix.lower()
    if ending == ".csv":
        with atomic_write(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            header = ["label"]
            if probabilities is None:
                writer.writerow(header)
                writer.writerows([label] for label in labels)
            else:
                writer.writerow(header + [f"p_{name}" for name in names])
                for label, row in zip(labels, probabilities, strict=True):
                    writer.writerow([label, *(f"{p:.6g}" for p in row)])
    elif ending == ".npz":
        arrays = {"label": labels, "class_names": np.array(names)}
        if probabilities is not None:
            arrays["proba"] = probabilities
        with atomic_write(path, "wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    else:
        with atomic_write(path, "wb") as file:
            np.save(file, labels if probabilities is None else probabilities)


def _as_typed(value: Any) -> str:
    """Return a setting as one would type it."""
    if isinstance(value, tuple | list):
        return ", ".join(map(_as_typed, value))
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
