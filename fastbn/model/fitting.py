"""What `BatchNormMLP.fit` does: it checks its arguments, prepares the data and trains."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Iterable
from typing import Any

from fastbn.checks import flag, integer, number, pair
from fastbn.fit.loop import (
    Callback,
    History,
    Plan,
    early_stopping_rule,
    minibatch_bounds,
    train,
)
from fastbn.model.checkpoint import CheckpointFile
from fastbn.model.config import ModelConfig
from fastbn.model.engine import Engine
from fastbn.model.inputs import (
    TrainingSamples,
    fitted_scalings,
    kernel_samples,
    labelled_data,
    training_data,
)
from fastbn.model.state import check_room
from fastbn.model.worse_than_mean import worse_than_mean


def fit(
    model: Any, X: Any, y: Any, *, sample_weight: Any, validation_data: Any, check_finite: bool,
    callbacks: Iterable[Callback], progress: bool | str,
    checkpoint: str | os.PathLike[str] | None, checkpoint_every: int | None, resume: bool,
    **settings: Any,
) -> History:  # fmt: skip
    """Train a model; `settings` are those of `plan_of`. Nothing is changed before it trains."""
    engine: Engine = model._engine
    plan = plan_of(engine.config, validation_data is not None, **settings)
    validation = None
    if validation_data is not None:
        validation = labelled_data(
            engine, *pair("validation_data", validation_data),
            "validation_data[0]", "validation_data[1]",
        )  # fmt: skip
    if checkpoint_every is not None:
        checkpoint_every = integer("checkpoint_every", checkpoint_every, 1)
    resume = flag("resume", resume)
    if checkpoint is None and (resume or checkpoint_every is not None):
        raise ValueError("checkpoint: expected a path to resume from or to write to, got None")
    data = training_data(engine, X, y, sample_weight, flag("check_finite", check_finite))
    scalings = fitted_scalings(engine, data)
    file = None
    if checkpoint is not None:
        file = CheckpointFile(model, checkpoint, checkpoint_every, plan, data, validation)
        if resume:
            scalings = file.read(*scalings)
    steps, epochs = (engine.steps, engine.epochs) if file is None else file.counts()
    n_steps = minibatch_bounds(len(data.x), plan.batch_size).size - 1
    check_room("steps", steps, plan.epochs * n_steps)
    check_room("epochs", epochs, plan.epochs)
    samples = TrainingSamples(kernel_samples(data, *scalings), *scalings)
    evaluate = None
    if validation is not None:
        evaluate = functools.partial(engine.evaluate, kernel_samples(validation, *scalings))
    del data, validation  # what was scaled in float64 need not stay
    weight = samples.arrays.weight
    history = engine.alone(
        lambda: train(
            engine,
            samples,
            len(samples.arrays.x),
            plan,
            owner=model,
            weight=weight if weight.size else None,
            evaluate=evaluate,
            callbacks=callbacks,
            progress=progress,
            checkpoint=file,
        )
    )
    if engine.warns_of_mean and history.stop_reason not in ("diverged", "interrupted"):
        words = worse_than_mean(engine, samples, "more epochs or another lr")
        if words is not None:
            engine.warns_of_mean = False
            warnings.warn(words, stacklevel=3)  # of the line that calls `BatchNormMLP.fit`
    return history


def plan_of(
    config: ModelConfig, validated: bool, *, epochs: int, batch_size: int, shuffle: bool,
    early_stopping: Any, schedule: Any, until_accuracy: float | None, on_divergence: str,
) -> Plan:  # fmt: skip
    """Check the settings of a fit of a model, with validation data or without."""
    score = "r2" if config.loss == "squared_error" else "accuracy"
    epochs = integer("epochs", epochs, 1)
    batch_size = checked_batch_size(config, batch_size)
    if until_accuracy is not None:
        until_accuracy = number("until_accuracy", until_accuracy, 0.0, 1.0)
        if score != "accuracy":
            raise ValueError(
                f"until_accuracy: expected None with loss='squared_error', got {until_accuracy}"
            )
    return Plan(
        epochs=epochs,
        batch_size=batch_size,
        lr=config.lr,
        schedule=schedule,
        shuffle=flag("shuffle", shuffle),
        early_stopping=early_stopping_rule(early_stopping, validated, score),
        until_accuracy=until_accuracy,
        on_divergence=on_divergence,
        score=score,
    )


def checked_batch_size(config: ModelConfig, value: Any) -> int:
    """Return a size of minibatches; batch norm needs two samples."""
    return integer("batch_size", value, 1 + config.batch_norm)
