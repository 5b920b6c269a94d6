"""Internal API for the outer modules: what they need of a model besides its public methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastbn.model.inputs import TrainingSamples, prediction_samples


def run_steps(
    model: Any, samples: TrainingSamples, order: np.ndarray, bounds: np.ndarray, lrs: np.ndarray,
    logs: Sequence[np.ndarray | None] | None = None,
) -> np.ndarray:  # fmt: skip
    """Train on minibatches of prepared samples (`Engine.run_steps`), and return their losses."""
    losses: np.ndarray = model._engine.run_steps(samples, order, bounds, lrs, logs)[0]
    return losses


def logits_row_by_row(model: Any, x: np.ndarray) -> np.ndarray:
    """Return the logits like `predict_logits`, computed one row at a time in one compiled call."""
    engine = model._engine
    logits: np.ndarray = engine.logits(*prediction_samples(engine, x), rows=1)
    return logits
