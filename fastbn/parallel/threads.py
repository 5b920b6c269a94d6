"""The threads of a team, which live for one call of a compiled function.

They are plain Python threads and release Python's lock while they compute. No pool remains that
would spin beside other libraries' threads, or break in a forked child.
"""

from __future__ import annotations

import os
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
    gather_team,
)

# Counters of the teams that exist now, by their ids.
_teams: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()


def _after_fork_in_child() -> None:
    """End all waits for members: their threads exist in the parent only."""
    for counters in list(_teams.values()):
        counters[DECIDERS], counters[DECISION] = 1, FORKED


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def run_team(function: Callable[..., Any], size: int, arguments: Callable[[Member], Any]) -> None:
    """Call ``function(*arguments(member))`` for `size` members at once.

    `function` must be compiled code that cannot fail half-way. Either all members run it or, if a
    thread cannot be started, none.

    An exception of a signal handler is raised when no member computes any more. Python runs
    handlers after a call and at the start of a Python function, so none runs before the last wait,
    a compiled call at the start of `finally`. If a handler forks, the child gets a RuntimeError.
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
    ended = np.zeros(size, np.int64)  # 1 for a member that does not use its arguments any more
    nobody = ended[:0]
    finish_team(np.zeros(N_COUNTERS, np.int64), nobody)  # compiled from here on

    def work(rank: int) -> None:
        try:
            if gather_team(members[rank]):
                function(*calls[rank])
        except BaseException as error:  # of the compiler, before anything is computed
            errors.append(error)
            finish_team(counters, nobody)
        finally:
            ended[rank] = 1

    # The caller only waits, so a signal handler that raises there costs the team no member.
    threads = [threading.Thread(target=work, args=(rank,), daemon=True) for rank in range(size)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:
        finish_team(counters, nobody)
        for thread in threads:  # wait asleep, unless a handler raises again
            if thread.is_alive():
                thread.join()
        raise
    finally:
        finish_team(counters, ended)
    if errors:
        raise errors[0]
    if counters[DECISION] == FORKED:
        raise RuntimeError("this process was forked while a team worked: the parent goes on")
