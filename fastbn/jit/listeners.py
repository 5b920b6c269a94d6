"""Who hears that a kernel is about to be compiled: the logger, and contexts of `on_compile`."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("fastbn")

_listeners: list[Callable[[], None]] = []


def announce(function: Any, sig: Any) -> None:
    """Say that a kernel is compiled, to the logger and to those who listen."""
    dtypes = sorted(set(re.findall(r"float\d+", str(sig))))
    logger.info("compiling %s for %s", function.__qualname__, ", ".join(dtypes))
    for listener in list(_listeners):
        listener()


class on_compile:
    """Context in which `listener` is called once, before the first kernel is compiled."""

    def __init__(self, listener: Callable[[], None]) -> None:
        self._listener = listener

    def __enter__(self) -> on_compile:
        _listeners.append(self._once)
        return self

    def __exit__(self, *exc: object) -> None:
        self._leave()

    def _once(self) -> None:
        if self._leave():
            self._listener()

    def _leave(self) -> bool:
        """Stop listening; False where another thread has done so."""
        try:
            _listeners.remove(self._once)
        except ValueError:
            return False
        return True
