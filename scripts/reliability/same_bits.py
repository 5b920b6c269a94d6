"""The trial of equal bits: any number of threads, progress bar, callbacks, files, processes."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import multiprocessing
import os
import pathlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from unittest import mock

import numpy as np
from jobs import Job, data_of, digest_of, draw_job, fit, model_of, train
from trial import Trial

from fastbn import BatchNormMLP

Way = Callable[[Job, pathlib.Path], str]


# -- ways to train with the same result ------------------------------------------------------------


def with_threads(number: int) -> Way:
    """Return a way that trains with this number of threads."""

    def way(job: Job, folder: pathlib.Path) -> str:
        with mock.patch.dict(os.environ, {"FASTBN_NUM_THREADS": str(number)}):
            return train(job)

    return way


def with_progress(job: Job, folder: pathlib.Path) -> str:
    """Train with a progress bar."""
    with contextlib.redirect_stderr(io.StringIO()):
        return train(job, progress=True)


def with_callbacks(job: Job, folder: pathlib.Path) -> str:
    """Train with callbacks that predict, evaluate and save."""
    x, y, _ = data_of(job)

    def look(model: BatchNormMLP, history: Any) -> None:
        model.predict(x)
        model.evaluate(x, y)
        model.save(folder / "look")

    return train(job, callbacks=[look, lambda *_: False])


def with_checkpoints(job: Job, folder: pathlib.Path) -> str:
    """Train with a checkpoint every few steps."""
    return train(job, checkpoint=folder / "checkpoint", checkpoint_every=3)


def resumed(job: Job, folder: pathlib.Path) -> str:
    """Stop by an error in the middle, and resume from the checkpoint."""

    class Stopped(Exception):
        pass

    def stop(model: BatchNormMLP, history: Any) -> None:
        if history.epochs > job["fit"]["epochs"] // 2:
            raise Stopped

    kept = {"checkpoint": folder / "stopped", "checkpoint_every": 2}
    with contextlib.suppress(Stopped):
        train(job, callbacks=[stop], **kept)
    return train(job, resume=True, **kept)


def with_other_settings(job: Job, folder: pathlib.Path) -> str:
    """Train in the process that `other_process` starts."""
    return other_process().submit(train, job).result()


@functools.cache
def other_process() -> ProcessPoolExecutor:
    """Start a process with other settings."""
    settings = {"PYTHONHASHSEED": "7", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    with mock.patch.dict(os.environ, settings):
        pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        pool.submit(os.getpid).result()  # starts the process
    return pool


WAYS: dict[str, Way] = {
    **{f"{number} threads": with_threads(number) for number in (1, 2, 3, 8)},
    "progress": with_progress,
    "callbacks": with_callbacks,
    "checkpoints": with_checkpoints,
    "resumed": resumed,
    "another process": with_other_settings,
}


def by_parts(job: Job, folder: pathlib.Path) -> dict[str, str]:
    """Train without shuffling, by one call or by several; return the digests."""
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
        model._engine.warns_of_mean = False  # as in `model_of`
    digests["saved and loaded"] = digest_of(model, x)

    model = model_of(job)
    model.partial_fit(x, y, **whole)  # fits the scaling of inputs to all data
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


def cases(seed: int, count: int, folder: pathlib.Path) -> Iterator[str]:
    """Train random networks in all ways, and compare the results."""
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        job = draw_job(rng)
        if rng.random() < 0.1:  # enough data for functions that run in parallel
            job |= {"sizes": [40, 9, job["sizes"][-1]], "rows": 4000}
            job["fit"]["batch_size"] = 500
        own = folder / str(i)
        own.mkdir()
        expected = train(job)
        for name, way in WAYS.items():
            assert way(job, own) == expected, f"{name}: other bits: {job}"
        digests = by_parts(job, own)
        assert len(set(digests.values())) == 1, f"{digests}: {job}"
        yield "same bits"


TRIAL = Trial(
    "bits",
    "The same seed gives the same bits, with any number of threads and any way to train.",
    100,
    cases,
)
