"""The trial of trainings that are killed, and resumed from their checkpoints."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pathlib
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from jobs import Job, data_of, digest_of, draw_job, fit, model_of
from trial import Trial

from fastbn import BatchNormMLP, DivergenceError

SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, *[signal.SIGKILL] * 6]
INTERRUPTED = 3  # exit code of a training that Ctrl-C ended


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


def run(job: Job, result: pathlib.Path, began: Any, **checkpoint: Any) -> None:
    """Train; write the digest and the number of steps taken in this process."""
    taken: list[int] = []
    model = model_of(job)
    take_steps = model._engine.take_steps

    def counted(*arguments: Any) -> Any:
        taken.append(arguments[2].size - 1)
        return take_steps(*arguments)

    model._engine.take_steps = counted  # type: ignore[method-assign]
    began.set()
    try:
        history = fit(job, model, **checkpoint)
    except DivergenceError as error:  # too many steps were refused after the one that diverged
        history = error.history
    if history.stop_reason == "interrupted":
        raise SystemExit(INTERRUPTED)
    del model._engine.take_steps
    digest = digest_of(model, data_of(job)[0], history)
    result.write_text(f"{digest} {model.steps} {sum(taken)}")


def cases(seed: int, count: int, folder: pathlib.Path) -> Iterator[str]:
    """Kill a training at a random moment, start it again, and compare the results."""
    rng = np.random.default_rng(seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fastbn.model"])
    whole, parts = folder / "whole", folder / "parts"

    def start(job: Job, result: pathlib.Path, **checkpoint: Any) -> Any:
        began = context.Event()
        process = context.Process(target=run, args=(job, result, began), kwargs=checkpoint)
        process.start()
        assert began.wait(60)
        return process

    for case in range(count):
        job, number = draw_long_job(rng), SIGNALS[case % len(SIGNALS)]
        what, path = f"case {case}, {job}, {number.name}", folder / f"checkpoint-{case}"
        process = start(job, whole, checkpoint=folder / f"twin-{case}")
        began = time.perf_counter()
        process.join(120)
        delay = rng.uniform(0.0, time.perf_counter() - began)
        assert process.exitcode == 0, f"{what}: exit {process.exitcode} without a kill"
        while True:
            process = start(job, parts, checkpoint=path, resume=True)
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
        process = start(job, parts, checkpoint=path, resume=True)
        process.join(120)
        assert process.exitcode == 0, f"{what}: exit {process.exitcode} after the restart"
        digest, steps, taken = parts.read_text().split()
        expected = whole.read_text().split()
        assert [digest, steps] == expected[:2], f"{what}: other bits"
        if job["explodes"] is None and job["patience"] is None:
            left = int(steps) - there
            assert int(taken) == left, f"{what}: {taken} steps from {there} on, not {left}"
        yield f"{number.name}, {'resumed' if resumes else 'started again'}, same bits"


TRIAL = Trial(
    "resume",
    "A training that is killed and started again ends with the bits of one that was not.",
    50,
    cases,
)
