"""Functions of the NumPy API, and the same work in NumPy as a control of the machine."""

from __future__ import annotations

from typing import Any

import numpy as np

from .common import DTYPES, THREADS, Benchmark, call_first, find, limit_threads, normal


class BatchNorm(Benchmark):
    """Batch norm with LeakyReLU, with ``out=``."""

    params: Any = ([(32, 32), (128, 128), (6000, 32), (4096, 1024)], DTYPES, ["NC", "CN"], THREADS)
    param_names = ("samples_features", "dtype", "layout", "threads")

    def setup(self, shape: tuple[int, int], dtype: str, layout: str, threads: int) -> None:
        limit_threads(threads)
        names = ("batch_statistics", "batch_norm", "batch_norm_backward", "batch_norm_inference")
        self.statistics, self.forward, self.backward, self.inference = map(find, names)
        features = shape[1]
        x, dy = normal(2, *shape, dtype=dtype)
        if layout == "CN":
            x, dy = np.ascontiguousarray(x.T), np.ascontiguousarray(dy.T)
        self.x, self.dy, self.out = x, dy, np.empty_like(x)
        self.gamma, self.beta = normal(2, features, dtype=dtype)
        self.settings = {"layout": layout, "activation": "leaky_relu"}
        _, self.mean, self.rstd = self.forward(self.x, self.gamma, self.beta, **self.settings)
        self.var = np.ones_like(self.mean)
        call_first(self.time_statistics, self.time_forward, self.time_backward, self.time_inference)

    def time_statistics(self, *_: Any) -> None:
        self.statistics(self.x, layout=self.settings["layout"])

    def time_forward(self, *_: Any) -> None:
        self.forward(self.x, self.gamma, self.beta, out=self.out, **self.settings)

    def time_backward(self, *_: Any) -> None:
        self.backward(
            self.dy, self.x, self.gamma, self.beta, self.mean, self.rstd, out=self.out,
            **self.settings,
        )  # fmt: skip

    def time_inference(self, *_: Any) -> None:
        self.inference(
            self.x, self.mean, self.var, self.gamma, self.beta, out=self.out, **self.settings
        )


class RunningStatistics(Benchmark):
    """Updating running statistics, and folding them into the weights of the layer before."""

    params: Any = ([64, 1024], DTYPES)
    param_names = ("features", "dtype")

    def setup(self, features: int, dtype: str) -> None:
        self.update, self.fold = find("update_running_statistics"), find("fold_batch_norm")
        self.weight = normal(features, features, dtype=dtype)
        self.mean, self.running_mean, self.gamma, self.beta = normal(4, features, dtype=dtype)
        self.var, self.running_var = np.ones((2, features), dtype)
        call_first(self.time_update, self.time_fold)

    def time_update(self, *_: Any) -> None:
        self.update(self.running_mean, self.running_var, self.mean, self.var, 128)

    def time_fold(self, *_: Any) -> None:
        self.fold(self.weight, self.gamma, self.beta, self.running_mean, self.running_var)


class SoftmaxCrossEntropy(Benchmark):
    """Loss and gradient."""

    params: Any = ([(128, 10), (6000, 10), (256, 1000)], DTYPES)
    param_names = ("samples_classes", "dtype")

    def setup(self, shape: tuple[int, int], dtype: str) -> None:
        self.loss = find("softmax_cross_entropy")
        self.logits = normal(*shape, dtype=dtype)
        self.labels = np.random.default_rng(1).integers(0, shape[1], shape[0])
        call_first(self.time_loss)

    def time_loss(self, *_: Any) -> None:
        self.loss(self.logits, self.labels)


class InputScaling(Benchmark):
    """Fit and apply min-max scaling and the z-score."""

    params: Any = ([(1000, 20), (6000, 784)], DTYPES, THREADS)
    param_names = ("samples_features", "dtype", "threads")

    def setup(self, shape: tuple[int, int], dtype: str, threads: int) -> None:
        limit_threads(threads)
        self.min_max_scale, self.standardize = find("min_max_scale"), find("standardize")
        self.x = normal(*shape, dtype=dtype)
        call_first(self.time_min_max, self.time_standardize)

    def time_min_max(self, *_: Any) -> None:
        self.min_max_scale(self.x)

    def time_standardize(self, *_: Any) -> None:
        self.standardize(self.x)


class NumpyControl(Benchmark):
    """The same work in NumPy. No commit changes it, so changes come from the machine."""

    params: Any = ([(128, 128), (6000, 32), (4096, 1024)],)
    param_names = ("samples_features",)

    def setup(self, shape: tuple[int, int]) -> None:
        self.x = normal(*shape)
        self.out = np.empty_like(self.x)

    def time_batch_norm(self, *_: Any) -> None:
        mean, var = self.x.mean(axis=0), self.x.var(axis=0)
        np.subtract(self.x, mean, out=self.out)
        self.out /= np.sqrt(var + np.float32(1e-5))
        np.maximum(self.out, np.float32(0.01) * self.out, out=self.out)

    def time_copy(self, *_: Any) -> None:
        np.copyto(self.out, self.x)
