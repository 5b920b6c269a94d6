"""Learning-rate schedules: a learning rate for every step of a fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

from fastbn.checks import choice, number
from fastbn.options import ScheduleName

Schedule = ScheduleName | Callable[[int], float] | None

SCHEDULES: tuple[ScheduleName, ...] = get_args(ScheduleName)

# "one-cycle": rise from lr / RISE_FROM over this fraction of the fit, then fall to
# lr / RISE_FROM / FALL_TO
RISE, RISE_FROM, FALL_TO = 0.3, 25.0, 1e4
# "step": after each of these fractions of the fit, the rate is divided by ten
DROPS = (0.5, 0.75)
# "exponential": the last rate as a fraction of lr
EXPONENTIAL_END = 0.01


def schedule_function(schedule: Schedule, lr: float, total: int) -> Callable[[int], float]:
    """Return the function from step (0 to total - 1) to learning rate.

    None keeps `lr`. "cosine" falls from `lr` to 0 (Loshchilov & Hutter 2017, arXiv 1608.03983).
    "one-cycle" rises from lr / 25 to `lr` over the first 30 % and falls to lr / 250,000, both along
    a cosine (Smith & Topin 2019, arXiv 1708.07120; with the constants of PyTorch). "step" divides
    by ten after half and after three quarters of the steps. "exponential" falls to 1 %. A callable
    gets the step and returns the rate.
    """
    if callable(schedule):
        return lambda step: number("schedule(step)", schedule(step), 0.0)
    choice("schedule", schedule, [None, *SCHEDULES])
    last = max(total - 1, 1)
    if schedule == "cosine":
        return lambda step: _cosine(lr, 0.0, step / total)
    if schedule == "one-cycle":
        # the peak falls on step `rise`, and the end on the last one, as in PyTorch
        rise = RISE * total - 1.0
        start = lr / RISE_FROM

        def one_cycle(step: int) -> float:
            if step < rise:
                return _cosine(start, lr, step / rise)
            return _cosine(lr, start / FALL_TO, (step - rise) / (last - rise))

        return one_cycle
    if schedule == "step":
        return lambda step: lr * 0.1 ** sum(step >= part * total for part in DROPS)
    if schedule == "exponential":
        return lambda step: lr * EXPONENTIAL_END ** (step / last)
    return lambda step: lr


def _cosine(start: float, end: float, part: float) -> float:
    """Return the value at fraction `part` of the way from start to end, along half a cosine."""
    return end + (start - end) * (1.0 + math.cos(math.pi * min(part, 1.0))) / 2.0
