"""The options of `fastbn train`. A value of None means that the user did not give the option."""

from __future__ import annotations

import inspect
import pathlib
from collections.abc import Callable, Sequence
from typing import Annotated, Any, get_args

import typer

from fastbn.cli import _presets
from fastbn.cli._output import check_choice
from fastbn.options import (
    Activation,
    DTypeName,
    Gradient,
    InputNormalization,
    OnDivergence,
    Optimizer,
    ScheduleName,
)

# Panels of the help text.
DATA, NETWORK, NORM, OPTIMIZER, TRAINING, OUTPUT = (
    "Data", "The network", "Batch norm", "The optimizer", "The training", "Output",
)  # fmt: skip

# Longer lists of choices go to the help text, which has more room.
MAX_METAVAR = 18


def option(
    panel: str, type_: Any, name: str, help: str, *, default: Any = None, **details: Any
) -> inspect.Parameter:
    """Return the option `--name`, or `--name/--no-name`, with its default in its help."""
    key = name.removeprefix("--").partition("/")[0].replace("-", "_")
    if _presets.DEFAULT.get(key) is not None:
        help = f"{help} (default {_presets.shown(key)})"
    info = typer.Option(name, help=help, rich_help_panel=panel, show_default=False, **details)
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(key, kind, default=default, annotation=Annotated[type_ | None, info])


def switch(panel: str, name: str, help: str, default: bool | None = None) -> inspect.Parameter:
    """Return an option that takes no value."""
    return option(panel, bool, name, help, default=default, metavar="")


def choice(panel: str, name: str, choices: Sequence[str], help: str) -> inspect.Parameter:
    """Return an option that takes one of `choices`."""

    def check(value: str | None) -> str | None:
        if value is not None:
            check_choice(value, choices, name)
        return value

    metavar = "|".join(choices)
    if len(metavar) > MAX_METAVAR:
        metavar, help = "NAME", f"{help}: {', '.join(choices[:-1])} or {choices[-1]}"
    return option(panel, str, name, help, metavar=metavar, callback=check)


def numbers(
    panel: str, name: str, of: Callable[[str], Any], metavar: str, help: str
) -> inspect.Parameter:
    """Return an option that takes numbers separated by commas, or "none"."""

    def parse(text: str) -> tuple[Any, ...]:
        if text == "none":
            return ()
        try:
            return tuple(map(of, text.split(",")))
        except ValueError:
            raise typer.BadParameter(
                f"expected numbers as in {metavar}, got {text!r:.200}"
            ) from None

    return option(panel, Any, name, help, parser=parse, metavar=metavar)


def _units(text: str) -> int:
    if (units := int(text)) < 1:
        raise typer.BadParameter(f"expected at least 1 unit in a layer, got {units}")
    return units


DATA_ARGUMENT = inspect.Parameter(
    "data", inspect.Parameter.KEYWORD_ONLY, default="digits",
    annotation=Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="digits, fashion-mnist, FILE.csv, FILE.npz or a folder of IDX files",
        ),
    ],
)  # fmt: skip

OPTIONS = [
    option(DATA, str, "--target",
           "Column of the labels in a CSV, by name or by number from 0 (default: the last one)"),
    option(DATA, float, "--test-size",
           "Share of the samples to test on, if the data have no test part "
           f"(default {_presets.TEST_SIZE})"),
    choice(DATA, "--preset", tuple(_presets.PRESETS),
           "Start from these settings instead of the defaults. notes is --hidden 32 --lr 0.05 "
           "--betas 0.9,0.99 --schedule none --epochs 150 --input-normalization minmax, and ten "
           "minibatches an epoch"),
    numbers(NETWORK, "--hidden", _units, "256,128", "Units of the hidden layers, or none"),
    choice(NETWORK, "--activation", get_args(Activation), "Activation of the hidden layers"),
    option(NETWORK, float, "--negative-slope", "Slope of leaky_relu for negative inputs"),
    choice(NETWORK, "--input-normalization", ("none", *get_args(InputNormalization)),
           "Scaling of each feature, measured on the training data"),
    option(NETWORK, float, "--dropout", "Probability of dropping a hidden activation"),
    choice(NETWORK, "--dtype", get_args(DTypeName), "Precision"),
    option(NETWORK, int, "--seed", "Seed of the initial weights, shuffling and dropout"),
    switch(NORM, "--batch-norm/--no-batch-norm",
           "Normalize the hidden layers; without it every layer has a bias"),
    switch(NORM, "--batch-norm-output/--no-batch-norm-output", "Normalize the last layer too"),
    option(NORM, float, "--eps", "Added to the variance"),
    option(NORM, float, "--momentum", "Weight of a batch in the running statistics"),
    choice(NORM, "--gradient", get_args(Gradient),
           "detached treats mean and variance as constants"),
    choice(OPTIMIZER, "--optimizer", get_args(Optimizer), "Optimizer"),
    option(OPTIMIZER, float, "--lr", "Learning rate; with a schedule, the highest one"),
    numbers(OPTIMIZER, "--betas", float, "0.9,0.999",
            "Decay rates of Adam's moments; SGD's momentum is the first, RMSprop's smoothing the "
            "second"),
    option(OPTIMIZER, float, "--optimizer-eps", "Added to the root of the second moment"),
    option(OPTIMIZER, float, "--weight-decay", "Weight decay"),
    option(OPTIMIZER, float, "--max-norm", "Scale larger gradients down to this norm"),
    choice(OPTIMIZER, "--schedule", ("none", *get_args(ScheduleName)),
           "Learning rate over the training"),
    option(TRAINING, int, "--epochs", "Maximum number of passes over the data"),
    option(TRAINING, int, "--batch-size", "Samples in a minibatch"),
    switch(TRAINING, "--shuffle/--no-shuffle", "Shuffle the samples every epoch"),
    option(TRAINING, float, "--until-accuracy",
           "Stop after an epoch with a training accuracy above this"),
    option(TRAINING, int, "--early-stopping",
           "Stop after this many epochs without a lower test loss, and go back to the best one; "
           "the test accuracy is then too optimistic, since the test loss chose the epoch",
           metavar="PATIENCE"),
    choice(TRAINING, "--on-divergence", get_args(OnDivergence),
           "If a loss or gradient is not finite, or a gradient above 1.8e19 (float32): end with an "
           "error, stop at the parameters before that step, or skip the minibatch"),
    switch(TRAINING, "--validation/--no-validation",
           "Test after every epoch, for the curves in the picture", default=True),
    option(OUTPUT, pathlib.Path, "--checkpoint",
           "Where to write the state of the training for --resume; Ctrl-C and SIGTERM write it too",
           metavar="CHECKPOINT"),
    option(OUTPUT, int, "--checkpoint-every", "Write it after this many steps (default: every "
           "epoch)", metavar="STEPS"),
    option(OUTPUT, pathlib.Path, "--resume",
           "Continue the training of this file and write its state to it; only output options can "
           "be given too", metavar="CHECKPOINT"),
    option(OUTPUT, pathlib.Path, "--out",
           "Where to save the model; an existing file is replaced (default "
           "fastbn-<data>.safetensors)", metavar="MODEL"),
    option(OUTPUT, pathlib.Path, "--plot",
           "Where to save the picture of loss and accuracy, a .png, .svg or .pdf file (default: "
           "beside the model, a .png)", metavar="PICTURE"),
    switch(OUTPUT, "--no-plot", "Save no picture", default=False),
    switch(OUTPUT, "--progress", "Show the progress bar even if stderr is not a terminal",
           default=False),
    switch(OUTPUT, "--quiet", "Print only errors", default=False),
]  # fmt: skip


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a signature with all options, from which typer makes its parser."""
    context = inspect.Parameter(
        "ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
    )
    signature = inspect.Signature([context, DATA_ARGUMENT, *OPTIONS])
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {
        name: parameter.annotation for name, parameter in signature.parameters.items()
    }
    return command
