"""Compile all kernels ahead of time.

It calls the public functions and a model with small arrays, so that numba compiles the kernels for
the types of their arguments.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fastbn import functional
from fastbn.kernels.addresses import differentiate_at, infer_at, statistics_at, train_at
from fastbn.kernels.tensors import adam_tensors
from fastbn.model import BatchNormMLP
from fastbn.options import InputNormalization, Layout
from fastbn.parallel import dispatch
from fastbn.parallel.costs import measured_costs
from fastbn.parallel.openmp import NO_POOL

# Sizes that reach every kernel.
SAMPLES, FEATURES, CLASSES = 16, 8, 3


def warm_up(dtype: Any) -> Iterator[str]:
    """Compile everything for one dtype, serial and parallel; yield the name of each part first."""
    dtype = np.dtype(dtype)
    yield "teams of threads"
    measured_costs()
    yield f"training and prediction, {dtype}"
    _train_and_predict(dtype)
    for name, calls in (
        ("batch norm", _batch_norm),
        ("input scaling", _scaling),
        ("optimizers and loss", _optimizers),
    ):
        yield f"{name}, {dtype}"
        _serial_and_parallel(functools.partial(calls, dtype))
    yield f"PyTorch's tensors, {dtype}"
    _tensors(dtype)


def _data(dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((SAMPLES, FEATURES)).astype(dtype)
    return x, np.arange(SAMPLES) % CLASSES


def _train_and_predict(dtype: np.dtype) -> None:
    x, labels = _data(dtype)
    inputs: list[tuple[InputNormalization, np.ndarray]] = [
        ("zscore", x), ("minmax", x), ("minmax", x.astype(np.uint8)),
        ("zscore", x.astype(np.float64)),
    ]  # fmt: skip
    for scaling, data in inputs:
        model = BatchNormMLP(
            (FEATURES, FEATURES, CLASSES), dtype=dtype, input_normalization=scaling
        )
        model.fit(data, labels, epochs=1, batch_size=SAMPLES, sample_weight=np.ones(SAMPLES))
        model.evaluate(data, labels)


def _serial_and_parallel(calls: Callable[[], None]) -> None:
    threshold = dispatch.PARALLEL_ELEMENTS
    try:
        for elements in (1 << 62, 0):
            dispatch.PARALLEL_ELEMENTS = elements
            calls()
    finally:
        dispatch.PARALLEL_ELEMENTS = threshold


def _layouts(x: np.ndarray) -> list[tuple[Layout, np.ndarray]]:
    return [("NC", x), ("CN", np.ascontiguousarray(x.T))]


def _batch_norm(dtype: np.dtype) -> None:
    x, _ = _data(dtype)
    gamma, beta = np.ones((2, FEATURES), dtype)
    for layout, array in [*_layouts(x), ("NC", x[:, :, None])]:
        mean, var = functional.batch_statistics(array, layout=layout)
        y, mean, rstd = functional.batch_norm(array, gamma, beta, layout=layout)
        functional.batch_norm_backward(y, array, gamma, beta, mean, rstd, layout=layout)
        functional.batch_norm_inference(array, mean, var, gamma, beta, layout=layout)
    running_mean, running_var = np.ones((2, FEATURES), dtype)
    functional.update_running_statistics(running_mean, running_var, mean, var, SAMPLES)
    mean, var = np.ones((2, SAMPLES), dtype)
    functional.fold_batch_norm(x, None, None, mean, var)


def _scaling(dtype: np.dtype) -> None:
    x, _ = _data(dtype)
    for layout, array in _layouts(x):
        functional.min_max_scale(array, layout=layout)
        functional.standardize(array, layout=layout)


def _optimizers(dtype: np.dtype) -> None:
    x, labels = _data(dtype)
    for layout, array in _layouts(x):
        functional.softmax_cross_entropy(array, labels, layout=layout)
        functional.sigmoid_cross_entropy(array, np.zeros(array.shape), layout=layout)
        functional.squared_error(array, array, layout=layout)
    param, grad, m, v = np.ones((4, FEATURES), dtype)
    functional.adam_step(param, grad, m, v, step=1, max_norm=1.0)
    functional.sgd_step(param, grad, m, lr=0.1)
    functional.rmsprop_step(param, grad, v)


def _tensors(dtype: np.dtype) -> None:
    """Call the kernels of `fastbn.torch`, which take addresses."""
    like, step, batches = np.zeros(1, dtype), np.ones(1, np.float32), np.zeros(1, np.int64)
    stats, memory = np.ones((2, FEATURES), dtype), np.ones((9, SAMPLES * FEATURES), dtype)
    x, dy, y, dx, gamma, beta, mean, var, work = (row.ctypes.data for row in memory)
    for sample_major in (True, False):
        first = (NO_POOL, 1, (sample_major, SAMPLES, FEATURES, 1))
        tensors, running = (x, gamma, beta, y), (mean, var, batches.ctypes.data)
        statistics_at(like, *first, x, mean, var)
        train_at(stats, *first, tensors, 1e-5, 0.01, 0.1, running)
        infer_at(like, *first, tensors, 1e-5, 0.01, running[:2])
        differentiate_at(stats, *first, (dy, x, gamma, beta), 0.01, True, (dx, work, work))
    table, sizes, parts = np.array([[step.ctypes.data, x, dy, y, dx]]), np.ones(1), np.arange(2)
    hyper = (1.0, 1e-3, 0.9, 0.999, 1e-8, 0.0)
    sizes = sizes.astype(np.int64)
    adam_tensors(NO_POOL, 1, like, step, table, sizes, parts, hyper, False, False)
