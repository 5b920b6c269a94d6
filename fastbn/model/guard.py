"""One thread at a time trains a model."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class OneThread:
    """Lets one thread work at a time, which may call it again: callbacks of a fit may train."""

    def __init__(self) -> None:
        self._callers: dict[object, tuple[int, threading.Thread]] = {}

    def run(self, work: Callable[[], T]) -> T:
        """Call `work`; RuntimeError while another thread is at work.

        Each call enters itself, and the thread that entered first goes on: there is no moment
        between a look and an entry. A handler of a signal may raise after any call: leaving is one
        call of C code. Entries from before a fork do not count in the child, which may not have
        their threads.
        """
        process, thread, entry = os.getpid(), threading.current_thread(), object()
        try:
            self._callers[entry] = process, thread
            entries = list(self._callers.values())  # one call: others may come meanwhile
            callers = [caller for number, caller in entries if number == process]
            if callers[0] is not thread:
                raise RuntimeError("this model is being trained by another thread")
            return work()
        finally:
            self._callers.pop(entry, None)
