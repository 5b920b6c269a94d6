"""What `fastbn bench` measures: rows of training steps, of kernels, of starting up."""

from __future__ import annotations

import functools
import gc
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fastbn.bench import _peers
from fastbn.bench._kernel_work import ADAMS, BATCH_NORMS, SCALES, Runner
from fastbn.bench._module_work import MODULES, OPTIMIZERS
from fastbn.bench._peers import NO_BATCH_NORM, Makers, absent
from fastbn.bench._row import Row
from fastbn.bench._step_work import BATCHES, SCALING, STEPS, Stepper, StepWork, random_works
from fastbn.bench._timing import Timing, interleave

SUITES = ("kernels", "step", "torch", "startup")

# Steps after which all sides must have the same losses.
STEPS_COMPARED = 20

# Calls after which all sides must have the same results, Adam's parameters among them.
CALLS_COMPARED = 20

COMPILED_ADAM = "its fused Adam is compiled already"

# From here on a batch norm or an Adam step is compared with a copy: bytes to move.
BEYOND_CACHES = 64e6
COPY_BYTES = 1 << 26


def rows(suites: Iterable[str], peers: Sequence[str], n_random: int = 0) -> Iterator[Row]:
    """Measure, row by row."""
    if "kernels" in suites:
        yield from kernel_rows(peers)
    if "step" in suites:
        yield from (step_row("training step", work, peers) for work in STEPS)
        for kind, works in SCALING.items():
            yield from (step_row(f"{kind} doubled", work, []) for work in works)
    if "torch" in suites and _peers.is_installed("torch"):
        yield from torch_rows(peers)
    yield from (step_row("random nets", work, peers) for work in random_works(n_random))
    if "startup" in suites:
        from fastbn.bench._startup import startup_rows

        yield from startup_rows(peers, os.environ.get("FASTBN_DATA"))


def step_row(suite: str, work: StepWork, peers: Sequence[str]) -> Row:
    """Measure a training step, beside its bare matrix products."""
    missing = absent(peers, {"sklearn": NO_BATCH_NORM})
    made, apart = _prepare(_peers.steppers(peers, work), missing, _first_losses)
    runs: dict[Any, Any] = {**made, **_peers.bare_products(work), **_peers.alone(work)}
    epochs_of = {key: functools.partial(_run_epochs, one) for key, one in runs.items()}
    times = {key: _part(timing, BATCHES) for key, timing in interleave(epochs_of).items()}
    alone = times.pop(_peers.ALONE, None)
    return Row.of(
        suite, work.name, times, apart=apart, missing=missing, flops=work.flops, alone=alone
    )


def _first_losses(stepper: Stepper) -> list[np.ndarray]:
    # a scan takes whole epochs: all are asked for them
    epochs = -(-STEPS_COMPARED // BATCHES)
    return [stepper.run(epochs * BATCHES)[:STEPS_COMPARED]]


def torch_rows(peers: Sequence[str]) -> Iterator[Row]:
    """Measure `fastbn.torch` in the places of PyTorch's modules and optimizers."""
    for module in MODULES:
        makers = _peers.torch_modules(peers, module)
        yield _kernel_row("PyTorch's batch norm", module.name, makers, {}, 0)
    no_adam = absent(peers, {"torch-compile": COMPILED_ADAM})
    for adam in OPTIMIZERS:
        makers = _peers.torch_optimizers(peers, adam)
        yield _kernel_row("PyTorch's Adam", adam.name, makers, no_adam, 0)
    for work in STEPS:
        missing: dict[str, str] = {}
        made, apart = _prepare(_peers.torch_loops(peers, work), missing, _first_losses)
        epochs_of = {key: functools.partial(_run_epochs, one) for key, one in made.items()}
        times = {key: _part(timing, BATCHES) for key, timing in interleave(epochs_of).items()}
        yield Row.of("PyTorch's training step", work.name, times, apart=apart, missing=missing)


def _run_epochs(stepper: Stepper, count: int) -> None:
    stepper.run(count * BATCHES)


def kernel_rows(peers: Sequence[str]) -> Iterator[Row]:
    """Measure batch norm in both layouts, Adam, and scaling of inputs."""
    no_batch_norm = absent(peers, {"sklearn": NO_BATCH_NORM})
    for layout, order in [("CN", "features x samples"), ("NC", "samples x features")]:
        for work in BATCH_NORMS:
            yield _kernel_row(
                f"batch norm, {order}", work.name,
                _peers.batch_norms(peers, work, layout), no_batch_norm, work.bytes_moved,
            )  # fmt: skip
    no_adam = absent(peers, {
        "torch-compile": COMPILED_ADAM, "sklearn": "has no function for it"
    })  # fmt: skip
    for adam in ADAMS:
        yield _kernel_row("Adam", adam.name, _peers.adams(peers, adam), no_adam, adam.bytes_moved)
    for scale in SCALES:
        yield _kernel_row("z-score of inputs", scale.name, _peers.scales(peers, scale), {}, 0)


def _kernel_row(
    suite: str, name: str, makers: Makers, missing: Mapping[str, str], bytes_moved: int
) -> Row:
    missing = dict(missing)

    def first_results(runner: Runner) -> list[np.ndarray]:
        runner.run(CALLS_COMPARED)
        return [np.array(array) for array in runner.results()]

    made, apart = _prepare(makers, missing, first_results)
    runs: dict[Any, Runner] = dict(made)
    if bytes_moved >= BEYOND_CACHES:
        runs |= _peers.copies(COPY_BYTES)
    times = interleave({key: runner.run for key, runner in runs.items()})
    times = {
        key: timing if key in made else _part(timing, 2 * COPY_BYTES / bytes_moved)
        for key, timing in times.items()
    }
    return Row.of(suite, name, times, apart=apart, missing=missing)


def _prepare(
    makers: Makers, missing: dict[str, str], first: Callable[[Any], list[np.ndarray]]
) -> tuple[dict[tuple[str, str], Any], dict[str, float]]:
    """Make the contestants, and compare their first results with those of fastbn, the first.

    A peer that cannot is missing. Returns the contestants, and how far each side is apart.
    """
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None:  # of one function it compiles few versions, and then no more
        torch.compiler.reset()
    made: dict[tuple[str, str], Any] = {}
    failures: dict[tuple[str, str], str] = {}
    distances: dict[str, list[float]] = {}
    ours: list[np.ndarray] = []
    for (side, setting), make in makers.items():
        try:
            contestant = make()
            results = first(contestant)
        except Exception as error:  # of a peer: the others are measured all the same
            if side == "fastbn":
                raise
            lines = str(error).strip().splitlines() or [repr(error)]
            failures[side, setting] = f"failed: {lines[0][:200]}"
            continue
        if made:
            distances.setdefault(side, []).append(distance(results, ours))
        else:
            ours = results
        made[side, setting] = contestant
    sides = {side for side, _ in made}
    for (side, setting), why in failures.items():
        missing[f"{side}, {setting}," if side in sides else side] = why
    # NumPy's maximum of what has a NaN is one, unlike Python's
    return made, {side: float(np.max(values)) for side, values in distances.items()}


def distance(results: Sequence[np.ndarray], ours: Sequence[np.ndarray]) -> float:
    """Return how far results lie from ours, as a part of them, by the norm of each array.

    Not by single numbers: where rounding decides the sign of a LeakyReLU's input, a gradient jumps.
    """
    parts = [
        norm(theirs - own) / max(norm(own), 1e-30)
        for theirs, own in zip(results, ours, strict=True)
    ]
    return float(np.max(parts))


def norm(array: np.ndarray) -> float:
    """Root of the sum of squares."""
    return float(np.linalg.norm(array.ravel()))


def _part(timing: Timing, of: float) -> Timing:
    return Timing(timing.median / of, timing.low / of, timing.high / of)
