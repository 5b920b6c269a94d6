"""Train a model with logs of its kernels, and add up the times."""

from __future__ import annotations

import copy
import dataclasses
import math
import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastbn.checks import integer
from fastbn.kernels import network_arrays as kernels
from fastbn.model import BatchNormMLP
from fastbn.parallel.cores import allowed_cores
from fastbn.parallel.team_size import team_size
from fastbn.profiling._calls import CallCosts, call_costs
from fastbn.profiling._roofline import Ceilings, Probes, now
from fastbn.profiling._runner import Runner
from fastbn.profiling._work import NAMES, Work, step_work

REPEATS = 9  # of calls with logs, and of calls without, in turns
CALL_SECONDS, FEWEST_STEPS, MOST_STEPS = 0.15, 20, 2000  # of a call, if `steps` is not given
MINIBATCHES = 8  # in the data


@dataclasses.dataclass(frozen=True)
class Part:
    """The work and time of one kernel in one layer, per step."""

    layer: int
    kernel: str
    calls: float  # of all threads together
    seconds: float  # mean over the threads
    share: float  # of the whole step
    flops: float
    bytes: float
    limit: float  # the shortest possible time in seconds; 0 if there is no work

    def _per_second(self, amount: float) -> float:
        return amount / self.seconds if self.seconds > 0 else 0.0

    @property
    def flops_rate(self) -> float:
        """Operations per second."""
        return self._per_second(self.flops)

    @property
    def bytes_rate(self) -> float:
        """Bytes per second."""
        return self._per_second(self.bytes)

    @property
    def of_limit(self) -> float:
        """Shortest possible time divided by the measured one; 1 is at the machine's limit."""
        return self._per_second(self.limit)

    @property
    def lost(self) -> float:
        """Seconds that a kernel at the roofline would save."""
        return max(self.seconds - self.limit, 0.0)


@dataclasses.dataclass(frozen=True)
class Profile:
    """A training step, by kernel and layer.

    `seconds` is the median time of a step without logs, and `logged_seconds` with logs; `cost` is
    the median of the relative difference of neighbouring calls. `parts` split `logged_seconds` by
    kernel and layer; the remainder is the cost of the call itself, which includes starting the
    threads. `calls` is None if a step takes so long that calls do not matter. `events` are
    (thread, kernel, layer, step, start, end), in seconds since the start of the computation.
    """

    layer_sizes: tuple[int, ...]
    batch_size: int
    threads: int
    steps: int
    dtype: str
    optimizer: str
    seconds: float
    logged_seconds: float
    cost: float
    parts: tuple[Part, ...]
    ceilings: Ceilings
    calls: CallCosts | None
    events: tuple[tuple[int, str, int, int, float, float], ...] = dataclasses.field(repr=False)

    @property
    def accounted(self) -> float:
        """The time of all parts as a share of the whole."""
        return sum(part.seconds for part in self.parts) / self.logged_seconds

    @property
    def _waits(self) -> list[Part]:
        """The parts in which threads wait at barriers; none with one thread."""
        waits = [part for part in self.parts if part.kernel == NAMES[kernels.WAIT]]
        return waits if self.threads > 1 else []

    @property
    def barriers(self) -> int:
        """How often the threads wait for each other in a step; 0 with one thread."""
        return round(sum(part.calls for part in self._waits) / self.threads)

    @property
    def barrier_seconds(self) -> float:
        """The time of a step's barriers if all threads arrive at once."""
        return self.barriers * self.ceilings.barrier

    @property
    def waiting_seconds(self) -> float:
        """The time that a thread waits at a step's barriers, mean over the threads."""
        return sum((part.seconds for part in self._waits), 0.0)

    @property
    def name(self) -> str:
        """Layer sizes and minibatch, as in "64-128-10 @ 128"."""
        return f"{'-'.join(map(str, self.layer_sizes))} @ {self.batch_size}"

    def to_dict(self) -> dict[str, Any]:
        """Return all figures except the events, for JSON."""
        values = dataclasses.asdict(dataclasses.replace(self, events=()))
        del values["events"]
        for row, part in zip(values["parts"], self.parts, strict=True):
            row |= {name: getattr(part, name) for name in ("flops_rate", "bytes_rate", "of_limit")}
        sums = ("accounted", "barriers", "barrier_seconds", "waiting_seconds")
        return values | {name: getattr(self, name) for name in sums}


def profile_training(
    model: BatchNormMLP,
    *,
    batch_size: int = 128,
    threads: int | None = None,
    steps: int | None = None,
) -> Profile:
    """Train a copy of the model on random data and measure where the time of a step goes.

    Parameters
    ----------
    model : BatchNormMLP
        It is not changed.
    batch_size : int
        Samples in a minibatch.
    threads : int, optional
        At most as many as there are cores; by default the number that training would use.
    steps : int, optional
        Steps in one call; by default enough for 0.15 s. Nine calls with logs and nine without take
        turns.

    Returns
    -------
    Profile

    Raises
    ------
    TypeError, ValueError
        An argument is not as described above.
    """
    if not isinstance(model, BatchNormMLP):
        raise TypeError(f"model: expected a BatchNormMLP, got {model!r:.200}")
    batch_size = integer("batch_size", batch_size, 1 + model.config.batch_norm)
    most = allowed_cores()
    if threads is not None and integer("threads", threads, 1) > most:
        raise ValueError(
            f"threads: expected at most {most}, the cores of this process, got {threads}"
        )
    if steps is not None:
        steps = integer("steps", steps, 1)
    model = copy.deepcopy(model)
    runner = Runner(model, batch_size, MINIBATCHES)
    if steps is None:
        runner.seconds([None], 2)  # compiles
        steps = math.ceil(CALL_SECONDS / (runner.seconds([None], 10) / 10))
        steps = min(max(steps, FEWEST_STEPS), MOST_STEPS)
    if threads is None:
        threads = team_size(model.layout.team_work(batch_size, model.dtype), steps)
    # a log without room only counts the entries of a step
    counting = [np.zeros((1, 2), np.int64) for _ in range(threads)]
    runner.seconds(counting, 1)
    plain: list[float] = []
    costs: list[float] = []
    logged: list[tuple[float, list[np.ndarray]]] = []
    probes = Probes(threads, model.dtype)
    begin = _clocks()
    for repeat in range(REPEATS + 1):
        logs = [np.zeros((1 + steps * log[0, 0], 2), np.int64) for log in counting]
        times = {}
        for with_logs in (True, False) if repeat % 2 else (False, True):
            times[with_logs] = runner.seconds(logs if with_logs else [None] * threads, steps)
        probes.sample()
        if repeat > 0:
            plain.append(times[False])
            logged.append((times[True], logs))
            costs.append(times[True] / times[False] - 1.0)
    end = _clocks()
    second = (end[1] - begin[1]) / (end[0] - begin[0])  # of a tick
    median, logs = sorted(logged, key=lambda call: call[0])[len(logged) // 2]
    logs = [log[1 : 1 + log[0, 0]] for log in logs]
    ceilings = probes.ceilings(second)
    seconds = statistics.median(plain) / steps
    return Profile(
        layer_sizes=model.config.layer_sizes,
        batch_size=batch_size,
        threads=threads,
        steps=steps,
        dtype=model.config.dtype,
        optimizer=model.config.optimizer,
        seconds=seconds,
        logged_seconds=median / steps,
        cost=statistics.median(costs),
        parts=tuple(_parts(logs, second, steps, median, step_work(model, batch_size), ceilings)),
        ceilings=ceilings,
        calls=call_costs(model, batch_size, threads, seconds),
        events=tuple(_events(logs, second)),
    )


def _clocks() -> tuple[int, float]:
    """Read both clocks at one moment; return ticks and seconds of the fastest of nine tries."""
    tries = []
    for _ in range(9):
        start, ticks, end = time.perf_counter(), now(), time.perf_counter()
        tries.append((end - start, ticks, (start + end) / 2.0))
    return min(tries)[1:]


def _parts(
    logs: list[np.ndarray], second: float, steps: int, whole: float,
    work: dict[tuple[int, int], Work], ceilings: Ceilings,
) -> Iterator[Part]:  # fmt: skip
    """Add up the logs of a call that took `whole` seconds: a part for each kernel and layer."""
    places = np.concatenate([log[1:, 1] for log in logs])
    lengths = np.concatenate([np.diff(log[:, 0]) for log in logs])
    calls, times = np.bincount(places), np.bincount(places, weights=lengths)
    for place in dict.fromkeys(places.tolist()):
        layer, kind = divmod(place, kernels.KINDS)
        todo = work.get((kind, layer), Work())
        seconds = times[place] * second / len(logs)
        yield Part(
            layer, NAMES[kind], calls[place] / steps, seconds / steps, seconds / whole,
            todo.flops, todo.read + todo.written, ceilings.seconds(todo),
        )  # fmt: skip


def _events(
    logs: list[np.ndarray], second: float
) -> Iterator[tuple[int, str, int, int, float, float]]:
    """Yield the events of one thread after the other."""
    first = min(int(log[0, 0]) for log in logs)
    for rank, log in enumerate(logs):
        times = ((log[:, 0] - first) * second).tolist()
        steps = np.cumsum(log[:, 1] == kernels.BEGIN).tolist()
        for n, place in enumerate(log[1:, 1].tolist()):
            layer, kind = divmod(place, kernels.KINDS)
            if kind != kernels.BEGIN:
                yield rank, NAMES[kind], layer, steps[n], times[n], times[n + 1]
