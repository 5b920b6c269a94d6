"""`fastbn train`: data in; a model, a picture and a table out."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shlex
from typing import TYPE_CHECKING, Any

import typer

import fastbn
from fastbn.cli import _recipes as recipes
from fastbn.cli._columns import check_columns, is_csv, sample_notes, target_row
from fastbn.cli._options import with_options
from fastbn.cli._output import (
    check_picture_ending,
    check_writable,
    compile_notice,
    complain,
    percent,
    print_rows,
)
from fastbn.errors import DivergenceError, MissingExtraError, ModelFileError

if TYPE_CHECKING:
    from fastbn.datasets import Dataset
    from fastbn.fit.history import History
    from fastbn.model import BatchNormMLP


@with_options
def train(ctx: typer.Context, **options: Any) -> None:
    """Train a network that tells classes apart on DATA; save it and a picture of how it went.

    Of a CSV with a header the model keeps the names of the columns, and finds them by name later.
    Numbers to predict, and several labels of a sample, are not done yet: such a target is an error.

    Ctrl-C stops after some 50 ms of steps and saves what has been learned.
    """
    checkpoint, every, resume = (options[x] for x in ("checkpoint", "checkpoint_every", "resume"))
    out, plot, quiet = options["out"], options["plot"], options["quiet"]
    if options["progress"] and quiet:
        raise typer.BadParameter("it excludes --quiet", param_hint="'--progress'")
    if plot is not None and options["no_plot"]:
        raise typer.BadParameter("it excludes --no-plot", param_hint="'--plot'")
    if every is not None and checkpoint is None:
        raise typer.BadParameter("it needs --checkpoint", param_hint="'--checkpoint-every'")
    if resume is not None:
        _refuse_others(ctx)
        job, checkpoint = Job.read(resume), resume
    else:
        data, size = options["data"], options["test_size"]
        given = {name: value for name, value in options.items() if name in recipes.DEFAULT}
        job = Job(
            data=data if not os.path.exists(data) else os.path.abspath(data),
            target=options["target"],
            test_size=recipes.TEST_SIZE if size is None else size,
            settings=recipes.settings(options["preset"], given),
            validation=options["validation"],
            checkpoint_every=every,
        )
    out = out or pathlib.Path(f"fastbn-{_short_name(job.data)}.safetensors")
    check_writable(out, "--out", inputs=[job.data])
    picture = None if options["no_plot"] else plot or out.with_suffix(".png")
    if checkpoint is not None:
        check_writable(checkpoint, "--checkpoint", inputs=[job.data])
        if os.path.realpath(checkpoint) == os.path.realpath(out):
            raise typer.BadParameter(f"{out} is the model's file", param_hint="'--checkpoint'")
    if picture is not None:
        _check_picture(
            picture, {"model": out, "checkpoint": checkpoint}, job.data, explicit=plot is not None
        )
    bar: bool | str = options["progress"] or (False if quiet else "auto")
    with compile_notice(silent=quiet) as compiled:
        try:
            dataset, model, history = _trained(job, checkpoint, resume is not None, bar)
        except DivergenceError as error:
            complain(
                f"in step {error.step} the loss, a variance or the gradient is not finite; the "
                f"first non-finite values are in {error.layer}: nothing is saved; a smaller --lr "
                "or a --max-norm may help, and with --on-divergence stop the parameters before "
                "that step are saved"
            )
            raise typer.Exit(1) from None
        if not history.epochs:
            end = "diverged in" if history.stop_reason == "diverged" else "interrupted before"
            complain(f"{end} the first step: there is nothing to save")
            raise typer.Exit(1)
        model.save(out)
        if picture is not None and not _draw(history, picture, dataset.name, model):
            picture = None
        test_loss, test_accuracy = model.evaluate(dataset.X_test, dataset.y_test)
    if not quiet:
        rows = [
            *_rows(dataset, model, history, job, bool(compiled)),
            ("test", f"accuracy {percent(test_accuracy)}, loss {test_loss:.4f}"),
            ("stopped", _why(history, job.settings)),
            ("model", str(out)),
        ]
        if checkpoint is not None:
            rows.append(("checkpoint", str(checkpoint)))
        print_rows(rows + ([("picture", str(picture))] if picture is not None else []))
    if history.stop_reason == "interrupted":
        complain(f"interrupted: {out} holds the model after step {model.steps:,}")
        if checkpoint is not None:
            complain(f"fastbn train --resume {shlex.quote(str(checkpoint))} goes on with it")
        raise typer.Exit(1)


@dataclasses.dataclass(frozen=True)
class Job:
    """What is trained on what, as a checkpoint keeps it."""

    data: str
    target: str | None
    test_size: float
    settings: dict[str, Any]
    validation: bool
    checkpoint_every: int | None

    @classmethod
    def read(cls, path: pathlib.Path) -> Job:
        """Return the job of a checkpoint; what its values are worth is seen when they are used."""
        from fastbn.files.model_file import open_model
        from fastbn.model.config import ModelConfig
        from fastbn.model.state import Header

        with open_model(path) as file:
            header = Header.of(file)
        stored = header.metadata.get("job")
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(stored, dict) or set(stored) != names:
            raise ModelFileError(f"{path}: expected a checkpoint of 'fastbn train', got another")
        settings = stored["settings"]
        known = isinstance(settings, dict) and set(recipes.DEFAULT) <= set(settings)
        if not (known and isinstance(stored["data"], str)):
            raise ModelFileError(f"{path}: its job is malformed")
        inputs, *_, outputs = header.config.layer_sizes
        try:
            sizes = (inputs, *settings["hidden"], outputs)
            config = ModelConfig(layer_sizes=sizes, **{key: settings[key] for key in recipes.MODEL})
        except (TypeError, ValueError) as error:
            raise ModelFileError(f"{path}: its job is malformed: {error}") from error
        if config != header.config:  # no memory is asked for a model that the file does not hold
            raise ModelFileError(f"{path}: its job is of another model")
        return cls(**stored)


def _refuse_others(ctx: typer.Context) -> None:
    """Refuse what a resumed training cannot change."""
    taken = {"resume", "out", "plot", "no_plot", "progress", "quiet"}
    for name in ctx.params:
        source = ctx.get_parameter_source(name)
        if name not in taken and source is not None and source.name == "COMMANDLINE":
            option = "DATA" if name == "data" else f"--{name.replace('_', '-')}"
            raise typer.BadParameter(f"it excludes {option}", param_hint="'--resume'")


def _trained(
    job: Job, checkpoint: pathlib.Path | None, resume: bool, bar: bool | str
) -> tuple[Dataset, BatchNormMLP, History]:
    """Load the data and train."""
    from fastbn import datasets
    from fastbn.model import BatchNormMLP, saving
    from fastbn.model.checkpoint import OtherDataError

    settings = job.settings
    dataset = datasets.load(job.data, target=job.target, test_size=job.test_size)
    if is_csv(job.data) and dataset.feature_names is None and bar is not False:
        for note in sample_notes(job.data):
            complain(note)
    if not resume:
        check_columns(job.data, dataset, job.target)
    sizes = (dataset.X_train.shape[1], *settings["hidden"], len(dataset.class_names))
    model = BatchNormMLP(sizes, **{key: settings[key] for key in recipes.MODEL})
    notes: dict[str, Any] = {
        "class_names": list(dataset.class_names),
        "data": dataset.name,
        "fastbn_version": fastbn.__version__,
        "split": {"target": job.target, "test_size": job.test_size},
    }
    if dataset.feature_names is not None:
        notes |= {
            "feature_names": list(dataset.feature_names), "target_name": dataset.target_name,
        }  # fmt: skip
        model.metadata = notes
        saving.to_bytes(model)  # names that no file can hold are an error before the training
    model.metadata = {**notes, "job": json.loads(json.dumps(dataclasses.asdict(job)))}
    try:
        history = model.fit(
            dataset.X_train,
            dataset.y_train,
            batch_size=recipes.batch_size(settings, len(dataset.y_train)),
            validation_data=(dataset.X_test, dataset.y_test) if job.validation else None,
            progress=bar,
            checkpoint=checkpoint,
            checkpoint_every=job.checkpoint_every,
            resume=resume,
            **{key: settings[key] for key in recipes.FIT},
        )
    except OtherDataError:
        raise ValueError(
            f"the data of {job.data} are not those that the checkpoint {checkpoint} was written "
            "for, or their rows or columns are in another order"
        ) from None
    model.metadata = notes
    return dataset, model, history


def _short_name(data: str) -> str:
    """Return the name of the data without folder and ending, to call the model's file by."""
    path = pathlib.Path(data)
    return (
        path.stem if path.suffix.lower() in (".csv", ".npz") else path.resolve().name
    ) or "model"


def _check_picture(
    picture: pathlib.Path, others: dict[str, pathlib.Path | None], data: str, *, explicit: bool
) -> None:
    """Refuse a picture that could not be saved, before anything is trained."""
    check_writable(picture, "--plot", inputs=[data])
    for name, other in others.items():
        if other is not None and os.path.realpath(other) == os.path.realpath(picture):
            raise typer.BadParameter(f"{other} is the {name}'s file", param_hint="'--plot'")
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
    job: Job,
    compiled: bool,
) -> list[tuple[str, str]]:
    """Return what was trained, for how long and how well, as rows of the final table."""
    steps, seconds = history.steps[-1], history.seconds[-1]
    counts = f"{len(dataset.y_train):,} training and {len(dataset.y_test):,} test samples"
    features, classes = dataset.X_train.shape[1], len(dataset.class_names)
    note = ", compiling included" if compiled else ""
    return [
        ("data", f"{dataset.name}: {counts}, {features} features, {classes} classes"),
        *target_row(job.data, dataset, job.target),
        ("network", f"{_sizes(model)}, {model.layout.n_parameters:,} parameters"),
        ("epochs", f"{history.epochs} of at most {job.settings['epochs']}, {steps:,} steps"),
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
        "diverged": "a loss or gradient was not finite; the model is as it was before that step",
    }.get(history.stop_reason, history.stop_reason)
