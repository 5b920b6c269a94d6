"""`fastbn train`: data in; a model, a picture and a table out."""

from __future__ import annotations

import contextlib
import pathlib
from typing import TYPE_CHECKING, Any

import typer

import fastbn
from fastbn.cli import _options as options
from fastbn.cli import _recipes as recipes
from fastbn.cli._output import (
    check_picture_ending,
    check_writable,
    compile_notice,
    complain,
    percent,
    print_rows,
)
from fastbn.errors import MissingExtraError

if TYPE_CHECKING:
    from fastbn.datasets import Dataset
    from fastbn.model import BatchNormMLP
    from fastbn.training import History


def train(
    data: options.Data = "digits",
    target: options.Target = None,
    test_size: options.TestSize = None,
    preset: options.Preset = None,
    hidden: options.Hidden = None,
    activation: options.Activation = None,
    negative_slope: options.NegativeSlope = None,
    batch_norm: options.BatchNorm = None,
    batch_norm_output: options.BatchNormOutput = None,
    eps: options.Eps = None,
    momentum: options.Momentum = None,
    gradient: options.Gradient = None,
    input_normalization: options.InputNormalization = None,
    dropout: options.Dropout = None,
    dtype: options.Dtype = None,
    seed: options.Seed = None,
    optimizer: options.Optimizer = None,
    lr: options.Lr = None,
    betas: options.Betas = None,
    optimizer_eps: options.OptimizerEps = None,
    weight_decay: options.WeightDecay = None,
    max_norm: options.MaxNorm = None,
    schedule: options.Schedule = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    shuffle: options.Shuffle = None,
    until_accuracy: options.UntilAccuracy = None,
    early_stopping: options.EarlyStopping = None,
    validation: options.Validation = True,
    out: options.Out = None,
    plot: options.Plot = None,
    no_plot: options.NoPlot = False,
    progress: options.Progress = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a network on DATA; save the model and a picture of how it went.

    Ctrl-C stops after the current step and saves what has been learned.
    """
    given = {name: value for name, value in locals().items() if name in recipes.DEFAULT}
    settings = recipes.settings(preset, given)
    if progress and quiet:
        raise typer.BadParameter("it excludes --quiet", param_hint="'--progress'")
    if plot is not None and no_plot:
        raise typer.BadParameter("it excludes --no-plot", param_hint="'--plot'")
    name = _short_name(data)
    out = out or pathlib.Path(f"fastbn-{name}.safetensors")
    picture = None if no_plot else plot or out.with_suffix(".png")
    check_writable(out, "--out", inputs=[data])
    if picture is not None:
        _check_picture(picture, out, data, explicit=plot is not None)

    from fastbn import datasets
    from fastbn.model import BatchNormMLP

    test_size = recipes.TEST_SIZE if test_size is None else test_size
    dataset = datasets.load(data, target=target, test_size=test_size)
    sizes = (dataset.X_train.shape[1], *settings["hidden"], len(dataset.class_names))
    model = BatchNormMLP(sizes, **{key: settings[key] for key in recipes.MODEL})
    model.metadata = {
        "class_names": list(dataset.class_names),
        "data": dataset.name,
        "fastbn_version": fastbn.__version__,
        "split": {"target": target, "test_size": test_size},
    }
    bar: bool | str = progress or (False if quiet else "auto")
    with compile_notice(silent=quiet) as compiled:
        history = model.fit(
            dataset.X_train,
            dataset.y_train,
            batch_size=recipes.batch_size(settings, batch_size, len(dataset.y_train)),
            validation_data=(dataset.X_test, dataset.y_test) if validation else None,
            progress=bar,
            **{key: settings[key] for key in recipes.FIT},
        )
        if not history.epochs:
            complain("interrupted before the first step: there is nothing to save")
            raise typer.Exit(1)
        if history.stop_reason == "diverged":
            complain(
                f"the loss became {history.loss[-1]} in epoch {history.epochs}: nothing is saved; "
                "a smaller --lr or a --max-norm may help"
            )
            raise typer.Exit(1)
        model.save(out)
        if picture is not None and not _draw(history, picture, dataset.name, model):
            picture = None
        test_loss, test_accuracy = model.evaluate(dataset.X_test, dataset.y_test)
    if not quiet:
        rows = [
            *_rows(dataset, model, history, settings, bool(compiled)),
            ("test", f"accuracy {percent(test_accuracy)}, loss {test_loss:.4f}"),
            ("stopped", _why(history, settings)),
            ("model", str(out)),
        ]
        print_rows(rows + ([("picture", str(picture))] if picture is not None else []))
    if history.stop_reason == "interrupted":
        complain(f"interrupted: {out} holds the model after step {model.steps:,}")
        raise typer.Exit(1)


def _short_name(data: str) -> str:
    """Return the name of the data without folder and ending, to call the model's file by."""
    path = pathlib.Path(data)
    return (
        path.stem if path.suffix.lower() in (".csv", ".npz") else path.resolve().name
    ) or "model"


def _check_picture(picture: pathlib.Path, out: pathlib.Path, data: str, *, explicit: bool) -> None:
    """Refuse a picture that could not be saved, before anything is trained."""
    check_writable(picture, "--plot", inputs=[data])
    if picture == out:
        raise typer.BadParameter(f"{out} is the model's file", param_hint="'--plot'")
    if explicit:
        with contextlib.suppress(MissingExtraError):  # said where it would have been drawn
            check_picture_ending(picture)


def _draw(history: History, picture: pathlib.Path, name: str, model: BatchNormMLP) -> bool:
    """Save the picture; without matplotlib, say so and return False."""
    from fastbn.plotting import plot_history

    try:
        plot_history(history, picture, title=f"{name}, {_sizes(model)}")
    except MissingExtraError as error:
        complain(f"no picture: {error}")
        return False
    return True


def _sizes(model: BatchNormMLP) -> str:
    return "-".join(map(str, model.config.layer_sizes))


def _rows(
    dataset: Dataset,
    model: BatchNormMLP,
    history: History,
    settings: dict[str, Any],
    compiled: bool,
) -> list[tuple[str, str]]:
    """Return what was trained, for how long and how well, as rows of the final table."""
    steps, seconds = history.steps[-1], history.seconds[-1]
    counts = f"{len(dataset.y_train):,} training and {len(dataset.y_test):,} test samples"
    features, classes = dataset.X_train.shape[1], len(dataset.class_names)
    note = ", compiling included" if compiled else ""
    return [
        ("data", f"{dataset.name}: {counts}, {features} features, {classes} classes"),
        ("network", f"{_sizes(model)}, {model.layout.n_parameters:,} parameters"),
        ("epochs", f"{history.epochs} of at most {settings['epochs']}, {steps:,} steps"),
        ("time", f"{seconds:.2f} s{note}"),
        (
            "training",
            f"accuracy {percent(history.accuracy[-1])}, loss {history.loss[-1]:.4f} "
            "(last epoch, as it was trained on)",
        ),
    ]


def _why(history: History, settings: dict[str, Any]) -> str:
    """Return why the training ended, in words."""
    return {
        "epochs": "all epochs are done",
        "until_accuracy": f"training accuracy is above {settings['until_accuracy']}",
        "early_stopping": f"no better for {settings['early_stopping']} epochs; back at the best",
        "interrupted": "by Ctrl-C",
    }.get(history.stop_reason, history.stop_reason)
