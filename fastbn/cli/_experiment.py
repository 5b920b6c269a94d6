"""`fastbn experiment`: claims put to the test."""

from __future__ import annotations

import json
import pathlib
import time
from typing import Annotated

import typer

from fastbn.cli._output import (
    check_picture_ending,
    check_writable,
    compile_notice,
    complain,
    print_table,
)
from fastbn.errors import MissingExtraError

NAMES = (
    "convergence", "gradient", "normalization", "shift", "batch-size", "optimizers", "output",
)  # fmt: skip


def experiment(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help=f"{', '.join(NAMES[:-1])} or {NAMES[-1]}.")
    ],
    quick: Annotated[
        bool, typer.Option("--quick", help="On the embedded digits, within a minute.")
    ] = False,
    seed: Annotated[int, typer.Option(help="The first of three.")] = 0,
    plot: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="Where to draw the curves (.png, .svg, .pdf; default experiment-NAME.png).",
            metavar="FILE",
        ),
    ] = None,
    no_plot: Annotated[bool, typer.Option("--no-plot", help="Draw nothing.")] = False,
    as_json: Annotated[
        pathlib.Path | None,
        typer.Option("--json", help="Write all figures there.", metavar="FILE"),
    ] = None,
) -> None:
    """Train networks that differ in one thing, from three seeds, and say what the figures show.

    On Fashion-MNIST, some minutes each; --quick takes the embedded digits. A claim holds where all
    seeds of one side are beyond all of the other.
    """
    if name not in NAMES:
        raise typer.BadParameter(
            f"expected one of {', '.join(NAMES)}, got {name!r:.200}", param_hint="'NAME'"
        )
    if plot is not None and no_plot:
        raise typer.BadParameter("it excludes --no-plot", param_hint="'--plot'")
    picture = None if no_plot else plot or pathlib.Path(f"experiment-{name}.png")
    for path, option in ((picture, "--plot"), (as_json, "--json")):
        if path is not None:
            check_writable(path, option)
    if plot is not None:
        check_picture_ending(plot)

    from fastbn import experiments
    from fastbn.files.atomic import atomic_write

    start = time.perf_counter()
    with compile_notice():
        result = experiments.run(
            name, quick=quick, seed=seed, say=lambda line: typer.echo(line, err=True)
        )
    typer.echo(f"{result.question}\n{result.setting}\n")
    print_table(result.columns, result.rows)
    typer.echo("\nMedians of three seeds, and their range.")
    for finding in result.findings:
        typer.echo(f"- {finding}")
    if as_json is not None:
        with atomic_write(as_json, "w") as file:
            json.dump(result.to_dict(), file, indent=1)
    if picture is not None:
        try:
            result.plot(picture)
        except MissingExtraError as error:
            complain(f"no picture: {error}")
    typer.echo(f"\n{time.perf_counter() - start:.0f} s", err=True)
