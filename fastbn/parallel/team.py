"""A team of threads in compiled code: members, their shares of the work, and the barrier."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastbn.jit.compiler import njit, njit_inlined
from fastbn.jit.intrinsics import atomic_add, atomic_load, atomic_store, ticks, yield_core

# Indices of the counters, two cache lines apart.
ARRIVED, GENERATION, PRESENT, ENDED, DECIDERS, DECISION, N_COUNTERS = range(0, 112, 16)

# Decisions whether a team starts. FORKED is set in a forked child, which lacks the team's threads.
COMPLETE, CANCELLED, FORKED = 1, 2, 3

# How often a thread checks the barrier before it gives up its core: some microseconds.
PATIENCE = 2000


class Member(NamedTuple):
    """One thread's place in its team.

    Kernels are compiled separately for members with a log (`fastbn.jit.intrinsics.mark`).
    """

    counters: np.ndarray  # (N_COUNTERS,) int64, shared
    rank: int
    size: int
    log: np.ndarray | None = None  # time stamps for the profile


@njit_inlined
def alone_in(member: Member) -> Member:
    """Return the member as a team of one, for work that it does by itself."""
    return Member(member.counters, 0, 1, member.log)


@njit
def share(n: int, member: Member) -> tuple[int, int]:
    """Return first and last of this member's part of range(n)."""
    return n * member.rank // member.size, n * (member.rank + 1) // member.size


@njit
def barrier(member: Member) -> None:
    """Wait until all members are here. Then each member sees what the others wrote before.

    A member spins. After PATIENCE checks it offers its core to other threads, since the missing
    member may be waiting for a core.
    """
    if member.size == 1:
        return
    counters = member.counters
    generation = atomic_load(counters, GENERATION)
    if atomic_add(counters, ARRIVED, 1) == member.size - 1:
        atomic_store(counters, ARRIVED, 0)
        atomic_store(counters, GENERATION, generation + 1)
        return
    checks = 0
    while atomic_load(counters, GENERATION) == generation:
        checks += 1
        if checks > PATIENCE:
            yield_core()


@njit
def gather_team(member: Member) -> bool:
    """Wait until the team is complete (True) or cancelled (False, for every member)."""
    if member.size == 1:
        return True
    counters = member.counters
    if atomic_add(counters, PRESENT, 1) == member.size - 1:
        decide(counters, COMPLETE)
    checks = 0
    while atomic_load(counters, DECISION) == 0:
        checks += 1
        if checks > PATIENCE:
            yield_core()
    return atomic_load(counters, DECISION) == COMPLETE


@njit
def decide(counters: np.ndarray, decision: int) -> None:
    """Store a decision, unless there already is one."""
    if atomic_add(counters, DECIDERS, 1) == 0:
        atomic_store(counters, DECISION, decision)


@njit
def leave_team(member: Member) -> None:
    """Let the caller's member wait until all workers have ended; the last thing a function does.

    Otherwise the caller would hold Python's lock when the workers need it, and they would sleep.
    """
    if member.size > 1 and member.rank == 0:
        wait_for_workers(member.counters, member.size)


@njit
def wait_for_workers(counters: np.ndarray, size: int) -> None:
    """Wait until all workers of a team of `size` have ended."""
    while atomic_load(counters, ENDED) < size - 1:
        yield_core()


@njit
def end_and_await(counters: np.ndarray, bell: np.ndarray, checks: int, long: int) -> bool:
    """Count a worker that has ended, and let it wait for its next job, but only so many checks.

    It waits until a member of the next team with these counters is here, since the caller holds
    Python's lock until then, or until the bell of the worker is 1. Return False if another thread
    needed the core for more than `long` ticks.
    """
    atomic_add(counters, ENDED, 1)
    for _ in range(checks):
        if atomic_load(counters, PRESENT) > 0 and atomic_load(counters, DECISION) == 0:
            return True
        if atomic_load(bell, 0) != 0:
            return True
        begun = ticks()
        yield_core()
        if ticks() - begun > long:
            return False
    return True


@njit
def finish_team(counters: np.ndarray, size: int) -> None:
    """Cancel the team if it is not complete yet; otherwise wait until its workers have ended."""
    decide(counters, CANCELLED)
    while atomic_load(counters, DECISION) == 0:
        yield_core()
    if atomic_load(counters, DECISION) == COMPLETE:
        wait_for_workers(counters, size)
