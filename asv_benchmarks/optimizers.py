"""Optimizer steps on flat buffers."""

from __future__ import annotations

from typing import Any

import numpy as np

from .common import DTYPES, THREADS, Benchmark, call_first, find, limit_threads, normal


class Optimizers(Benchmark):
    """Steps in place, by number of parameters."""

    params: Any = ([1_000, 100_000, 3_000_000], DTYPES, THREADS)
    param_names = ("parameters", "dtype", "threads")

    def setup(self, size: int, dtype: str, threads: int) -> None:
        limit_threads(threads)
        self.adam, self.sgd, self.rmsprop = map(find, ("adam_step", "sgd_step", "rmsprop_step"))
        self.param, self.grad, self.m = normal(3, size, dtype=dtype)
        self.v = np.ones_like(self.m)
        call_first(self.time_adam, self.time_sgd, self.time_rmsprop)

    def time_adam(self, *_: Any) -> None:
        self.adam(self.param, self.grad, self.m, self.v, step=10)

    def time_sgd(self, *_: Any) -> None:
        self.sgd(self.param, self.grad, self.m)

    def time_rmsprop(self, *_: Any) -> None:
        self.rmsprop(self.param, self.grad, self.v)


class Denormals(Benchmark):
    """Adam, and a training step, with moments that are zero or denormal.

    A training step treats denormals as zero. Most of its weights have no gradient, because all
    inputs except 28 are zero.
    """

    params: Any = ([0.0, 1e-40],)
    param_names = ("moments",)

    def setup(self, moment: float) -> None:
        limit_threads(1)
        self.adam, self.moment = find("adam_step"), moment
        self.param, self.grad = np.ones((2, 1 << 16), np.float32)
        self.grad[:] = 0
        self.moments = np.full((2, 1 << 16), moment, np.float32)
        self.model = find("BatchNormMLP")((784, 256, 128, 10))
        self.x, self.y = np.zeros((128, 784), np.float32), np.arange(128) % 10
        self.x[:, :28] = normal(128, 28)
        call_first(lambda: self.time_adam(moment), lambda: self.time_step(moment))

    def time_adam(self, *_: Any) -> None:
        self.adam(self.param, self.grad, *self.moments, step=1000)

    def time_step(self, *_: Any) -> None:
        self.model.m[:] = self.model.v[:] = self.moment
        self.model.partial_fit(self.x, self.y, batch_size=128)
