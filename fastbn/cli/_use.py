"""`fastbn evaluate`, `fastbn predict` and `fastbn info`: what a saved model is good for."""

from __future__ import annotations

import csv
import itertools
import pathlib
from typing import Annotated, Any

import numpy as np
import typer

from fastbn.cli._output import (
    check_writable,
    compile_notice,
    listed,
    percent,
    print_rows,
)
from fastbn.cli._recipes import TEST_SIZE
from fastbn.errors import DataFileError
from fastbn.persistence import whole_file

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
            help="Column of the labels in a CSV.", show_default="as in training, or the last one"
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

    Data that are not split already are split as they were in training.
    """
    from fastbn import datasets
    from fastbn.model import BatchNormMLP

    network = BatchNormMLP.load(model)
    n_features = network.config.layer_sizes[0]
    trained = split_of(network)
    target = trained["target"] if target is None else target
    if all_samples and data.lower().endswith(".csv"):
        # not split at all, and so of any classes and of any size
        X, raw = datasets.load_features(data, n_features=n_features, target=target)
        if raw is None:
            raise DataFileError(f"{data}: expected {n_features} features and a column of labels")
        name = pathlib.Path(data).stem
    else:
        size = trained["test_size"] if test_size is None else test_size
        dataset = datasets.load(data, target=target, test_size=size)
        X, y, name = dataset.X_test, dataset.y_test, dataset.name
        if all_samples:
            X, y = np.concatenate([dataset.X_train, X]), np.concatenate([dataset.y_train, y])
        raw = np.array(dataset.class_names)[y]
    if X.shape[1] != n_features:
        raise DataFileError(f"{data}: expected {n_features} features, found {X.shape[1]}")
    labels = class_indices(raw, class_names(network))
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
            show_default="as in training, where there is a column too many",
        ),
    ] = None,
    proba: Annotated[bool, typer.Option("--proba", help="Write probabilities too.")] = False,
) -> None:
    """Write the most probable class of every sample of DATA, in the order of the data.

    Of data that are split already it takes the test part.

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
    from fastbn.model import BatchNormMLP

    network = BatchNormMLP.load(model)
    names = class_names(network)
    X = features_of(data, network, target)
    with compile_notice():
        probabilities = network.predict_proba(X)
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
        ("data", str(metadata.get("data", "unknown"))),
        ("classes", f"{sizes[-1]}: {listed(class_names(network))}"),
        ("written by", f"fastbn {metadata.get('fastbn_version', '(unknown version)')}"),
    ]
    for index, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        last = index == len(sizes) - 2
        norm = "batch norm" if network.config.normalized(index) else "bias"
        activation = OUTPUTS[network.config.loss] if last else config["activation"]
        rows.append((f"layer {index + 1}", f"{n_in} to {n_out}, {norm}, {activation}"))
    rows += [(name, _as_typed(value)) for name, value in config.items()]
    print_rows(rows)


def split_of(network: Any) -> dict[str, Any]:
    """Return how the model's data were split: target and test_size."""
    stored = network.metadata.get("split")
    return {
        "target": None,
        "test_size": TEST_SIZE,
        **(stored if isinstance(stored, dict) else {}),
    }


def features_of(data: str, network: Any, target: str | None) -> np.ndarray:
    """Return the features to predict from.

    Where no target is given it is that of the training, unless the file has no column for it.
    """
    from fastbn import datasets

    n_features = network.config.layer_sizes[0]
    trained_target = split_of(network)["target"]
    if target is not None or trained_target is None:
        return datasets.load_features(data, n_features=n_features, target=target)[0]
    try:
        return datasets.load_features(data, n_features=n_features, target=trained_target)[0]
    except DataFileError:
        X, labels = datasets.load_features(data, n_features=n_features)
        if labels is not None:  # the last column would have been dropped, by mistake
            raise
        return X


def class_names(network: Any) -> list[str]:
    """Return the names of the model's classes; their numbers where it has no names."""
    n_classes = network.config.layer_sizes[-1]
    names = network.metadata.get("class_names")
    if not isinstance(names, list) or len(names) != n_classes:
        return [str(index) for index in range(n_classes)]
    return [str(name) for name in names]


def class_indices(labels: np.ndarray, names: list[str]) -> np.ndarray:
    """Return the model's number for each label; ValueError for a label that it does not know.

    Where the classes have names, whole numbers from 0 are taken for their positions.
    """
    if labels.dtype.kind == "f" and (labels == np.round(labels)).all():
        labels = labels.astype(np.int64)
    indices = {name: index for index, name in enumerate(names)}
    if labels.dtype.kind == "U" and all(label.isdecimal() for label in set(labels)):
        positions = {str(index): index for index in range(len(names))}
        if not set(indices) & set(labels):
            indices = positions
    unknown = sorted({str(label) for label in labels} - set(indices))
    if unknown:
        raise ValueError(
            f"labels: expected classes of the model ({listed(names)}), got {listed(unknown)}"
        )
    return np.array([indices[str(label)] for label in labels], np.int64)


def write_predictions(
    path: pathlib.Path, labels: np.ndarray, probabilities: np.ndarray | None, names: list[str]
) -> None:
    """Write labels, and probabilities if given, in the format that the path's ending tells."""
    ending = path.suffix.lower()
    if ending == ".csv":
        with whole_file(path, "w", newline="", encoding="utf-8") as file:
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
        with whole_file(path, "wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    else:
        with whole_file(path, "wb") as file:
            np.save(file, labels if probabilities is None else probabilities)


def _as_typed(value: Any) -> str:
    """Return a setting as one would type it."""
    if isinstance(value, tuple | list):
        return ", ".join(map(_as_typed, value))
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
