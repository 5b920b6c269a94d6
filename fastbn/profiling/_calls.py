"""What calls from Python take beyond the compiled code that does the same work."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from fastbn.model import BatchNormMLP
from fastbn.model.edges import logits_row_by_row
from fastbn.parallel.cores import at_most
from fastbn.profiling._runner import Runner

ROUNDS = 15  # each measures all calls, one after the other
EPOCH_STEPS = 2  # of a fit
ROUND_SECONDS, FEWEST_STEPS, MOST_STEPS = 2e-3, 4, 50  # of `train_step` in a round
ROWS = 50  # predicted in a round

# Rounds before them, until training has chosen its number of threads (`fastbn.parallel.choice`).
FIRST_ROUNDS = 6

# With longer steps nothing is measured: calls add a few hundredths to them at most, and the time of
# a step varies by as much.
LONGEST_STEP = 5e-3


@dataclasses.dataclass(frozen=True)
class CallCosts:
    """Seconds that calls take beyond compiled code: medians of differences of neighbouring calls.

    A small difference of two long times may be negative. All calls use the same data.
    """

    train_step: float  # beyond a step in one call of many steps
    epoch: float  # of a `fit` of many epochs, beyond `epoch_steps` such steps
    fit: float  # of one epoch, beyond `epoch_steps` such steps
    prediction: float  # of one row by `predict_logits`, beyond a row in one call of many rows
    epoch_steps: int = EPOCH_STEPS


def call_costs(
    model: BatchNormMLP, rows: int, threads: int, step_seconds: float
) -> CallCosts | None:
    """Measure calls with minibatches of `rows`, by training the model with at most `threads`.

    Return None if a step takes so long that calls do not matter.
    """
    if step_seconds > LONGEST_STEP:
        return None
    runner = Runner(model, rows, EPOCH_STEPS)
    steps = min(max(math.ceil(ROUND_SECONDS / step_seconds), FEWEST_STEPS), MOST_STEPS)
    with at_most(threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # random targets: the mean may be better
        rounds = [_train(runner, steps) for _ in range(FIRST_ROUNDS + ROUNDS)][FIRST_ROUNDS:]
        predictions = [_predict(runner) for _ in range(1 + ROUNDS)][1:]
    train_step, epoch, fit = map(statistics.median, zip(*rounds, strict=True))
    return CallCosts(train_step, epoch, fit, statistics.median(predictions))


def _train(runner: Runner, steps: int) -> tuple[float, float, float]:
    """Train in each way once; return `train_step`, `epoch` and `fit` of `CallCosts`."""
    model, rows = runner.model, runner.rows
    parts = [slice(n * rows, (n + 1) * rows) for n in range(EPOCH_STEPS)]
    minibatches = itertools.cycle([(runner.x[part], runner.y[part]) for part in parts])
    epochs = math.ceil(steps / EPOCH_STEPS)

    def fit(epochs: int) -> None:
        model.fit(runner.x, runner.y, epochs=epochs, batch_size=rows, progress=False)

    step = runner.seconds(None, steps) / steps
    train_step = _seconds(lambda: model.train_step(*next(minibatches)), steps) / steps
    one = _seconds(lambda: fit(1), epochs) / epochs
    some, twice_as_many = _seconds(lambda: fit(epochs)), _seconds(lambda: fit(2 * epochs))
    of_epoch = EPOCH_STEPS * step
    return train_step - step, (twice_as_many - some) / epochs - of_epoch, one - of_epoch


def _predict(runner: Runner) -> float:
    """Predict the same row again and again in both ways; return `prediction` of `CallCosts`."""
    model, row = runner.model, runner.x[:1]
    many = np.repeat(row, ROWS, axis=0)
    call = _seconds(lambda: model.predict_logits(row), ROWS)
    return (call - _seconds(lambda: logits_row_by_row(model, many))) / ROWS


def _seconds(call: Callable[[], Any], count: int = 1) -> float:
    """Return how long `count` calls take."""
    start = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - start
