"""Epochs: minibatches, early stopping, history, callbacks. It trains anything that is a Trainee."""

from __future__ import annotations

import dataclasses
import math
import numbers
import signal
import threading
import time
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, Protocol

import numpy as np

from fastbn._checks import choice, integer, number
from fastbn._progress import progress_bar
from fastbn.schedules import Schedule, schedule_function

# Seconds between two looks at Ctrl-C and the progress bar.
CHUNK_SECONDS = 0.05


@dataclasses.dataclass
class History:
    """What `fit` measured: one entry per epoch in each list.

    `loss` and `accuracy` are means over the epoch's minibatches as they were trained on, `lr` is
    that of the epoch's last step, `steps` the optimizer steps and `seconds` the time since the
    start of the fit. For the squared error there is `val_r2`, and no accuracy.

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
    stop_reason: str = "epochs"

    @property
    def epochs(self) -> int:
        """Number of epochs, a started one included."""
        return len(self.loss)


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


class Trainee(Protocol):
    """What `train` needs of a model."""

    def run_steps(
        self, samples: Any, order: np.ndarray, bounds: np.ndarray, lrs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Train on the minibatches; return each one's loss and number of hits."""

    def next_order(self, n_samples: int, shuffle: bool) -> np.ndarray:
        """Return the order of the samples in the next epoch."""

    def snapshot(self) -> Any:
        """Return a copy of the state that `restore` takes."""

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot."""


MONITORS = ("val_loss", "val_accuracy", "val_r2", "loss", "accuracy")

Callback = Callable[[Any, History], "bool | None"]


def minibatch_bounds(n_samples: int, batch_size: int) -> np.ndarray:
    """Return where minibatches begin and end: (steps + 1,) int64.

    The last one may be smaller; one of a single sample is merged into the one before, since batch
    norm has nothing to normalize in it.
    """
    bounds = [*range(0, n_samples, batch_size), n_samples]
    if batch_size > 1 and len(bounds) > 2 and bounds[-1] - bounds[-2] == 1:
        del bounds[-2]
    return np.array(bounds, np.int64)


def train(
    model: Trainee,
    samples: Any,
    n_samples: int,
    *,
    weight: np.ndarray | None,
    epochs: int,
    batch_size: int,
    lr: float,
    evaluate: Callable[[], tuple[float, float]] | None,
    score: str,
    shuffle: bool,
    early_stopping: EarlyStopping | int | None,
    schedule: Schedule,
    until_accuracy: float | None,
    callbacks: Iterable[Callback],
    progress: bool | str,
) -> History:
    """Train `model` on `samples`; `evaluate` gives loss and score on validation data.

    `score` is "accuracy", which is then that of training, too, or "r2".
    An epoch's loss is the mean over its samples by their `weight` (samples,), None for equal ones.
    """
    bounds = minibatch_bounds(n_samples, batch_size)
    steps = bounds.size - 1
    lr_of = schedule_function(schedule, lr, epochs * steps)
    stopper = _Stopper(early_stopping, evaluate is not None, score)
    callbacks = _callables(callbacks)
    lr_of(0)  # a schedule that cannot say is refused before anything is changed
    history = History()
    chunk = _Chunk()
    start = time.perf_counter()
    with _CtrlC() as ctrl_c, progress_bar(progress, epochs * steps) as bar:
        for epoch in range(epochs):
            order = model.next_order(n_samples, shuffle)
            losses, correct = np.zeros(steps), np.zeros(steps, np.int64)
            done = 0
            while done < steps and not ctrl_c.pressed:
                last = min(done + chunk.steps, steps)
                lrs = np.array([lr_of(epoch * steps + s) for s in range(done, last)])
                chunk.begin()
                losses[done:last], correct[done:last] = model.run_steps(
                    samples, order, bounds[done : last + 1], lrs
                )
                chunk.end()
                done = last
                seen = bounds[done]
                accuracy = correct[:done].sum() / seen if score == "accuracy" else None
                bar.advance(epoch * steps + done, losses[done - 1], accuracy)
            if done == 0:
                history.stop_reason = "interrupted"
                break
            rows = np.diff(bounds[: done + 1])
            seen_order = order[: bounds[done]]  # an epoch may be left half-way
            shares = rows if weight is None else np.add.reduceat(weight[seen_order], bounds[:done])
            history.loss.append(float(losses[:done] @ shares / max(shares.sum(), 1e-300)))
            if score == "accuracy":
                history.accuracy.append(float(correct[:done].sum() / rows.sum()))
            history.lr.append(float(lrs[-1]))
            history.steps.append(epoch * steps + done)
            if evaluate is not None:
                val_loss, val_score = evaluate()
                history.val_loss.append(val_loss)
                getattr(history, f"val_{score}").append(val_score)
            history.seconds.append(time.perf_counter() - start)
            reason = _stop_reason(model, history, until_accuracy, stopper, callbacks)
            if not math.isfinite(history.loss[-1]):
                reason = "diverged"
            elif ctrl_c.pressed:
                reason = "interrupted"
            if reason is not None:
                history.stop_reason = reason
                break
    stopper.finish(model)
    return history


def _stop_reason(
    model: Trainee,
    history: History,
    until_accuracy: float | None,
    stopper: _Stopper,
    callbacks: list[Callback],
) -> str | None:
    """Why training ends after this epoch; None if it goes on. Every callback is called."""
    results = [callback(model, history) for callback in callbacks]
    stops = [isinstance(result, bool | np.bool_) and bool(result) for result in results]
    if until_accuracy is not None and history.accuracy[-1] > until_accuracy:
        return "until_accuracy"
    if stopper.is_due(model, history):
        return "early_stopping"
    return "callback" if any(stops) else None


def _callables(callbacks: Iterable[Callback]) -> list[Callback]:
    if not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks: expected an iterable of callables, got {callbacks!r}")
    callbacks = list(callbacks)
    for callback in callbacks:
        if not callable(callback):
            raise TypeError(f"callbacks: expected callables, got {callback!r}")
    return callbacks


class _Chunk:
    """How many steps to run in one compiled call: about CHUNK_SECONDS' worth."""

    def __init__(self) -> None:
        self.steps = 1
        self._start = 0.0

    def begin(self) -> None:
        self._start = time.perf_counter()

    def end(self) -> None:
        seconds = time.perf_counter() - self._start
        if seconds < CHUNK_SECONDS / 2:
            self.steps *= 2
        elif seconds > CHUNK_SECONDS * 2:
            self.steps = max(1, self.steps // 2)


class _Stopper:
    """Early stopping: the best value so far, and the state of the model there."""

    def __init__(self, rule: EarlyStopping | int | None, validated: bool, score: str) -> None:
        if isinstance(rule, numbers.Integral) and not isinstance(rule, bool):
            patience = integer("early_stopping", rule, 1)
            rule = EarlyStopping(patience=patience, monitor="val_loss" if validated else "loss")
        if rule is not None and not isinstance(rule, EarlyStopping):
            raise TypeError(
                f"early_stopping: expected None, an integer or EarlyStopping, got {rule!r}"
            )
        if rule is not None and rule.monitor.startswith("val_") and not validated:
            raise ValueError(
                f"early_stopping: expected validation_data to monitor {rule.monitor!r}, got none"
            )
        if rule is not None and rule.monitor.removeprefix("val_") not in ("loss", score):
            raise ValueError(
                f"early_stopping: expected to monitor the loss or {score}, got {rule.monitor!r}"
            )
        self._rule = rule
        self._best = math.inf
        self._since = 0
        self._snapshot: Any = None

    def is_due(self, model: Trainee, history: History) -> bool:
        rule = self._rule
        if rule is None:
            return False
        value = getattr(history, rule.monitor)[-1]
        value = value if rule.monitor.endswith("loss") else -value
        if math.isfinite(value) and not self._best - rule.min_delta <= value:
            self._best, self._since = value, 0
            if rule.restore_best:
                self._snapshot = model.snapshot()
        else:
            self._since += 1
        return self._since >= rule.patience

    def finish(self, model: Trainee) -> None:
        if self._snapshot is not None and self._since > 0:
            model.restore(self._snapshot)


class _CtrlC:
    """Context in which the first Ctrl-C sets `pressed`, and the second one interrupts at once."""

    def __init__(self) -> None:
        self.pressed = False
        self._previous: Any = None

    def __enter__(self) -> _CtrlC:
        # signals reach Python's main thread alone, and a forked worker is not ours to steer
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.getsignal(signal.SIGINT)
            if self._previous is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._handle)
            else:
                self._previous = None  # somebody else's handler stays in charge
        return self

    def __exit__(self, *exc: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
