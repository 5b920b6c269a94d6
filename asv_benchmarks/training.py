"""Training steps, an epoch, and inference of the model."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from .common import THREADS, Benchmark, call_first, find, limit_threads, normal

NETS = [
    ((20, 64, 64, 2), 64),
    ((64, 128, 10), 128),
    ((784, 256, 128, 10), 128),
    ((784, 32, 10), 6000),
    ((784, 1024, 1024, 10), 256),
]
BATCHES = 8


class Steps(Benchmark):
    """Eight training steps by `partial_fit`, on shuffled minibatches."""

    params: Any = (NETS, THREADS)
    param_names = ("layers_batch", "threads")

    def setup(self, net: tuple[tuple[int, ...], int], threads: int) -> None:
        limit_threads(threads)
        sizes, self.batch = net
        self.x = normal(BATCHES * self.batch, sizes[0])
        self.y = np.random.default_rng(1).integers(0, sizes[-1], len(self.x))
        self.model = find("BatchNormMLP")(sizes)
        call_first(self.time_steps)

    def time_steps(self, *_: Any) -> None:
        self.model.partial_fit(self.x, self.y, batch_size=self.batch)


class BareProducts(Benchmark):
    """The matrix products of the same eight steps, by NumPy: a control."""

    params: Any = (NETS,)
    param_names = ("layers_batch",)

    def setup(self, net: tuple[tuple[int, ...], int]) -> None:
        self.products = bare_products(*net)

    def time_products(self, *_: Any) -> None:
        for _ in range(BATCHES):
            for a, b in self.products:
                np.dot(a, b)


def bare_products(sizes: tuple[int, ...], batch: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the operands of a step's products: z, dW and, except in the first layer, da."""
    products = []
    for index, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        weight, a, dz = normal(n_out, n_in), normal(n_in, batch), normal(n_out, batch)
        products += [(weight, a), (dz, a.T)]
        if index > 0:
            products.append((weight.T, dz))
    return products


class Epoch(Benchmark):
    """An epoch of `fit` on the embedded digits."""

    params: Any = ([16, 128],)
    param_names = ("batch_size",)

    def setup(self, batch_size: int) -> None:
        self.data, self.batch_size = find("datasets.load_digits")(), batch_size
        self.model = find("BatchNormMLP")((64, 128, 10))
        call_first(self.time_fit)

    def time_fit(self, *_: Any) -> None:
        self.model.fit(
            self.data.X_train, self.data.y_train, epochs=1, batch_size=self.batch_size,
            progress=False,
        )  # fmt: skip


class Inference(Benchmark):
    """`predict_proba` by number of samples."""

    params: Any = ([1, 100, 10_000], THREADS)
    param_names = ("samples", "threads")

    def setup(self, samples: int, threads: int) -> None:
        limit_threads(threads)
        self.model = find("BatchNormMLP")((784, 256, 128, 10))
        train = normal(256, 784)
        self.model.partial_fit(train, np.arange(256) % 10, batch_size=128)
        self.x = normal(samples, 784)
        call_first(self.time_predict_proba)

    def time_predict_proba(self, *_: Any) -> None:
        self.model.predict_proba(self.x)


class Calls(Benchmark):
    """Single calls of small work: a step by `train_step`, probabilities of 1 and of 32 rows."""

    params: Any = ([((20, 64, 64, 2), 64), ((784, 256, 128, 10), 128)], THREADS)
    param_names = ("layers_batch", "threads")

    def setup(self, net: tuple[tuple[int, ...], int], threads: int) -> None:
        limit_threads(threads)
        sizes, batch = net
        self.x = normal(batch, sizes[0])
        self.y = np.random.default_rng(1).integers(0, sizes[-1], batch)
        self.row, self.rows = self.x[:1].copy(), self.x[:32].copy()
        self.model = find("BatchNormMLP")(sizes)
        call_first(self.time_train_step, self.time_predict_1, self.time_predict_32)

    def time_train_step(self, *_: Any) -> None:
        self.model.train_step(self.x, self.y)

    def time_predict_1(self, *_: Any) -> None:
        self.model.predict_proba(self.row)

    def time_predict_32(self, *_: Any) -> None:
        self.model.predict_proba(self.rows)


class EstimatorPredictions(Benchmark):
    """`predict_proba` of the scikit-learn classifier, by number of samples."""

    params: Any = ([1, 1000],)
    param_names = ("samples",)

    def setup(self, samples: int) -> None:
        limit_threads(1)
        self.model = find("sklearn.BatchNormMLPClassifier")()
        self.model.partial_fit(normal(200, 20), np.arange(200) % 3, classes=range(3))
        self.x = normal(samples, 20)
        call_first(lambda: self.time_predict_proba(samples))

    def time_predict_proba(self, samples: int) -> None:
        self.model.predict_proba(self.x)


class ShortFits(Benchmark):
    """Fits of one step per epoch, which cost more than their steps."""

    params: Any = ([1, 50],)
    param_names = ("epochs",)

    def setup(self, epochs: int) -> None:
        limit_threads(1)
        self.x, self.y = normal(64, 16), np.random.default_rng(1).integers(0, 3, 64)
        self.model = find("BatchNormMLP")((16, 48, 48, 3))
        call_first(lambda: self.time_fit(epochs))

    def time_fit(self, epochs: int) -> None:
        self.model.fit(self.x, self.y, epochs=epochs, batch_size=64, progress=False)


class Team(Benchmark):
    """A call of `run_team` whose members hardly compute: its cost."""

    params: Any = (THREADS,)
    param_names = ("members",)

    def setup(self, members: int) -> None:
        limit_threads(members)
        self.run_team = find("parallel.threads.run_team")
        try:  # a function that gathers its team, or of earlier commits one that does not
            self.function, data = find("parallel.costs.exchange"), np.zeros((2, 8), np.int64)
            self.arguments = lambda member: (data, 0, member)
        except NotImplementedError:
            self.function = find("parallel.team.barrier")
            self.arguments = lambda member: (member,)
        call_first(lambda: self.time_run_team(members))

    def time_run_team(self, members: int) -> None:
        self.run_team(self.function, members, self.arguments)
