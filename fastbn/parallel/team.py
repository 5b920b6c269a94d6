"""A team, as compiled code sees it: its members, their shares, and the barrier where they meet."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastbn.jit.compiler import njit, njit_inlined
from fastbn.jit.intrinsics import atomic_add, atomic_load, atomic_store, yield_core

# Places of the counters, two cache lines apart.
ARRIVED, GENERATION, PRESENT, DECIDERS, DECISION, N_COUNTERS = range(0, 96, 16)

# Decisions whether a team begins; FORKED is that of a child process, which does not have the team.
COMPLETE, CANCELLED, FORKED = 1, 2, 3

# Looks at the barrier before the core is offered to others: some microseconds.
PATIENCE = 2000


class Member(NamedTuple):
    """One thread's place in its team.

    With a log the compiled code is another one (`fastbn.jit.intrinsics.mark`).
    """

    counters: np.ndarray  # (N_COUNTERS,) int64, shared
    rank: int
    size: int
    log: np.ndarray | None = None  # where it notes when it does what, for the profile


@njit_inlined
def alone_in(member: Member) -> Member:
    """A team of one, for work that a member does by itself."""
    return Member(member.counters, 0, 1, member.log)


@njit
def share(n: int, member: Member) -> tuple[int, int]:
    """Part of range(n) that is this member's: first and last."""
    return n * member.rank // member.size, n * (member.rank + 1) // member.size


@njit
def barrier(member: Member) -> None:
    """Wait until all members are here; what each wrote before is then seen by all.

    Waiting is spinning, and after PATIENCE looks giving the core to whoever waits for one: the
    member that is missing may be among them.
    """
    if member.size == 1:
        return
    counters = member.counters
    generation = atomic_load(counters, GENERATION)
    if atomic_add(counters, ARRIVED, 1) == member.size - 1:
        atomic_store(counters, ARRIVED, 0)
        atomic_store(counters, GENERATION, generation + 1)
        return
    looks = 0
    while atomic_load(counters, GENERATION) == generation:
        looks += 1
        if looks > PATIENCE:
            yield_core()


@njit
def gather_team(member: Member) -> bool:
    """Wait until the team is complete: True. Or until it is cancelled: False, for every member."""
    counters = member.counters
    if atomic_add(counters, PRESENT, 1) == member.size - 1:
        decide(counters, COMPLETE)
    looks = 0
    while atomic_load(counters, DECISION) == 0:
        looks += 1
        if looks > PATIENCE:
            yield_core()
    return atomic_load(counters, DECISION) == COMPLETE


@njit
def decide(counters: np.ndarray, decision: int) -> None:
    """The first decision counts."""
    if atomic_add(counters, DECIDERS, 1) == 0:
        atomic_store(counters, DECISION, decision)


@njit
def finish_team(counters: np.ndarray, ended: np.ndarray) -> None:
    """Cancel a team that is not complete; of one that is, wait for the members in `ended`."""
    decide(counters, CANCELLED)
    while atomic_load(counters, DECISION) == 0:
        yield_core()
    if atomic_load(counters, DECISION) == COMPLETE:
        for rank in range(ended.size):
            while atomic_load(ended, rank) == 0:
                yield_core()
