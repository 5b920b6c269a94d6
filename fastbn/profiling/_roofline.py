"""The limits of this machine, measured in the same run as the kernels.

The limits are the rate at which a team of threads multiplies register tiles, and the rates at which
it copies and reads arrays of several sizes, from the first-level cache to memory. They bound the
speed of a kernel with data of that size (Williams, Waterman & Patterson 2009, "Roofline"). A team
also waits at barriers; what one costs is measured in the same way.
"""

from __future__ import annotations

import dataclasses
import math
import timeit
from typing import Any

import numpy as np

from fastbn.jit.compiler import njit
from fastbn.jit.intrinsics import PANEL_BYTES, TILE_ROWS, fence, ticks
from fastbn.kernels.gemm import DEPTH, multiply
from fastbn.kernels.reductions import row_sum
from fastbn.kernels.streams import is_streamed, stream
from fastbn.model.buffers import aligned_zeros
from fastbn.parallel.team import barrier, gather_team, leave_team
from fastbn.parallel.threads import run_team
from fastbn.profiling._work import Work

# Bytes of the arrays that are copied and read, for all threads together.
SIZES = (1 << 15, 1 << 17, 1 << 19, 1 << 21, 1 << 23, 1 << 26)

# The shortest sample.
SAMPLE_SECONDS = 4e-3


@njit
def now():
    """Time in ticks."""
    return ticks()


@njit
def begin(member):
    """Wait for the other members, and return the time."""
    barrier(member)
    return ticks()


@njit
def end(begun, elapsed, member):
    """Wait for the other members, and store the time that all of them took."""
    barrier(member)
    if member.rank == 0:
        elapsed[0] = ticks() - begun
    leave_team(member)


@njit
def multiply_often(count, a, panels, out, elapsed, member):
    """Multiply `count` times, all members at once."""
    if not gather_team(member):
        return
    begun = begin(member)
    for _ in range(count):
        multiply(a, panels, a.shape[1], out, 0, out.shape[0])
    end(begun, elapsed, member)


@njit
def copy_often(count, source, target, total, elapsed, member):
    """Copy `count` times; `total` is not used."""
    if not gather_team(member):
        return
    begun = begin(member)
    for _ in range(count):
        if is_streamed(target):
            stream(source, target)
            fence()
        else:
            for i in range(target.size):
                target[i] = source[i]
    end(begun, elapsed, member)


@njit
def read_often(count, source, target, total, elapsed, member):
    """Add up the source `count` times; the sums go to `total`."""
    if not gather_team(member):
        return
    begun = begin(member)
    for _ in range(count):
        total[0] += row_sum(source)
    end(begun, elapsed, member)


@njit
def wait_often(count, elapsed, member):
    """Wait at `count` barriers."""
    if not gather_team(member):
        return
    begun = begin(member)
    for _ in range(count):
        barrier(member)
    end(begun, elapsed, member)


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """The rates that `threads` threads of this machine reach."""

    threads: int
    flops: float  # per second, of register tiles: the limit of matrix products
    sizes: tuple[int, ...]  # bytes
    copy: tuple[float, ...]  # bytes per second, read and written
    read: tuple[float, ...]
    barrier: float  # seconds; 0 with one thread

    def seconds(self, work: Work) -> float:
        """Return the shortest time for the work on this machine."""
        size = work.read + work.written
        both = 2 * min(work.read, work.written)
        moving = both / self._at(size, self.copy) + (size - both) / self._at(size, self.read)
        return max(work.flops / self.flops, moving)

    def _at(self, size: float, rates: tuple[float, ...]) -> float:
        """Interpolate the rate for data of that size; below the smallest size it is constant."""
        logs = [math.log(max(one, 1.0)) for one in (size, *self.sizes)]
        return float(np.interp(logs[0], logs[1:], rates))


class Probes:
    """Measures the limits of a number of threads; the best sample of each counts."""

    def __init__(self, threads: int, dtype: np.dtype) -> None:
        self._threads = threads
        self._product = _product_probe(threads, dtype)
        self._copies = [_stream_probe(copy_often, 2, size, threads, dtype) for size in SIZES]
        self._reads = [_stream_probe(read_often, 1, size, threads, dtype) for size in SIZES]
        self._barriers = [_Probe(wait_often, 1.0, [()] * threads)] if threads > 1 else []

    def sample(self) -> None:
        """Take a sample of each limit."""
        for probe in (self._product, *self._copies, *self._reads, *self._barriers):
            probe.sample()

    def ceilings(self, second: float) -> Ceilings:
        """Return the limits found so far; a tick takes `second` seconds."""
        return Ceilings(
            threads=self._threads,
            flops=self._product.best / second,
            sizes=SIZES,
            copy=tuple(probe.best / second for probe in self._copies),
            read=tuple(probe.best / second for probe in self._reads),
            barrier=sum(second / probe.best for probe in self._barriers),
        )


class _Probe:
    """A kernel that times itself, run by a team; `amount` is what one repetition does."""

    def __init__(self, kernel: Any, amount: float, places: list[tuple[Any, ...]]) -> None:
        self._kernel, self._amount, self._places = kernel, amount, places
        self._elapsed, self._count = np.zeros(1, np.int64), 1
        self.best = 0.0  # amount per tick
        self.sample()  # compiles
        # the faster of two, since a run may have to wait for a core
        while min(timeit.repeat(self.sample, number=1, repeat=2)) < SAMPLE_SECONDS:
            self._count *= 2
        self.best = 0.0

    def sample(self) -> None:
        """Run it once."""
        run_team(
            self._kernel, len(self._places),
            lambda member: (self._count, *self._places[member.rank], self._elapsed, member),
        )  # fmt: skip
        self.best = max(self.best, self._count * self._amount / float(self._elapsed[0]))


def _product_probe(threads: int, dtype: np.dtype) -> _Probe:
    """Return a probe of register tiles whose operands stay in the first-level cache."""
    width = PANEL_BYTES // dtype.itemsize
    places = [
        (
            np.ones((TILE_ROWS, 2 * DEPTH), dtype)[:, ::2],  # strided, as in a training step
            aligned_zeros(DEPTH * width, dtype),
            np.empty((TILE_ROWS, width), dtype),
        )
        for _ in range(threads)
    ]
    return _Probe(multiply_often, 2.0 * TILE_ROWS * width * DEPTH * threads, places)


def _stream_probe(kernel: Any, passes: int, size: int, threads: int, dtype: np.dtype) -> _Probe:
    """Return a probe of `passes` arrays with `size` bytes in total, a part for each thread."""
    length = max(1, size // passes // threads // dtype.itemsize)
    places = []
    for _ in range(threads):
        source, target = aligned_zeros(length, dtype), aligned_zeros(length, dtype)
        source[:] = target[:] = 1  # so that the memory is mapped
        places.append((source, target, np.zeros(1)))
    return _Probe(kernel, float(passes * length * dtype.itemsize * threads), places)
