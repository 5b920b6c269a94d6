"""Digests of what the NumPy functions return with one thread and with several."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numba
import numpy as np

import fastbn
from fastbn.parallel import dispatch


class Arrays(NamedTuple):
    """What the functions are given."""

    x: np.ndarray
    dy: np.ndarray
    layout: str
    labels: np.ndarray

    def describe(self) -> str:
        """Name what decides which kernels are run."""
        return f"{self.x.shape}, {self.x.dtype}, layout {self.layout}"


def draw_arrays(rng: np.random.Generator) -> Arrays:
    """Draw data of any shape, up to some hundred thousand numbers."""
    features = int(np.exp(rng.uniform(0, np.log(1500))))
    samples = int(np.exp(rng.uniform(np.log(2), np.log(300_000 // features))))
    layout = "NC" if rng.random() < 0.6 else "CN"
    shape = (samples, features) if layout == "NC" else (features, samples)
    dtype = np.float32 if rng.random() < 0.7 else np.float64
    x, dy = rng.standard_normal((2, *shape)).astype(dtype) * 3 + 1
    return Arrays(x, dy, layout, rng.integers(0, features, samples))


@contextlib.contextmanager
def taking(threads: int | None) -> Iterator[None]:
    """Context in which all functions take one thread, or all of them two, or all that there are."""
    elements, most = dispatch.PARALLEL_ELEMENTS, numba.get_num_threads()
    dispatch.PARALLEL_ELEMENTS = 1 << 62 if threads == 1 else 0
    numba.set_num_threads(min(threads or most, most))
    try:
        yield
    finally:
        dispatch.PARALLEL_ELEMENTS = elements
        numba.set_num_threads(most)


def digests_with(arrays: Arrays, threads: int | None) -> dict[str, str]:
    """Call the functions with so many threads, None for all that there are: a digest of each."""
    x, dy, layout, labels = arrays
    results: dict[str, tuple[Any, ...]] = {}
    with taking(threads):
        results["batch_statistics"] = fastbn.batch_statistics(x, layout=layout)
        y, mean, rstd = fastbn.batch_norm(x, layout=layout, activation="relu")
        results["batch_norm"] = y, mean, rstd
        back = fastbn.batch_norm_backward(dy, x, None, None, mean, rstd, layout=layout)
        results["batch_norm_backward"] = back
        results["batch_norm_inference"] = (
            fastbn.batch_norm_inference(x, mean, rstd, layout=layout),
        )
        results["min_max_scale"] = fastbn.min_max_scale(x, layout=layout)
        results["standardize"] = fastbn.standardize(x, layout=layout)
        if labels.max() > 0:
            loss = fastbn.softmax_cross_entropy(x, labels, layout=layout)
            results["softmax_cross_entropy"] = loss
        param, m, v = np.ones((3, x.size), x.dtype)
        fastbn.adam_step(param, dy.ravel(), m, v, step=2, max_norm=1.0)
        results["adam_step"] = param, m, v
    return {name: _digest(arrays) for name, arrays in results.items()}


def _digest(arrays: tuple[Any, ...]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
