"""The learning rate of each step, from scikit-learn's `learning_rate` or the model's `schedule`."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastbn.fit.schedules import Schedule, schedule_function

# scikit-learn's "adaptive" divides the rate by DIVISOR, and stops at LOWEST.
DIVISOR, LOWEST = 5.0, 1e-6


@dataclasses.dataclass
class Rate:
    """The learning rate of a fit; `current` is the rate of "adaptive", else None."""

    schedule: Schedule = None
    current: float | None = None

    def slow_down(self) -> tuple[bool, str]:
        """Lower the rate, unless the fit stops; return whether it does, and the text to print."""
        if self.current is None:
            return True, "Stopping."
        if self.current <= LOWEST:
            return True, "Learning rate too small. Stopping."
        self.current /= DIVISOR
        return False, f"Setting learning rate to {self.current:f}"


def rate_of(
    estimator: Any, n_samples: int, steps: int, seen: int, steps_before: int | None
) -> Rate:
    """Return the learning rate of a fit with `steps` steps an epoch, after `seen` samples.

    `steps_before` is the number of earlier steps if `partial_fit` continues from there, or None.
    """
    first, continues = float(estimator.learning_rate_init), bool(steps_before)
    learning_rate = estimator.learning_rate if estimator.solver == "sgd" else "constant"
    if learning_rate == "invscaling":
        power: float = estimator.power_t

        def inverse_scaling(step: int) -> float:
            # it changes after each epoch; in the first epoch of a fit it is `learning_rate_init`
            if step < steps and not continues:
                return first
            return first / (seen + step // steps * n_samples + 1) ** power

        return Rate(inverse_scaling)
    if learning_rate == "adaptive":
        current = getattr(estimator, "_learning_rate", None) if continues else None
        rate = Rate(current=current or first)
        rate.schedule = lambda step: rate.current  # type: ignore[assignment, return-value]
        return rate
    if estimator.schedule is None or steps_before is None:
        return Rate(estimator.schedule)
    function = schedule_function(estimator.schedule, first, estimator.max_iter * steps)
    return Rate(lambda step: function(steps_before + step))
