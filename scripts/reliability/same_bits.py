"""The same bits with any threads, progress, callbacks, files, batches and processes.

``python same_bits.py`` trains the jobs that it reads, one a line, and prints their digests.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numba
import numpy as np
from jobs import Job, data_of, digest_of, draw_job, fit, model_of, train
from trial import Trial

import fastbn
from fastbn import BatchNormMLP
from fastbn.parallel import dispatch

Way = Callable[[Job, pathlib.Path], str]


# -- ways to train the same ------------------------------------------------------------------------


def with_threads(number: int) -> Way:
    """Return the way with so many threads."""

    def way(job: Job, folder: pathlib.Path) -> str:
        with mock.patch.dict(os.environ, {"FASTBN_NUM_THREADS": str(number)}):
            return train(job)

    return way


def with_progress(job: Job, folder: pathlib.Path) -> str:
    """With the bar."""
    with contextlib.redirect_stderr(io.StringIO()):
        return train(job, progress=True)


def with_callbacks(job: Job, folder: pathlib.Path) -> str:
    """With callbacks that predict, evaluate and save."""
    x, y, _ = data_of(job)

    def look(model: BatchNormMLP, history: Any) -> None:
        model.predict(x)
        model.evaluate(x, y)
        model.save(folder / "look")

    return train(job, callbacks=[look, lambda *_: False])


def with_checkpoints(job: Job, folder: pathlib.Path) -> str:
    """With a checkpoint every few steps."""
    return train(job, checkpoint=folder / "checkpoint", checkpoint_every=3)


def resumed(job: Job, folder: pathlib.Path) -> str:
    """Stopped in the middle by an error, and resumed from the checkpoint."""

    class Stopped(Exception):
        pass

    def stop(model: BatchNormMLP, history: Any) -> None:
        if history.epochs > job["fit"]["epochs"] // 2:
            raise Stopped

    kept = {"checkpoint": folder / "stopped", "checkpoint_every": 2}
    with contextlib.suppress(Stopped):
        train(job, callbacks=[stop], **kept)
    return train(job, resume=True, **kept)


class Other:
    """Another process, with other settings, that trains the same."""

    def __init__(self) -> None:
        more = {"PYTHONHASHSEED": "7", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__], text=True, env={**os.environ, **more},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def train(self, job: Job, folder: pathlib.Path) -> str:
        """Return the digest of its result."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


WAYS: dict[str, Way] = {
    **{f"{number} threads": with_threads(number) for number in (1, 2, 3, 8)},
    "progress": with_progress,
    "callbacks": with_callbacks,
    "checkpoints": with_checkpoints,
    "resumed": resumed,
}


def by_parts(job: Job, folder: pathlib.Path) -> dict[str, str]:
    """Train in the order of the data, divided into calls in several ways; return the digests."""
    (x, y, weight), epochs = data_of(job), job["fit"]["epochs"]
    batch = job["fit"]["batch_size"]
    plain = {**job, "patience": None, "validated": False}
    plain["fit"] = {"batch_size": batch, "shuffle": False}
    whole = {"batch_size": batch, "sample_weight": weight}
    digests = {}

    model = model_of(job)
    fit(plain, model, epochs=epochs)
    digests["fit"] = digest_of(model, x)

    model = model_of(job)
    for _ in range(epochs):
        model.partial_fit(x, y, **whole)
    digests["partial_fit"] = digest_of(model, x)

    model = model_of(job)
    for _ in range(epochs):
        fit(plain, model, epochs=1)
        model.save(folder / "model")
        model = BatchNormMLP.load(folder / "model")
        model._engine.warns_of_mean = False  # as that of `model_of`
    digests["saved and loaded"] = digest_of(model, x)

    model = model_of(job)
    model.partial_fit(x, y, **whole)  # the scaling of inputs is that of all data
    bounds = [*range(0, len(x), batch), len(x)]
    if bounds[-1] - bounds[-2] == 1:
        del bounds[-2]
    for _ in range(epochs - 1):
        for first, last in itertools.pairwise(bounds):
            part = slice(first, last)
            weights = None if weight is None else weight[part]
            model.partial_fit(x[part], y[part], sample_weight=weights)
    digests["minibatch by minibatch"] = digest_of(model, x)
    return digests


# -- the NumPy functions ---------------------------------------------------------------------------


def function_digests(rng: np.random.Generator, threads: int | None) -> dict[str, str]:
    """Return a digest of each function's results on random data; None threads are all."""
    features = int(np.exp(rng.uniform(0, np.log(1500))))
    samples = int(np.exp(rng.uniform(np.log(2), np.log(300_000 // features))))
    layout = "NC" if rng.random() < 0.6 else "CN"
    shape = (samples, features) if layout == "NC" else (features, samples)
    dtype = np.float32 if rng.random() < 0.7 else np.float64
    x, dy = rng.standard_normal((2, *shape)).astype(dtype) * 3 + 1
    labels = rng.integers(0, features, samples)
    at = {"layout": layout}
    serial, most = 1 << 62 if threads == 1 else 0, numba.get_num_threads()
    numba.set_num_threads(min(threads or most, most))
    try:
        with mock.patch.object(dispatch, "PARALLEL_ELEMENTS", serial):
            y, mean, rstd = fastbn.batch_norm(x, activation="relu", **at)
            param, m, v = np.ones((3, x.size), x.dtype)
            fastbn.adam_step(param, dy.ravel(), m, v, step=2, max_norm=1.0)
            results = {
                "batch_norm": (y, mean, rstd),
                "adam_step": (param, m, v),
                "batch_statistics": fastbn.batch_statistics(x, **at),
                "batch_norm_backward": fastbn.batch_norm_backward(
                    dy, x, None, None, mean, rstd, **at
                ),
                "batch_norm_inference": (fastbn.batch_norm_inference(x, mean, rstd, **at),),
                "min_max_scale": fastbn.min_max_scale(x, **at),
                "standardize": fastbn.standardize(x, **at),
            }
            if labels.max() > 0:
                results["softmax"] = fastbn.softmax_cross_entropy(x, labels, **at)
    finally:
        numba.set_num_threads(most)
    return {
        f"{name} of {x.shape}, {x.dtype}, {layout}": hashlib.sha256(
            b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
        ).hexdigest()
        for name, arrays in results.items()
    }


def cases(seed: int, count: int, folder: pathlib.Path) -> Iterator[str]:
    """Train random nets in all ways, and call the functions with several numbers of threads."""
    other = Other()
    ways = {**WAYS, "another process": other.train}
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        job = draw_job(rng)
        if rng.random() < 0.1:  # enough data for functions that run in parallel
            job |= {"sizes": [40, 9, job["sizes"][-1]], "rows": 4000}
            job["fit"]["batch_size"] = 500
        own = folder / str(i)
        own.mkdir()
        expected = train(job)
        for name, way in ways.items():
            assert way(job, own) == expected, f"{name}: other bits: {job}"
        digests = by_parts(job, own)
        assert len(set(digests.values())) == 1, f"{digests}: {job}"
        alone, *others = (
            function_digests(np.random.default_rng([seed, i, 1]), threads)
            for threads in (1, None, 2)
        )
        for found in others:
            differ = [name for name in alone if found[name] != alone[name]]
            assert not differ, f"other bits with several threads: {differ}"
        yield "same bits"
    other.process.communicate()  # which ends its input


TRIAL = Trial(
    "bits",
    "The same seed gives the same bits with any threads, and whatever is done beside training.",
    100,
    cases,
)

if __name__ == "__main__":
    for line in sys.stdin:
        print(train(json.loads(line)), flush=True)
