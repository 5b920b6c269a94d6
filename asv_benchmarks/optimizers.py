"""Optimizer steps on flat buffers."""

from __future__ import annotations

from typing import Any

import numpy as np

from .common import DTYPES, THREADS, Benchmark, call_first, find, limit_threads, normal


class Optimizers(Benchmark):
    """In place, on so many parameters."""

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
