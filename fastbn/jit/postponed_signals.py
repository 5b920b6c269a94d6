"""Signals that wait for work which an exception would leave broken: the compiler's."""

from __future__ import annotations

import signal
import threading

# The public one makes an enum of what it returns, which takes a hundred times as long.
from _signal import getsignal  # type: ignore[import-not-found]
from types import FrameType
from typing import Any

NUMBERS = tuple(map(int, sorted(signal.valid_signals())))


def hears_signals() -> bool:
    """Tell whether this is Python's main thread, the only one that signals reach."""
    return threading.current_thread() is threading.main_thread()


class Postponed:
    """Context in which signals wait: for the end, or for a context of the same object within it.

    For work that an exception at any moment would leave broken, made of parts between which it
    would not. Every signal that has a handler in Python waits. The handlers are then called in the
    order in which the signals came; a signal that came several times counts once, as it does where
    the system holds it back.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._replaced: dict[int, Any] = {}  # handlers, by signal
        self._waiting: dict[int, tuple[Any, FrameType | None]] = {}  # handlers, and their argument
        self._raised: BaseException | None = None  # by a handler, between two parts

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
            raise raised  # the work has caught it, and may have raised another one for it

    def _replace(self) -> None:
        try:
            for number in NUMBERS:
                handler = getsignal(number)
                if callable(handler):
                    self._replaced[number] = handler
                    signal.signal(number, self._hear)
        except BaseException:  # by a handler that is not replaced yet
            self._restore()
            raise

    def _restore(self) -> None:
        """Put all handlers back, even where one that is back raises meanwhile."""
        try:
            for number, handler in self._replaced.items():
                if getsignal(number) == self._hear:  # else a handler has set another one
                    signal.signal(number, handler)
            self._replaced = {}
        except BaseException:
            self._restore()
            raise

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._waiting.setdefault(number, (self._replaced[number], frame))

    def _let_through(self) -> None:
        """Call the handlers of the signals that wait, even where one raises."""
        if self._waiting:
            number = next(iter(self._waiting))
            handler, frame = self._waiting.pop(number)
            try:
                handler(number, frame)
            finally:
                self._let_through()
