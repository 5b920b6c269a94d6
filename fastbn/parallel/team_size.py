"""How many threads a team gets: as many as the work keeps busy, or one if that was faster.

Work is counted in floating point operations of matrix products. We assume that starting a thread
and passing a barrier take as long as a fixed number of operations, which is accurate enough for a
first guess. If one thread may be as fast, recent timings decide (`fastbn.parallel.choice`).
"""

from __future__ import annotations

import math

from fastbn.jit.compiler import DISABLED
from fastbn.parallel.choice import Choice
from fastbn.parallel.cores import available_threads, thread_limit

# Operations that take as long as starting a thread: 0.05 to 0.2 ms.
START_FLOPS = 1e7

# Operations between two barriers that keep a thread busy: 1 to 3 microseconds.
PHASE_FLOPS = 2.5e5

# A larger step always gets a team: one thread would need some milliseconds.
LARGE_STEP_FLOPS = 5e8


def team_size(flops: float, barriers: int, steps: int) -> int:
    """Return how many threads run a call of `steps` steps of `flops` operations each.

    With n threads the call takes about flops * steps / n + n * START_FLOPS, which is smallest for
    the square root below. `FASTBN_NUM_THREADS` overrides this.
    """
    most = 1 if DISABLED else available_threads()
    if most == 1 or thread_limit("FASTBN_NUM_THREADS") is not None:
        return most
    busy = int(flops / (barriers * PHASE_FLOPS))
    return max(1, min(most, busy, math.isqrt(int(flops * steps / START_FLOPS))))


class TrainingTeam:
    """The number of threads for a model's training steps on minibatches of similar size."""

    def __init__(self, flops: float, barriers: int) -> None:
        self._flops, self._barriers = flops, barriers
        self._choices: dict[int, Choice] = {}  # by bit length of the number of steps
        self._choice: Choice | None = None  # that the last call was made with, if any

    def size(self, steps: int) -> int:
        """Return how many threads run the next call, of this many steps."""
        team = team_size(self._flops, self._barriers, steps)
        self._choice = None
        if (
            team > 1
            and self._flops < LARGE_STEP_FLOPS
            and thread_limit("FASTBN_NUM_THREADS") is None
        ):
            self._choice = self._choices.setdefault(steps.bit_length(), Choice())
        return team if self._choice is None or self._choice.several(steps) else 1

    def learn(self, size: int, steps: int, seconds: float) -> None:
        """Record how long `size` threads took for the call."""
        if self._choice is not None:
            self._choice.learn(size > 1, steps, seconds)
