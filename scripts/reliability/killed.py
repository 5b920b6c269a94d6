"""The trials of processes that are killed while they save a model, or train."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pathlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jobs import Job, data_of, digest_of, draw_job, fit, model_of
from trial import Trial

from fastbn import BatchNormMLP, DivergenceError

SIZES = (256, 256, 10)  # a file of about 2 MB

SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, *[signal.SIGKILL] * 6]
INTERRUPTED = 3  # exit code of a training that Ctrl-C ended


def started(target: Callable[..., None], *arguments: Any, **options: Any) -> Any:
    """Start ``target(begun, ...)`` in a new process, and wait until it calls ``begun.set()``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fastbn.model"])
    begun = context.Event()
    process = context.Process(target=target, args=(begun, *arguments), kwargs=options)
    process.start()
    assert begun.wait(60), "the process did not start"
    return process


# -- models ----------------------------------------------------------------------------------------


def save_again_and_again(begun: Any, path: pathlib.Path) -> None:
    """Save the new model until the process is killed."""
    new = BatchNormMLP(SIZES, seed=2)
    begun.set()
    while True:
        new.save(path)


def killed_saves(seed: int, count: int, folder: pathlib.Path) -> Iterator[str]:
    """Kill a process at a random moment while it saves, and load the file."""
    rng = np.random.default_rng(seed)
    old, new = (BatchNormMLP(SIZES, seed=seed) for seed in (1, 2))
    path = folder / "model"
    start = time.perf_counter()
    new.save(path)
    seconds = time.perf_counter() - start
    for _ in range(count):
        old.save(path)
        process = started(save_again_and_again, path)
        time.sleep(rng.uniform(0.0, 3.0 * seconds))
        process.kill()
        process.join()
        there = BatchNormMLP.load(path).params
        is_old, is_new = (np.array_equal(there, model.params) for model in (old, new))
        assert is_old or is_new, "neither the old nor the new model"
        left = [other for other in folder.iterdir() if other != path]
        for other in left:
            other.unlink()
        yield ("the new" if is_new else "the old") + (", a temporary file left" if left else "")


# -- trainings -------------------------------------------------------------------------------------


def draw_long_job(rng: np.random.Generator) -> Job:
    """Draw a training of about a second; half of them diverge in some step."""
    job = draw_job(rng, rows=2000, sizes=[30, *rng.integers(8, 97, rng.integers(1, 4)).tolist(), 5])
    job["fit"] |= {
        "epochs": int(rng.integers(20, 60)),
        "batch_size": int(rng.integers(16, 64)),
        "checkpoint_every": (None, 7, 50)[rng.integers(3)],
        "on_divergence": ("stop", "skip")[rng.integers(2)],
    }
    return job | {"explodes": (None, int(rng.integers(200, 600)))[rng.integers(2)]}


def run(begun: Any, job: Job, result: pathlib.Path, **checkpoint: Any) -> None:
    """Train; write the digest and the number of steps taken in this process."""
    taken: list[int] = []
    model = model_of(job)
    take_steps = model._engine.take_steps

    def counted(*arguments: Any) -> Any:
        taken.append(arguments[2].size - 1)
        return take_steps(*arguments)

    model._engine.take_steps = counted  # type: ignore[method-assign]
    begun.set()
    try:
        history = fit(job, model, **checkpoint)
    except DivergenceError as error:  # too many steps were refused after the one that diverged
        history = error.history
    if history.stop_reason == "interrupted":
        raise SystemExit(INTERRUPTED)
    del model._engine.take_steps
    digest = digest_of(model, data_of(job)[0], history)
    result.write_text(f"{digest} {model.steps} {sum(taken)}")


def killed_fits(seed: int, count: int, folder: pathlib.Path) -> Iterator[str]:
    """Kill a training at a random moment, start it again, and compare the results."""
    rng = np.random.default_rng(seed)
    whole, parts = folder / "whole", folder / "parts"
    for case in range(count):
        job, number = draw_long_job(rng), SIGNALS[case % len(SIGNALS)]
        what, path = f"{job}, {number.name}", folder / f"checkpoint-{case}"
        process = started(run, job, whole, checkpoint=folder / f"twin-{case}")
        began = time.perf_counter()
        process.join(120)
        delay = rng.uniform(0.0, time.perf_counter() - began)
        assert process.exitcode == 0, f"{what}: exit {process.exitcode} without a kill"
        while True:
            process = started(run, job, parts, checkpoint=path, resume=True)
            time.sleep(delay)
            with contextlib.suppress(ProcessLookupError):  # it has already ended
                os.kill(process.pid, number)
            process.join(60)
            if process.exitcode != 0:
                break
            path.unlink(missing_ok=True)  # it ended before it was killed
            delay /= 2
        allowed = (1, INTERRUPTED, -number)
        assert process.exitcode in allowed, f"{what}: exit {process.exitcode}"
        resumes = path.exists()
        assert resumes or process.exitcode != INTERRUPTED, f"{what}: Ctrl-C left no checkpoint"
        there = BatchNormMLP.load(path).steps if resumes else 0
        process = started(run, job, parts, checkpoint=path, resume=True)
        process.join(120)
        assert process.exitcode == 0, f"{what}: exit {process.exitcode} after the restart"
        digest, steps, taken = parts.read_text().split()
        expected = whole.read_text().split()
        assert [digest, steps] == expected[:2], f"{what}: other bits"
        if job["explodes"] is None and job["patience"] is None:
            left = int(steps) - there
            assert int(taken) == left, f"{what}: {taken} steps from {there} on, not {left}"
        yield f"{number.name}, {'resumed' if resumes else 'started again'}, same bits"


SAVES = Trial(
    "saves",
    "A process that is killed while it saves leaves the old model or the new one, whole.",
    200,
    killed_saves,
)
FITS = Trial(
    "resume",
    "A training that is killed and started again ends with the bits of one that was not.",
    50,
    killed_fits,
)
