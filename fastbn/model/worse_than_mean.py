"""The warning about a regression fit that ends worse than the mean of its targets."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastbn.kernels.network import Samples
from fastbn.model.engine import Engine
from fastbn.model.inputs import TrainingSamples
from fastbn.model.measures import ROUNDINGS, moments
from fastbn.model.memory import COMPARED_ROWS


def worse_than_mean(model: Any, training: TrainingSamples, remedy: str) -> str | None:
    """Return the text of the warning about a trained model, or None.

    Training losses do not show the problem, since predictions use the running statistics. There is
    no warning if the model is less than a tenth worse than the mean, as after a fit to noise. A
    network does not learn constant targets exactly, so an error of 1, or of a hundredth of the
    constant, is allowed for them.
    """
    engine: Engine = model._engine
    config, samples = engine.config, training.arrays
    if not config.predicts_numbers:
        return None
    weight = samples.weight if samples.weight.size else np.ones(len(samples.x), engine.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        center, deviation = moments(samples.targets, weight, None)
        of_mean = float(np.square(deviation).sum()) / 2
        rounding = ROUNDINGS * np.finfo(engine.dtype).eps
        is_constant = deviation <= rounding * np.abs(center)
        if config.target_normalization is not None:
            center = np.abs(training.outputs.undo(center) * training.outputs.scale)
        allowed = np.where(is_constant, np.maximum(1.0, 0.01 * np.abs(center)), deviation)
        limit = 1.1 * float(np.square(allowed).sum()) / 2
        loss = _squared_error(engine, samples, weight)
    if loss <= limit:
        return None
    remedies = [
        f"{name}='zscore', "
        for name in ("target_normalization", "input_normalization")
        if getattr(config, name) is None
    ]
    return (
        f"the fit ends worse than the mean of its targets: its training loss is {loss:.3g}, and "
        f"that of the mean {of_mean:.3g}; {''.join(remedies)}{remedy} may help"
    )


def _squared_error(engine: Engine, samples: Samples, weight: np.ndarray) -> float:
    """Return the loss of the predictions of training samples, COMPARED_ROWS at a time."""
    total = 0.0
    for start in range(0, len(samples.x), COMPARED_ROWS):
        part = slice(start, start + COMPARED_ROWS)
        errors = engine.logits(samples.x[part], samples.center, samples.scale)
        errors -= samples.targets[part]
        total += float((np.square(errors, dtype=np.float64).sum(axis=1) * weight[part]).sum())
    return total / 2 / float(weight.sum(dtype=np.float64))
