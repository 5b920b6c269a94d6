"""Interleaved timing: all contestants take turns in every round, in alternating order."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import TypeVar

REPEATS = 9
SECONDS = 0.05  # of one sample, at least
PAUSE = 0.05  # before a sample, until the threads of the last one stop spinning


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds per call: median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Iterable[float]) -> Timing:
        """Summarize samples."""
        samples = sorted(samples)
        low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(median, low, high)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, relative to the median."""
        return (self.high - self.low) / 2 / self.median

    def __truediv__(self, parts: float) -> Timing:
        """Return the time of one part."""
        return Timing(self.median / parts, self.low / parts, self.high / parts)


def calls_per_sample(run: Callable[[int], object]) -> int:
    """Warm up, and return how many calls take SECONDS.

    Every count is run once before it is timed, and the final one before it is returned, because
    some peers compile for each count. The pause lets the threads of other contestants stop
    spinning: fastbn chooses its number of threads in these calls.
    """
    time.sleep(PAUSE)
    count = 1
    while True:
        run(count)
        start = time.perf_counter()
        run(count)
        seconds = time.perf_counter() - start
        if seconds >= SECONDS / 2:
            break
        count *= 2
    count = max(1, math.ceil(count * SECONDS / seconds))
    run(count)
    return count


Name = TypeVar("Name", bound=Hashable)


def turns(names: Iterable[Name]) -> Iterator[Name]:
    """Yield all names once in each round; every other round is in reverse order."""
    names = list(names)
    for repeat in range(REPEATS):
        yield from names[:: -1 if repeat % 2 else 1]


def interleave(runs: Mapping[Name, Callable[[int], object]]) -> dict[Name, Timing]:
    """Return the seconds per call of each contestant; ``run(n)`` does its work n times."""
    counts = {name: calls_per_sample(run) for name, run in runs.items()}
    samples: dict[Name, list[float]] = {name: [] for name in runs}
    for name in turns(runs):
        time.sleep(PAUSE)
        start = time.perf_counter()
        runs[name](counts[name])
        samples[name].append((time.perf_counter() - start) / counts[name])
    return {name: Timing.of(values) for name, values in samples.items()}
