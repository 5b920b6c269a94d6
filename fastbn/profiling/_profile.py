"""Running a model with logs, and making sense of them."""

from __future__ import annotations

import copy
import dataclasses
import math
import statistics
import time
from typing import Any

import numpy as np

from fastbn.checks import integer
from fastbn.kernels import network as kernels
from fastbn.model import BatchNormMLP
from fastbn.model.inputs import training_samples
from fastbn.parallel.cores import allowed_cores
from fastbn.parallel.team_size import team_size
from fastbn.profiling._roofline import Ceilings, Probes, now
from fastbn.profiling._work import NAMES, Work, step_work

# Calls with logs, and as many without in turns.
REPEATS = 9

# What a call takes, where the user does not say how many steps, and its most and fewest steps.
CALL_SECONDS, MOST_STEPS, FEWEST_STEPS = 0.15, 2000, 20

# Minibatches of the data, which are taken in turn.
MINIBATCHES = 8


@dataclasses.dataclass(frozen=True)
class Part:
    """What one kernel did in one layer: figures of one step."""

    layer: int
    kernel: str
    calls: float  # of all threads together
    seconds: float  # the mean of the threads
    share: float  # of the whole step
    flops: float
    bytes: float
    limit: float  # seconds that the machine would need at least; 0 where there is nothing to do

    @property
    def flops_rate(self) -> float:
        """Operations per second."""
        return self.flops / self.seconds if self.seconds > 0 else 0.0

    @property
    def bytes_rate(self) -> float:
        """Bytes per second."""
        return self.bytes / self.seconds if self.seconds > 0 else 0.0

    @property
    def of_limit(self) -> float:
        """How near it is to the roofline: 1 is as fast as the machine can be."""
        return self.limit / self.seconds if self.seconds > 0 else 0.0

    @property
    def lost(self) -> float:
        """Seconds that a kernel at the roofline would save."""
        return max(self.seconds - self.limit, 0.0)


@dataclasses.dataclass(frozen=True)
class Profile:
    """A training step, taken apart.

    `seconds` is what a step took without logs and `logged_seconds` with them, medians of calls in
    turns; `cost` is by how much the latter is longer, the median of neighbours. `parts` are what
    each kernel took of `logged_seconds`; what they lack of it is the cost of the call itself,
    starting the threads included. `events` are (thread, kernel, layer, step, start, end), in
    seconds since the call began to compute.
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
    events: tuple[tuple[int, str, int, int, float, float], ...] = dataclasses.field(repr=False)

    @property
    def accounted(self) -> float:
        """What the parts add up to, as a part of the whole."""
        return sum(part.seconds for part in self.parts) / self.logged_seconds

    @property
    def name(self) -> str:
        """Layer sizes @ minibatch."""
        return f"{'-'.join(map(str, self.layer_sizes))} @ {self.batch_size}"

    def to_dict(self) -> dict[str, Any]:
        """Return all figures but the events, of what JSON can hold."""
        values = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("parts", "ceilings", "events")
        }
        rows = [
            {
                **dataclasses.asdict(part),
                "flops_rate": part.flops_rate,
                "bytes_rate": part.bytes_rate,
                "of_limit": part.of_limit,
            }
            for part in self.parts
        ]
        return {
            **values,
            "accounted": self.accounted,
            "ceilings": self.ceilings.to_dict(),
            "parts": rows,
        }


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
        It is left as it is.
    batch_size : int
        Samples in a minibatch.
    threads : int, optional
        As many as there are cores, or fewer; by default what the cost model of training takes.
    steps : int, optional
        Steps of one call; by default enough for 0.15 s. Nine calls are made with logs and nine
        without, in turns.

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
    runner = _Runner(model, batch_size)
    if steps is None:
        runner.seconds([None], 2)  # compiles
        steps = math.ceil(CALL_SECONDS / (runner.seconds([None], 10) / 10))
        steps = min(max(steps, FEWEST_STEPS), MOST_STEPS)
    if threads is None:
        flops, barriers = model.layout.gemm_flops(batch_size), model.layout.barriers(batch_size)
        threads = team_size(flops, barriers, steps)
    # a call without room counts the marks of a step
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
    logged.sort(key=lambda call: call[0])
    median, logs = logged[len(logged) // 2]
    logs = [log[1 : 1 + log[0, 0]] for log in logs]
    second = (end[1] - begin[1]) / (end[0] - begin[0])
    work, ceilings = step_work(model, batch_size), probes.ceilings(second)
    return Profile(
        layer_sizes=model.config.layer_sizes,
        batch_size=batch_size,
        threads=threads,
        steps=steps,
        dtype=model.config.dtype,
        optimizer=model.config.optimizer,
        seconds=statistics.median(plain) / steps,
        logged_seconds=median / steps,
        cost=statistics.median(costs),
        parts=tuple(_parts(logs, second, steps, median / steps, work, ceilings)),
        ceilings=ceilings,
        events=tuple(_events(logs, second)),
    )


def _clocks() -> tuple[int, float]:
    """Ticks and seconds of one moment: of some tries the one that took the least."""
    tries = []
    for _ in range(9):
        start, ticks, end = time.perf_counter(), now(), time.perf_counter()
        tries.append((end - start, ticks, (start + end) / 2.0))
    return min(tries)[1:]


class _Runner:
    """Trains a model on random minibatches, in turn."""

    def __init__(self, model: BatchNormMLP, rows: int) -> None:
        rng = np.random.default_rng(0)
        config, n = model.config, MINIBATCHES * rows
        x = rng.standard_normal((n, config.layer_sizes[0])).astype(model.dtype)
        self._model, self._rows = model, rows
        y = rng.integers(0, config.layer_sizes[-1], n)
        if not config.predicts_one_class:
            y = rng.integers(0, 2, (n, config.layer_sizes[-1]))
        self._samples = training_samples(model, x, y)
        self._order = rng.permutation(n)

    def seconds(self, logs: list[Any], steps: int) -> float:
        """Take so many steps, a thread for each log, and return what they took."""
        order = np.resize(self._order, steps * self._rows)
        bounds = np.arange(steps + 1) * self._rows
        lrs = np.full(steps, self._model.config.lr)
        start = time.perf_counter()
        self._model._engine.run_steps(self._samples, order, bounds, lrs, logs)
        return time.perf_counter() - start


def _parts(
    logs: list[np.ndarray], second: float, steps: int, whole: float,
    work: dict[tuple[int, int], Work], ceilings: Ceilings,
) -> list[Part]:  # fmt: skip
    """Add up the logs: a part for each kernel and layer, in the order in which they come first."""
    spans = [(log[1:, 1], np.diff(log[:, 0])) for log in logs]
    places = np.concatenate([place for place, _ in spans])
    lengths = np.concatenate([length for _, length in spans])
    calls, times = np.bincount(places), np.bincount(places, weights=lengths)
    found = []
    for place in dict.fromkeys(places.tolist()):
        layer, kind = divmod(place, kernels.KINDS)
        todo = work.get((kind, layer), Work())
        seconds = times[place] * second / len(logs) / steps
        found.append(
            Part(
                layer,
                NAMES[kind],
                calls[place] / steps,
                seconds,
                seconds / whole,
                todo.flops,
                todo.read + todo.written,
                ceilings.seconds(todo),
            )
        )
    return found


def _events(logs: list[np.ndarray], second: float) -> list[tuple[int, str, int, int, float, float]]:
    """Return what each thread did, one after the other."""
    first = min(int(log[0, 0]) for log in logs)
    events = []
    for rank, log in enumerate(logs):
        times = (log[:, 0] - first) * second
        steps = np.cumsum(log[:, 1] == kernels.BEGIN)
        for n, place in enumerate(log[1:, 1].tolist()):
            layer, kind = divmod(place, kernels.KINDS)
            if kind != kernels.BEGIN:
                start, end = float(times[n]), float(times[n + 1])
                events.append((rank, NAMES[kind], layer, int(steps[n]), start, end))
    return events
