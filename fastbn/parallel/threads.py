"""The threads of a team, which sleep between the calls of compiled functions.

They are Python threads and release Python's lock while they compute. A thread that has nothing to
do waits for its next job, so it does not disturb other libraries, and a forked child, where it does
not exist, starts new ones.
"""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from fastbn.parallel.team import (
    DECIDERS,
    DECISION,
    FORKED,
    N_COUNTERS,
    Member,
    finish_team,
)


class Worker(threading.Thread):
    """A thread that does one job after the other, and sleeps in between."""

    def __init__(self) -> None:
        super().__init__(name="fastbn", daemon=True)
        self.jobs: queue.SimpleQueue[Callable[[Worker], None]] = queue.SimpleQueue()

    def run(self) -> None:
        """Do jobs until the process ends."""
        while True:
            self.jobs.get()(self)


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


class _Call:
    """One call of a team: what its members share."""

    def __init__(self, size: int) -> None:
        self.counters = np.zeros(N_COUNTERS, np.int64)
        self.ended = np.zeros(size - 1, np.int64)  # 1 for a worker that is done with its arguments
        self.errors: list[BaseException] = []

    def job(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], worker_number: int
    ) -> Callable[[Worker], None]:
        """Return what a worker does."""

        def work(worker: Worker) -> None:
            try:
                function(*arguments)
            except BaseException as error:  # compiling failed, and nothing was computed
                self.errors.append(error)
                finish_team(self.counters, self.ended[:0])
            finally:
                _idle.append(worker)
                self.ended[worker_number] = 1

        return work


# The calls that run now.
_calls: weakref.WeakSet[_Call] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """Forget the workers, and let no call wait for them: they exist only in the parent."""
    _idle.clear()
    for call in list(_calls):
        call.counters[DECIDERS], call.counters[DECISION] = 1, FORKED


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

# The member of a team of one.
ALONE = Member(np.zeros(0, np.int64), 0, 1, None)


def run_team(function: Callable[..., Any], size: int, arguments: Callable[[Member], Any]) -> None:
    """Call ``function(*arguments(member))`` for `size` members at once, in this thread and workers.

    `function` must be compiled code that begins with `gather_team(member)`, does nothing if that is
    False, and cannot fail afterwards. So either all members run it, or none if a thread cannot be
    started.

    If a signal handler raises an exception, the exception leaves this function after all members
    have finished. Python runs handlers only after a call and at the start of a Python function:
    before the team is complete, or when this thread's part is done. The last wait is a compiled
    call at the start of `finally`, so no handler can prevent it. If a handler forks, the child gets
    a RuntimeError.
    """
    if size == 1:
        function(*arguments(ALONE))
        return
    call = _Call(size)
    _calls.add(call)
    own, *others = [arguments(Member(call.counters, rank, size, None)) for rank in range(size)]
    jobs = [call.job(function, each, number) for number, each in enumerate(others)]
    finish_team(np.zeros(N_COUNTERS, np.int64), call.ended[:0])  # compile it before it is needed
    workers = take_workers(size - 1)
    try:
        for worker, job in zip(workers, jobs, strict=True):
            worker.jobs.put(job)
        function(*own)
    finally:
        finish_team(call.counters, call.ended)
    if call.errors:
        raise call.errors[0]
    if call.counters[DECISION] == FORKED:
        raise RuntimeError(
            "this process was forked during a call of several threads: only the parent completes it"
        )
