"""What a team of threads costs on this machine, measured once per process in some milliseconds.

A cache line moves between cores many times faster on one machine than on another, so no constant
would do.
"""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import numpy as np

from fastbn.jit.compiler import njit
from fastbn.parallel.team import Member, barrier, gather_team, leave_team
from fastbn.parallel.threads import run_team

# Calls of each kind that are measured. The fastest counts, as others may have waited for a core.
MEASURED_CALLS = 5

# Rounds of a call, and bytes that each of its two threads writes in a round for the other one.
ROUNDS, BYTES = 20, 1 << 13

# A call that takes longer is the last one: other programs use the cores. What is measured then is
# limited to MOST, and measured again after some seconds.
PATIENCE_SECONDS, RETRY_SECONDS = 0.005, 10.0


class Costs(NamedTuple):
    """Seconds that a team needs besides its work."""

    start: float  # to begin and end a call; workers are still awake from the one before
    barrier: float  # of two threads
    byte: float  # to read a byte that another thread has written


MOST = Costs(start=1e-3, barrier=2e-5, byte=2e-9)


@njit
def exchange(data: np.ndarray, rounds: int, member: Member) -> None:
    """Write a row of data, and add up the other member's row, in each of many rounds."""
    if not gather_team(member):
        return
    mine, others = data[member.rank], data[1 - member.rank]
    for n in range(rounds):
        for i in range(mine.size - 1):
            mine[i] = n
        barrier(member)
        total = 0
        for i in range(others.size - 1):
            total += others[i]
        mine[mine.size - 1] = total
        barrier(member)
    leave_team(member)


def call_seconds(size: int, rounds: int) -> float:
    """Return how long two threads take to exchange rows of a size, in the fastest of some calls."""
    data = np.zeros((2, 8 + size), np.int64)
    seconds: list[float] = []
    while len(seconds) < MEASURED_CALLS and sum(seconds) < PATIENCE_SECONDS:
        start = time.perf_counter()
        run_team(exchange, 2, lambda member: (data, rounds, member))
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measure() -> Costs:
    """Measure what two threads cost; infinite if no thread can be started."""
    try:
        call_seconds(0, 1)  # compiles, and starts the threads
    except RuntimeError:
        return Costs(math.inf, math.inf, math.inf)
    start, empty = call_seconds(0, 0), call_seconds(0, ROUNDS)
    full = call_seconds(BYTES // 8, ROUNDS)
    return Costs(
        start,
        max(empty - start, 0.0) / (2 * ROUNDS),
        max(full - empty, 0.0) / (ROUNDS * BYTES),
    )


_measured, _expiry = MOST, 0.0


def measured_costs() -> Costs:
    """Return what two threads cost, measured once, or again if other programs disturbed it."""
    global _measured, _expiry
    if time.monotonic() >= _expiry:
        found = measure()
        is_good = all(cost < most for cost, most in zip(found, MOST, strict=True))
        _expiry = math.inf if is_good else time.monotonic() + RETRY_SECONDS
        has_threads = math.isfinite(found.start)
        _measured = Costs(*map(min, found, MOST)) if has_threads else found
    return _measured
