"""The trial of processes that are killed while they save a model."""

from __future__ import annotations

import multiprocessing
import os
import pathlib
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from trial import Trial

from fastbn import BatchNormMLP

SIZES = (256, 256, 10)  # a file of about 2 MB


def save_again_and_again(path: pathlib.Path, begun: Any) -> None:
    """Save the new model until the process is killed."""
    new = BatchNormMLP(SIZES, seed=2)
    begun.set()
    while True:
        new.save(path)


def cases(seed: int, count: int, folder: pathlib.Path) -> Iterator[str]:
    """Kill a process at a random moment while it saves, and load the file."""
    rng = np.random.default_rng(seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fastbn.model"])
    old, new = (BatchNormMLP(SIZES, seed=seed) for seed in (1, 2))
    path = folder / "model"
    start = time.perf_counter()
    new.save(path)
    seconds = time.perf_counter() - start
    for case in range(count):
        old.save(path)
        begun = context.Event()
        process = context.Process(target=save_again_and_again, args=(path, begun))
        process.start()
        assert begun.wait(60), f"case {case}: the process did not start"
        time.sleep(rng.uniform(0.0, 3.0 * seconds))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        there = BatchNormMLP.load(path).params
        is_old, is_new = (np.array_equal(there, model.params) for model in (old, new))
        assert is_old or is_new, f"case {case}: neither the old nor the new model"
        left = [other for other in folder.iterdir() if other != path]
        for other in left:
            other.unlink()
        yield ("the new" if is_new else "the old") + (", a temporary file left" if left else "")


TRIAL = Trial(
    "saves",
    "A process that is killed while it saves leaves the old model or the new one, whole.",
    200,
    cases,
)
