"""The typer application: its commands, and how it reports mistakes of the user."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import fastbn
from fastbn.cli import _bench, _doctor, _info, _profile, _train, _use, _warmup
from fastbn.cli._output import complain
from fastbn.errors import MissingExtraError

# Raised for mistakes of the user; any other exception is a bug.
MISTAKES = (ValueError, TypeError, OSError, MissingExtraError, MemoryError)


class _Commands(TyperGroup):
    """Reports a mistake of the user in one line, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader closed the pipe, as `head` does
            raise
        except KeyboardInterrupt:
            complain("interrupted")
        except MISTAKES as error:
            if ctx.params.get("traceback"):
                raise
            complain(f"error: {str(error) or repr(error)}")
        raise typer.Exit(1)


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fastbn {fastbn.__version__}")
        raise typer.Exit


@app.callback()
def fastbn_command(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show Python's traceback of an error.")
    ] = False,
) -> None:
    """Train dense networks with batch normalization on the CPU, fast."""


for command in (
    _train.train, _use.evaluate, _use.predict, _info.info,
    _bench.bench, _profile.profile, _doctor.doctor, _warmup.warmup,
):  # fmt: skip
    app.command()(command)
