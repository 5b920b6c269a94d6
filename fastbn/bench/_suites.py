"""The suites of `fastbn bench`: from kernels and training steps to whole processes."""

from __future__ import annotations

import gc
import itertools
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fastbn.bench import _peers
from fastbn.bench._fastbn import BareGemms, Copy, FastbnStepper
from fastbn.bench._peers import Makers, thread_counts, threads_of
from fastbn.bench._predict import PREDICTS
from fastbn.bench._row import Row
from fastbn.bench._timing import interleave
from fastbn.bench._work import (
    ADAMS,
    BATCH_NORMS,
    BATCHES,
    CALLS,
    FITS,
    MODULES,
    OPTIMIZERS,
    SCALES,
    STEPS,
    Runner,
    StepWork,
    random_steps,
)

# The results of all sides are compared after this many epochs of 8 steps, calls, or fits.
EPOCHS_COMPARED, CALLS_COMPARED, FITS_COMPARED = 3, 20, 1

# Batch norm and Adam that move at least this many bytes are compared with a copy.
BEYOND_CACHES = 64e6
COPY_BYTES = 1 << 26


def rows(suites: Iterable[str], peers: Sequence[str], n_random: int = 0) -> Iterator[Row]:
    """Measure suites and `n_random` random networks; yield each row when it is done."""
    if "kernels" in suites:
        yield from kernel_rows(peers)
    if "step" in suites:
        yield from (step_row("training step", "step", work, peers) for work in STEPS)
    for work in random_steps(n_random):
        yield step_row("random networks", "step", work, peers)
    if "calls" in suites:
        yield from (step_row("train_step", "calls", work, peers) for work in CALLS)
    if "predict" in suites:
        yield from call_rows("predict_proba", "predict", PREDICTS, peers)
    if "estimators" in suites and _peers.is_installed("sklearn"):
        yield from call_rows("fit of a classifier", "fit", FITS, peers, calls=FITS_COMPARED)
    if "torch" in suites and _peers.is_installed("torch"):
        yield from torch_rows(peers)
    if "startup" in suites:
        from fastbn.bench._startup import startup_rows

        yield from startup_rows(peers, os.environ.get("FASTBN_DATA"))


def kernel_rows(peers: Collection[str]) -> Iterator[Row]:
    """Measure batch norm in both layouts, Adam, and scaling of inputs."""
    for layout, order in [("CN", "features x samples"), ("NC", "samples x features")]:
        # the peers always get sample-major arrays, which suit them
        suite = f"batch norm, {order}"
        yield from call_rows(suite, "batch norm", BATCH_NORMS, peers, copies=True, layout=layout)
    yield from call_rows("Adam", "Adam", ADAMS, peers, copies=True)
    yield from call_rows("z-score of inputs", "z-score", SCALES, peers)


def torch_rows(peers: Collection[str]) -> Iterator[Row]:
    """Measure `fastbn.torch` against PyTorch's modules and optimizers."""
    for suite, works in (("PyTorch's batch norm", MODULES), ("PyTorch's Adam", OPTIMIZERS)):
        yield from call_rows(suite, suite, works, peers)
    for step in STEPS:
        yield step_row("PyTorch's training step", "PyTorch's training step", step, peers)


def call_rows(
    suite: str, kind: str, works: Iterable[Any], peers: Collection[str], *,
    copies: bool = False, calls: int = CALLS_COMPARED, **ours: Any,
) -> Iterator[Row]:  # fmt: skip
    """Measure calls for each work of a kind; if `copies`, large ones are compared with a copy.

    `ours` are more arguments for fastbn's contestants.
    """
    for work in works:
        contestants = _peers.makers(kind, work, peers, **ours)
        bytes_moved = work.bytes_moved if copies else 0
        missing = _peers.absent(kind, peers)
        yield kernel_row(suite, work.name, contestants, missing, bytes_moved, calls)


def step_row(suite: str, kind: str, work: StepWork, peers: Collection[str]) -> Row:
    """Measure training steps, and for `BatchNormMLP` also the bare matrix products."""
    missing = _peers.absent(kind, peers)
    made, apart = prepare(_peers.makers(kind, work, peers), missing, EPOCHS_COMPARED)
    runs: dict[Any, Runner] = dict(made)
    if kind == "step":
        for count in thread_counts():
            runs[f"bare products, {threads_of(count)}"] = BareGemms(work, count)
        if len(thread_counts()) > 1:
            runs["alone"] = FastbnStepper(work, threads=1)
    times = interleave({key: runner.run for key, runner in runs.items()})
    times = {key: timing / BATCHES for key, timing in times.items()}
    alone = times.pop("alone", None)
    flops = work.flops if kind == "step" else None
    return Row.of(suite, work.name, times, apart=apart, missing=missing, alone=alone, flops=flops)


def kernel_row(
    suite: str, work: str, makers: Makers, missing: Mapping[str, str], bytes_moved: int = 0,
    calls: int = CALLS_COMPARED,
) -> Row:  # fmt: skip
    """Measure a call, and a copy if the call moves more bytes than caches hold."""
    missing = dict(missing)
    made, apart = prepare(makers, missing, calls)
    runs: dict[Any, Runner] = dict(made)
    if bytes_moved >= BEYOND_CACHES:
        for count, past in itertools.product(thread_counts(), (False, True)):
            name = f"copy{', past the caches' if past else ''}, {threads_of(count)}"
            runs[name] = Copy(COPY_BYTES, count, past)
    times = interleave({key: runner.run for key, runner in runs.items()})
    times = {
        key: timing if key in made else timing / (2 * COPY_BYTES / bytes_moved)
        for key, timing in times.items()
    }
    return Row.of(suite, work, times, apart=apart, missing=missing)


def prepare(
    makers: Makers, missing: dict[str, str], calls: int
) -> tuple[dict[tuple[str, str], Runner], dict[str, float]]:
    """Make the contestants, and compare their results after `calls` calls with fastbn's.

    The first contestant is fastbn's. A peer that fails is added to `missing`. Return the
    contestants, and the largest distance of each side's results.
    """
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None:  # it compiles a function for a few sizes only
        torch.compiler.reset()
    made: dict[tuple[str, str], Runner] = {}
    failures: dict[tuple[str, str], str] = {}
    apart: dict[str, float] = {}
    ours: list[np.ndarray] = []
    for (side, setting), make in makers.items():
        try:
            contestant = make()
            contestant.run(calls)
            results = [np.array(array) for array in contestant.results()]
        except Exception as error:  # measure the others
            if side == "fastbn":
                raise
            lines = str(error).strip().splitlines() or [repr(error)]
            failures[side, setting] = f"failed: {lines[0][:200]}"
            continue
        if made:  # keeps NaN, unlike Python's max
            apart[side] = float(np.maximum(apart.get(side, 0.0), distance(results, ours)))
        else:
            ours = results
        made[side, setting] = contestant
    sides = {side for side, _ in made}
    for (side, setting), why in failures.items():
        missing[f"{side}, {setting}," if side in sides else side] = why
    return made, apart


def distance(results: Sequence[np.ndarray], ours: Sequence[np.ndarray]) -> float:
    """Return the largest relative distance of an array from ours, by norm.

    Comparing single numbers would fail: the gradient jumps if rounding decides the sign of a
    LeakyReLU's input.
    """
    pairs = [(theirs.ravel(), own.ravel()) for theirs, own in zip(results, ours, strict=True)]
    norm = np.linalg.norm
    return float(np.max([norm(a - b) / max(float(norm(b)), 1e-30) for a, b in pairs]))
