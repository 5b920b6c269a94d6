"""How many threads a team gets: what the user allows, and what a cost model says will pay.

The model has three figures of the machine, measured once and kept beside the compiled kernels: how
fast one thread multiplies, what a barrier costs, and what it costs to start a thread. A step of
`flops` with `barriers` barriers, `steps` of them in one call, takes about

    flops / (speed * threads) + barriers * barrier + (threads - 1) * start / steps

What the model leaves out is found by trial (`TrainingTeam`).
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import json
import math
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
from llvmlite import binding

from fastbn.jit.cache_files import make_folder, read, write
from fastbn.jit.compiler import DISABLED, cache_folder, njit
from fastbn.kernels.gemm import multiply
from fastbn.parallel.cgroups import core_quota
from fastbn.parallel.team import Member, barrier, run_team

# A team has to promise this much, as a part of the time of one thread: estimates are rough.
MARGIN = 0.1


@dataclasses.dataclass(frozen=True)
class Costs:
    """What the model knows of the machine: flops per second of one thread, and seconds."""

    speed: float
    barrier: float
    start: float

    def seconds(self, flops: float, barriers: int, steps: int, threads: int) -> float:
        """Estimate a step."""
        together = barriers * self.barrier + (threads - 1) * self.start / steps
        return flops / (self.speed * threads) + (together if threads > 1 else 0.0)

    def best_size(self, flops: float, barriers: int, steps: int, most: int) -> int:
        """Return the number of threads, up to `most`, that takes the least time."""
        times = {n: self.seconds(flops, barriers, steps, n) for n in range(1, most + 1)}
        best = min(times, key=times.__getitem__)
        return best if times[best] < times[1] * (1.0 - MARGIN) else 1


def team_size(flops: float, barriers: int, steps: int) -> int:
    """Return how many threads shall take `steps` steps of so much work."""
    most = 1 if DISABLED else available_threads()
    if most == 1 or _limit("FASTBN_NUM_THREADS") is not None:
        return most
    return costs().best_size(flops, barriers, steps, most)


class TrainingTeam:
    """How many threads take a model's steps: by the cost model, and for small nets by trial.

    The model does not know how long a cache line takes from one core to another. On a virtual
    machine that changes from minute to minute, by so much that two threads take a small net's step
    in less time than one, or in more than twice as much. So now and then calls are taken with one
    thread and with the model's team in turns, and the faster of the two is kept for a while.
    """

    def __init__(self, flops: float, barriers: int) -> None:
        self._work = flops, barriers
        self._alone = False  # the last trial's result
        self._alone_seconds = math.inf  # what one thread took then for a sample
        self._slow = 0  # calls in a row in which the team took longer than that
        self._wait, self._pause = 0, FIRST_PAUSE  # calls until the next trial, and after it
        self._trial: list[tuple[int, float]] = []  # threads, and seconds a sample
        self._is_open = False  # whether there was something to choose for the last call

    def size(self, steps: int) -> int:
        """Return how many threads shall take the next call, of so many steps."""
        team = team_size(*self._work, steps)
        self._is_open = team > 1 and self._is_tried()
        if not self._is_open:
            return team
        alone = self._alone if self._wait > 0 else len(self._trial) % 2 == 1
        return 1 if alone else team

    def learn(self, size: int, samples: int, seconds: float) -> None:
        """Take note of how long the call took, on so many samples, that `size` threads have taken.

        A call where there was nothing to choose says nothing, nor does one too short.
        """
        if not self._is_open or seconds < MEASURABLE_SECONDS:
            return
        if self._wait > 0:
            slow = size > 1 and seconds / samples > self._alone_seconds
            self._slow = self._slow + 1 if slow else 0
            # the cores have moved apart: the next trial begins
            self._wait = self._wait - 1 if self._slow < SLOW_CALLS else 0
            return
        self._trial.append((size, seconds / samples))
        if len(self._trial) >= TRIAL_CALLS:  # more, where a signal's handler has raised here
            alone = min(time for size, time in self._trial if size == 1)
            together = min(time for size, time in self._trial if size > 1)
            self._alone = together > alone * (1.0 - MARGIN)
            self._alone_seconds, self._slow, self._trial = alone, 0, []
            self._wait, self._pause = self._pause, min(2 * self._pause, LAST_PAUSE)

    def _is_tried(self) -> bool:
        return (
            _limit("FASTBN_NUM_THREADS") is None and self._work[0] < TRIED_SECONDS * costs().speed
        )


# A step that takes one thread longer is a team's, wherever the cores are.
TRIED_SECONDS = 3e-3

# Calls shorter than this tell nothing; a trial is so many others, each size in turn.
MEASURABLE_SECONDS = 2e-3
TRIAL_CALLS = 6

# Calls in a row that are slower than one thread was, until the choice is looked at again.
SLOW_CALLS = 2

# Calls between the first two trials, and between the later ones: 50 ms each when a model is fitted.
FIRST_PAUSE, LAST_PAUSE = 32, 512


_most: contextvars.ContextVar[int | None] = contextvars.ContextVar("most threads", default=None)


@contextlib.contextmanager
def at_most(threads: int | None) -> Iterator[None]:
    """Context in which teams have so many threads at most; None leaves it as it is."""
    token = _most.set(_most.get() if threads is None else threads)
    try:
        yield
    finally:
        _most.reset(token)


def available_threads() -> int:
    """Return the most threads that a team may have.

    `FASTBN_NUM_THREADS`, where it is set, and is then taken without asking the model. Else the
    cores of this process, or fewer where a control group, `NUMBA_NUM_THREADS`, `OMP_NUM_THREADS` or
    `at_most` says so.
    """
    wanted = _limit("FASTBN_NUM_THREADS")
    if wanted is not None:
        return min(wanted, _most.get() or wanted)
    limits = [_most.get(), _limit("NUMBA_NUM_THREADS"), _limit("OMP_NUM_THREADS"), allowed_cores()]
    quota = core_quota()
    if quota is not None:
        limits.append(int(quota))
    return max(1, min(limit for limit in limits if limit is not None))


def _limit(name: str) -> int | None:
    text = os.environ.get(name, "").split(",")[0].strip()  # OpenMP takes a list, level by level
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{name}: expected a whole number of threads from 1, got {text!r:.200}")
    return int(text)


def allowed_cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# -- calibration -----------------------------------------------------------------------------------


@functools.cache
def costs() -> Costs:
    """Return the figures of this machine: from the file beside the kernels, or measured now."""
    kept = kept_costs()
    if kept is not None:
        return kept
    measured, path = calibrate(), _costs_file()
    if path is not None:
        with contextlib.suppress(OSError):
            make_folder(path.parent)
            text = json.dumps({"machine": _machine(), **dataclasses.asdict(measured)})
            write(path, text.encode())
    return measured


def kept_costs() -> Costs | None:
    """Return the figures that were measured before; None where there are none of this machine."""
    path = _costs_file()
    if path is not None:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            values = json.loads(read(path))
            if values.pop("machine") == _machine():
                found = Costs(**{name: float(value) for name, value in values.items()})
                figures = dataclasses.astuple(found)
                if all(map(math.isfinite, figures)) and min(figures) >= 0 and found.speed > 0:
                    return found
    return None


def _costs_file() -> pathlib.Path | None:
    folder = cache_folder(multiply)
    return folder / "costs.json" if folder else None


def _machine() -> str:
    return f"{platform.machine()} {binding.get_host_cpu_name()} {allowed_cores()}"


@njit
def _barriers(count: int, member: Member) -> None:
    for _ in range(count):
        barrier(member)


def calibrate() -> Costs:
    """Measure the figures, medians of a few short samples each."""
    n = 256
    a = np.ones((n, 2 * n), np.float32)[:, ::2]  # not contiguous: the kernel that a step compiles
    panels, out = np.ones(n * n, np.float32), np.empty((n, n), np.float32)
    multiplying = _median(lambda: multiply(a, panels, n, out, 0, n))
    # two threads tell: a barrier of more costs little more, if there is a core for each
    meeting = _median(lambda: run_team(_barriers, 2, lambda member: (4000, member)))
    starting = _median(lambda: run_team(_barriers, 2, lambda member: (1, member)))
    return Costs(
        speed=2.0 * n**3 / multiplying,
        barrier=max(meeting - starting, 0.0) / 4000,
        start=starting,
    )


def _median(function: Callable[[], object]) -> float:
    function()  # compiles
    samples = []
    for _ in range(7):
        start = time.perf_counter()
        function()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)
