"""The implementation of `BatchNormMLP.fit`: check arguments, prepare the data, train."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Iterable
from typing import Any

from fastbn.checks import flag, integer, pair
from fastbn.fit.history import History
from fastbn.fit.loop import Callback, Fit
from fastbn.fit.plan import Plan, minibatch_count
from fastbn.model.checkpoint import CheckpointFile
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
from fastbn.options import ShowProgress


def fit(model: Any, X: Any, y: Any, **arguments: Any) -> History:
    """Train a model, and warn if it is worse than the mean of its targets."""
    engine: Engine = model._engine
    history, samples = train(model, X, y, **arguments)
    if engine.warns_of_mean and history.stop_reason not in ("diverged", "interrupted"):
        words = worse_than_mean(model, samples, "more epochs or another lr")
        if words is not None:
            engine.warns_of_mean = False
            warnings.warn(words, stacklevel=3)  # the caller of `BatchNormMLP.fit`
    return history


def train(
    model: Any, X: Any, y: Any, *, sample_weight: Any, callbacks: Iterable[Callback],
    progress: ShowProgress, validation_data: Any = None, check_finite: bool = True,
    checkpoint: str | os.PathLike[str] | None = None, checkpoint_every: int | None = None,
    resume: bool = False, **settings: Any,
) -> tuple[History, TrainingSamples]:  # fmt: skip
    """Train a model, and return its history and the samples as the kernels got them.

    `settings` go to a `Plan`. All checks run before the model changes.
    """
    engine: Engine = model._engine
    engine.packed.forget()  # frees memory before the data are converted
    config = engine.config
    plan = Plan(
        lr=config.lr,
        score="r2" if config.predicts_numbers else "accuracy",
        is_validated=validation_data is not None,
        least_batch=1 + config.batch_norm,
        **settings,
    )
    validation = None
    if validation_data is not None:
        pair_ = pair("validation_data", validation_data)
        validation = labelled_data(engine, *pair_, ("validation_data[0]", "validation_data[1]"))
    if checkpoint_every is not None:
        checkpoint_every = integer("checkpoint_every", checkpoint_every, 1)
    resume = flag("resume", resume)
    if checkpoint is None and (resume or checkpoint_every is not None):
        raise ValueError("checkpoint: expected a path to resume from or to write to, got None")
    data = training_data(engine, X, y, sample_weight, flag("check_finite", check_finite))
    scalings = fitted_scalings(engine, data)
    if not resume:
        n_steps = minibatch_count(len(data.x), plan.batch_size)
        check_room("steps", engine.steps, plan.epochs * n_steps)
        check_room("epochs", engine.epochs, plan.epochs)
    file = None
    if checkpoint is not None:
        file = CheckpointFile(model, checkpoint, checkpoint_every, plan, data, validation)
        if resume:
            scalings = file.read(*scalings)
    samples = TrainingSamples(kernel_samples(data, *scalings), *scalings)
    evaluate = None
    if validation is not None:
        evaluate = functools.partial(engine.evaluate, kernel_samples(validation, *scalings))
    del data, validation  # frees data that were copied to be scaled
    arrays = samples.arrays
    one_fit = Fit(
        engine, samples, len(arrays.x), plan, owner=model, evaluate=evaluate, checkpoint=file,
        weight=arrays.weight if arrays.weight.size else None, callbacks=callbacks,
    )  # fmt: skip
    return engine.alone(lambda: one_fit.run(progress)), samples
