"""`fastbn info`: describe a saved model."""

from __future__ import annotations

import itertools
from typing import Any

from fastbn.cli._output import listed, on_one_line, print_rows
from fastbn.cli._saved import Model, class_names, feature_names, output_kind
from fastbn.options import LOSSES


def info(model: Model) -> None:
    """Print the layers and settings of MODEL, and the data that it was trained on."""
    from fastbn.model import BatchNormMLP

    network = BatchNormMLP.load(model)
    config, metadata = network.config.to_dict(), network.metadata
    sizes = config.pop("layer_sizes")
    features = feature_names(network)
    rows = [
        ("file", f"{model}, {model.stat().st_size / 1e6:.2f} MB"),
        ("parameters", f"{network.layout.n_parameters:,}"),
        ("trained", f"{network.steps:,} steps, {network.epochs:,} epochs"),
        ("data", on_one_line(str(metadata.get("data", "unknown")))),
        ("features", f"{sizes[0]}: {listed(features) if features else 'without names'}"),
        _outputs(network),
        ("written by", f"fastbn {metadata.get('fastbn_version', '(unknown version)')}"),
    ]
    for index, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        last = index == len(sizes) - 2
        norm = "batch norm" if network.config.normalized(index) else "bias"
        activation = LOSSES[network.config.loss].output if last else config["activation"]
        rows.append((f"layer {index + 1}", f"{n_in} to {n_out}, {norm}, {activation}"))
    rows += [(name, _as_typed(value)) for name, value in config.items()]
    print_rows(rows)


def _outputs(network: Any) -> tuple[str, str]:
    kind, n_outputs = output_kind(network), network.config.layer_sizes[-1]
    if kind == "numbers":
        return "outputs", f"{n_outputs}: numbers"
    names = class_names(network)
    return kind, f"{len(names)}{', each yes or no' * (kind == 'labels')}: {listed(names)}"


def _as_typed(value: Any) -> str:
    """Return a setting as a user would type it."""
    if isinstance(value, tuple | list):
        return ", ".join(map(_as_typed, value))
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
