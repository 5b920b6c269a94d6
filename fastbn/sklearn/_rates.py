"""Learning rates as scikit-learn's `learning_rate` and the model's schedules give them."""

from __future__ import annotations

from typing import Any

from fastbn.fit.schedules import Schedule, schedule_function

# What "adaptive" divides by, and the rate below which it gives up: scikit-learn's.
DIVISOR, LOWEST = 5.0, 1e-6


class Rate:
    """A learning rate by step, for `BatchNormMLP.fit`."""

    schedule: Schedule = None
    current: float | None = None  # what a later `partial_fit` begins with
    why = "Stopping."

    def slow_down(self) -> float | None:
        """Return the lower rate to go on at where training no longer improves; None to stop."""
        return None


class Scheduled(Rate):
    """Constant, or one of the model's schedules."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule


class InverseScaling(Rate):
    """``rate / (samples seen + 1) ** power``, anew after each epoch.

    The first epoch of all has the rate itself, and so has the first of a fit, unlike `partial_fit`.
    """

    def __init__(
        self, rate: float, power: float, n_samples: int, steps: int, seen: int, goes_on: bool
    ) -> None:
        def schedule(step: int) -> float:
            samples = seen + step // steps * n_samples
            return rate / (samples + 1) ** power if step >= steps or goes_on else rate

        self.schedule = schedule


class Adaptive(Rate):
    """Divided by five whenever training no longer improves."""

    why = "Learning rate too small. Stopping."

    def __init__(self, rate: float) -> None:
        self.current: float = rate
        self.schedule = lambda step: self.current

    def slow_down(self) -> float | None:
        """Divide the rate, unless it is low already."""
        if self.current <= LOWEST:
            return None
        self.current /= DIVISOR
        return self.current


def rate_of(
    estimator: Any, n_samples: int, steps: int, seen: int, steps_before: int | None
) -> Rate:
    """Return the learning rate of a fit; only SGD has scikit-learn's ways of lowering it.

    `partial_fit` goes on where the call before ended: `steps_before` are the steps until then.
    """
    first, goes_on = float(estimator.learning_rate_init), bool(steps_before)
    if estimator.solver == "sgd" and estimator.learning_rate == "invscaling":
        return InverseScaling(first, estimator.power_t, n_samples, steps, seen, goes_on)
    if estimator.solver == "sgd" and estimator.learning_rate == "adaptive":
        current = getattr(estimator, "_learning_rate", None) if goes_on else None
        return Adaptive(current or first)
    if estimator.schedule is None or steps_before is None:
        return Scheduled(estimator.schedule)
    function = schedule_function(estimator.schedule, first, estimator.max_iter * steps)
    return Scheduled(lambda step: function(steps_before + step))
