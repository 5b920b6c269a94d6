"""`fastbn train`: train on data; save a model and a picture, and print a table."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shlex
from typing import TYPE_CHECKING, Any

import typer

from fastbn.cli import _presets as presets
from fastbn.cli._columns import target_row
from fastbn.cli._job import TrainJob
from fastbn.cli._options import with_options
from fastbn.cli._output import (
    check_picture_ending,
    check_writable,
    compile_notice,
    complain,
    percent,
    print_rows,
)
from fastbn.errors import DivergenceError, MissingExtraError

if TYPE_CHECKING:
    from fastbn.datasets import Dataset
    from fastbn.fit.history import History
    from fastbn.model import BatchNormMLP
    from fastbn.options import ShowProgress

# Options that may be given with --resume.
WITH_RESUME = ("resume", "out", "plot", "no_plot", "progress", "quiet")


@with_options
def train(ctx: typer.Context, **options: Any) -> None:
    """Train a classifier on DATA; save it, and a picture of loss and accuracy.

    The model stores the column names of a CSV with a header; later it finds its columns by name.
    Regression and several labels per sample are not supported yet: such a target is an error.

    Ctrl-C stops the training after about 50 ms of steps and saves what has been learned.
    """
    out, quiet, resume = options["out"], options["quiet"], options["resume"]
    if options["progress"] and quiet:
        raise typer.BadParameter("cannot be used with --quiet", param_hint="'--progress'")
    if options["plot"] is not None and options["no_plot"]:
        raise typer.BadParameter("cannot be used with --no-plot", param_hint="'--plot'")
    if options["checkpoint_every"] is not None and options["checkpoint"] is None:
        raise typer.BadParameter("needs --checkpoint", param_hint="'--checkpoint-every'")
    if resume is None:
        job, checkpoint = _job(options), options["checkpoint"]
    else:
        _refuse_others(ctx)
        job, checkpoint = TrainJob.read(resume), resume
    out = out or pathlib.Path(f"fastbn-{_short_name(job.data)}.safetensors")
    check_writable({"--out": out}, inputs=[job.data])
    picture = None if options["no_plot"] else options["plot"] or out.with_suffix(".png")
    files = {"model": out, "checkpoint": checkpoint, "picture": picture}
    _check_differ(files)
    check_writable({"--checkpoint": checkpoint, "--plot": picture}, inputs=[job.data])
    with contextlib.suppress(MissingExtraError):  # reported after the training
        check_picture_ending(options["plot"])
    bar: ShowProgress = options["progress"] or (False if quiet else "auto")
    with compile_notice(silent=quiet) as compiled:
        try:
            dataset, model, history = job.train(checkpoint, resume is not None, bar)
        except DivergenceError as error:
            complain(
                f"in step {error.step} the loss or a variance is not finite, or the gradient is "
                f"not finite or too large, first in {error.layer}: nothing is saved. A smaller "
                "--lr or a --max-norm may help; with --on-divergence stop, the parameters before "
                "that step (with --early-stopping, of the best epoch) are saved"
            )
            raise typer.Exit(1) from None
        if not history.epochs:
            end = "diverged in" if history.stop_reason == "diverged" else "interrupted before"
            complain(f"{end} the first step: there is nothing to save")
            raise typer.Exit(1)
        model.save(out)
        if picture is not None and not _draw(history, picture, dataset.name, model):
            files["picture"] = None
        test_loss, test_accuracy = model.evaluate(dataset.X_test, dataset.y_test)
    if not quiet:
        print_rows(
            [
                *_rows(dataset, model, history, job, bool(compiled)),
                ("test", f"accuracy {percent(test_accuracy)}, loss {test_loss:.4f}"),
                ("stopped", _why(history, job.settings)),
                *[(name, str(path)) for name, path in files.items() if path is not None],
            ]
        )
    if history.stop_reason == "interrupted":
        complain(f"interrupted: {out} holds the model after step {model.steps:,}")
        if checkpoint is not None:
            complain(f"fastbn train --resume {shlex.quote(str(checkpoint))} continues it")
        raise typer.Exit(1)


# -- before the training ---------------------------------------------------------------------------


def _job(options: dict[str, Any]) -> TrainJob:
    data, size = options["data"], options["test_size"]
    given = {name: value for name, value in options.items() if name in presets.DEFAULT}
    return TrainJob(
        data=os.path.abspath(data) if os.path.exists(data) else data,
        target=options["target"],
        test_size=presets.TEST_SIZE if size is None else size,
        settings=presets.settings(options["preset"], given),
        validation=options["validation"],
        checkpoint_every=options["checkpoint_every"],
    )


def _refuse_others(ctx: typer.Context) -> None:
    """Refuse options that a resumed training cannot change."""
    for name in ctx.params:
        source = ctx.get_parameter_source(name)
        if name not in WITH_RESUME and source is not None and source.name == "COMMANDLINE":
            option = "DATA" if name == "data" else f"--{name.replace('_', '-')}"
            raise typer.BadParameter(f"cannot be used with {option}", param_hint="'--resume'")


def _short_name(data: str) -> str:
    """Return the name of the data without folder and ending."""
    path = pathlib.Path(data)
    is_file = path.suffix.lower() in (".csv", ".npz")
    return (path.stem if is_file else path.resolve().name) or "model"


def _check_differ(files: dict[str, pathlib.Path | None]) -> None:
    """Refuse the same file for two purposes."""
    purposes: dict[str, str] = {}
    for purpose, path in files.items():
        if path is None:
            continue
        other = purposes.setdefault(os.path.realpath(path), purpose)
        if other != purpose:
            option = "--plot" if purpose == "picture" else f"--{purpose}"
            raise typer.BadParameter(f"{path} is the {other}'s file", param_hint=f"'{option}'")


# -- after the training ----------------------------------------------------------------------------


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
    dataset: Dataset, model: BatchNormMLP, history: History, job: TrainJob, compiled: bool
) -> list[tuple[str, str]]:
    """Return the first rows of the final table: data, network, epochs, time and accuracy."""
    counts = f"{len(dataset.y_train):,} training and {len(dataset.y_test):,} test samples"
    features, classes = dataset.X_train.shape[1], len(dataset.class_names)
    epochs = f"{history.epochs} of at most {job.settings['epochs']}"
    return [
        ("data", f"{dataset.name}: {counts}, {features} features, {classes} classes"),
        *target_row(job.data, dataset, job.target),
        ("network", f"{_sizes(model)}, {model.layout.n_parameters:,} parameters"),
        ("epochs", f"{epochs}, {history.steps[-1]:,} steps"),
        ("time", f"{history.seconds[-1]:.2f} s{', compiling included' * compiled}"),
        (
            "training",
            f"accuracy {percent(history.accuracy[-1])}, loss {history.loss[-1]:.4f} "
            "(last epoch, measured while training)",
        ),
    ]


def _why(history: History, settings: dict[str, Any]) -> str:
    """Return why the training ended."""
    return {
        "epochs": "all epochs are done",
        "until_accuracy": f"training accuracy is above {settings['until_accuracy']}",
        "early_stopping": f"no better for {settings['early_stopping']} epochs; back at the best",
        "interrupted": "by Ctrl-C",
        "diverged": "a loss or gradient was not finite or too large; the model is as it was before "
        + ("that step" if settings["early_stopping"] is None else "it, or after the best epoch"),
    }[history.stop_reason]
