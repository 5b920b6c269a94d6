"""Memory: the peak of a fit beside its formula, no growth, and data that is larger than memory."""

from __future__ import annotations

import gc
import json
import pathlib
import resource
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from trial import Trial

import fastbn
from fastbn.fit import rollback

STEPS = 10_000

# What a process may take beyond what it has at the beginning, and the size of its data.
ROOM, DATA = 100 << 20, 400 << 20


def status(name: str) -> int:
    """Return a number of this process from /proc: bytes, or a count."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            value, *unit = line.split()[1:]
            return int(value) * (1024 if unit else 1)
    raise KeyError(name)


# -- the formula -----------------------------------------------------------------------------------

NETS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((784, 1024, 512, 10), {}),
    ((10, 64, 32, 3), {"dtype": "float64"}),
    ((40, 700, 600, 4), {"loss": "squared_error", "batch_norm": False}),
    ((300, 800, 400, 5), {"loss": "sigmoid_cross_entropy", "input_normalization": "zscore"}),
    ((6, 16, 3), {"input_normalization": "minmax", "weighted": True}),
]


def formula(rng: np.random.Generator, folder: pathlib.Path) -> str:
    """The peak that tracemalloc sees is within a tenth of what `fit_bytes` says."""
    sizes, options = NETS[rng.integers(len(NETS))]
    batch = int(rng.choice([100, 1000, 6000]))
    n = max(2 * batch, 800_000 if sizes[0] <= 10 else 8000)
    # bytes are taken as they are, float64 and int16 are converted
    x_dtype = np.dtype(str(rng.choice(["float32", "float64", "uint8", "int16"])))
    x = rng.integers(0, 100, (n, sizes[0])).astype(x_dtype)
    validated = int(rng.choice([0, n // 2]))
    weight = rng.uniform(0.5, 2, n) if rng.random() < 0.5 else None
    stopping, calls = (bool(rng.random() < 0.5) for _ in range(2))
    y = rng.integers(0, 2, n).astype(np.int32)
    if options.get("loss"):
        y = np.stack([y] * sizes[-1], axis=1)

    def train(n: int, **more: Any) -> None:
        held = None if weight is None else weight[:n]
        model.fit(
            x[:n], y[:n], epochs=2, batch_size=min(n, batch), sample_weight=held, progress=False,
            early_stopping=10 if stopping else None,
            callbacks=[lambda model, history: None] * calls, **more,
        )  # fmt: skip

    model = fastbn.BatchNormMLP(sizes, **options)
    train(100, validation_data=(x[:50], y[:50]))  # what is compiled is not of the fit
    del model
    gc.collect()
    # a snapshot whenever one may be taken: by the clock, a short fit takes but one
    seldom, rollback.SELDOM = rollback.SELDOM, 0.0
    tracemalloc.start()
    try:
        model = fastbn.BatchNormMLP(sizes, **options)
        train(n, validation_data=(x[:validated], y[:validated]) if validated else None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        rollback.SELDOM = seldom
    expected = model.fit_bytes(
        n, batch, x_dtype=x_dtype, sample_weight=weight is not None, validation_samples=validated,
        early_stopping=stopping,
    )  # fmt: skip
    what = f"{sizes} {options} batch {batch}, {n} x {x_dtype}, {validated=} {stopping=}"
    what = f"{what} weights={weight is not None}"
    assert abs(peak - expected) <= expected / 10, f"{what}: {peak:,} bytes, not {expected:,}"
    return "peaks within 10 % of the formula"


# -- growth ----------------------------------------------------------------------------------------


def growth(rng: np.random.Generator, folder: pathlib.Path) -> str:
    """Nothing is left of a call: memory and threads are as they were 10,000 calls before."""
    model = fastbn.BatchNormMLP((8, 16, 3), input_normalization="zscore")
    x, y = rng.standard_normal((64, 8)).astype(np.float32), rng.integers(0, 3, 64)
    model.train_step(x, y)
    samples = model.training_samples(x, y, None)
    order, bounds, lrs = np.arange(64), np.array([0, 32, 64]), np.full(2, 1e-3)

    def fit() -> None:
        model.fit(x, y, epochs=10, batch_size=32, progress=False, validation_data=(x, y))

    calls: list[tuple[Callable[[], Any], int]] = [
        (lambda: model.train_step(x, y), STEPS),
        (lambda: model.run_steps(samples, order, bounds, lrs), STEPS // 2),
        (lambda: model.partial_fit(x, y, batch_size=32), STEPS // 2),
        (lambda: model.predict_proba(x), STEPS),
        (fit, STEPS // 20),
    ]
    call, count = calls[rng.integers(len(calls))]
    for _ in range(count // 10):
        call()
    gc.collect()
    before, threads = status("RssAnon"), (threading.active_count(), status("Threads"))
    for _ in range(count):
        call()
    gc.collect()
    grown = status("RssAnon") - before
    assert grown < 2 << 20, f"{grown:,} bytes more after {count} calls"
    assert (threading.active_count(), status("Threads")) <= threads
    tracemalloc.start()
    try:
        for _ in range(10):
            call()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(count // 10):
            call()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 50_000, f"{after - before:,} bytes more after {count // 10} calls"
    return "10,000 steps without growth"


# -- data larger than memory -----------------------------------------------------------------------


def in_a_process(what: str, rng: np.random.Generator, folder: pathlib.Path) -> None:
    """Run one of the functions below in a process of its own."""
    options = {
        "mode": [None, "zscore", "minmax"][rng.integers(3)],
        "dtype": str(rng.choice(["float32", "uint8"])),
        "weighted": bool(rng.random() < 0.5),
        "folder": str(folder),
        "seed": int(rng.integers(1000)),
    }
    command = [sys.executable, __file__, what, json.dumps(options)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{what} {options}: {result.stderr[-2000:]}"


def limited(model: Any, columns: int, dtype: Any) -> None:
    """Compile what a fit needs, and forbid more memory than ROOM from then on."""
    x, y = np.ones((64, columns), dtype), np.arange(64) % 2
    x[::2] = 0
    warm = fastbn.BatchNormMLP.__new__(fastbn.BatchNormMLP)
    warm._build(model.config)
    warm._initialize()
    weight = np.ones(64)
    for held in (None, weight):
        warm.fit(
            x,
            y,
            epochs=1,
            batch_size=32,
            progress=False,
            sample_weight=held,
            validation_data=(x, y),
        )
        warm.partial_fit(x, y, batch_size=32, sample_weight=held)
    most = status("VmData") + ROOM
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def memmap(mode: str | None, dtype: str, weighted: bool, folder: str, seed: int) -> None:
    """Train on a file four times as large as what may be allocated, and predict in pieces."""
    columns = 100 if dtype == "float32" else 400
    rows = DATA // (columns * np.dtype(dtype).itemsize)
    path = pathlib.Path(folder, "data")
    with path.open("wb") as file:
        file.truncate(DATA)  # zeros, which take no place on the disk
    rng = np.random.default_rng(seed)
    x = np.memmap(path, dtype, "r+", shape=(rows, columns))
    some = rng.choice(rows, 1000, replace=False)
    x[some] = rng.integers(0, 200, (1000, columns))
    x.flush()
    x = np.memmap(path, dtype, "r", shape=(rows, columns))
    y = np.zeros(rows, np.int64)
    y[some] = 1
    weight = rng.uniform(0.5, 2, rows).astype(np.float32) if weighted else None
    model = fastbn.BatchNormMLP((columns, 8, 2), input_normalization=mode, weighted=weighted)
    limited(model, columns, dtype)
    history = model.fit(
        x, y, epochs=1, batch_size=4096, progress=False, sample_weight=weight,
        validation_data=(x, y),
    )  # fmt: skip
    assert np.isfinite(history.loss + history.val_loss).all()
    whole = model.predict(x)
    size = 100_000
    pieces = [model.predict(x[start : start + size]) for start in range(0, rows, size)]
    assert np.array_equal(np.concatenate(pieces), whole)
    try:
        np.ones(DATA, np.uint8)
    except MemoryError:
        return
    raise AssertionError("the data would have fitted into memory")


def batches(mode: str | None, dtype: str, weighted: bool, folder: str, seed: int) -> None:
    """Train on batches from a generator, more of them than memory would hold."""
    rng = np.random.default_rng(seed)
    model = fastbn.BatchNormMLP((100, 8, 2), input_normalization=mode, weighted=weighted)
    limited(model, 100, dtype)

    def generate(size: int) -> Iterator[tuple[Any, ...]]:
        for _ in range(DATA // size):
            shape = (size // (100 * np.dtype(dtype).itemsize), 100)
            x = rng.integers(0, 200, shape).astype(dtype)
            weight = np.ones(len(x)) if weighted else None
            yield x, (x[:, 0] > 99).astype(np.int64), weight

    before = None
    for x, y, weight in generate(8 << 20):
        model.partial_fit(x, y, batch_size=1024, sample_weight=weight)
        before = before or status("RssAnon")
    grown = status("RssAnon") - before
    assert grown < 48 << 20, f"{grown:,} bytes more"


def resident(mode: str | None, dtype: str, weighted: bool, folder: str, seed: int) -> None:
    """Compare the formula with what the system counts, where fixed costs are small."""
    sizes, rows = (784, 2048, 2048, 10), 1024
    x, y = np.ones((rows, 784), np.float32), np.arange(rows) % 10
    fastbn.BatchNormMLP((784, 16, 10)).fit(x, y, epochs=1, batch_size=256, progress=False)
    rollback.SELDOM = 0.0
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before = status("VmHWM")
    model = fastbn.BatchNormMLP(sizes, seed=seed)
    model.fit(x, y, epochs=2, batch_size=256, progress=False)
    peak, expected = status("VmHWM") - before, model.fit_bytes(rows, 256)
    assert abs(peak - expected) <= expected / 10, f"{peak:,} bytes, not {expected:,}"


def large(rng: np.random.Generator, folder: pathlib.Path) -> str:
    """A large net, by the system's own count."""
    in_a_process("resident", rng, folder)
    return "resident peaks within 10 % of the formula"


def files(rng: np.random.Generator, folder: pathlib.Path) -> str:
    """A memory-mapped file."""
    in_a_process("memmap", rng, folder)
    return "files of four times the memory"


def streams(rng: np.random.Generator, folder: pathlib.Path) -> str:
    """A generator of batches."""
    in_a_process("batches", rng, folder)
    return "streams of four times the memory"


CASES = [formula, growth, files, streams, formula, growth, files, large]


def cases(seed: int, count: int, folder: pathlib.Path) -> Iterator[str]:
    """Kinds of cases in turns."""
    for index in range(count):
        case = CASES[index % len(CASES)]
        try:
            yield case(np.random.default_rng([seed, index]), folder)
        except AssertionError as error:
            raise AssertionError(f"case {index}, {case.__name__}: {error}") from error


TRIAL = Trial(
    "memory",
    "The peak of a fit is within 10 % of a formula, nothing grows over 10,000 steps, and data "
    "larger than memory trains from files and streams.",
    40,
    cases,
)

if __name__ == "__main__":
    {"memmap": memmap, "batches": batches, "resident": resident}[sys.argv[1]](
        **json.loads(sys.argv[2])
    )
