"""Learning rates as scikit-learn's `learning_rate` and the model's schedules give them."""

from __future__ import annotations

from typing import Any

from fastbn.schedules import Schedule

# What "adaptive" divides by, and the rate below which it gives up: scikit-learn's.
DIVISOR, LOWEST = 5.0, 1e-6


class Rate:
    """A learning rate by step, for `BatchNormMLP.fit`."""

    schedule: Schedule = None

    def slow_down(self) -> bool:
        """Go on at a lower rate where training no longer improves; False where it has to stop."""
        return False


class Scheduled(Rate):
    """Constant, or one of the model's schedules."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule


class InverseScaling(Rate):
    """``rate / (samples seen + 1) ** power``, anew after each epoch."""

    def __init__(self, rate: float, power: float, n_samples: int, steps: int, seen: int) -> None:
        def schedule(step: int) -> float:
            samples = seen + step // steps * n_samples
            return rate / (samples + 1) ** power if step >= steps else rate

        self.schedule = schedule


class Adaptive(Rate):
    """Divided by five whenever training no longer improves."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self.schedule = lambda step: self._rate

    def slow_down(self) -> bool:
        """Divide the rate, unless it is low already."""
        if self._rate <= LOWEST:
            return False
        self._rate /= DIVISOR
        return True


def rate_of(estimator: Any, n_samples: int, steps: int, seen: int) -> Rate:
    """Return the learning rate of a fit; only SGD has scikit-learn's ways of lowering it."""
    first = float(estimator.learning_rate_init)
    if estimator.solver == "sgd" and estimator.learning_rate == "invscaling":
        return InverseScaling(first, estimator.power_t, n_samples, steps, seen)
    if estimator.solver == "sgd" and estimator.learning_rate == "adaptive":
        return Adaptive(first)
    return Scheduled(estimator.schedule)
