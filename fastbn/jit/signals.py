"""Signals: Ctrl-C and SIGTERM end a fit after the current call's steps; a compiler hears none."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading

# The public one makes an enum of what it returns, which takes a hundred times as long.
from _signal import getsignal  # type: ignore[import-not-found]
from collections.abc import Iterator
from types import FrameType
from typing import Any

NUMBERS = tuple(map(int, sorted(signal.valid_signals())))


def _hears_signals() -> bool:
    """Tell whether this is Python's main thread, the only one that signals reach."""
    return threading.current_thread() is threading.main_thread()


class Signals:
    """Context in which the first Ctrl-C sets `pressed`, and the second one interrupts at once.

    With `terminate` SIGTERM sets it and `terminated`, and is let through when the context is left.
    Handlers of somebody else's stay in charge. A process forked meanwhile is not part of the fit:
    signals do there what they usually do. So they do when the fit is over, also where another
    handler has raised on the way into this context or out of it, and has left this one in place.
    """

    def __init__(self, *, terminate: bool) -> None:
        self.pressed = False
        self._process = os.getpid()
        self.terminated = False
        self._usual: dict[int, Any] = {signal.SIGINT: signal.default_int_handler}
        if terminate:
            self._usual[signal.SIGTERM] = signal.SIG_DFL
        self._replaced: list[int] = []
        self._fit: FrameType | None = None  # the function that entered this context

    def __enter__(self) -> Signals:
        self._fit = sys._getframe(1)
        if _hears_signals():
            for number, usual in self._usual.items():
                if signal.getsignal(number) is usual:
                    signal.signal(number, self._handle)
                    self._replaced.append(number)
        return self

    def __exit__(self, *exc: object) -> None:
        for number in self._replaced:
            signal.signal(number, self._usual[number])
        self._fit = None
        if self.terminated:
            signal.raise_signal(signal.SIGTERM)

    def _is_in_the_fit(self) -> bool:
        """Tell whether the fit is running: it is one of the callers."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame is not self._fit:
            frame = frame.f_back
        return frame is not None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process or not self._is_in_the_fit():
            signal.signal(number, self._usual[number])
            signal.raise_signal(number)
            return
        if number == signal.SIGTERM:
            self.terminated = True
        elif self.pressed:
            raise KeyboardInterrupt
        self.pressed = True


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
        if not _hears_signals():
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
        if not _hears_signals():
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


@contextlib.contextmanager
def interrupting_fits() -> Iterator[None]:
    """Context in which Ctrl-C is an exception in a fit, too, instead of its orderly end."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    usual = signal.getsignal(signal.SIGINT)
    if not _hears_signals() or usual is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
