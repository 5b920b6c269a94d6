"""How `fastbn train` trains where the user does not say: the default recipe and the presets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastbn.checks import integer

# Arguments of the model, but for the layer sizes, of which data decide the first and the last.
MODEL: dict[str, Any] = {
    "activation": "leaky_relu",
    "negative_slope": 0.01,
    "batch_norm": True,
    "batch_norm_output": True,
    "eps": 1e-5,
    "momentum": 0.1,
    "unbiased": True,
    "weighted": False,
    "gradient": "exact",
    "input_normalization": "zscore",
    "target_normalization": None,
    "loss": "softmax_cross_entropy",
    "label_smoothing": 0.0,
    "optimizer": "adam",
    "lr": 0.02,
    "betas": (0.9, 0.999),
    "optimizer_eps": 1e-8,
    "nesterov": False,
    "weight_decay": 0.0,
    "decay_vectors": True,
    "max_norm": None,
    "dropout": 0.0,
    "dtype": "float32",
    "seed": 0,
}

# Arguments of its fit, but for the batch size.
FIT: dict[str, Any] = {
    "epochs": 20,
    "schedule": "one-cycle",
    "early_stopping": None,
    "until_accuracy": None,
    "shuffle": True,
    "on_divergence": "raise",
}

# Part of the samples to test on, of data that are not split already.
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
    """Return the default recipe, changed by the preset, changed by what the user gave.

    A `given` value of None is one that the user did not give; "none" is how None is given.
    """
    chosen = {
        name: None if value == "none" else value
        for name, value in given.items()
        if value is not None
    }
    recipe = {**DEFAULT, **(PRESETS[preset] if preset else {}), **chosen}
    if "batch_size" in chosen:
        recipe.pop("minibatches", None)
    return recipe


def batch_size(settings: Mapping[str, Any], n_samples: int) -> int:
    """Return the batch size of a recipe, which may be given as a number of minibatches."""
    if "minibatches" in settings:
        return max(2, -(-n_samples // integer("minibatches", settings["minibatches"], 1)))
    size: int = settings["batch_size"]
    return size


def shown(name: str) -> str:
    """Return the default of an option as one would type it."""
    value = DEFAULT[name]
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
