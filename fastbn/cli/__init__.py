"""The `fastbn` command. Needs typer and rich, the optional extra `cli`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and leave with its exit code: 0 done, 1 failed, 2 wrong usage."""
    try:
        _run()
    except KeyboardInterrupt:  # while imports were still running
        sys.exit("fastbn: interrupted")


def _run() -> None:
    try:
        import rich.console  # noqa: F401
        import typer  # noqa: F401
    except ImportError as error:
        sys.exit(
            "fastbn's command line needs typer and rich, of which something is not installed "
            f"({error}): pip install 'fastbn[cli]'"
        )
    from fastbn.cli._app import app

    app(prog_name="fastbn")
