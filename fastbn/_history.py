"""What a fit measures, when it is to stop, and where it is: all that a checkpoint has to hold."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from fastbn._checks import choice, flag, integer, number


@dataclasses.dataclass
class History:
    """What `fit` measured: one entry per epoch in each list.

    `loss` and `accuracy` are means over the epoch's minibatches as they were trained on, `lr` is
    that of the epoch's last step, `steps` the optimizer steps and `seconds` the time since the
    start of the fit. For the squared error there is `val_r2`, and no accuracy. `skipped` has the
    numbers of the steps, from 1, whose loss was not finite and that were left out.

    `stop_reason` is "epochs", "until_accuracy", "early_stopping", "callback",
    "diverged" (the loss is no longer finite) or "interrupted".
    """

    loss: list[float] = dataclasses.field(default_factory=list)
    accuracy: list[float] = dataclasses.field(default_factory=list)
    val_loss: list[float] = dataclasses.field(default_factory=list)
    val_accuracy: list[float] = dataclasses.field(default_factory=list)
    val_r2: list[float] = dataclasses.field(default_factory=list)
    lr: list[float] = dataclasses.field(default_factory=list)
    steps: list[int] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    skipped: list[int] = dataclasses.field(default_factory=list)
    stop_reason: str = "epochs"

    @property
    def epochs(self) -> int:
        """Number of epochs, a started one included."""
        return len(self.loss)

    @classmethod
    def from_dict(cls, values: Any) -> History:
        """Build from what JSON kept of one; TypeError or ValueError where it is none."""
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(values, dict) or set(values) != set(names):
            raise ValueError(f"history: expected the fields {names}")
        reason = choice("history.stop_reason", values["stop_reason"], STOP_REASONS)
        lists = {name: values[name] for name in names if name != "stop_reason"}
        for name, items in lists.items():
            kind = int if name in ("steps", "skipped") else float
            if not isinstance(items, list) or not all(type(item) is kind for item in items):
                raise TypeError(f"history.{name}: expected a list of numbers, got {items!r:.80}")
            wanted = (0, len(lists["loss"]))[name in ("lr", "steps", "seconds") :]
            if name != "skipped" and len(items) not in wanted:
                raise ValueError(f"history.{name}: expected an entry per epoch, got {len(items)}")
        return cls(**lists, stop_reason=reason)


STOP_REASONS = ("epochs", "until_accuracy", "early_stopping", "callback", "diverged", "interrupted")
MONITORS = ("val_loss", "val_accuracy", "val_r2", "loss", "accuracy")


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """Stop when `monitor` has not improved by more than `min_delta` for `patience` epochs.

    `monitor` is "val_loss", "val_accuracy", "val_r2", "loss" or "accuracy". With `restore_best`
    the model goes back to its best epoch.
    """

    patience: int = 10
    monitor: str = "val_loss"
    min_delta: float = 0.0
    restore_best: bool = True

    def __post_init__(self) -> None:
        integer("patience", self.patience, 1)
        number("min_delta", self.min_delta, 0.0)
        choice("monitor", self.monitor, MONITORS)


@dataclasses.dataclass
class FitState:
    """Where a fit is, between two steps.

    `losses` and `correct` are those of the steps that have been taken of the present epoch, which
    `has_begun` when the order of its samples was drawn. `best`
    is the best value that early stopping has seen, `since` counts the epochs since then, and
    `best_state` is the model's snapshot there. The last `skipped_on_end` steps were skipped.
    """

    history: History = dataclasses.field(default_factory=History)
    losses: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    correct: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    has_begun: bool = False
    skipped_on_end: int = 0
    best: float = math.inf
    since: int = 0
    best_state: dict[str, Any] | None = None
    seconds: float = 0.0
    is_over: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return what is not in tensors, for JSON."""
        best = self.best_state
        return {
            "history": dataclasses.asdict(self.history),
            "has_begun": self.has_begun,
            "skipped_on_end": self.skipped_on_end,
            "best": self.best,
            "since": self.since,
            "best_counts": best and {name: best[name] for name in ("steps", "input_is_fitted")},
            "seconds": self.seconds,
            "is_over": self.is_over,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FitState:
        """Build from `to_dict`'s result; the tensors are still to come."""
        best = values["best"]
        counts = values["best_counts"]
        if type(best) is not float or math.isnan(best):
            raise TypeError(f"best: expected a number, got {best!r}")
        if counts is not None:
            counts = {
                "steps": integer("best_counts.steps", counts["steps"], 0),
                "input_is_fitted": flag("best_counts.input_is_fitted", counts["input_is_fitted"]),
            }
        return cls(
            history=History.from_dict(values["history"]),
            has_begun=flag("has_begun", values["has_begun"]),
            skipped_on_end=integer("skipped_on_end", values["skipped_on_end"], 0),
            best=best,
            since=integer("since", values["since"], 0),
            best_state=counts,
            seconds=number("seconds", values["seconds"], 0.0),
            is_over=flag("is_over", values["is_over"]),
        )
