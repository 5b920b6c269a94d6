"""What commands print, and files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastbn.files.atomic import atomic_write, unusable_name

Json = Annotated[
    pathlib.Path | None, typer.Option("--json", help="Write all figures there.", metavar="FILE")
]


def complain(message: str) -> None:
    """Print one line on stderr."""
    typer.echo(f"fastbn: {message}", err=True)


def _is_terminal() -> bool:
    """Tell whether stdout is a terminal; a program without a console has None there."""
    return sys.stdout is not None and sys.stdout.isatty()


def print_rows(rows: Iterable[tuple[str, str]]) -> None:
    """Print names and values, aligned; plain lines where stdout is not a terminal."""
    rows = list(rows)
    if not _is_terminal():
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            typer.echo(f"{name:<{width}}  {value}".rstrip())
        return
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(Text(name, style="bold"), Text(value, overflow="fold"))
    Console().print(table)


def print_table(columns: Iterable[str], lines: Iterable[Iterable[str]], *, left: int = 1) -> None:
    """Print a table, drawn on a terminal and else in Markdown; `left` columns are left-aligned."""
    terminal = _is_terminal()
    table = Table(box=box.SIMPLE_HEAD if terminal else box.MARKDOWN)
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position < left else "right")
    for line in lines:
        table.add_row(*line)
    (Console() if terminal else Console(width=1000)).print(table)


@contextlib.contextmanager
def compile_notice(*, silent: bool = False) -> Iterator[list[bool]]:
    """Context that says once when kernels are compiled; yields a list, filled in that case."""
    from fastbn.fit.progress import announce_compiling
    from fastbn.jit.listeners import on_compile

    compiled: list[bool] = []

    def notice() -> None:
        compiled.append(True)
        if not silent:
            announce_compiling()

    with on_compile(notice):
        yield compiled


def listed(names: Iterable[str], most: int = 10) -> str:
    """Return names as a sentence would list them, the first `most` of them."""
    names = list(names)
    more = len(names) - most
    return ", ".join(map(on_one_line, names[:most])) + (f" and {more} more" if more > 0 else "")


def on_one_line(name: str) -> str:
    r"""Return a name with line breaks and other controls as they are written in Python, as \n."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)


def percent(part: float) -> str:
    """Return 0.98765 as "98.77 %"."""
    return f"{part:.2%}".replace("%", " %")


def check_writable(path: pathlib.Path, option: str, *, inputs: Iterable[str] = ()) -> None:
    """Refuse, before any work is done, a file that could not be written or is read from."""
    hint = f"'{option}'"
    if reason := unusable_name(path):
        raise typer.BadParameter(f"cannot write {path} ({reason})", param_hint=hint)
    if path.is_dir():
        raise typer.BadParameter(f"expected a file, got the folder {path}", param_hint=hint)
    if path.exists() and not path.is_file():
        raise typer.BadParameter(f"expected a regular file, got {path}", param_hint=hint)
    folder = path.parent
    if not folder.is_dir():
        raise typer.BadParameter(f"the folder {folder} does not exist", param_hint=hint)
    for source in inputs:
        if path.exists() and os.path.exists(source) and path.samefile(source):
            raise typer.BadParameter(f"{path} would be overwritten", param_hint=hint)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise typer.BadParameter(
            f"cannot write in the folder {folder} ({error.strerror})", param_hint=hint
        ) from None


def check_choice(value: str, choices: Collection[str], option: str) -> None:
    """Refuse a value that is none of these."""
    if value not in choices:
        raise typer.BadParameter(
            f"expected one of {', '.join(choices)}, got {value!r:.200}", param_hint=f"'{option}'"
        )


def check_figure_files(
    files: Mapping[str, pathlib.Path | None], *, inputs: Iterable[str] = ()
) -> None:
    """Refuse, before any work is done, what could not be written, by its option."""
    for option, path in files.items():
        if path is not None:
            check_writable(path, option, inputs=inputs)
    if (plot := files.get("--plot")) is not None:
        check_picture_ending(plot)


def write_json(path: pathlib.Path, values: Any) -> None:
    """Write a JSON file, as a whole."""
    with atomic_write(path, "w") as file:
        json.dump(values, file, indent=1)


def check_picture_ending(path: pathlib.Path) -> None:
    """Refuse a picture of a kind that matplotlib does not write."""
    from fastbn.plotting import picture_formats

    formats = picture_formats()
    if path.suffix.lower().removeprefix(".") not in formats:
        raise typer.BadParameter(
            f"expected an ending out of {', '.join(sorted(formats))}, got {path.name!r}",
            param_hint="'--plot'",
        )
