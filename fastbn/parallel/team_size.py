"""How many threads a team gets: as many as the work can keep busy, and one where that was faster.

The work is counted in floating point operations of matrix products. Each thread costs a start, and
each barrier of a step costs the same however much work lies between two of them. Both are worth
about so many operations on any processor, which is all that is asked of a first guess: for a step
where one thread may be as fast, the times of recent calls decide (`fastbn.parallel.choice`).
"""

from __future__ import annotations

import math

from fastbn.jit.compiler import DISABLED
from fastbn.parallel.choice import Choice
from fastbn.parallel.cores import available_threads, thread_limit

# What one thread computes while another is started: 0.05 to 0.2 ms.
START_FLOPS = 1e7

# What a thread should have to compute from one barrier to the next: 1 to 3 microseconds.
PHASE_FLOPS = 2.5e5

# A step of more is a team's wherever the cores are: it takes one thread some milliseconds.
LARGE_STEP_FLOPS = 5e8


def team_size(flops: float, barriers: int, steps: int) -> int:
    """Return how many threads can take `steps` steps of so much work, each with some barriers.

    With n threads a call takes about flops * steps / n + n * START_FLOPS, which is least where n is
    the root below. `FASTBN_NUM_THREADS` is taken as it is.
    """
    most = 1 if DISABLED else available_threads()
    if most == 1 or thread_limit("FASTBN_NUM_THREADS") is not None:
        return most
    busy = int(flops / (barriers * PHASE_FLOPS))
    return max(1, min(most, busy, math.isqrt(int(flops * steps / START_FLOPS))))


class TrainingTeam:
    """How many threads take a model's steps on minibatches of about one size."""

    def __init__(self, flops: float, barriers: int) -> None:
        self._flops, self._barriers = flops, barriers
        self._choices: dict[int, Choice] = {}  # by bits of the number of steps
        self._choice: Choice | None = None  # of the last call, if there was something to choose

    def size(self, steps: int) -> int:
        """Return how many threads shall take the next call, of so many steps."""
        team = team_size(self._flops, self._barriers, steps)
        is_fixed = thread_limit("FASTBN_NUM_THREADS") is not None
        self._choice = None
        if team > 1 and not is_fixed and self._flops < LARGE_STEP_FLOPS:
            self._choice = self._choices.setdefault(steps.bit_length(), Choice())
        return team if self._choice is None or self._choice.several(steps) else 1

    def learn(self, size: int, steps: int, seconds: float) -> None:
        """Take note of how long the call took, of so many steps, that `size` threads have taken."""
        if self._choice is not None:
            self._choice.learn(size > 1, steps, seconds)
