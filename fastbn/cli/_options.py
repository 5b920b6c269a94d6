"""The options of `fastbn train`: one table of parameters. None means: not given."""

from __future__ import annotations

import inspect
import pathlib
from collections.abc import Callable, Sequence
from typing import Annotated, Any, get_args

import typer

from fastbn.cli import _recipes
from fastbn.options import (
    Activation,
    DTypeName,
    Gradient,
    InputNormalization,
    OnDivergence,
    Optimizer,
    ScheduleName,
)

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

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="digits, fashion-mnist, FILE.csv, FILE.npz or a folder of IDX files"
    ),
]


def parameter(name: str, type_: Any, default: Any) -> inspect.Parameter:
    """Return a parameter of the function that is the command."""
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=type_
    )


def option(
    panel: str, type_: Any, name: str, help: str, *, default: Any = None, **details: Any
) -> inspect.Parameter:
    """Return the option `--name`, or `--name/--no-name`, with the recipe's default in its help."""
    key = name.removeprefix("--").partition("/")[0].replace("-", "_")
    if _recipes.DEFAULT.get(key) is not None:
        help = f"{help} (default {_recipes.shown(key)})"
    info = typer.Option(name, help=help, rich_help_panel=panel, show_default=False, **details)
    annotated: Any = Annotated[type_ if default is not None else type_ | None, info]
    return parameter(key, annotated, default)


def switch(panel: str, name: str, help: str, *, default: bool | None = None) -> inspect.Parameter:
    """Return an option that takes no value."""
    return option(panel, bool, name, help, default=default, metavar="")


def choice(panel: str, name: str, choices: Sequence[str], help: str) -> inspect.Parameter:
    """Return an option that takes one of `choices`."""

    def check(value: str | None) -> str | None:
        if value is not None and value not in choices:
            raise typer.BadParameter(f"expected one of {', '.join(choices)}, got {value!r:.200}")
        return value

    metavar = "|".join(choices)
    if len(metavar) <= MAX_METAVAR:
        return option(panel, str, name, help, metavar=metavar, callback=check)
    named = f"{help}: {', '.join(choices[:-1])} or {choices[-1]}"
    return option(panel, str, name, named, metavar="NAME", callback=check)


def numbers(
    panel: str, name: str, of: Callable[[str], Any], metavar: str, help: str
) -> inspect.Parameter:
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

    return option(panel, Any, name, help, parser=parse, metavar=metavar)


def _units(text: str) -> int:
    if (units := int(text)) < 1:
        raise typer.BadParameter(f"expected at least 1 unit in a layer, got {units}")
    return units


OPTIONS = [
    parameter("data", Data, "digits"),
    option(DATA, str, "--target",
           "Column of the labels in a CSV, by name, or by number from 0 (default: the last one)"),
    option(DATA, float, "--test-size",
           "Part of the samples to test on, of data that are not split already "
           f"(default {_recipes.TEST_SIZE})"),
    choice(DATA, "--preset", tuple(_recipes.PRESETS),
           "Start from this recipe instead of the defaults. notes is --hidden 32 --lr 0.05 "
           "--betas 0.9,0.99 --schedule none --epochs 150 --input-normalization minmax, and ten "
           "minibatches an epoch"),
    numbers(NETWORK, "--hidden", _units, "256,128", "Units of the hidden layers, or none"),
    choice(NETWORK, "--activation", get_args(Activation), "Activation of the hidden layers"),
    option(NETWORK, float, "--negative-slope", "Of leaky_relu"),
    switch(NORMALIZED, "--batch-norm/--no-batch-norm", "A bias without it"),
    switch(NORMALIZED, "--batch-norm-output/--no-batch-norm-output", "The last layer too"),
    option(NORM, float, "--eps", "Added to the variance"),
    option(NORM, float, "--momentum", "Weight of a batch in the running statistics"),
    choice(NORM, "--gradient", get_args(Gradient),
           "detached takes mean and variance as constants"),
    choice(NETWORK, "--input-normalization", ("none", *get_args(InputNormalization)),
           "Of each feature, as the training data are"),
    option(NETWORK, float, "--dropout", "Probability of dropping a hidden activation"),
    choice(NETWORK, "--dtype", get_args(DTypeName), "Precision"),
    option(NETWORK, int, "--seed", "Of the weights, shuffling and dropout"),
    choice(OPTIMIZER, "--optimizer", get_args(Optimizer), "Which one"),
    option(OPTIMIZER, float, "--lr", "Learning rate, or a schedule's highest"),
    numbers(OPTIMIZER, "--betas", float, "0.9,0.999",
            "Adam's; the first is SGD's momentum, the second RMSprop's smoothing"),
    option(OPTIMIZER, float, "--optimizer-eps", "Added to the root of the second moment"),
    option(OPTIMIZER, float, "--weight-decay", "Of the weights"),
    option(OPTIMIZER, float, "--max-norm", "Scale larger gradients down to this norm"),
    choice(OPTIMIZER, "--schedule", ("none", *get_args(ScheduleName)),
           "Learning rate over the training"),
    option(TRAINING, int, "--epochs", "Passes over the data, at most"),
    option(TRAINING, int, "--batch-size", "Samples in a minibatch"),
    switch(TRAINING, "--shuffle/--no-shuffle", "Reorder the samples every epoch"),
    option(TRAINING, float, "--until-accuracy",
           "Stop after an epoch whose training accuracy is above it"),
    option(TRAINING, int, "--early-stopping",
           "Stop after so many epochs without a better test loss, and go back to the best one; the "
           "test accuracy flatters then, as it has chosen the epoch", metavar="PATIENCE"),
    choice(TRAINING, "--on-divergence", get_args(OnDivergence),
           "When a loss or gradient is not finite: end with an error, stop at the parameters "
           "before that step, or skip the minibatch"),
    switch(TRAINING, "--validation/--no-validation", "Test after every epoch, for the picture",
           default=True),
    option(OUTPUT, pathlib.Path, "--checkpoint",
           "Where to write the state of the training, to go on from with --resume; Ctrl-C and "
           "SIGTERM write it, too", metavar="CHECKPOINT"),
    option(OUTPUT, int, "--checkpoint-every", "After so many steps (default: every epoch)",
           metavar="STEPS"),
    option(OUTPUT, pathlib.Path, "--resume",
           "Go on with the training whose state is in this file, and write it there; of other "
           "options only those of what comes out are taken", metavar="CHECKPOINT"),
    option(OUTPUT, pathlib.Path, "--out",
           "Where to save the model; a file that is there is replaced (default "
           "fastbn-<data>.safetensors)", metavar="MODEL"),
    option(OUTPUT, pathlib.Path, "--plot",
           "Where to save the picture of loss and accuracy, a .png, .svg or .pdf file (default: "
           "beside the model, a .png)", metavar="PICTURE"),
    switch(OUTPUT, "--no-plot", "Save no picture", default=False),
    switch(OUTPUT, "--progress", "Show the bar even where stderr is not a terminal",
           default=False),
    switch(OUTPUT, "--quiet", "Print nothing but errors", default=False),
]  # fmt: skip


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a function of a context and keywords the signature that typer reads options from."""
    context = inspect.Parameter(
        "ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
    )
    parameters = [context, *OPTIONS]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command
