"""The trial of memory: growth, data larger than memory, and the peak that the system reports."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import pathlib
import resource
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
from trial import Trial

import fastbn
from fastbn.model.inputs import training_samples

Options = dict[str, Any]

STEPS = 10_000

# Additional memory that a process may allocate, and the size of its data.
ROOM, DATA = 100 << 20, 400 << 20


def status(name: str) -> int:
    """Return a number from /proc/self/status: bytes, or a count."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            value, *unit = line.split()[1:]
            return int(value) * (1024 if unit else 1)
    raise KeyError(name)


def growth(rng: np.random.Generator, folder: pathlib.Path) -> str:
    """After 10,000 calls there is no more memory in use, and no more threads, than before."""
    model = fastbn.BatchNormMLP((8, 16, 3), input_normalization="zscore")
    x, y = rng.standard_normal((64, 8)).astype(np.float32), rng.integers(0, 3, 64)
    model.train_step(x, y)
    samples = training_samples(model, x, y)
    order, bounds, lrs = np.arange(64), np.array([0, 32, 64]), np.full(2, 1e-3)
    fit = {"epochs": 10, "batch_size": 32, "progress": False, "validation_data": (x, y)}
    calls = [
        (lambda: model.train_step(x, y), STEPS),
        (lambda: model._engine.run_steps(samples, order, bounds, lrs), STEPS // 2),
        (lambda: model.partial_fit(x, y, batch_size=32), STEPS // 2),
        (lambda: model.predict_proba(x), STEPS),
        (lambda: model.fit(x, y, **fit), STEPS // 20),
    ]
    call, count = calls[rng.integers(len(calls))]

    def repeat(count: int) -> None:
        for _ in range(count):
            call()
        gc.collect()

    repeat(count // 10)
    before, threads = status("RssAnon"), (threading.active_count(), status("Threads"))
    repeat(count)
    grown = status("RssAnon") - before
    assert grown < 2 << 20, f"{grown:,} bytes more after {count} calls"
    assert (threading.active_count(), status("Threads")) <= threads
    return "10,000 steps without growth"


# -- in processes of their own ---------------------------------------------------------------------


def limited(options: Options, columns: int, dtype: Any) -> fastbn.BatchNormMLP:
    """Compile what a fit needs, limit further memory to ROOM, and return a model."""
    config = {"input_normalization": options["mode"], "weighted": options["weighted"]}
    x, y = np.ones((64, columns), dtype), np.arange(64) % 2
    x[::2] = 0
    for weight in (None, np.ones(64)):
        model = fastbn.BatchNormMLP((columns, 8, 2), **config)
        given = {"sample_weight": weight, "batch_size": 32}
        model.fit(x, y, epochs=1, progress=False, validation_data=(x, y), **given)
        model.partial_fit(x, y, **given)
    most = status("VmData") + ROOM
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    return fastbn.BatchNormMLP((columns, 8, 2), **config)


def memmap(options: Options) -> None:
    """Train on a file of four times the memory that may be allocated, and predict in pieces."""
    dtype = options["dtype"]
    columns = 100 if dtype == "float32" else 400
    rows = DATA // (columns * np.dtype(dtype).itemsize)
    path = options["folder"] / "data"
    with path.open("wb") as file:
        file.truncate(DATA)  # zeros, which take no space on the disk
    rng = np.random.default_rng(options["seed"])
    x = np.memmap(path, dtype, "r+", shape=(rows, columns))
    some = rng.choice(rows, 1000, replace=False)
    x[some] = rng.integers(0, 200, (1000, columns))
    x.flush()
    x = np.memmap(path, dtype, "r", shape=(rows, columns))
    y = np.zeros(rows, np.int64)
    y[some] = 1
    weight = rng.uniform(0.5, 2, rows).astype(np.float32) if options["weighted"] else None
    model = limited(options, columns, dtype)
    history = model.fit(
        x, y, epochs=1, batch_size=4096, progress=False, sample_weight=weight,
        validation_data=(x, y),
    )  # fmt: skip
    assert np.isfinite(history.loss + history.val_loss).all()
    whole = model.predict(x)
    pieces = [model.predict(x[start : start + 100_000]) for start in range(0, rows, 100_000)]
    assert np.array_equal(np.concatenate(pieces), whole)
    with contextlib.suppress(MemoryError):
        np.ones(DATA, np.uint8)
        raise AssertionError("the data fit in memory")


def batches(options: Options) -> None:
    """Train on generated batches that are larger than memory together."""
    rng = np.random.default_rng(options["seed"])
    model = limited(options, 100, options["dtype"])
    rows = (8 << 20) // (100 * np.dtype(options["dtype"]).itemsize)
    before = None
    for _ in range(DATA // (8 << 20)):
        x = rng.integers(0, 200, (rows, 100)).astype(options["dtype"])
        weight = np.ones(rows) if options["weighted"] else None
        y = (x[:, 0] > 99).astype(np.int64)
        model.partial_fit(x, y, batch_size=1024, sample_weight=weight)
        before = before or status("RssAnon")
    grown = status("RssAnon") - before
    assert grown < 48 << 20, f"{grown:,} bytes more"


def resident(options: Options) -> None:
    """Compare the formula with the system's count, for a large network."""
    rows = 1024
    x, y = np.ones((rows, 784), np.float32), np.arange(rows) % 10
    fastbn.BatchNormMLP((784, 16, 10)).fit(x, y, epochs=1, batch_size=256, progress=False)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = status("VmHWM")
    model = fastbn.BatchNormMLP((784, 2048, 2048, 10), seed=options["seed"])
    model.fit(x, y, epochs=2, batch_size=256, progress=False)
    peak, expected = status("VmHWM") - before, model.fit_bytes(rows, 256)
    assert abs(peak - expected) <= expected / 10, f"{peak:,} bytes, not {expected:,}"


ALONE = {
    memmap: "files of four times the memory",
    batches: "streams of four times the memory",
    resident: "resident peaks within 10 % of the formula",
}
CASES: list[Any] = [growth, memmap, batches, resident]


def cases(seed: int, count: int, folder: pathlib.Path) -> Iterator[str]:
    """Take the kinds of cases in turns."""
    for index in range(count):
        case, rng = CASES[index % len(CASES)], np.random.default_rng([seed, index])
        if case not in ALONE:
            yield case(rng, folder)
            continue
        options = {
            "mode": [None, "zscore", "minmax"][rng.integers(3)],
            "dtype": str(rng.choice(["float32", "uint8"])),
            "weighted": bool(rng.random() < 0.5),
            "folder": folder,
            "seed": int(rng.integers(1000)),
        }
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            pool.submit(case, options).result()
        yield ALONE[case]


TRIAL = Trial(
    "memory",
    "Nothing grows over 10,000 steps, data larger than memory trains from files and streams, and "
    "the peak of a fit is within 10 % of a formula.",
    40,
    cases,
)
