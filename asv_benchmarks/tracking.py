"""Benchmarks that are not times: accuracy, and ratios of times to their limits."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .common import find, limit_threads, normal
from .training import bare_products


class Accuracy:
    """Accuracy on the embedded digits after some epochs, with a fixed seed."""

    timeout = 300.0
    params: Any = ([1, 10],)
    param_names = ("epochs",)
    unit = "%"

    def setup(self, epochs: int) -> None:
        self.data = find("datasets.load_digits")()
        self.model = find("BatchNormMLP")((64, 128, 10), seed=0)
        self.model.fit(
            self.data.X_train, self.data.y_train, epochs=epochs, batch_size=64, progress=False
        )

    def track_training(self, epochs: int) -> float:
        return self.of(self.data.X_train, self.data.y_train)

    def track_test(self, epochs: int) -> float:
        return self.of(self.data.X_test, self.data.y_test)

    def of(self, x: np.ndarray, y: np.ndarray) -> float:
        return 100.0 * float(np.mean(self.model.predict(x) == y))


class OverLimits:
    """Times of fastbn as multiples of their limits, measured in turns in one process."""

    timeout = 300.0
    params: Any = ([1, 2],)
    param_names = ("threads",)
    unit = "ratio"

    def setup(self, threads: int) -> None:
        limit_threads(threads)
        self.forward, self.model = find("batch_norm"), find("BatchNormMLP")

    def track_batch_norm_over_copy(self, threads: int) -> float:
        """Feature-major batch norm of 256 MB with ``out=``, over a copy."""
        x = normal(1024, 1 << 16)
        y = np.empty_like(x)
        return ratio(lambda: self.forward(x, layout="CN", out=y), lambda: np.copyto(y, x))

    def track_step_over_products(self, threads: int) -> float:
        """A training step over its bare matrix products, by NumPy's BLAS."""
        sizes, batch = (784, 1024, 1024, 10), 256
        model = self.model(sizes)
        x, y = normal(batch, sizes[0]), np.arange(batch) % 10
        products = bare_products(sizes, batch)
        return ratio(lambda: model.partial_fit(x, y), lambda: [np.dot(a, b) for a, b in products])


class Profile:
    """The share of a training step that a profile explains, and the cost of its logs."""

    timeout = 300.0
    params: Any = ([1, 2],)
    param_names = ("threads",)
    unit = "%"

    def setup(self, threads: int) -> None:
        limit_threads(threads)
        model = find("BatchNormMLP")((784, 256, 128, 10))
        self.profile = find("profiling.profile_training")(model, threads=threads)

    def track_accounted(self, threads: int) -> float:
        return 100.0 * self.profile.accounted

    def track_cost(self, threads: int) -> float:
        return 100.0 * self.profile.cost


def ratio(ours: Callable[[], Any], limit: Callable[[], Any], repeats: int = 9) -> float:
    """Return the ratio of the median times; the first call of each is not counted."""
    samples: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for side, function in list(enumerate((ours, limit)))[:: -1 if repeat % 2 else 1]:
            start = time.perf_counter()
            function()
            samples[side].append(time.perf_counter() - start)
    medians = [statistics.median(values[1:]) for values in samples]
    return medians[0] / medians[1]
