"""Postpone signal handlers while numba compiles, since their exceptions could break numba."""

from __future__ import annotations

import signal
import threading

# The public `signal.getsignal` converts its result to an enum, which takes a hundred times as long.
from _signal import getsignal  # type: ignore[import-not-found]
from types import FrameType
from typing import Any

SIGNALS = tuple(map(int, sorted(signal.valid_signals())))


def hears_signals() -> bool:
    """Tell whether this is Python's main thread, the only one that runs signal handlers."""
    return threading.current_thread() is threading.main_thread()


class Postponed:
    """Context in which signal handlers are postponed: to its end, or to the next nested context.

    An exception in the middle of the work would break something. At the beginning of a part of the
    work it does no harm, so each part enters the same object again, as a nested context. Handlers
    are called in the order in which their signals came. A signal that comes several times counts
    once, as if the system had blocked it.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._replaced: dict[int, Any] = {}  # handlers, by signal
        self._waiting: dict[int, tuple[Any, FrameType | None]] = {}  # handlers and their frames
        self._raised: BaseException | None = None  # by a handler, at the beginning of a part

    def __enter__(self) -> None:
        if not hears_signals():
            return
        if self._depth:
            try:
                self._let_through()
            except BaseException as error:
                self._raised = error
                raise
        else:
            self._replace()
        self._depth += 1

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if not hears_signals():
            return
        self._depth -= 1
        if self._depth:
            return
        raised, self._raised = self._raised, None
        try:
            self._restore()
        finally:
            self._let_through()
        if raised is not None and raised is not error:
            raise raised  # the work caught it, and may have raised another error instead

    def _replace(self) -> None:
        try:
            for number in SIGNALS:
                handler = getsignal(number)
                if callable(handler):
                    self._replaced[number] = handler
                    signal.signal(number, self._hear)
        except BaseException:  # raised by a handler that is not replaced yet
            self._restore()
            raise

    def _restore(self) -> None:
        """Put all handlers back, even if one of them is called and raises."""
        try:
            for number, handler in self._replaced.items():
                if getsignal(number) == self._hear:  # unless a handler has set another one
                    signal.signal(number, handler)
            self._replaced = {}
        except BaseException:
            self._restore()
            raise

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._waiting.setdefault(number, (self._replaced[number], frame))

    def _let_through(self) -> None:
        """Call the handlers of all postponed signals, even if one raises."""
        if self._waiting:
            number = next(iter(self._waiting))
            handler, frame = self._waiting.pop(number)
            try:
                handler(number, frame)
            finally:
                self._let_through()
