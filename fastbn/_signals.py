"""Ctrl-C and SIGTERM: a fit ends after the current call's steps, a compiler after its function."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


def _hears_signals() -> bool:
    """Tell whether this is Python's main thread, the only one that signals reach."""
    return threading.current_thread() is threading.main_thread()


class Signals:
    """Context in which the first Ctrl-C sets `pressed`, and the second one interrupts at once.

    With `terminate` SIGTERM sets it and `terminated`, and is let through when the context is left.
    Handlers of somebody else's stay in charge. A process forked meanwhile is not part of the fit:
    signals do there what they usually do.
    """

    def __init__(self, *, terminate: bool) -> None:
        self.pressed = False
        self._process = os.getpid()
        self.terminated = False
        self._usual: dict[int, Any] = {signal.SIGINT: signal.default_int_handler}
        if terminate:
            self._usual[signal.SIGTERM] = signal.SIG_DFL
        self._replaced: list[int] = []

    def __enter__(self) -> Signals:
        if _hears_signals():
            for number, usual in self._usual.items():
                if signal.getsignal(number) is usual:
                    signal.signal(number, self._handle)
                    self._replaced.append(number)
        return self

    def __exit__(self, *exc: object) -> None:
        for number in self._replaced:
            signal.signal(number, self._usual[number])
        if self.terminated:
            signal.raise_signal(signal.SIGTERM)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            signal.signal(number, self._usual[number])
            signal.raise_signal(number)
            return
        if number == signal.SIGTERM:
            self.terminated = True
        elif self.pressed:
            raise KeyboardInterrupt
        self.pressed = True


class Postponed:
    """Context in which Ctrl-C waits: for the end, or for a context of the same object within it.

    For work that an exception at any moment would leave broken, made of parts between which it
    would not.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._pressed = False
        self._handler: Any = None

    def __enter__(self) -> None:
        if not _hears_signals():
            return
        if self._depth:
            self._let_through()
        else:
            self._handler = signal.getsignal(signal.SIGINT)
            if callable(self._handler):
                signal.signal(signal.SIGINT, self._hear)
        self._depth += 1

    def __exit__(self, *exc: object) -> None:
        if not _hears_signals():
            return
        self._depth -= 1
        if not self._depth:
            if callable(self._handler):
                signal.signal(signal.SIGINT, self._handler)
            self._let_through()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._pressed = True

    def _let_through(self) -> None:
        if self._pressed:
            self._pressed = False
            self._handler(signal.SIGINT, None)


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
