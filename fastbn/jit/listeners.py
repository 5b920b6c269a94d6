"""Tell the logger and the listeners of `on_compile` that a kernel is about to be compiled."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

logger = logging.getLogger("fastbn")

_listeners: list[Callable[[], None]] = []


def announce(function: Any, sig: Any) -> None:
    """Tell the logger and all listeners that a kernel is about to be compiled."""
    dtypes = sorted(set(re.findall(r"float\d+", str(sig))))
    logger.info("compiling %s for %s", function.__qualname__, ", ".join(dtypes))
    while _listeners:
        try:
            listener = _listeners.pop()
        except IndexError:  # another thread has taken the last one
            return
        listener()


@contextlib.contextmanager
def on_compile(listener: Callable[[], None]) -> Iterator[None]:
    """Context in which `listener` is called once, before the first kernel is compiled."""
    _listeners.append(listener)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # it was called, and is not in the list any more
            _listeners.remove(listener)
