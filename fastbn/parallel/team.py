"""A team: some threads that run the same compiled function together, and its barrier.

They are plain Python threads that live for one call. They hold no lock of Python's while they
compute, and nothing of them is left when the call returns: no pool that spins beside other
people's, nothing to break in a forked child, nothing to take turns for.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

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


# Counters of the teams that are there, by their ids.
_teams: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()


def _after_fork_in_child() -> None:
    """Let nobody wait for members: they are threads of the parent."""
    for counters in list(_teams.values()):
        counters[DECIDERS], counters[DECISION] = 1, FORKED


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def run_team(function: Callable[..., Any], size: int, arguments: Callable[[Member], Any]) -> None:
    """Call ``function(*arguments(member))`` for `size` members at once.

    `function` must be compiled code that cannot fail half-way. Either all members run it or, where
    a thread cannot be started, none.

    Whatever the handler of a signal raises meanwhile is raised when no member computes any more.
    Python runs handlers after a call and at the start of a function of its own, so that nothing
    comes in between where the first thing in `finally` is a call of compiled code: the last wait.
    A handler may fork as well: RuntimeError in the child.
    """
    members = [Member(np.zeros(0, np.int64), 0, 1, None)]
    if size > 1:
        counters = np.zeros(N_COUNTERS, np.int64)
        _teams[id(counters)] = counters
        members = [Member(counters, rank, size, None) for rank in range(size)]
    calls = [arguments(member) for member in members]
    if size == 1:
        function(*calls[0])
        return
    errors: list[BaseException] = []
    ended = np.zeros(size, np.int64)  # 1 for a member that does not touch its arguments any more
    nobody = ended[:0]
    finish_team(np.zeros(N_COUNTERS, np.int64), nobody)  # compiled from here on

    def work(rank: int) -> None:
        try:
            if gather_team(members[rank]):
                function(*calls[rank])
        except BaseException as error:  # of the compiler: raised before anything is computed
            errors.append(error)
            finish_team(counters, nobody)
        finally:
            ended[rank] = 1

    # The caller only waits: a signal that Python handles there cannot cost the team a member.
    threads = [threading.Thread(target=work, args=(rank,), daemon=True) for rank in range(size)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:
        finish_team(counters, nobody)
        for thread in threads:  # asleep, unless something is raised again
            if thread.is_alive():
                thread.join()
        raise
    finally:
        finish_team(counters, ended)
    if errors:
        raise errors[0]
    if counters[DECISION] == FORKED:
        raise RuntimeError("this process was forked during the work of a team: the parent goes on")
