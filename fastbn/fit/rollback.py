"""The way back from a step that leads to no number.

A fit takes a snapshot of the model now and then, and remembers the steps since. They are the same
to the bit whenever they are taken, so that any state since then can be gone back to.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# A snapshot is due when so many times the time that the last one took have gone by, and at the
# latest after so many seconds: what has to be remembered, and taken again, stays small.
SELDOM = 50.0
LATEST = 10.0


class Call(NamedTuple):
    """Steps of an epoch of the model's; the first is the fit's step number `step`, from 0."""

    step: int
    epoch: int
    bounds: np.ndarray
    lrs: np.ndarray

    def one(self, place: int) -> Call:
        """Return one of the steps."""
        bounds = self.bounds[place : place + 2]
        return Call(self.step + place, self.epoch, bounds, self.lrs[place : place + 1])


@dataclasses.dataclass
class _Point:
    """A snapshot, and the calls that came after it."""

    snapshot: Any
    calls: list[Call] = dataclasses.field(default_factory=list)

    def steps(self) -> list[Call]:
        return [call.one(place) for call in self.calls for place in range(len(call.lrs))]


class LastGood:
    """Takes a model's steps, and goes back to before one of them."""

    def __init__(
        self, model: Any, samples: Any, order_of: Callable[[int], np.ndarray], step: int = 0
    ) -> None:
        """`order_of` gives the samples' order in an epoch; `step` is the next one."""
        self._model, self._samples, self._order_of = model, samples, order_of
        self._drawn = -1, np.zeros(0, np.int64)  # an epoch and its order
        self._step = step
        start = time.perf_counter()
        self._now = _Point(model.snapshot())
        # The point before, whose last step leads to `_now`: until a loss has been computed of that.
        self._before: _Point | None = None
        self._sane: tuple[Call, np.ndarray] | None = None  # the last steps that had losses
        self._due = self._next_time(start)

    def take(
        self, step: int, epoch: int, bounds: np.ndarray, lrs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Take steps, from number `step` on; return their losses and hits."""
        if time.perf_counter() >= self._due:
            self.note()
        call = Call(step, epoch, bounds, lrs)
        self._now.calls.append(call)
        losses, correct = self._run(call)
        self._step = step + lrs.size
        finite = np.isfinite(losses)
        if finite.any():
            self._sane = call, finite
        if finite[0]:
            self._before = None
        return losses, correct

    def note(self, *, changed: bool = False) -> None:
        """Take a snapshot, unless the model has gone wrong already, which is then found out.

        Where nothing has come since the last one it is still good, but of a model that somebody
        else has changed.
        """
        start = time.perf_counter()
        if (self._now.calls or changed) and self._model.is_finite():
            if self._now.calls:
                self._before = self._now
            self._now = _Point(self._model.snapshot())
        self._due = self._next_time(start)

    def order(self, epoch: int) -> np.ndarray:
        """Return the order of the samples in an epoch of the model's."""
        if epoch != self._drawn[0]:
            self._drawn = epoch, self._order_of(epoch)
        return self._drawn[1]

    def is_sane(self) -> bool:
        """Tell whether the parameters are good, of which no loss may have been computed yet.

        A minibatch that had a loss has to have one again.
        """
        if not self._model.is_finite():
            return False
        if self._sane is None or not (self._now.calls or self._before):
            return True
        call, finite = self._sane
        return self._has_loss(self._rows(call.one(int(np.flatnonzero(finite)[-1]))))

    def leads_on(self, epoch: int, bounds: np.ndarray) -> bool:
        """Tell whether the next step is going to have a loss, on a minibatch of an epoch.

        No step before it can be to blame for anything then, and a fit may go on from here without
        knowing them.
        """
        return self._model.is_finite() and self._has_loss(self.order(epoch)[bounds[0] : bounds[1]])

    def _has_loss(self, rows: np.ndarray) -> bool:
        return math.isfinite(self._model.next_loss(self._samples, rows))

    def recover(self, bad: int | None) -> tuple[int, str]:
        """Find the step that has to be left out, and bring the model to where it was before it.

        Nobody but the fit is looked for: what a callback has made of the model is undone, too.

        Parameters
        ----------
        bad : int, optional
            The step whose loss is not finite, in the last call. None: the model has gone wrong, and
            all losses are finite.

        Returns
        -------
        step : int
            The one after which the model is not finite; or the one before the bad loss, if without
            it that loss is finite; or else the one of the bad loss.
        layer : str
            The first layer whose numbers are not finite, or "loss".
        """
        steps = self._now.steps()
        ends = [place for place, step in enumerate(steps) if step.step == bad]
        end = ends[-1] if ends else len(steps)
        before: Any = None
        last: Any = None
        if end == 0 and bad is None and self._before is None:  # there is no step to leave out
            layer = self._model.culprit(self._samples, np.zeros(2, np.int64))
            self._model.restore(self._now.snapshot)
            return max(self._step - 1, 0), layer
        if end == 0:
            before, last = self._one_before()
        self._model.restore(self._now.snapshot)
        for last in steps[:end]:
            before = self._model.snapshot()
            self._run(last)
            if not self._model.is_finite():
                return self._leave_out(before, last)
        if bad is None:  # no loss has been computed of the last parameters, and none is to be had
            return self._leave_out(before, last)
        now, layer = self._model.snapshot(), self._culprit(steps[end])
        if before is not None:
            self._model.restore(before)
            losses, _ = self._run(steps[end])
            if np.isfinite(losses[0]) and self._model.is_finite():
                self._model.restore(before)
                self._now, self._before = _Point(before), None
                return last.step, layer
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
            self._run(step)
        return self._model.snapshot(), last

    def _leave_out(self, before: Any, step: Call) -> tuple[int, str]:
        """Go back to before a step after which the model is not good."""
        layer = self._culprit(step)
        self._model.restore(before)
        self._now, self._before = _Point(before), None
        return step.step, layer

    def _run(self, call: Call) -> tuple[np.ndarray, np.ndarray]:
        result: tuple[np.ndarray, np.ndarray] = self._model.run_steps(
            self._samples, self.order(call.epoch), call.bounds, call.lrs
        )
        return result

    def _rows(self, call: Call) -> np.ndarray:
        return self.order(call.epoch)[call.bounds[0] : call.bounds[-1]]

    def _culprit(self, step: Call) -> str:
        layer: str = self._model.culprit(self._samples, self._rows(step))
        return layer

    @staticmethod
    def _next_time(start: float) -> float:
        now = time.perf_counter()
        return now + min(SELDOM * (now - start), LATEST)
