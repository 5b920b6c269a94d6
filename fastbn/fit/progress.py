"""The progress bar of a fit, and the message that kernels are being compiled."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO, cast

from fastbn.errors import missing_extra
from fastbn.jit.listeners import on_compile
from fastbn.options import ShowProgress

REFRESH_SECONDS = 0.1

COMPILING = "fastbn: compiling kernels for this machine, once; later runs load them from disk"

_announced = False


def stderr() -> TextIO | None:
    """Return sys.stderr, or None if it is closed or missing, as in a windowed program."""
    stream: Any = sys.stderr
    return None if stream is None or getattr(stream, "closed", False) else stream


class _Lenient:
    """A stream whose failures, such as a broken pipe, do not end the fit."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(Exception):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(Exception):
            self._stream.flush()


def announce_compiling() -> None:
    """Print once per process to stderr that kernels are being compiled."""
    global _announced
    stream = stderr()
    if not _announced and stream is not None:
        _announced = True
        print(COMPILING, file=_Lenient(stream), flush=True)


class Bar:
    """A progress bar of rich, or nothing."""

    def __init__(self, progress: Any = None) -> None:
        self._progress, self._shown = progress, 0.0

    @property
    def is_shown(self) -> bool:
        """Whether there is a bar to advance."""
        return self._progress is not None

    def advance(self, step: int, loss: float, accuracy: float | None) -> None:
        """Show the number of steps done, the last loss and the epoch's accuracy so far."""
        now, task = time.perf_counter(), self._progress.tasks[0]
        if step == task.total or now - self._shown > REFRESH_SECONDS:
            self._shown = now
            measured = f"loss {loss:.4f}"
            if accuracy is not None:
                measured += f"  accuracy {accuracy:.2%}"
            self._progress.update(task.id, completed=step, measured=measured, refresh=True)


def _rich_progress(stream: Any) -> Any:
    """Return a progress bar of rich on a stream, or None if rich is not installed."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as TimeLeft
    except ImportError:
        return None
    columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[measured]}"), TimeLeft()
    console = Console(file=cast(TextIO, _Lenient(stream)))
    return Progress(*columns, console=console, auto_refresh=False)


@contextlib.contextmanager
def progress_bar(progress: ShowProgress, total: int) -> Iterator[Bar]:
    """Context of a progress bar on stderr; "auto" shows it on a terminal if rich is installed.

    Nothing is shown if there is no stderr.
    """
    if not isinstance(progress, bool) and not (isinstance(progress, str) and progress == "auto"):
        raise ValueError(f"progress: expected True, False or 'auto', got {progress!r:.200}")
    stream = stderr()
    isatty = getattr(stream, "isatty", None)  # a replaced stderr may not have it
    is_wanted = isatty is not None and isatty() if progress == "auto" else progress
    bar = _rich_progress(stream) if is_wanted and stream is not None else None
    if bar is not None:
        with bar, on_compile(announce_compiling):
            bar.add_task("", total=total, measured="")
            yield Bar(bar)
        return
    if progress is True and stream is not None:
        raise missing_extra("progress=True", "rich", "cli")
    yield Bar()
