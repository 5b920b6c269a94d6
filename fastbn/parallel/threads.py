"""The threads of a team, which live for one call of a compiled function.

They are plain Python threads, and release Python's lock while they compute. There is no pool that
could compete with the threads of other libraries or break in a forked child.
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

# Counters of the teams that exist now, by the ids of these arrays.
_teams: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()


def _after_fork_in_child() -> None:
    """End all waits for members, since their threads exist only in the parent."""
    for counters in list(_teams.values()):
        counters[DECIDERS], counters[DECISION] = 1, FORKED


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def run_team(function: Callable[..., Any], size: int, arguments: Callable[[Member], Any]) -> None:
    """Call ``function(*arguments(member))`` for `size` members at once.

    `function` must be compiled code that cannot fail half-way. Either all members run it, or none
    if a thread cannot be started.

    If a signal handler raises an exception, the exception leaves this function after all members
    have finished. Python runs handlers only after a call and at the start of a Python function. The
    last wait is a compiled call at the start of `finally`, so no handler can prevent it. If a
    handler forks, the child gets a RuntimeError.
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
    finish_team(np.zeros(N_COUNTERS, np.int64), nobody)  # compile it before it is needed

    def work(rank: int) -> None:
        try:
            if gather_team(members[rank]):
                function(*calls[rank])
        except BaseException as error:  # compiling failed, and nothing was computed
            errors.append(error)
            finish_team(counters, nobody)
        finally:
            ended[rank] = 1

    # The caller only waits, so a signal handler that raises in it does not stop a member.
    threads = [threading.Thread(target=work, args=(rank,), daemon=True) for rank in range(size)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:
        finish_team(counters, nobody)
        for thread in threads:  # sleep until they have ended, unless a handler raises again
            if thread.is_alive():
                thread.join()
        raise
    finally:
        finish_team(counters, ended)
    if errors:
        raise errors[0]
    if counters[DECISION] == FORKED:
        raise RuntimeError(
            "this process was forked during a call of several threads: only the parent completes it"
        )
