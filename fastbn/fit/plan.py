"""The checked settings of a fit, and the bounds of its minibatches."""

from __future__ import annotations

import dataclasses
import numbers
from typing import Any, get_args

import numpy as np

from fastbn.checks import choice, flag, integer, number
from fastbn.fit.history import EarlyStopping
from fastbn.fit.schedules import Schedule
from fastbn.options import OnDivergence


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The settings of a fit, and the properties of model and data that they are checked against."""

    epochs: int
    batch_size: int
    lr: float
    schedule: Schedule
    shuffle: bool
    early_stopping: EarlyStopping | None
    until_accuracy: float | None
    on_divergence: OnDivergence
    score: str  # "accuracy" or "r2"
    is_validated: bool
    least_batch: int

    def __post_init__(self) -> None:
        if self.until_accuracy is not None:
            limit = number("until_accuracy", self.until_accuracy, 0.0, 1.0)
            object.__setattr__(self, "until_accuracy", limit)
            if self.score != "accuracy":
                raise ValueError(
                    f"until_accuracy: expected None with loss='squared_error', got {limit}"
                )
        choice("on_divergence", self.on_divergence, get_args(OnDivergence))
        checked = {
            "epochs": integer("epochs", self.epochs, 1),
            "batch_size": integer("batch_size", self.batch_size, self.least_batch),
            "shuffle": flag("shuffle", self.shuffle),
            "early_stopping": self._rule(self.early_stopping),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def _rule(self, rule: Any) -> EarlyStopping | None:
        """Return the argument as EarlyStopping; an integer is the patience."""
        if rule is None:
            return None
        if isinstance(rule, numbers.Integral) and not isinstance(rule, bool):
            patience = integer("early_stopping", rule, 1)
            return EarlyStopping(patience, "val_loss" if self.is_validated else "loss")
        if not isinstance(rule, EarlyStopping):
            raise TypeError(
                f"early_stopping: expected None, an integer or EarlyStopping, got {rule!r:.200}"
            )
        if rule.monitor.startswith("val_") and not self.is_validated:
            raise ValueError(
                f"early_stopping: expected validation_data to monitor {rule.monitor!r}, got none"
            )
        if rule.monitor.removeprefix("val_") not in ("loss", self.score):
            raise ValueError(
                f"early_stopping: expected to monitor the loss or {self.score}, "
                f"got {rule.monitor!r}"
            )
        return rule


def minibatch_bounds(n_samples: int, batch_size: int) -> np.ndarray:
    """Return the bounds of minibatches, (steps + 1,) int64.

    The last minibatch may be smaller. If it has a single sample, it is merged into the one before,
    since batch norm cannot normalize a single sample.
    """
    n_samples, batch_size = integer("n_samples", n_samples, 1), integer("batch_size", batch_size, 1)
    bounds = np.arange(minibatch_count(n_samples, batch_size) + 1, dtype=np.int64)
    bounds *= min(batch_size, n_samples)
    bounds[-1] = n_samples
    return bounds


def minibatch_count(n_samples: int, batch_size: int) -> int:
    """Return the number of minibatches that `minibatch_bounds` makes."""
    count, rest = divmod(n_samples, batch_size)
    if rest > 1 or count == 0:
        return count + 1
    return count  # one sample that is left over is merged into the last minibatch
