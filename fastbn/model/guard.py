"""One thread at a time trains a model."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class OneThread:
    """Lets one thread work at a time; it may call again, since callbacks of a fit may train."""

    def __init__(self) -> None:
        self._callers: dict[object, tuple[int, threading.Thread]] = {}

    def run(self, work: Callable[[], T]) -> T:
        """Call `work`; RuntimeError while another thread is at work.

        Each call adds an entry, and the thread of the first entry goes on; so there is no moment
        between a check and an entry. An entry is removed in one C call, since a signal handler may
        raise after any line. Entries from before a fork do not count in the child, where their
        threads may not exist.
        """
        process, thread, entry = os.getpid(), threading.current_thread(), object()
        try:
            self._callers[entry] = process, thread
            entries = list(self._callers.values())  # one call: other threads may change it
            callers = [caller for number, caller in entries if number == process]
            if callers[0] is not thread:
                raise RuntimeError("this model is being trained by another thread")
            return work()
        finally:
            self._callers.pop(entry, None)
