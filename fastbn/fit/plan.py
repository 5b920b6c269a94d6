"""The settings of a fit, checked, and where its minibatches begin and end."""

from __future__ import annotations

import dataclasses
import numbers
from typing import Any

import numpy as np

from fastbn.checks import choice, integer
from fastbn.fit.history import EarlyStopping
from fastbn.fit.schedules import Schedule


@dataclasses.dataclass(frozen=True)
class Plan:
    """The settings of a fit; `score` is that of validation, "accuracy" or "r2"."""

    epochs: int
    batch_size: int
    lr: float
    schedule: Schedule
    shuffle: bool
    early_stopping: EarlyStopping | None
    until_accuracy: float | None
    on_divergence: str
    score: str

    def __post_init__(self) -> None:
        choice("on_divergence", self.on_divergence, ("raise", "stop", "skip"))


def early_stopping_rule(rule: Any, validated: bool, score: str) -> EarlyStopping | None:
    """Return the rule that an argument stands for; an integer is the patience."""
    if isinstance(rule, numbers.Integral) and not isinstance(rule, bool):
        patience = integer("early_stopping", rule, 1)
        rule = EarlyStopping(patience=patience, monitor="val_loss" if validated else "loss")
    if rule is not None and not isinstance(rule, EarlyStopping):
        raise TypeError(
            f"early_stopping: expected None, an integer or EarlyStopping, got {rule!r:.200}"
        )
    if rule is not None and rule.monitor.startswith("val_") and not validated:
        raise ValueError(
            f"early_stopping: expected validation_data to monitor {rule.monitor!r}, got none"
        )
    if rule is not None and rule.monitor.removeprefix("val_") not in ("loss", score):
        raise ValueError(
            f"early_stopping: expected to monitor the loss or {score}, got {rule.monitor!r}"
        )
    return rule


def minibatch_bounds(n_samples: int, batch_size: int) -> np.ndarray:
    """Return where minibatches begin and end: (steps + 1,) int64.

    The last one may be smaller; one of a single sample is merged into the one before, since batch
    norm has nothing to normalize in it.
    """
    n_samples, batch_size = integer("n_samples", n_samples, 1), integer("batch_size", batch_size, 1)
    bounds = np.append(np.arange(0, n_samples, batch_size, dtype=np.int64), n_samples)
    if batch_size > 1 and bounds.size > 2 and bounds[-1] - bounds[-2] == 1:
        bounds = np.delete(bounds, -2)
    return bounds
