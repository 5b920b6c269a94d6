"""Handling of Ctrl-C and SIGTERM: they end a fit after the current call of the kernel."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from fastbn.jit.postponed_signals import hears_signals


class Signals:
    """Context in which the first Ctrl-C sets `stop_requested`, and the second one raises.

    With `terminate`, SIGTERM sets `stop_requested` and `terminated`, and is raised again when the
    context ends. Handlers that are not Python's defaults are not replaced. Signals have their usual
    effect in a forked process and after the fit, even if another handler raised an exception in
    `__enter__` or `__exit__` and this handler is still installed.
    """

    def __init__(self, *, terminate: bool) -> None:
        self.stop_requested = False
        self._process = os.getpid()
        self.terminated = False
        self._usual: dict[int, Any] = {signal.SIGINT: signal.default_int_handler}
        if terminate:
            self._usual[signal.SIGTERM] = signal.SIG_DFL
        self._replaced: list[int] = []
        self._fit: FrameType | None = None  # the function that entered this context

    def __enter__(self) -> Signals:
        self._fit = sys._getframe(1)
        if hears_signals():
            for number, usual in self._usual.items():
                handler = signal.getsignal(number)
                if handler is usual or _is_left_behind(handler):
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
        """Return whether the function that entered this context is one of the callers."""
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
        elif self.stop_requested:
            raise KeyboardInterrupt
        self.stop_requested = True


def _is_left_behind(handler: Any) -> bool:
    """Return whether a handler was installed by a fit that is over."""
    owner = getattr(handler, "__self__", None)
    return isinstance(owner, Signals) and not owner._is_in_the_fit()


@contextlib.contextmanager
def interrupting_fits() -> Iterator[None]:
    """Context in which Ctrl-C raises KeyboardInterrupt even during a fit."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    usual = signal.getsignal(signal.SIGINT)
    if not hears_signals() or usual is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
