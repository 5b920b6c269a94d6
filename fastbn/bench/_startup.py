"""The startup suite: whole processes of fastbn and its peers, from start to exit."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from fastbn.bench._peers import NO_BATCH_NORM, ONLY_PREDICTS, thread_counts, threads_of
from fastbn.bench._row import Row
from fastbn.bench._timing import Timing, turns

SUITE = "startup"
SCRIPTS = pathlib.Path(__file__).with_name("scripts")
ENOUGH = 0.9  # training accuracy, on Fashion-MNIST
LINES = 5  # of stderr, in the error about a failed process

ABSENT = {"torch-compile": "compiles for longer than it trains", **NO_BATCH_NORM, **ONLY_PREDICTS}
JAX_CACHE = "JAX_COMPILATION_CACHE_DIR"
JAX = {
    "JAX_PLATFORMS": "cpu",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


@dataclasses.dataclass(frozen=True)
class Process:
    """The interpreter with these arguments and environment variables.

    `empty` names a variable that is set to a new, empty folder for every run.
    """

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    empty: str | None = None

    def run(self) -> tuple[float, str]:
        """Run the process; return the seconds from start to exit, and its output."""
        environment = {**os.environ, **self.environment}
        with contextlib.ExitStack() as stack:
            if self.empty is not None:
                folder = tempfile.TemporaryDirectory(prefix="fastbn-bench-")
                environment[self.empty] = stack.enter_context(folder)
            command = [sys.executable, *self.arguments]
            start = time.perf_counter()
            done = subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
            )
            seconds = time.perf_counter() - start
        if done.returncode != 0:
            last = "\n".join(done.stderr.strip().splitlines()[-LINES:])
            raise RuntimeError(f"{shlex.join(command)}: exit code {done.returncode}\n{last}")
        return seconds, done.stdout


# By side and setting; limits by name.
Processes = dict[Any, Process]


def take_turns(
    processes: Processes, *, warm_up: bool = True
) -> tuple[dict[Any, Timing], dict[Any, str]]:
    """Run all processes in every round; return their times, and the last output of each.

    The warm-up round is not measured.
    """
    samples: dict[Any, list[float]] = {name: [] for name in processes}
    outputs = {}
    if warm_up:
        for process in processes.values():
            process.run()
    for name in turns(processes):
        seconds, outputs[name] = processes[name].run()
        samples[name].append(seconds)
    return {name: Timing.of(values) for name, values in samples.items()}, outputs


def startup_rows(against: Collection[str], data: str | None) -> Iterator[Row]:
    """Measure imports, first steps and, given a folder of Fashion-MNIST, a whole training.

    Raises
    ------
    RuntimeError
        A process failed.
    """
    with tempfile.TemporaryDirectory(prefix="fastbn-bench-") as folder:
        warm = {**JAX, JAX_CACHE: os.path.join(folder, "jax")}
        yield import_row(against)
        yield first_step_row(against, warm)
        yield empty_cache_row(against)
        if data is not None:
            yield training_row(against, data, folder, warm)


def import_row(against: Collection[str]) -> Row:
    """Import fastbn or a peer, each with NumPy; the limit is the import of NumPy alone."""
    processes: Processes = {
        "import numpy": Process(("-c", "import numpy")),
        ("fastbn", ""): Process(("-c", "import numpy, fastbn")),
    }
    for peer in ("torch", "jax"):
        if peer in against:
            processes[peer, ""] = Process(("-c", f"import numpy, {peer}"))
    reasons = {"torch-compile": "is torch's import", "numpy": "is the limit"}
    return _row("import", processes, against, reasons=reasons)


def first_step_row(against: Collection[str], warm: Mapping[str, str]) -> Row:
    """Take a step of 64-128-10 with 64 samples; an earlier process compiled everything."""
    processes = {("fastbn", ""): _script("fastbn", "first-step")}
    for side, setting, environment in (("numpy", "", {}), ("torch", "", {}), ("jax", "jit", warm)):
        if side in against:
            processes[side, setting] = _script(side, "first-step", environment=environment)
    return _row("first training step, warm cache", processes, against, printed_loss)


def empty_cache_row(against: Collection[str]) -> Row:
    """Take the same step with an empty cache of compiled code."""
    processes = {("fastbn", ""): _script("fastbn", "first-step", empty="NUMBA_CACHE_DIR")}
    if "jax" in against:
        processes["jax", "jit"] = _script("jax", "first-step", environment=JAX, empty=JAX_CACHE)
    reasons = dict.fromkeys(("torch", "numpy"), "compiles nothing")
    return _row(
        "first training step, empty cache", processes, against, printed_loss,
        warm_up=False, reasons=reasons,
    )  # fmt: skip


def training_row(against: Collection[str], data: str, folder: str, warm: Mapping[str, str]) -> Row:
    """Load Fashion-MNIST, train 784-32-10 until the accuracy is above ENOUGH, test and save."""
    out = os.path.join(folder, "model")
    command = (
        "-m", "fastbn", "train", "fashion-mnist", "--preset", "notes", "--until-accuracy",
        str(ENOUGH), "--no-validation", "--no-plot", "--out", f"{out}.safetensors",
    )  # fmt: skip
    processes = {("fastbn", ""): Process(command, {"FASTBN_DATA": data})}
    peers: list[tuple[str, str, str, Mapping[str, str]]] = [
        ("numpy", "", "npz", {}),
        *(
            ("torch", threads_of(count), "pt", {"OMP_NUM_THREADS": str(count)})
            for count in thread_counts()
        ),
        ("jax", "scan", "npz", warm),
    ]
    for side, setting, ending, environment in peers:
        if side in against:
            job = ("fashion-mnist", data, f"{out}.{ending}")
            processes[side, setting] = _script(side, *job, environment=environment)
    return _row("90 % on Fashion-MNIST", processes, against, printed_accuracy)


def _script(
    side: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    empty: str | None = None,
) -> Process:
    return Process((str(SCRIPTS / f"{side}_net.py"), *arguments), environment or {}, empty)


def _row(
    work: str,
    processes: Processes,
    against: Collection[str],
    result: Callable[[str], float] | None = None,
    *,
    warm_up: bool = True,
    reasons: Mapping[str, str] | None = None,
) -> Row:
    """Measure the processes, and compare the results that they print with fastbn's."""
    times, outputs = take_turns(processes, warm_up=warm_up)
    apart: dict[str, float] = {}
    if result is not None:
        ours = result(outputs["fastbn", ""])
        for side, setting in processes:
            theirs = result(outputs[side, setting])
            if math.isnan(theirs):  # no result
                apart[side] = math.inf
            elif side != "fastbn" and not math.isnan(ours):
                apart[side] = max(apart.get(side, 0.0), abs(theirs - ours) / ours)
    known = {**ABSENT, **(reasons or {})}
    missing = {peer: why for peer, why in known.items() if peer in against}
    return Row.of(SUITE, work, times, apart=apart, missing=missing)


def printed_loss(output: str) -> float:
    """Return the loss that a script printed."""
    return float(json.loads(output)["loss"])


def printed_accuracy(output: str) -> float:
    """Return the training accuracy that a script or `fastbn train` printed; NaN if not enough."""
    if output.startswith("{"):
        accuracy = float(json.loads(output)["accuracy"])
        return accuracy if accuracy > ENOUGH else math.nan
    found = re.search(r"^training +accuracy ([\d.]+) %", output, re.MULTILINE)
    reached = re.search(r"^stopped +training accuracy is above", output, re.MULTILINE)
    return float(found[1]) / 100 if found and reached else math.nan
