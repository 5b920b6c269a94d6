"""Trainings that are killed, and go on."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import pathlib
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from trial import Trial

from fastbn import BatchNormMLP, EarlyStopping, History

SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, *[signal.SIGKILL] * 6]


@dataclasses.dataclass(frozen=True)
class Job:
    """A training, of data that the seed draws."""

    seed: int
    sizes: tuple[int, ...]
    model: dict[str, Any]
    fit: dict[str, Any]
    weighted: bool
    explodes: int | None  # a step whose rate is far too large

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Job:
        """Return a training of a second or so."""

        def one_of(*options: Any) -> Any:
            return options[rng.integers(len(options))]

        stop = EarlyStopping(patience=one_of(3, 1000), monitor="val_loss")
        return cls(
            seed=int(rng.integers(2**31)),
            sizes=(30, *[int(n) for n in rng.integers(8, 97, rng.integers(1, 4))], 5),
            model={
                "optimizer": one_of("adam", "adamw", "sgd", "rmsprop"),
                "dropout": one_of(0.0, 0.2),
                "batch_norm": one_of(True, True, False),
                "input_normalization": one_of(None, "zscore", "minmax"),
                "dtype": one_of("float32", "float64"),
                "max_norm": one_of(None, 1.0),
                "seed": int(rng.integers(1000)),
            },
            fit={
                "epochs": int(rng.integers(20, 60)),
                "batch_size": int(rng.integers(16, 64)),
                "schedule": one_of(None, "cosine", "one-cycle"),
                "checkpoint_every": one_of(None, 7, 50),
                "early_stopping": one_of(None, stop),
                "on_divergence": one_of("stop", "skip"),
                "shuffle": one_of(True, True, False),
            },
            weighted=bool(rng.integers(2)),
            explodes=one_of(None, int(rng.integers(200, 600))),
        )

    def train(self, folder: pathlib.Path, began: Any, **checkpoint: Any) -> None:
        """Train, and write what it came to: the model and the history."""
        rng = np.random.default_rng(self.seed)
        X = rng.standard_normal((2000, self.sizes[0])).astype(np.float32)
        y = (X[:, 0] > 0) + 2 * (X[:, 1] > 0) + (X[:, 2] > 1)
        model = BatchNormMLP(self.sizes, **self.model)
        fit = dict(self.fit)
        if self.explodes is not None:
            fit["schedule"] = lambda step: 1e30 if step == self.explodes else 1e-3
        began.set()
        taken: list[int] = []
        run_steps = model.run_steps

        def counted(*arguments: Any) -> Any:
            taken.append(arguments[2].size - 1)
            return run_steps(*arguments)

        model.run_steps = counted  # type: ignore[method-assign]
        history = model.fit(
            X, y, validation_data=(X[:300], y[:300]), progress=False, **checkpoint,
            sample_weight=rng.uniform(0.5, 2.0, len(X)) if self.weighted else None, **fit,
        )  # fmt: skip
        del model.run_steps
        (folder / "taken").write_text(str(sum(taken)))
        if history.stop_reason == "interrupted":
            raise SystemExit(3)
        model.save(folder / "model")
        (folder / "history").write_text(json.dumps(dataclasses.asdict(history)))


def result(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return all of the model and of the history, but for the seconds."""
    model = BatchNormMLP.load(folder / "model")
    history = History(**json.loads((folder / "history").read_text()))
    facts = {**dataclasses.asdict(history), "counts": (model.steps, model.epochs)}
    del facts["seconds"]
    return {name: tensor.copy() for name, tensor in model._state().items()}, facts


def cases(seed: int, count: int, folder: pathlib.Path) -> Iterator[str]:
    """Kill a training at a random moment, start it again, and compare its end."""
    rng = np.random.default_rng(seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fastbn.model"])
    whole, parts = folder / "whole", folder / "parts"
    for place in (whole, parts):
        place.mkdir()

    def start(job: Job, place: pathlib.Path, **checkpoint: Any) -> Any:
        began = context.Event()
        process = context.Process(target=job.train, args=(place, began), kwargs=checkpoint)
        process.start()
        assert began.wait(60)
        return process

    for case in range(count):
        job = Job.draw(rng)
        signal_number = SIGNALS[case % len(SIGNALS)]
        what = f"case {case}, {job}, {signal_number.name}"
        path = folder / f"checkpoint-{case}"
        process = start(job, whole, checkpoint=folder / f"twin-{case}")
        began = time.perf_counter()
        process.join(120)
        delay = rng.uniform(0.0, time.perf_counter() - began)
        assert process.exitcode == 0, f"{what}: exit {process.exitcode} when it was not killed"
        while True:
            process = start(job, parts, checkpoint=path, resume=True)
            time.sleep(delay)
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.kill(process.pid, signal_number)
            process.join(60)
            if process.exitcode != 0:
                break
            path.unlink(missing_ok=True)  # too late
            delay /= 2
        assert process.exitcode in (1, 3, -signal_number), f"{what}: exit {process.exitcode}"
        resumes = path.exists()
        if process.exitcode == 3:
            assert resumes, f"{what}: Ctrl-C left no checkpoint"
        there = BatchNormMLP.load(path).steps if resumes else 0
        process = start(job, parts, checkpoint=path, resume=True)
        process.join(120)
        assert process.exitcode == 0, f"{what}: exit {process.exitcode} when it went on"
        (tensors, facts), (expected, expected_facts) = result(parts), result(whole)
        assert facts == expected_facts, f"{what}: {facts} and not {expected_facts}"
        for name, tensor in expected.items():
            assert np.array_equal(tensors[name], tensor), f"{what}: other bits in {name}"
        left = expected_facts["counts"][0] - there
        taken = int((parts / "taken").read_text())
        if job.explodes is None and job.fit["early_stopping"] is None:
            assert taken == left, f"{what}: {taken} steps when it went on from {there}, not {left}"
        yield f"{signal_number.name}, {'went on' if resumes else 'began anew'}, the same bits"


TRIAL = Trial(
    "resume",
    "A training that is killed and started again ends with the same bits as one that was not",
    50,
    cases,
)
