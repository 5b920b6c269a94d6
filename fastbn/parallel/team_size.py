"""How many threads a team gets: enough for the work, or one if one thread was faster.

Work is counted in floating point operations of matrix products. What threads cost is measured
(`fastbn.parallel.costs`), which is accurate enough for a first guess. A product is cut into whole
tiles, so a few tiles do not keep many threads busy. If one thread may be as fast, recent timings
decide (`fastbn.parallel.choice`).
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Iterable
from typing import NamedTuple

from fastbn.jit.compiler import DISABLED
from fastbn.jit.intrinsics import PANEL_BYTES
from fastbn.parallel.choice import Choice
from fastbn.parallel.cores import available_threads, thread_limit
from fastbn.parallel.costs import Costs, measured_costs

# Operations per second of one thread: two vector operations of two registers' numbers, often.
FLOPS = 1e11 * PANEL_BYTES / 128

# A smaller call always has one thread: waking a worker takes about half as long.
SMALL_CALL_FLOPS = 5e-5 * FLOPS

# A smaller prediction has one thread, unless it follows another one at once. Predictions are not
# timed, and waking a worker that sleeps takes several times as long as `measured_costs` says.
SMALL_PREDICTION_FLOPS = 2.5e-4 * FLOPS

# A larger step always gets a team: one thread would need some milliseconds.
LARGE_STEP_FLOPS = 5e8


class Product(NamedTuple):
    """A matrix product, and the number of equal pieces that it is cut into for the members."""

    flops: float
    pieces: int


class TeamWork(NamedTuple):
    """What the threads of a team share in a step."""

    flops: float
    barriers: int = 0
    bytes: float = 0.0  # that one member writes and all members read
    products: tuple[Product, ...] = ()  # of these flops; without them, shares are equal


def busiest_flops(work: TeamWork, threads: int) -> float:
    """Return the operations of the member with the most pieces, for which the others wait."""
    if not work.products:
        return work.flops / threads
    return sum(flops * -(-pieces // threads) / pieces for flops, pieces in work.products)


def seconds(work: TeamWork, steps: int, threads: int) -> float:
    """Estimate how long a call takes with this number of threads."""
    if threads == 1:
        return steps * work.flops / FLOPS
    costs = measured_costs()
    others = (threads - 1) / threads  # share of the bytes that other members have written
    barriers = work.barriers * costs.barrier * threads / 2
    busiest = busiest_flops(work, threads) / FLOPS
    step = busiest + barriers + work.bytes * others * costs.byte
    return steps * step + (threads - 1) * costs.start


def fastest(work: TeamWork, steps: int, sizes: Iterable[int]) -> int:
    """Return the number of threads that most likely is the fastest."""
    return min(sizes, key=lambda threads: seconds(work, steps, threads))


def fixed_size(work: TeamWork, steps: int) -> int | None:
    """Return FASTBN_NUM_THREADS if it is set, else 1 for a small call, else None."""
    if DISABLED or sys.is_finalizing():  # then workers do not run any more
        return 1
    if thread_limit("FASTBN_NUM_THREADS") is not None:
        return available_threads()
    return 1 if work.flops * steps < SMALL_CALL_FLOPS else None


def largest_team() -> int:
    """Return how many threads a team may have: 1 if no thread can be started."""
    most = available_threads()
    return most if most == 1 or math.isfinite(measured_costs().start) else 1


def team_size(work: TeamWork, steps: int) -> int:
    """Return how many threads run a call of `steps` steps: most likely the fastest number."""
    fixed = fixed_size(work, steps)
    return fixed or fastest(work, steps, range(1, largest_team() + 1))


def prediction_threads(flops: float, is_next: bool) -> int:
    """Return how many threads a prediction of so many operations gets.

    `is_next` says that another prediction has just ended, so that its workers are still awake.
    """
    least = SMALL_CALL_FLOPS if is_next else SMALL_PREDICTION_FLOPS
    return team_size(TeamWork(flops), 1) if flops >= least else 1


class TrainingTeam:
    """The number of threads for training steps of the same work."""

    def __init__(self, work: TeamWork) -> None:
        self._work = work
        self._choices: dict[int, Choice] = {}  # by the bit length of the number of steps
        # The fastest team, also by the largest team and what threads cost.
        self._sizes: dict[tuple[int, int, Costs], int] = {}

    def size(self, steps: int) -> tuple[int, Choice | None]:
        """Return how many threads run the next call, of this many steps.

        If the time of the call matters for later ones, also return the choice that learns it.
        """
        work = self._work
        fixed = fixed_size(work, steps)
        if fixed is not None:
            return fixed, None
        has_choice, bits = work.flops < LARGE_STEP_FLOPS, steps.bit_length()
        choice = self._choices.setdefault(bits, Choice())
        if has_choice and not choice.several(steps):
            return 1, choice
        most = largest_team()
        if most == 1:
            return 1, None
        key = bits, most, measured_costs()
        size = self._sizes.get(key)
        if size is None:
            size = self._sizes[key] = fastest(work, steps, range(2, most + 1))
            choice.expected = seconds(work, steps, size) / seconds(work, steps, 1)
            if has_choice and not choice.several(steps):
                return 1, choice
        return size, choice if has_choice else None


@functools.lru_cache(256)
def training_team(work: TeamWork) -> TrainingTeam:
    """Return the team for steps of this work. All models of the process share its timings."""
    return TrainingTeam(work)
