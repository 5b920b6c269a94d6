"""The threads of a team, which sleep between the calls of compiled functions.

They are Python threads and release Python's lock while they compute. After a job, a thread checks
for a tenth of a millisecond whether the next call begins, because waking it would take longer than
a short call. Then it sleeps, or as soon as another thread needs its core, so it does not disturb
other libraries. A forked child, where the threads do not exist, starts new ones.
"""

from __future__ import annotations

import functools
import os
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastbn.parallel.team import (
    DECIDERS,
    DECISION,
    FORKED,
    N_COUNTERS,
    Member,
    end_and_await,
    finish_team,
)

# How often a worker checks for the next call before it sleeps, and about how long that takes.
CHECKS, AWAKE_SECONDS = 150, 1e-4

# If another thread needs the core in this time for more ticks (some 50 microseconds on x86), the
# worker sleeps at once after each of its next BUSY_JOBS jobs: Linux gives the core sooner to a
# thread that wakes up than to one that has offered it to others.
LONG_TICKS, BUSY_JOBS = 150_000, 20


class Worker(threading.Thread):
    """A thread that does one job after the other, and sleeps in between."""

    def __init__(self) -> None:
        super().__init__(name="fastbn", daemon=True)
        self.jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self.counters = np.zeros(0, np.int64)  # of its last call
        self.bell = np.zeros(1, np.int64)  # 1: there is a job of a call with other counters

    def run(self) -> None:
        """Do jobs until the process ends.

        A worker is idle before its job has ended, or the caller might start a new one for its next
        call.
        """
        asleep = 0  # after so many of the next jobs it sleeps at once
        while True:
            call, function, arguments = self.jobs.get()
            self.counters = call.counters
            self.bell[0] = 0
            try:
                function(*arguments)
            except BaseException as error:  # compiling failed, and nothing was computed
                call.errors.append(error)
                finish_team(call.counters, 1)
            finally:
                del function, arguments
                _idle.append(self)
                checks = 0 if asleep else CHECKS
                has_core = end_and_await(call.counters, self.bell, checks, LONG_TICKS)
            asleep = max(asleep - 1, 0) if has_core else BUSY_JOBS
            del call


# Workers without a job. Several threads may add and take them, since each does so in one call.
_idle: list[Worker] = []


def take_workers(count: int) -> list[Worker]:
    """Return workers without a job; start new ones if there are too few."""
    workers: list[Worker] = []
    try:
        while len(workers) < count:
            try:
                workers.append(_idle.pop())
            except IndexError:
                workers.append(Worker())
                workers[-1].start()
    except BaseException:
        _idle.extend(worker for worker in workers if worker.is_alive())
        raise
    return workers


# The counters of calls that are over. The next call takes the last ones, which the workers of a
# team that has just finished still check.
_unused: list[np.ndarray] = []


def cleared_counters() -> np.ndarray:
    """Return counters that no call uses, and which are all zero."""
    try:
        counters = _unused.pop()
    except IndexError:
        return np.zeros(N_COUNTERS, np.int64)
    # DECISION at the end, or a worker would take the old members for new ones. No signal handler
    # runs between two lines without a call, so a forked child cannot find half of them cleared.
    counters[:DECISION] = 0
    counters[DECISION] = 0
    return counters


class _Call:
    """One call of a team: what its members share."""

    def __init__(self) -> None:
        self.counters = cleared_counters()
        self.errors: list[BaseException] = []


class Job(NamedTuple):
    """What a worker does in a call."""

    call: _Call
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


# The calls that run now.
_calls: weakref.WeakSet[_Call] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """Forget the workers, and let no call wait for them: they exist only in the parent."""
    _idle.clear()
    for call in list(_calls):
        call.counters[DECIDERS], call.counters[DECISION] = 1, FORKED


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


@functools.cache
def compile_waits() -> None:
    """Compile what waits for other threads before it is needed, which takes long and may fail."""
    counters = np.zeros(N_COUNTERS, np.int64)
    end_and_await(counters, counters, 0, 0)
    finish_team(counters, 1)


# The member of a team of one.
ALONE = Member(np.zeros(0, np.int64), 0, 1, None)


def run_team(function: Callable[..., Any], size: int, arguments: Callable[[Member], Any]) -> None:
    """Call ``function(*arguments(member))`` for `size` members at once, in this thread and workers.

    `function` must be compiled code that begins with `gather_team(member)`, does nothing if that is
    False, cannot fail afterwards, and ends with `leave_team(member)`. So either all members run it,
    or none if a thread cannot be started.

    If a signal handler raises an exception, the exception leaves this function after all members
    have finished. Python runs handlers only after a call and at the start of a Python function:
    before the team is complete, or when this thread's part is done. The last wait is a compiled
    call at the start of `finally`, so no handler can prevent it. If a handler forks, the child gets
    a RuntimeError.
    """
    if size == 1:
        function(*arguments(ALONE))
        return
    call = _Call()
    _calls.add(call)
    own, *others = [arguments(Member(call.counters, rank, size, None)) for rank in range(size)]
    compile_waits()
    workers = take_workers(size - 1)
    try:
        for worker, each in zip(workers, others, strict=True):
            worker.jobs.put(Job(call, function, each))
            if worker.counters is not call.counters:
                worker.bell[0] = 1
        function(*own)
    finally:
        finish_team(call.counters, size)
    if call.errors:
        raise call.errors[0]
    if call.counters[DECISION] == FORKED:
        raise RuntimeError(
            "this process was forked during a call of several threads: only the parent completes it"
        )
    _unused.append(call.counters)
