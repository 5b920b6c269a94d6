"""What `fastbn bench` measures: rows of training steps, of kernels, of starting up."""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from fastbn.bench import _peers
from fastbn.bench._kernel_work import ADAMS, BATCH_NORMS, SCALES
from fastbn.bench._peers import NO_BATCH_NORM, Makers
from fastbn.bench._row import Contestant, Row
from fastbn.bench._step_work import BATCHES, SCALING, STEPS, Stepper, StepWork, random_works
from fastbn.bench._timing import Timing, interleave

SUITES = ("kernels", "step", "startup")

# Steps after which all sides must have the same losses.
STEPS_COMPARED = 20

# Calls after which all sides must have the same results, Adam's parameters among them.
CALLS_COMPARED = 20

# From here on a batch norm or an Adam step is compared with a copy: bytes to move.
BEYOND_CACHES = 100e6
COPY_BYTES = 1 << 26


def rows(suites: Iterable[str], peers: Sequence[str], n_random: int = 0) -> Iterator[Row]:
    """Measure, row by row."""
    if "kernels" in suites:
        yield from kernel_rows(peers)
    if "step" in suites:
        yield from (step_row("training step", work, peers) for work in STEPS)
        for kind, works in SCALING.items():
            yield from (step_row(f"{kind} doubled", work, []) for work in works)
    yield from (step_row("random nets", work, peers) for work in random_works(n_random))
    if "startup" in suites:
        from fastbn.bench._startup import startup_rows

        yield from startup_rows(peers, os.environ.get("FASTBN_DATA"))


def step_row(suite: str, work: StepWork, peers: Sequence[str]) -> Row:
    """Measure a training step, beside its bare matrix products."""
    missing = {"sklearn": NO_BATCH_NORM} if "sklearn" in peers else {}
    # a scan takes whole epochs: all are asked for them
    epochs = -(-STEPS_COMPARED // BATCHES)

    def first_losses(stepper: Stepper) -> list[np.ndarray]:
        return [stepper.run(epochs * BATCHES)[:STEPS_COMPARED]]

    made, losses = _prepare(_peers.steppers(peers, work), missing, first_losses)
    runs: dict[Any, Any] = {**made, **_peers.bare_products(work)}
    epochs_of = {key: functools.partial(_run_epochs, one) for key, one in runs.items()}
    times = {key: _part(timing, BATCHES) for key, timing in interleave(epochs_of).items()}
    return _row(suite, work.name, times, _apart(losses), missing, flops=work.flops)


def _run_epochs(stepper: Stepper, count: int) -> None:
    stepper.run(count * BATCHES)


def kernel_rows(peers: Sequence[str]) -> Iterator[Row]:
    """Measure batch norm in both layouts, Adam, and scaling of inputs."""
    no_batch_norm = {"sklearn": NO_BATCH_NORM} if "sklearn" in peers else {}
    for layout, order in [("CN", "features x samples"), ("NC", "samples x features")]:
        for work in BATCH_NORMS:
            yield _kernel_row(
                f"batch norm, {order}", work.name,
                _peers.batch_norms(peers, work, layout), no_batch_norm, work.bytes_moved,
            )  # fmt: skip
    compiles = {"torch-compile": "its fused Adam is compiled already"}
    for adam in ADAMS:
        missing = {side: why for side, why in compiles.items() if side in peers}
        if "sklearn" in peers:
            missing["sklearn"] = "has no function for it"
        yield _kernel_row("Adam", adam.name, _peers.adams(peers, adam), missing, adam.bytes_moved)
    for scale in SCALES:
        yield _kernel_row("z-score of inputs", scale.name, _peers.scales(peers, scale), {}, 0)


def _kernel_row(
    suite: str, name: str, makers: Makers, missing: dict[str, str], bytes_moved: int
) -> Row:
    missing = dict(missing)

    def first_results(runner: Any) -> list[np.ndarray]:
        runner.run(CALLS_COMPARED)
        return [np.array(array) for array in runner.results()]

    made, results = _prepare(makers, missing, first_results)
    apart = _apart(results)
    del results
    runs: dict[Any, Any] = dict(made)
    copied = 0
    if bytes_moved >= BEYOND_CACHES:
        copied = 2 * COPY_BYTES
        runs |= _peers.copies(COPY_BYTES)
    times = interleave({key: runner.run for key, runner in runs.items()})
    times = {
        key: timing if key in made else _part(timing, copied / bytes_moved)
        for key, timing in times.items()
    }
    return _row(suite, name, times, apart, missing)


def _prepare(
    makers: Makers, missing: dict[str, str], first: Any
) -> tuple[dict[tuple[str, str], Any], dict[str, list[np.ndarray]]]:
    """Make the contestants, and take their first results; a peer that cannot is missing."""
    gc.collect()
    made, results = {}, {}
    for (side, setting), make in makers.items():
        try:
            contestant = make()
            results[side] = first(contestant)
            made[side, setting] = contestant
        except Exception as error:  # of a peer: the others are measured all the same
            if side == "fastbn":
                raise
            lines = str(error).strip().splitlines() or [repr(error)]
            missing[side] = f"failed: {lines[0][:200]}"
    return made, results


def _apart(results: dict[str, list[np.ndarray]]) -> dict[str, float]:
    """Return how far each peer's results lie from fastbn's, as a part of them, by their norms.

    Not by single numbers: where rounding decides the sign of a LeakyReLU's input, a gradient jumps.
    """
    ours = results["fastbn"]
    return {
        side: max(
            float(np.linalg.norm((b - a).ravel()) / max(float(np.linalg.norm(a.ravel())), 1e-30))
            for a, b in zip(ours, theirs, strict=True)
        )
        for side, theirs in results.items()
        if side != "fastbn"
    }


def _part(timing: Timing, of: float) -> Timing:
    return Timing(timing.median / of, timing.low / of, timing.high / of)


def _row(
    suite: str,
    work: str,
    times: dict[Any, Timing],
    apart: dict[str, float],
    missing: dict[str, str],
    flops: float | None = None,
) -> Row:
    contestants = [
        Contestant(key[0], key[1], timing)
        for key, timing in times.items()
        if isinstance(key, tuple)
    ]
    limits = {key: timing for key, timing in times.items() if isinstance(key, str)}
    return Row(suite, work, contestants, limits, apart, missing, flops)
