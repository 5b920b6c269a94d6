"""The options of `fastbn train`: one annotated type each. None means: not given."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from fastbn.cli import _recipes
from fastbn.fit.schedules import SCHEDULES
from fastbn.model.config import ACTIVATIONS, OPTIMIZERS

DATA, NETWORK, NORMALIZED, NORM, OPTIMIZER, TRAINING, OUTPUT = (
    "What to train on",
    "The network",
    "What has batch norm",
    "How it is normalized",
    "The optimizer",
    "The training",
    "What comes out",
)

# A longer list of choices stands in the help text, which has the room for it.
MAX_METAVAR = 18


def option(panel: str, name: str, help: str, **details: Any) -> Any:
    """Return the option `--name`, or `--name/--no-name`, with the recipe's default in its help."""
    key = name.removeprefix("--").partition("/")[0].replace("-", "_")
    if _recipes.DEFAULT.get(key) is not None:
        help = f"{help} (default {_recipes.shown(key)})"
    return typer.Option(name, help=help, rich_help_panel=panel, show_default=False, **details)


def switch(panel: str, name: str, help: str) -> Any:
    """Return an option that takes no value."""
    return option(panel, name, help, metavar="")


def choice(panel: str, name: str, choices: Sequence[str], help: str) -> Any:
    """Return an option that takes one of `choices`."""

    def check(value: str | None) -> str | None:
        if value is not None and value not in choices:
            raise typer.BadParameter(f"expected one of {', '.join(choices)}, got {value!r:.200}")
        return value

    metavar = "|".join(choices)
    if len(metavar) <= MAX_METAVAR:
        return option(panel, name, help, metavar=metavar, callback=check)
    named = f"{help}: {', '.join(choices[:-1])} or {choices[-1]}"
    return option(panel, name, named, metavar="NAME", callback=check)


def numbers(panel: str, name: str, of: Callable[[str], Any], metavar: str, help: str) -> Any:
    """Return an option that takes numbers separated by commas, and "none" for no number."""

    def parse(text: str) -> tuple[Any, ...]:
        if text == "none":
            return ()
        try:
            return tuple(of(part) for part in text.split(","))
        except ValueError:
            raise typer.BadParameter(
                f"expected numbers as in {metavar}, got {text!r:.200}"
            ) from None

    return option(panel, name, help, parser=parse, metavar=metavar)


Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="digits, fashion-mnist, FILE.csv, FILE.npz or a folder of IDX files",
    ),
]
Target = Annotated[
    str | None,
    option(
        DATA,
        "--target",
        "Column of the labels in a CSV, by name, or by number from 0 (default: the last one)",
    ),
]
TestSize = Annotated[
    float | None,
    option(
        DATA,
        "--test-size",
        f"Part of the samples to test on, of data that are not split already "
        f"(default {_recipes.TEST_SIZE})",
    ),
]
Preset = Annotated[
    str | None,
    choice(
        DATA,
        "--preset",
        tuple(_recipes.PRESETS),
        "Start from this recipe instead of the defaults. notes is --hidden 32 --lr 0.05 "
        "--betas 0.9,0.99 --schedule none --epochs 150 --input-normalization minmax, and ten "
        "minibatches an epoch",
    ),
]


def _units(text: str) -> int:
    if (units := int(text)) < 1:
        raise typer.BadParameter(f"expected at least 1 unit in a layer, got {units}")
    return units


Hidden = Annotated[
    Any, numbers(NETWORK, "--hidden", _units, "256,128", "Units of the hidden layers, or none")
]
Activation = Annotated[
    str | None, choice(NETWORK, "--activation", ACTIVATIONS, "Of the hidden layers")
]
NegativeSlope = Annotated[float | None, option(NETWORK, "--negative-slope", "Of leaky_relu")]
InputNormalization = Annotated[
    str | None,
    choice(
        NETWORK,
        "--input-normalization",
        ("none", "zscore", "minmax"),
        "Of each feature, as the training data are",
    ),
]
Dropout = Annotated[
    float | None, option(NETWORK, "--dropout", "Probability of dropping a hidden activation")
]
Dtype = Annotated[str | None, choice(NETWORK, "--dtype", ("float32", "float64"), "Precision")]
Seed = Annotated[int | None, option(NETWORK, "--seed", "Of the weights, shuffling and dropout")]

BatchNorm = Annotated[
    bool | None,
    switch(NORMALIZED, "--batch-norm/--no-batch-norm", "A bias without it"),
]
BatchNormOutput = Annotated[
    bool | None,
    switch(NORMALIZED, "--batch-norm-output/--no-batch-norm-output", "The last layer too"),
]
Eps = Annotated[float | None, option(NORM, "--eps", "Added to the variance")]
Momentum = Annotated[
    float | None, option(NORM, "--momentum", "Weight of a batch in the running statistics")
]
Gradient = Annotated[
    str | None,
    choice(
        NORM,
        "--gradient",
        ("exact", "detached"),
        "detached takes mean and variance as constants",
    ),
]

Optimizer = Annotated[str | None, choice(OPTIMIZER, "--optimizer", OPTIMIZERS, "Which one")]
Lr = Annotated[float | None, option(OPTIMIZER, "--lr", "Learning rate, or a schedule's highest")]
Schedule = Annotated[
    str | None,
    choice(OPTIMIZER, "--schedule", ("none", *SCHEDULES), "Learning rate over the training"),
]
Betas = Annotated[
    Any,
    numbers(
        OPTIMIZER,
        "--betas",
        float,
        "0.9,0.999",
        "Adam's; the first is SGD's momentum, the second RMSprop's smoothing",
    ),
]
OptimizerEps = Annotated[
    float | None, option(OPTIMIZER, "--optimizer-eps", "Added to the root of the second moment")
]
WeightDecay = Annotated[float | None, option(OPTIMIZER, "--weight-decay", "Of the weights")]
MaxNorm = Annotated[
    float | None, option(OPTIMIZER, "--max-norm", "Scale larger gradients down to this norm")
]

Epochs = Annotated[int | None, option(TRAINING, "--epochs", "Passes over the data, at most")]
BatchSize = Annotated[int | None, option(TRAINING, "--batch-size", "Samples in a minibatch")]
Shuffle = Annotated[
    bool | None,
    switch(TRAINING, "--shuffle/--no-shuffle", "Reorder the samples every epoch"),
]
UntilAccuracy = Annotated[
    float | None,
    option(TRAINING, "--until-accuracy", "Stop after an epoch whose training accuracy is above it"),
]
EarlyStopping = Annotated[
    int | None,
    option(
        TRAINING,
        "--early-stopping",
        "Stop after so many epochs without a better test loss, and go back to the best one; the "
        "test accuracy flatters then, as it has chosen the epoch",
        metavar="PATIENCE",
    ),
]
OnDivergence = Annotated[
    str | None,
    choice(
        TRAINING,
        "--on-divergence",
        ("raise", "stop", "skip"),
        "When the loss is no longer finite: end with an error, stop at the last good parameters, "
        "or skip the minibatch",
    ),
]
Validation = Annotated[
    bool,
    switch(TRAINING, "--validation/--no-validation", "Test after every epoch, for the picture"),
]

Checkpoint = Annotated[
    pathlib.Path | None,
    option(
        OUTPUT,
        "--checkpoint",
        "Where to write the state of the training, to go on from with --resume; Ctrl-C and SIGTERM "
        "write it, too",
        metavar="CHECKPOINT",
    ),
]
CheckpointEvery = Annotated[
    int | None,
    option(
        OUTPUT, "--checkpoint-every", "After so many steps (default: every epoch)", metavar="STEPS"
    ),
]
Resume = Annotated[
    pathlib.Path | None,
    option(
        OUTPUT,
        "--resume",
        "Go on with the training whose state is in this file, and write it there; of other options "
        "only those of what comes out are taken",
        metavar="CHECKPOINT",
    ),
]
Out = Annotated[
    pathlib.Path | None,
    option(
        OUTPUT,
        "--out",
        "Where to save the model; a file that is there is replaced (default "
        "fastbn-<data>.safetensors)",
        metavar="MODEL",
    ),
]
Plot = Annotated[
    pathlib.Path | None,
    option(
        OUTPUT,
        "--plot",
        "Where to save the picture of loss and accuracy, a .png, .svg or .pdf file (default: "
        "beside the model, a .png)",
        metavar="PICTURE",
    ),
]
NoPlot = Annotated[bool, switch(OUTPUT, "--no-plot", "Save no picture")]
Progress = Annotated[
    bool, switch(OUTPUT, "--progress", "Show the bar even where stderr is not a terminal")
]
Quiet = Annotated[bool, switch(OUTPUT, "--quiet", "Print nothing but errors")]
