"""The way back from a loss that is not finite.

A fit takes a snapshot of the model now and then, and remembers the calls since. Steps are the same
to the bit whenever they are taken, so that any step since then can be gone back to.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

# A snapshot is due when so many times the time that the last one took have gone by.
SELDOM = 50.0

Call = tuple[np.ndarray, np.ndarray, np.ndarray]  # order, bounds and rates of some steps


class LastGood:
    """Takes a model's steps, and goes back by some of them."""

    def __init__(self, model: Any, samples: Any) -> None:
        self._model, self._samples = model, samples
        # Snapshots and the calls since. The last one is of parameters that no loss has been
        # computed of yet; where there are two, the one before is known to be good.
        self._points: list[tuple[Any, list[Call]]] = []
        self._due = 0.0

    def take(
        self, order: np.ndarray, bounds: np.ndarray, lrs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Take steps; return their losses and hits."""
        if time.perf_counter() >= self._due:
            self._note(always=not self._points)
        call = order, bounds, lrs
        for _, calls in self._points:
            calls.append(call)
        losses, correct = self._model.run_steps(self._samples, *call)
        if len(self._points) > 1 and np.isfinite(losses[0]):
            del self._points[0]
        return losses, correct

    def rewind(self, steps: int) -> None:
        """Bring the model to where it was after `steps` steps of the last call.

        A snapshot of one step before is kept: its loss was finite.
        """
        snapshot, calls = self._points[0]
        steps += sum(len(lrs) for _, _, lrs in calls[:-1])
        self._model.restore(snapshot)
        last: list[Call] = []
        for order, bounds, lrs in calls:
            n = min(steps, len(lrs))
            steps -= n
            if n == 0:
                continue
            before = n - (steps == 0)
            if before:
                self._model.run_steps(self._samples, order, bounds[: before + 1], lrs[:before])
            if before < n:
                last = [(order, bounds[before : n + 1], lrs[before:n])]
        self._points.clear()
        self._note(always=True)
        if last:
            self._points[0][1].extend(last)
            self._model.run_steps(self._samples, *last[0])

    def finite_steps(self) -> int:
        """Return after how many steps of the last call, one more, the model is no longer finite.

        It is negative where that was before the last call. The model is left anywhere.
        """
        snapshot, calls = self._points[0]
        self._model.restore(snapshot)
        before = sum(len(lrs) for _, _, lrs in calls[:-1])
        steps = -before
        for order, bounds, lrs in calls:
            for k in range(len(lrs)):
                one = slice(k, k + 1)
                self._model.run_steps(self._samples, order, bounds[k : k + 2], lrs[one])
                if not self._model.is_finite():
                    return steps
                steps += 1
        return steps

    def retreat(self) -> None:
        """Bring the model to the parameters of the last finite loss, after `rewind`."""
        snapshot, calls = self._points[0]
        self._model.restore(snapshot)
        calls.clear()

    def _note(self, always: bool) -> None:
        """Take a snapshot, but of a model that has gone wrong already only where it has to be."""
        start = time.perf_counter()
        if always or self._model.is_finite():
            self._points.append((self._model.snapshot(), []))
        now = time.perf_counter()
        self._due = now + SELDOM * (now - start)
