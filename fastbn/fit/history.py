"""The history of a fit, early stopping, and the state that a checkpoint holds."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, get_args

import numpy as np

from fastbn.checks import choice, flag, integer, number
from fastbn.options import Monitor, StopReason


@dataclasses.dataclass
class History:
    """The measurements of a fit. Each list except `skipped` has one entry per epoch.

    `loss` and `accuracy` are means over the epoch's minibatches, measured before each update. `lr`
    is the learning rate of the epoch's last step, `steps` the number of minibatches so far, and
    `seconds` the time since the start of the fit. With the squared error there is `val_r2` instead
    of accuracies. With `target_normalization`, losses are computed from normalized targets.
    `skipped` has the numbers, from 1, of the steps that were refused and skipped.

    `stop_reason` is "epochs", "until_accuracy", "early_stopping", "callback", "diverged" (a step
    was refused) or "interrupted".
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
    stop_reason: StopReason = "epochs"

    @property
    def epochs(self) -> int:
        """Number of epochs, including an unfinished last one."""
        return len(self.loss)


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """Stop when `monitor` has not improved by more than `min_delta` for `patience` epochs.

    `monitor` is "val_loss", "val_accuracy", "val_r2", "loss" or "accuracy". With `restore_best`
    the state of the best epoch is restored at the end, also if the fit raises a DivergenceError.
    """

    patience: int = 10
    monitor: Monitor = "val_loss"
    min_delta: float = 0.0
    restore_best: bool = True

    def __post_init__(self) -> None:
        checked = {
            "patience": integer("patience", self.patience, 1),
            "monitor": choice("monitor", self.monitor, get_args(Monitor)),
            "min_delta": number("min_delta", self.min_delta, 0.0),
            "restore_best": flag("restore_best", self.restore_best),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)


@dataclasses.dataclass
class FitState:
    """The state of a fit between two steps.

    `losses` and `correct` have one entry for each step of the present epoch so far. `has_begun` is
    True as soon as the order of the epoch's samples is drawn. `best` is the best value that early
    stopping has seen, `since` the number of epochs since then, and `best_state` the snapshot of the
    model at that epoch.
    """

    history: History = dataclasses.field(default_factory=History)
    losses: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    correct: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    has_begun: bool = False
    best: float = math.inf
    since: int = 0
    best_state: dict[str, Any] | None = None
    seconds: float = 0.0
    is_over: bool = False

    def note(self, losses: np.ndarray, correct: np.ndarray) -> None:
        """Add steps of the present epoch; the loss of a skipped step is NaN."""
        if self.losses.size:
            losses = np.concatenate([self.losses, losses])
            correct = np.concatenate([self.correct, correct])
        self.losses, self.correct = losses, correct
