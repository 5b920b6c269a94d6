"""Train a model on random minibatches, many steps in one compiled call."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from fastbn.model import BatchNormMLP
from fastbn.model.edges import run_steps
from fastbn.model.inputs import training_samples


class Runner:
    """Trains a model on random minibatches of `rows` samples; its steps cycle through them."""

    def __init__(self, model: BatchNormMLP, rows: int, minibatches: int) -> None:
        rng = np.random.default_rng(0)
        config, n = model.config, minibatches * rows
        self.model, self.rows = model, rows
        self.x = rng.standard_normal((n, config.layer_sizes[0])).astype(model.dtype)
        self.y = rng.integers(0, config.layer_sizes[-1], n)
        if not config.predicts_one_class:
            self.y = rng.integers(0, 2, (n, config.layer_sizes[-1]))
        self._samples = training_samples(model, self.x, self.y)
        self._order = rng.permutation(n)

    def seconds(self, logs: list[Any] | None, steps: int) -> float:
        """Take `steps` steps in one call, and return the time.

        There is one thread per log; without a list, as many as training uses.
        """
        order = np.resize(self._order, steps * self.rows)
        bounds = np.arange(steps + 1) * self.rows
        lrs = np.full(steps, self.model.config.lr)
        start = time.perf_counter()
        run_steps(self.model, self._samples, order, bounds, lrs, logs)
        return time.perf_counter() - start
