"""The default settings of `fastbn train`, and the presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fastbn.checks import integer
from fastbn.model.config import ModelConfig

# Arguments of the model except the layer sizes. Two defaults differ from the model's own.
MODEL: dict[str, Any] = {
    field.name: field.default
    for field in dataclasses.fields(ModelConfig)
    if field.name != "layer_sizes"
} | {"input_normalization": "zscore", "lr": 0.02}

# Arguments of `fit` except the batch size.
FIT: dict[str, Any] = {
    "epochs": 20,
    "schedule": "one-cycle",
    "early_stopping": None,
    "until_accuracy": None,
    "shuffle": True,
    "on_divergence": "raise",
}

# Share of the samples to test on, if the data have no test part.
TEST_SIZE = 0.2

DEFAULT: dict[str, Any] = {**MODEL, **FIT, "hidden": (128,), "batch_size": 128}

PRESETS: dict[str, dict[str, Any]] = {
    # 784-32-10 in ten minibatches: 6,000 samples each on Fashion-MNIST
    "notes": {
        "hidden": (32,),
        "minibatches": 10,
        "lr": 0.05,
        "betas": (0.9, 0.99),
        "epochs": 150,
        "schedule": None,
        "input_normalization": "minmax",
    },
}


def settings(preset: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults, updated by the preset and then by the options that are not None.

    The option value "none" stands for None.
    """
    chosen = {
        name: None if value == "none" else value
        for name, value in given.items()
        if value is not None
    }
    result = {**DEFAULT, **(PRESETS[preset] if preset else {}), **chosen}
    if "batch_size" in chosen:
        result.pop("minibatches", None)
    return result


def batch_size(settings: Mapping[str, Any], n_samples: int) -> int:
    """Return the batch size, which a preset may give as a number of minibatches."""
    if "minibatches" in settings:
        return max(2, -(-n_samples // integer("minibatches", settings["minibatches"], 1)))
    size: int = settings["batch_size"]
    return size


def shown(name: str) -> str:
    """Return the default of an option as a user would type it."""
    value = DEFAULT[name]
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
