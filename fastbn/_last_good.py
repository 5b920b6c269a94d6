"""The way back from a step that leads to no number.

A fit takes a snapshot of the model now and then, and remembers the steps since. They are the same
to the bit whenever they are taken, so that any state since then can be gone back to.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

# A snapshot is due when so many times the time that the last one took have gone by, and at the
# latest after so many seconds: what has to be remembered, and taken again, stays small.
SELDOM = 50.0
LATEST = 10.0

Call = tuple[np.ndarray, np.ndarray, np.ndarray]  # order, bounds and rates of some steps


@dataclasses.dataclass
class _Point:
    """A snapshot, and the calls that came after it."""

    snapshot: Any
    calls: list[Call] = dataclasses.field(default_factory=list)

    def steps(self) -> list[Call]:
        """Return the calls' steps as calls of one step each."""
        return [
            (order, bounds[step : step + 2], lrs[step : step + 1])
            for order, bounds, lrs in self.calls
            for step in range(len(lrs))
        ]


class LastGood:
    """Takes a model's steps, and goes back to before one of them."""

    def __init__(self, model: Any, samples: Any) -> None:
        self._model, self._samples = model, samples
        self._now = _Point(model.snapshot())
        # The point before, whose last step leads to `_now`: until a loss has been computed of that.
        self._before: _Point | None = None
        self._due = 0.0

    def take(
        self, order: np.ndarray, bounds: np.ndarray, lrs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Take steps; return their losses and hits."""
        if time.perf_counter() >= self._due:
            self.note()
        call = order, bounds, lrs
        self._now.calls.append(call)
        losses, correct = self._model.run_steps(self._samples, *call)
        if np.isfinite(losses[0]):
            self._before = None
        return losses, correct

    def note(self) -> None:
        """Take a snapshot, unless the model has gone wrong already, which is then found out."""
        start = time.perf_counter()
        if self._model.is_finite():
            if self._now.calls:
                self._before = self._now
            self._now = _Point(self._model.snapshot())
        now = time.perf_counter()
        self._due = now + min(SELDOM * (now - start), LATEST)

    def recover(self, bad: int | None) -> tuple[int, str]:
        """Find the step that has to be left out, and bring the model to where it was before it.

        Parameters
        ----------
        bad : int, optional
            The step of the last call whose loss is not finite. None: all are, and the model is not.

        Returns
        -------
        step : int
            Number of the step in the last call; it is negative where it was in a call before. It is
            the one after which the model is not finite; or the one before the bad loss, if without
            it that loss is finite; or else the one of the bad loss.
        layer : str
            The first layer whose numbers are not finite, or "loss".
        """
        steps = self._now.steps()
        earlier = len(steps) - len(self._now.calls[-1][2])
        end = len(steps) if bad is None else earlier + bad
        before: Any = None
        last: Any = None
        if end == 0:
            before, last = self._one_before()
        self._model.restore(self._now.snapshot)
        for number, last in enumerate(steps[:end]):
            before = self._model.snapshot()
            self._model.run_steps(self._samples, *last)
            if not self._model.is_finite():
                return self._leave_out(number - earlier, before, last)
        if bad is None:  # no loss has been computed of the last parameters, and none is to be had
            return self._leave_out(end - 1 - earlier, before, last)
        now, layer = self._model.snapshot(), self._culprit(steps[end])
        if before is not None:
            self._model.restore(before)
            losses, _ = self._model.run_steps(self._samples, *steps[end])
            if np.isfinite(losses[0]) and self._model.is_finite():
                self._model.restore(before)
                self._now, self._before = _Point(before), None
                return bad - 1, layer
        self._model.restore(now)
        self._now = _Point(now)
        self._before = None if before is None else _Point(before, [last])
        return bad, layer

    def _one_before(self) -> tuple[Any, Any]:
        """Return the state one step before the last snapshot, if it is known, and that step."""
        if self._before is None:
            return None, None
        *steps, last = self._before.steps()
        self._model.restore(self._before.snapshot)
        for step in steps:
            self._model.run_steps(self._samples, *step)
        return self._model.snapshot(), last

    def _leave_out(self, number: int, before: Any, step: Call) -> tuple[int, str]:
        """Go back to before a step after which the model is not good."""
        layer = self._culprit(step)
        self._model.restore(before)
        self._now, self._before = _Point(before), None
        return number, layer

    def _culprit(self, step: Call) -> str:
        order, bounds, _ = step
        layer: str = self._model.culprit(self._samples, order[bounds[0] : bounds[1]])
        return layer
