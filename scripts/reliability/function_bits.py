"""Digests of what the NumPy functions return with one thread and with several."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numba
import numpy as np

import fastbn
from fastbn import _jit


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
    elements, most = _jit.PARALLEL_ELEMENTS, numba.get_num_threads()
    _jit.PARALLEL_ELEMENTS = 1 << 62 if threads == 1 else 0
    numba.set_num_threads(min(threads or most, most))
    try:
        yield
    finally:
        _jit.PARALLEL_ELEMENTS = elements
        numba.set_num_threads(most)


def digest_with(arrays: Arrays, threads: int | None) -> str:
    """Call the functions with so many threads, None for all that there are."""
    digest, (x, dy, layout, labels) = hashlib.sha256(), arrays
    with taking(threads):
        results = [*fastbn.batch_statistics(x, layout=layout)]
        y, mean, rstd = fastbn.batch_norm(x, layout=layout, activation="relu")
        results += [y, mean, rstd]
        results += fastbn.batch_norm_backward(dy, x, None, None, mean, rstd, layout=layout)
        results += [fastbn.batch_norm_inference(x, mean, rstd, layout=layout)]
        for scaled in (fastbn.min_max_scale, fastbn.standardize):
            results += [*scaled(x, layout=layout)]
        if labels.max() > 0:
            results += fastbn.softmax_cross_entropy(x, labels, layout=layout)
        param, m, v = np.ones((3, x.size), x.dtype)
        fastbn.adam_step(param, dy.ravel(), m, v, step=2, max_norm=1.0)
        results += [param, m, v]
    for result in results:
        digest.update(np.ascontiguousarray(result).tobytes())
    return digest.hexdigest()
