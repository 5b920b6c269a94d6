"""A guard that lets only one thread at a time train a model."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class OneThread:
    """Lets one thread work at a time. It may enter again, since callbacks of a fit may train."""

    def __init__(self) -> None:
        self._callers: dict[object, tuple[int, threading.Thread]] = {}

    def run(self, work: Callable[..., T], *args: Any) -> T:
        """Call ``work(*args)``; raises RuntimeError if another thread is already inside.

        Each call first adds an entry, and only the thread of the oldest entry may continue. So no
        other thread can enter between the check and the entry. An entry is removed in one C call,
        since a signal handler may raise after any line. In a forked child, entries from before the
        fork do not count, because their threads may not exist there.
        """
        process, thread, entry = os.getpid(), threading.current_thread(), object()
        try:
            self._callers[entry] = process, thread
            if len(self._callers) > 1:
                entries = list(self._callers.values())  # one call: other threads may change it
                callers = [caller for number, caller in entries if number == process]
                if callers[0] is not thread:
                    raise RuntimeError("this model is being trained by another thread")
            return work(*args)
        finally:
            self._callers.pop(entry, None)
