"""The trial of the same bits: for any threads, progress, callbacks, files, batches and processes.

``python same_bits.py`` trains the jobs that it reads, one a line, and prints their digests.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from children import HERE
from function_bits import digests_with, draw_arrays
from training_jobs import Job, data_of, digest_of, draw_job, model_of, train
from trial import Trial

from fastbn import BatchNormMLP, EarlyStopping

Way = Callable[[Job, dict[str, Any], pathlib.Path], str]


def draw_options(rng: np.random.Generator, job: Job) -> dict[str, Any]:
    """Draw options of `fit`, of what JSON can hold."""
    schedule = (None, "cosine", "one-cycle", "exponential")[rng.integers(4)]
    options: dict[str, Any] = {"schedule": schedule, "shuffle": bool(rng.integers(2))}
    if rng.random() < 0.5:
        options["early_stopping"] = int(rng.integers(1, 4))
    if rng.random() < 0.5:
        options["validated"] = True
    return options


def trained(job: Job, options: dict[str, Any], **more: Any) -> str:
    """Train with options that were drawn, and more."""
    options = dict(options)
    if options.pop("validated", False):
        x, y, _ = data_of({**job, "data_seed": job["data_seed"] + 1})
        options["validation_data"] = (x, y)
    if "early_stopping" in options:
        monitor = "val_loss" if "validation_data" in options else "loss"
        options["early_stopping"] = EarlyStopping(
            patience=options["early_stopping"], monitor=monitor, min_delta=0.01
        )
    return train(job, **options, **more)


def with_threads(number: int) -> Way:
    """Return the way with so many threads."""

    def way(job: Job, options: dict[str, Any], folder: pathlib.Path) -> str:
        before = os.environ.get("FASTBN_NUM_THREADS")
        os.environ["FASTBN_NUM_THREADS"] = str(number)
        try:
            return trained(job, options)
        finally:
            del os.environ["FASTBN_NUM_THREADS"]
            if before is not None:
                os.environ["FASTBN_NUM_THREADS"] = before

    return way


def with_progress(job: Job, options: dict[str, Any], folder: pathlib.Path) -> str:
    """With the bar."""
    with contextlib.redirect_stderr(io.StringIO()):
        return trained(job, options, progress=True)


def with_callbacks(job: Job, options: dict[str, Any], folder: pathlib.Path) -> str:
    """With callbacks that predict, evaluate and save."""
    x, y, _ = data_of(job)

    def look(model: BatchNormMLP, history: Any) -> None:
        model.predict(x)
        model.evaluate(x, y)
        model.save(folder / "look")

    return trained(job, options, callbacks=[look, lambda *_: False])


def with_checkpoints(job: Job, options: dict[str, Any], folder: pathlib.Path) -> str:
    """With a checkpoint every few steps."""
    return trained(job, options, checkpoint=folder / "checkpoint", checkpoint_every=3)


def resumed(job: Job, options: dict[str, Any], folder: pathlib.Path) -> str:
    """Stopped in the middle by an error, and gone on with from the checkpoint."""

    class Stopped(Exception):
        pass

    def stop(model: BatchNormMLP, history: Any) -> None:
        if history.epochs > job["epochs"] // 2:
            raise Stopped

    kept = {"checkpoint": folder / "checkpoint", "checkpoint_every": 2}
    with contextlib.suppress(Stopped):
        trained(job, options, **kept, callbacks=[stop])
    return trained(job, options, **kept, resume=True)


class Other:
    """Another process that trains the same."""

    def __init__(self) -> None:
        paths = filter(None, [os.environ.get("PYTHONPATH"), str(HERE)])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "7"}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "same_bits.py")], text=True,
            env={**environment, "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def train(self, job: Job, options: dict[str, Any], folder: pathlib.Path) -> str:
        """Return the digest that it comes to."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([job, options]) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def __enter__(self) -> Other:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.communicate()  # which ends its input


def by_parts(job: Job, folder: pathlib.Path) -> dict[str, str]:
    """Digests of one training in the order of the data, taken in parts of several kinds."""
    (x, y, weight), batch, epochs = data_of(job), job["batch"], job["epochs"]
    whole = {"batch_size": batch, "sample_weight": weight}
    digests = {"fit": train(job, shuffle=False)}

    model = model_of(job)
    for _ in range(epochs):
        model.partial_fit(x, y, **whole)
    digests["partial_fit"] = digest_of(model, x)

    model = model_of(job)
    for _ in range(epochs):
        model.fit(x, y, epochs=1, shuffle=False, **whole)
        model.save(folder / "model")
        model = BatchNormMLP.load(folder / "model")
        model._warns_of_mean = False  # as that of `model_of`
    digests["saved and loaded"] = digest_of(model, x)

    model = model_of(job)
    model.partial_fit(x, y, **whole)  # the scaling of inputs is that of all data
    bounds = [*range(0, len(x), batch), len(x)]
    if bounds[-1] - bounds[-2] == 1:
        del bounds[-2]
    for _ in range(epochs - 1):
        for first, last in itertools.pairwise(bounds):
            part = slice(first, last)
            model.partial_fit(
                x[part], y[part], sample_weight=None if weight is None else weight[part]
            )
    digests["minibatch by minibatch"] = digest_of(model, x)
    return digests


WAYS: dict[str, Way] = {
    **{f"{number} threads": with_threads(number) for number in (1, 2, 3, 8)},
    "progress": with_progress,
    "callbacks": with_callbacks,
    "checkpoints": with_checkpoints,
    "resumed": resumed,
}


def cases(seed: int, count: int, folder: pathlib.Path) -> Iterator[str]:
    """Train drawn nets in all ways."""
    with Other() as other:
        ways = {**WAYS, "another process": other.train}
        for i in range(count):
            rng = np.random.default_rng([seed, i])
            job = draw_job(rng)
            if rng.random() < 0.1:  # enough data for functions that run in parallel
                job.update(sizes=[40, 9, job["sizes"][-1]], rows=4000, batch=500)
            options, own = draw_options(rng, job), folder / str(i)
            own.mkdir()
            expected = trained(job, options)
            for name, way in ways.items():
                what = f"{name}: other bits: {job}, {options}"
                assert way(job, options, own) == expected, what
            digests = by_parts(job, own)
            assert len(set(digests.values())) == 1, f"{digests}: {job}"
            arrays = draw_arrays(rng)
            alone = digests_with(arrays, 1)
            for threads in (None, 2):
                found = digests_with(arrays, threads)
                others = [name for name in alone if found[name] != alone[name]]
                assert not others, f"{others} with {threads} threads: {arrays.describe()}"
            yield "same bits"


TRIAL = Trial(
    "bits",
    "The same seed gives the same bits with any threads, and whatever is done beside training.",
    100,
    cases,
)

if __name__ == "__main__":
    for line in sys.stdin:
        print(trained(*json.loads(line)), flush=True)
