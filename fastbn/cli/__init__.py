"""The `fastbn` command. Needs typer and rich, the optional extra `cli`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage."""
    try:
        try:
            import rich.console  # noqa: F401
            import typer  # noqa: F401
        except ImportError as error:
            sys.exit(
                f"fastbn's command line needs typer and rich ({error}): pip install 'fastbn[cli]'"
            )
        from fastbn.cli._app import app

        app(prog_name="fastbn")
    except KeyboardInterrupt:  # during the imports
        sys.exit("fastbn: interrupted")
