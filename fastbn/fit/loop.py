"""Epochs: minibatches, early stopping, history, callbacks. It trains anything that is a Trainee."""

from __future__ import annotations

import dataclasses
import math
import numbers
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np

from fastbn.checks import choice, integer
from fastbn.errors import DivergenceError
from fastbn.fit.history import EarlyStopping, FitState, History
from fastbn.fit.interrupt import Signals
from fastbn.fit.progress import progress_bar
from fastbn.fit.rollback import LastGood
from fastbn.fit.schedules import Schedule, schedule_function

__all__ = ["Callback", "EarlyStopping", "History", "Plan", "Trainee", "minibatch_bounds", "train"]

# Seconds between two looks at Ctrl-C and the progress bar.
CHUNK_SECONDS = 0.05

# With on_divergence="skip", so many steps on end whose loss is not finite are the end all the same.
MOST_SKIPPED = 10


class Trainee(Protocol):
    """What `train` needs of a model."""

    def run_steps(
        self, samples: Any, order: np.ndarray, bounds: np.ndarray, lrs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Train on the minibatches; return each one's loss and number of hits."""

    epochs: int

    def order_of(self, epoch: int, n_samples: int, shuffle: bool) -> np.ndarray:
        """Return the order of the samples in an epoch, counted from 0 over all fits."""

    def snapshot(self) -> Any:
        """Return a copy of the state that `restore` takes."""

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot."""

    def begin(self, samples: Any) -> None:
        """Take over what comes with the samples, before a fit or its first snapshot."""

    def is_finite(self) -> bool:
        """Tell whether all of the state are numbers."""

    def next_loss(self, samples: Any, rows: np.ndarray) -> float:
        """Return the loss of the next step if it were on some rows; nothing is changed."""

    def culprit(self, samples: Any, rows: np.ndarray) -> str:
        """Name the first layer whose numbers are not finite on a minibatch."""


class Checkpoint(Protocol):
    """Where `train` keeps its state."""

    every: int | None  # steps; None is an epoch

    def apply(self) -> FitState:
        """Bring the model to where the fit goes on, and return the state of that."""

    def write(self, state: FitState) -> None:
        """Write the model and the state of its fit."""


Callback = Callable[[Any, History], "bool | None"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a fit is asked for; `score` is that of validation, "accuracy" or "r2"."""

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


def train(
    model: Trainee,
    samples: Any,
    n_samples: int,
    plan: Plan,
    *,
    owner: Any,
    weight: np.ndarray | None,
    evaluate: Callable[[], tuple[float, float]] | None,
    callbacks: Iterable[Callback],
    progress: bool | str,
    checkpoint: Checkpoint | None = None,
) -> History:
    """Train `model` on `samples`; `evaluate` gives loss and score on validation data.

    Callbacks get the `owner`, whose trainee it is. An epoch's loss is the mean over its samples by
    their `weight` (samples,), None for equal ones.
    """
    fit = _Fit(model, samples, n_samples, plan, owner, weight, evaluate, callbacks, checkpoint)
    return fit.run(progress)


class _Fit:
    """A fit: what it is of, and its loop."""

    def __init__(
        self, model: Trainee, samples: Any, n_samples: int, plan: Plan, owner: Any,
        weight: np.ndarray | None, evaluate: Callable[[], tuple[float, float]] | None,
        callbacks: Iterable[Callback], checkpoint: Checkpoint | None,
    ) -> None:  # fmt: skip
        self.owner = owner
        self.model, self.samples, self.n_samples, self.plan = model, samples, n_samples, plan
        self.weight, self.evaluate, self.checkpoint = weight, evaluate, checkpoint
        self.bounds = minibatch_bounds(n_samples, plan.batch_size)
        self.rows = np.diff(self.bounds)
        self.steps = self.rows.size
        self.lr_of = schedule_function(plan.schedule, plan.lr, plan.epochs * self.steps)
        self.callbacks = _callables(callbacks)
        self.lr_of(0)  # a schedule that cannot say is refused before anything is changed
        self.every = (checkpoint and checkpoint.every) or self.steps  # between two checkpoints
        self.is_due = False  # a checkpoint
        self.chunk = _Chunk()
        self.state = FitState()
        self.start = 0.0

    def run(self, progress: bool | str) -> History:
        """Train to the end, or to where the fit is stopped."""
        with (
            progress_bar(progress, self.plan.epochs * self.steps) as self.bar,
            Signals(terminate=self.checkpoint is not None) as self.signals,
        ):
            if self.checkpoint is not None:
                self.state = self.checkpoint.apply()
            self.model.begin(self.samples)
            state, history = self.state, self.state.history
            step = history.epochs * self.steps + state.losses.size
            self.good = LastGood(self.model, self.samples, self._order_of, step)
            self.start = time.perf_counter() - state.seconds
            reason = history.stop_reason if state.is_over else None
            while reason is None:
                reason = self._epoch()
            history.stop_reason = reason
            if not state.is_over:
                self._finish()
        return history

    def _finish(self) -> None:
        """Go back to the best epoch; a fit that was not interrupted is over."""
        state, history = self.state, self.state.history
        is_diverged = history.stop_reason == "diverged"
        goes_back = state.best_state is not None and (state.since > 0 or is_diverged)
        if goes_back:
            self.model.restore(state.best_state)
        if history.stop_reason == "interrupted":
            return  # the checkpoint is of where the fit can go on
        if not (goes_back or self.good.is_sane()):
            try:
                self._leave_out(*self.good.recover(None))
            except DivergenceError:
                if self.plan.on_divergence != "stop":
                    raise
        state.is_over, state.has_begun, state.best_state = True, False, None
        self._save()

    def _order_of(self, epoch: int) -> np.ndarray:
        return self.model.order_of(epoch, self.n_samples, self.plan.shuffle)

    def _epoch(self) -> str | None:
        """Train an epoch, or what is left of it; return why the fit ends with it, if it does."""
        state, before = self.state, self.state.history.epochs * self.steps
        epoch = self.model.epochs
        self.model.epochs += 1
        state.has_begun = True
        while state.losses.size < self.steps and not (
            self.signals.stop_requested and self._leads_on()
        ):
            done = state.losses.size
            at_most = self.every - (before + done) % self.every
            if self.is_due or self.signals.stop_requested:
                at_most = 1
            self.chunk.begin()
            try:
                self._take(epoch, min(done + min(self.chunk.steps, at_most), self.steps))
            except DivergenceError:
                if self.plan.on_divergence != "stop":
                    raise
                if state.losses.size:
                    self._end_epoch(epoch)
                    self._note_best()
                return "diverged"
            self.chunk.end(state.losses.size - done)
            done = state.losses.size
            is_scored = self.plan.score == "accuracy"
            accuracy = state.correct.sum() / self.bounds[done] if is_scored else None
            self.bar.advance(before + done, state.losses[-1], accuracy)
            if done < self.steps:
                self._save_if_due(before + done)
        done = state.losses.size
        if done < self.steps:  # a signal: a fit that goes on ends the epoch itself
            self._save()
            if done and not self.signals.terminated:
                self._end_epoch(epoch)
                self._stop_reason()
            return "interrupted"
        self._end_epoch(epoch)
        reason = self._stop_reason()
        if reason is not None:
            return reason
        if self.signals.stop_requested and self._leads_on():
            self._save()
            return "interrupted"
        self._save_if_due(before + done)
        return None

    def _leads_on(self) -> bool:
        """Tell whether the fit can go on from here without knowing what came before."""
        done, epoch = self.state.losses.size, self.model.epochs - self.state.has_begun
        return self.good.leads_on(epoch, self.bounds[done : done + 2])

    def _take(self, epoch: int, last: int) -> None:
        """Take steps of the epoch, up to step `last`; one that is left out has no loss."""
        state, first = self.state, self.state.losses.size
        before = state.history.epochs * self.steps
        start, lrs = first, np.array([self.lr_of(before + step) for step in range(first, last)])
        while first < last:
            bounds = self.bounds[first : last + 1]
            losses, correct = self.good.take(before + first, epoch, bounds, lrs[first - start :])
            good = np.isfinite(losses)
            looks = (
                self.plan.on_divergence == "skip"
                or last == self.steps
                or self.signals.stop_requested
            )
            if good.all() and (not looks or self.model.is_finite()):
                state.note(losses, correct)
                return
            step, layer = self.good.recover(
                None if good.all() else before + first + int(good.argmin())
            )
            kept = max(step - before - first, 0)
            state.note(losses[:kept], correct[:kept])
            self._leave_out(step, layer)
            first = state.losses.size

    def _leave_out(self, step: int, layer: str) -> None:
        """Skip a step, which the model is before now, or end the fit there."""
        state, history = self.state, self.state.history
        place, number = step - history.epochs * self.steps, step + 1
        too_many = _run_length({*history.skipped, number}, number) > MOST_SKIPPED
        if self.plan.on_divergence != "skip" or too_many:
            state.cut(max(place, 0))
            history.stop_reason = "diverged"
            raise DivergenceError(number, layer, history)
        history.skipped.append(number)
        state.skip(place)

    def _end_epoch(self, epoch: int) -> None:
        """Note what the epoch came to, or the part of it that was trained."""
        state, history, done = self.state, self.state.history, self.state.losses.size
        losses, correct = state.losses, state.correct
        state.losses, state.correct, state.has_begun = np.zeros(0), np.zeros(0, np.int64), False
        taken = np.isfinite(losses)
        rows = self.rows[:done] * taken
        shares = rows
        if self.weight is not None:
            seen = self.weight[self.good.order(epoch)[: self.bounds[done]]]
            shares = np.add.reduceat(seen, self.bounds[:done]) * taken
        total = (losses * shares).sum(where=taken)  # a BLAS sums by its threads
        history.loss.append(float(total / max(shares.sum(), 1e-300)) if taken.any() else math.nan)
        if self.plan.score == "accuracy":
            history.accuracy.append(float(correct.sum() / max(rows.sum(), 1)))
        step = history.epochs * self.steps - (self.steps - done)
        history.lr.append(float(self.lr_of(step - 1)))
        history.steps.append(step)
        if self.evaluate is not None:
            val_loss, val_score = self.evaluate()
            history.val_loss.append(val_loss)
            getattr(history, f"val_{self.plan.score}").append(val_score)
        state.seconds = time.perf_counter() - self.start
        history.seconds.append(state.seconds)

    def _stop_reason(self) -> str | None:
        """Why training ends after this epoch; None if it goes on. Every callback is called."""
        history, plan = self.state.history, self.plan
        results = [callback(self.owner, history) for callback in self.callbacks]
        if any(getattr(callback, "changes_model", True) for callback in self.callbacks):
            self.good.note(changed=True)
        stops = [isinstance(result, bool | np.bool_) and bool(result) for result in results]
        if plan.until_accuracy is not None and history.accuracy[-1] > plan.until_accuracy:
            return "until_accuracy"
        self._note_best()
        if plan.early_stopping is not None and self.state.since >= plan.early_stopping.patience:
            return "early_stopping"
        if any(stops):
            return "callback"
        return "epochs" if history.epochs == plan.epochs else None

    def _note_best(self) -> None:
        """Look whether the last epoch is the best one so far."""
        rule, state = self.plan.early_stopping, self.state
        if rule is None:
            return
        value = getattr(state.history, rule.monitor)[-1]
        value = value if rule.monitor.endswith("loss") else -value
        losses = [value, *state.history.val_loss[-1:]]  # a score may be one of no numbers
        improves = all(map(math.isfinite, losses)) and not state.best - rule.min_delta <= value
        if improves and self.good.is_sane():
            state.best, state.since = value, 0
            if rule.restore_best:
                state.best_state = None  # before there is another
                state.best_state = self.model.snapshot()
        else:
            state.since += 1

    def _save_if_due(self, step: int) -> None:
        """Write a checkpoint after so many steps, or as soon as the fit can go on from one."""
        self.is_due |= self.checkpoint is not None and step % self.every == 0
        if self.is_due and self._leads_on():
            self._save()

    def _save(self) -> None:
        """Write a checkpoint."""
        self.is_due = False
        if self.checkpoint is not None:
            self.state.seconds = time.perf_counter() - self.start
            self.checkpoint.write(self.state)


def _run_length(numbers: set[int], number: int) -> int:
    """Return how many numbers on end there are, with `number` among them."""
    first = last = number
    while first - 1 in numbers:
        first -= 1
    while last + 1 in numbers:
        last += 1
    return last - first + 1


def _callables(callbacks: Iterable[Callback]) -> list[Callback]:
    if not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks: expected an iterable of callables, got {callbacks!r:.200}")
    callbacks = list(callbacks)
    for callback in callbacks:
        if not callable(callback):
            raise TypeError(f"callbacks: expected callables, got {callback!r:.200}")
    return callbacks


class _Chunk:
    """How many steps to run in one compiled call: about CHUNK_SECONDS' worth."""

    def __init__(self) -> None:
        self.steps = 1
        self._start = 0.0

    def begin(self) -> None:
        self._start = time.perf_counter()

    def end(self, steps: int) -> None:
        seconds = time.perf_counter() - self._start
        if seconds < CHUNK_SECONDS / 2 and steps >= self.steps:
            self.steps *= 2
        elif seconds > CHUNK_SECONDS * 2:
            self.steps = max(1, self.steps // 2)
