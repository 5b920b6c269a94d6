"""The training loop: epochs, early stopping, history, callbacks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np

from fastbn.errors import DivergenceError
from fastbn.fit.history import FitState, History
from fastbn.fit.interrupt import Signals
from fastbn.fit.plan import Plan, minibatch_bounds
from fastbn.fit.progress import progress_bar
from fastbn.fit.schedules import schedule_function
from fastbn.options import ShowProgress, StopReason

# Duration of one compiled call; Ctrl-C and the progress bar are handled between two calls.
CHUNK_SECONDS = 0.05

# With on_divergence="skip", more consecutive refused steps than this end the fit.
MOST_SKIPPED = 10


class _Trainee(Protocol):
    """The methods of a model that the loop uses; `fastbn.model.engine.Engine` documents them."""

    epochs: int

    def take_steps(
        self, samples: Any, order: np.ndarray, bounds: np.ndarray, lrs: np.ndarray,
        most_refused: int, refused: int,
    ) -> tuple[np.ndarray, np.ndarray]: ...  # fmt: skip
    def order_of(self, epoch: int, n_samples: int, shuffle: bool) -> np.ndarray: ...
    def snapshot(self) -> Any: ...
    def restore(self, snapshot: Any) -> None: ...
    def begin(self, samples: Any) -> None: ...
    def is_finite(self) -> bool: ...
    def nonfinite_layer(self, samples: Any, rows: np.ndarray) -> str: ...


class _Checkpoint(Protocol):
    """The file that stores the loop's state; see `fastbn.model.checkpoint.CheckpointFile`."""

    every: int | None  # steps; None is an epoch

    def apply(self) -> FitState: ...
    def write(self, state: FitState) -> None: ...


Callback = Callable[[Any, History], "bool | None"]


class Fit:
    """One fit of `model` to `samples`; callbacks get its `owner`.

    An epoch's loss is the mean over its samples, weighted by `weight` (samples,), or None for equal
    weights. `evaluate` returns loss and score of the validation data.
    """

    def __init__(
        self, model: _Trainee, samples: Any, n_samples: int, plan: Plan, *, owner: Any,
        weight: np.ndarray | None, evaluate: Callable[[], tuple[float, float]] | None,
        callbacks: Iterable[Callback], checkpoint: _Checkpoint | None,
    ) -> None:  # fmt: skip
        self.model, self.samples, self.n_samples, self.plan = model, samples, n_samples, plan
        self.owner, self.weight, self.evaluate = owner, weight, evaluate
        self.checkpoint = checkpoint
        self.bounds = minibatch_bounds(n_samples, plan.batch_size)
        self.rows = self.bounds[1:] - self.bounds[:-1]
        self.steps = self.rows.size
        self.lr_of = schedule_function(plan.schedule, plan.lr, plan.epochs * self.steps)
        self.constant_lrs = np.full(self.steps, plan.lr) if plan.schedule is None else None
        self.callbacks = list(callbacks) if isinstance(callbacks, Iterable) else []
        if not (isinstance(callbacks, Iterable) and all(map(callable, self.callbacks))):
            raise TypeError(f"callbacks: expected an iterable of callables, got {callbacks!r:.200}")
        self.most_refused = MOST_SKIPPED if plan.on_divergence == "skip" else 0
        self.lr_of(0)  # validate the schedule before changing anything
        self.every = (checkpoint and checkpoint.every) or self.steps  # steps between checkpoints
        self.order = np.zeros(0, np.int64)  # order of the samples in the present epoch
        self.chunk = _Chunk()
        self.state = FitState()
        self.start = 0.0

    def run(self, progress: ShowProgress) -> History:
        """Train until the fit ends or is stopped."""
        with (
            progress_bar(progress, self.plan.epochs * self.steps) as self.bar,
            Signals(terminate=self.checkpoint is not None) as self.signals,
        ):
            if self.checkpoint is not None:
                self.state = self.checkpoint.apply()
            self.model.begin(self.samples)
            state, history = self.state, self.state.history
            self.start = time.perf_counter() - state.seconds
            reason = history.stop_reason if state.is_over else None
            while reason is None:
                reason = self._epoch()
            history.stop_reason = reason
            if not state.is_over:
                self._finish()
        return history

    def _finish(self) -> None:
        """Restore the best epoch, and mark the fit as over unless it was interrupted."""
        state, history = self.state, self.state.history
        is_diverged = history.stop_reason == "diverged"
        if state.best_state is not None and (state.since > 0 or is_diverged):
            self.model.restore(state.best_state)
        if history.stop_reason == "interrupted":
            return  # the checkpoint has been written already
        if not (is_diverged or self.model.is_finite()):  # no step has checked the last update
            history.stop_reason = "diverged"
            if self.plan.on_divergence != "stop":
                raise self._error(history.steps[-1], is_refused=False)
        state.is_over, state.has_begun, state.best_state = True, False, None
        self._save()

    def _epoch(self) -> StopReason | None:
        """Train an epoch or the rest of it; return the stop reason if the fit ends, else None."""
        state, before = self.state, self.state.history.epochs * self.steps
        self.order = self.model.order_of(self.model.epochs, self.n_samples, self.plan.shuffle)
        self.model.epochs += 1
        state.has_begun = True
        while state.losses.size < self.steps and not self.signals.stop_requested:
            done = state.losses.size
            to_save = self.every - (before + done) % self.every
            self.chunk.begin()
            try:
                self._take(min(done + min(self.chunk.steps, to_save), self.steps))
            except DivergenceError:
                if self.plan.on_divergence != "stop":
                    if state.best_state is not None:
                        self.model.restore(state.best_state)
                    raise
                if state.losses.size:
                    self._end_epoch()
                return "diverged"
            self.chunk.end(state.losses.size - done)
            done = state.losses.size
            if self.bar.is_shown:
                is_scored = self.plan.score == "accuracy"
                accuracy = state.correct.sum() / self.bounds[done] if is_scored else None
                self.bar.advance(before + done, state.losses[-1], accuracy)
            if done < self.steps and (before + done) % self.every == 0:
                self._save()
        done = state.losses.size
        if done < self.steps:  # interrupted: save first, so that a resumed fit ends the epoch
            self._save()
            if done and not self.signals.terminated:
                self._end_epoch()
                self._stop_reason()
            return "interrupted"
        self._end_epoch()
        reason = self._stop_reason()
        if reason is not None:
            return reason
        if self.signals.stop_requested:
            self._save()
            return "interrupted"
        if (before + done) % self.every == 0:
            self._save()
        return None

    def _take(self, last: int) -> None:
        """Take the steps of the epoch up to step `last`."""
        state, history, first = self.state, self.state.history, self.state.losses.size
        start = history.epochs * self.steps + first
        if self.constant_lrs is not None:
            lrs = self.constant_lrs[first:last]
        else:
            lrs = np.array([self.lr_of(start + place) for place in range(last - first)])
        losses, correct = self.model.take_steps(
            self.samples, self.order, self.bounds[first : last + 1], lrs,
            self.most_refused, refused_in_a_row(history.skipped, start),
        )  # fmt: skip
        (skipped,) = np.isnan(losses).nonzero()
        if not skipped.size:
            state.note(losses, correct)
            return
        history.skipped.extend((start + 1 + skipped).tolist())
        number = start + losses.size
        if refused_in_a_row(history.skipped, number) <= self.most_refused:
            state.note(losses, correct)
            return
        state.note(losses[:-1], correct[:-1])
        history.skipped.pop()
        history.stop_reason = "diverged"
        raise self._error(number)

    def _error(self, number: int, *, is_refused: bool = True) -> DivergenceError:
        """Return the error for a step, given its number in the fit, from 1."""
        place = (number - 1) % self.steps
        rows = self.order[self.bounds[place] : self.bounds[place + 1]]
        layer = self.model.nonfinite_layer(self.samples, rows)
        is_restored = is_refused and self.state.best_state is not None
        return DivergenceError(number, layer, self.state.history, is_refused, is_restored)

    def _end_epoch(self) -> None:
        """Add the epoch, or the trained part of it, to the history."""
        state, history, done = self.state, self.state.history, self.state.losses.size
        losses, correct = state.losses, state.correct
        state.losses, state.correct, state.has_begun = np.zeros(0), np.zeros(0, np.int64), False
        before = history.epochs * self.steps
        rows = shares = self.rows[:done]
        n = int(self.bounds[done])  # samples of the steps that were taken
        if self.weight is not None:
            shares = np.add.reduceat(self.weight[self.order[:n]], self.bounds[:done])
        add = np.add.reduce  # not by BLAS, whose order depends on threads
        if history.skipped and history.skipped[-1] > before:  # a step of this epoch
            taken = np.isfinite(losses)
            n, shares = int((rows * taken).sum()), shares * taken
            total = add(losses * shares, where=taken)
        else:
            total = add(losses * shares)
        weight = n if self.weight is None else add(shares)
        history.loss.append(float(total / max(weight, 1e-300)) if n else math.nan)
        if self.plan.score == "accuracy":
            history.accuracy.append(float(add(correct) / max(n, 1)))
        step = before + done
        history.lr.append(float(self.lr_of(step - 1)))
        history.steps.append(step)
        if self.evaluate is not None:
            val_loss, val_score = self.evaluate()
            history.val_loss.append(val_loss)
            getattr(history, f"val_{self.plan.score}").append(val_score)
        state.seconds = time.perf_counter() - self.start
        history.seconds.append(state.seconds)

    def _stop_reason(self) -> StopReason | None:
        """Return why training ends after this epoch, or None. Every callback is called."""
        history, plan = self.state.history, self.plan
        results = [callback(self.owner, history) for callback in self.callbacks]
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
        """Update the best epoch of early stopping with the last one."""
        rule, state = self.plan.early_stopping, self.state
        if rule is None:
            return
        value = getattr(state.history, rule.monitor)[-1]
        value = value if rule.monitor.endswith("loss") else -value
        # the score may be finite while the loss is NaN
        losses = [value, *state.history.val_loss[-1:]]
        improves = all(map(math.isfinite, losses)) and not state.best - rule.min_delta <= value
        if improves and self.model.is_finite():
            state.best, state.since = value, 0
            if rule.restore_best:
                state.best_state = None  # frees its memory before the next copy
                state.best_state = self.model.snapshot()
        else:
            state.since += 1

    def _save(self) -> None:
        """Write a checkpoint if all numbers of the model are finite."""
        if self.checkpoint is not None and self.model.is_finite():
            self.state.seconds = time.perf_counter() - self.start
            self.checkpoint.write(self.state)


def refused_in_a_row(skipped: list[int], step: int) -> int:
    """Return the number of consecutive skipped steps up to and including `step`."""
    count = 0
    while count < len(skipped) and skipped[-1 - count] == step - count:
        count += 1
    return count


class _Chunk:
    """The number of steps per compiled call, adapted so that a call takes about CHUNK_SECONDS."""

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
