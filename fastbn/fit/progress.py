"""The progress bar of a fit, and the line that says that kernels are being compiled."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any, Protocol, TextIO, cast

from fastbn.errors import missing_extra
from fastbn.jit.listeners import on_compile

_announced = False

COMPILING = "fastbn: compiling kernels for this machine, once; later runs load them from disk"


def stderr() -> TextIO | None:
    """Return sys.stderr; None where there is none, as in a windowed program, or it is closed."""
    stream: Any = sys.stderr
    return None if stream is None or getattr(stream, "closed", False) else stream


class _Lenient:
    """A stream where a failure to write, as into a broken pipe, is none of the fit's."""

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
    """Say on stderr that kernels are being compiled, once in a process."""
    global _announced
    stream = stderr()
    if not _announced and stream is not None:
        _announced = True
        print(COMPILING, file=_Lenient(stream), flush=True)


class Bar(Protocol):
    """What a fit tells its progress bar."""

    def advance(self, step: int, loss: float, accuracy: float | None) -> None:
        """Show that `step` steps are done, with the last loss and the epoch's accuracy so far."""


class _NoBar:
    def advance(self, step: int, loss: float, accuracy: float | None) -> None:
        pass


class _RichBar:
    REFRESH_SECONDS = 0.1

    TEXT = "{task.fields[measured]}"

    def __init__(self, progress: Any, task: Any) -> None:
        self._progress, self._task = progress, task
        self._shown = 0.0

    def advance(self, step: int, loss: float, accuracy: float | None) -> None:
        now = time.perf_counter()
        last = step == self._progress.tasks[0].total
        if last or now - self._shown > self.REFRESH_SECONDS:
            self._shown = now
            measured = f"loss {loss:.4f}"
            if accuracy is not None:
                measured += f"  accuracy {accuracy:.2%}"
            self._progress.update(self._task, completed=step, measured=measured, refresh=True)


def _rich_is_there() -> bool:
    try:
        import rich.progress  # noqa: F401
    except ImportError:
        return False
    return True


def _is_terminal(stream: Any) -> bool:
    isatty = getattr(stream, "isatty", None)  # what stands for a stream may have none
    return isatty is not None and bool(isatty())


@contextlib.contextmanager
def progress_bar(progress: bool | str, total: int) -> Iterator[Bar]:
    """Context of a progress bar on stderr; "auto" shows it on a terminal where rich is there.

    Where there is no stderr, or nothing can be written to it, nothing is shown.
    """
    if not isinstance(progress, bool) and not (isinstance(progress, str) and progress == "auto"):
        raise ValueError(f"progress: expected True, False or 'auto', got {progress!r:.200}")
    stream = stderr()
    if progress == "auto":
        progress = stream is not None and _is_terminal(stream) and _rich_is_there()
    if not progress or stream is None:
        yield _NoBar()
        return
    if not _rich_is_there():
        raise missing_extra("progress=True", "rich", "cli")
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    with (
        Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(_RichBar.TEXT),
            TimeLeft(),
            console=Console(file=cast(TextIO, _Lenient(stream))),
            auto_refresh=False,
        ) as bar,
        on_compile(announce_compiling),
    ):
        task = bar.add_task("", total=total, measured="")
        yield _RichBar(bar, task)
