"""Output of the commands, and checks of the files that they will write."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastbn.files.atomic import atomic_write, unusable_name

Json = Annotated[
    pathlib.Path | None,
    typer.Option("--json", help="Write all figures to this file.", metavar="FILE"),
]


def complain(message: str) -> None:
    """Print one line on stderr."""
    typer.echo(f"fastbn: {message}", err=True)


def _is_terminal() -> bool:
    """Tell whether stdout is a terminal; stdout is None in a program without a console."""
    return sys.stdout is not None and sys.stdout.isatty()


def print_rows(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values, aligned; plain lines if stdout is not a terminal."""
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
    """Print a table, in Markdown if stdout is not a terminal; `left` columns are left-aligned."""
    terminal = _is_terminal()
    table = Table(box=box.SIMPLE_HEAD if terminal else box.MARKDOWN)
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position < left else "right")
    for line in lines:
        table.add_row(*line)
    (Console() if terminal else Console(width=1000)).print(table)


@contextlib.contextmanager
def compile_notice(*, silent: bool = False) -> Iterator[list[bool]]:
    """Announce compiling once. The list that it yields is empty until something is compiled."""
    from fastbn.fit.progress import announce_compiling
    from fastbn.jit.listeners import on_compile

    compiled: list[bool] = []

    def notice() -> None:
        compiled.append(True)
        if not silent:
            announce_compiling()

    with on_compile(notice):
        yield compiled


def listed(names: Sequence[str]) -> str:
    """Return the first ten names, separated by commas, and how many more there are."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(map(on_one_line, names[:10])) + more


def on_one_line(name: str) -> str:
    r"""Return a name with line breaks and other control characters escaped, as \n."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)


def percent(part: float) -> str:
    """Return 0.98765 as "98.77 %"."""
    return f"{100 * part:.2f} %"


def write_json(path: pathlib.Path, values: Any) -> None:
    """Write a JSON file; if that fails, leave an existing file as it is."""
    with atomic_write(path, "w") as file:
        json.dump(values, file, indent=1)


# -- checks of options -----------------------------------------------------------------------------


def check_choice(value: str, choices: Collection[str], option: str) -> None:
    """Refuse a value that is not one of these."""
    if value not in choices:
        raise typer.BadParameter(
            f"expected one of {', '.join(choices)}, got {value!r:.200}", param_hint=f"'{option}'"
        )


def check_writable(files: Mapping[str, pathlib.Path | None], inputs: Iterable[str] = ()) -> None:
    """Refuse output files, by option, that cannot be written or that are one of the inputs."""
    for option, path in files.items():
        if path is not None and (problem := _problem(path, inputs)):
            raise typer.BadParameter(problem, param_hint=f"'{option}'")


def _problem(path: pathlib.Path, inputs: Iterable[str]) -> str | None:
    """Return why a file cannot be written; None if it can."""
    if reason := unusable_name(path):
        return f"cannot write {path} ({reason})"
    if path.is_dir():
        return f"expected a file, got the folder {path}"
    if path.exists() and not path.is_file():
        return f"expected a regular file, got {path}"
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist"
    if path.exists() and any(os.path.exists(one) and path.samefile(one) for one in inputs):
        return f"{path} would be overwritten"
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            return None
    except OSError as error:
        return f"cannot write in the folder {path.parent} ({error.strerror})"


def check_picture_ending(path: pathlib.Path | None) -> None:
    """Refuse a picture in a format that matplotlib does not write."""
    if path is not None:
        from fastbn.plotting import picture_formats

        check_ending(path, "--plot", [f".{ending}" for ending in sorted(picture_formats())])


def check_ending(path: pathlib.Path, option: str, endings: Collection[str]) -> None:
    """Refuse a file name that does not end in one of these."""
    if path.suffix.lower() not in endings:
        raise typer.BadParameter(
            f"expected a name that ends in {', '.join(endings)}, got {path.name!r}",
            param_hint=f"'{option}'",
        )
