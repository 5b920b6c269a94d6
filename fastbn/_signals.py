"""Ctrl-C and SIGTERM during a fit: it ends after the current call's steps."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any


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
        # signals reach Python's main thread alone, and a forked worker is not ours to steer
        if threading.current_thread() is threading.main_thread():
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
