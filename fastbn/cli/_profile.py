"""`fastbn profile`: measure where the time of a training step goes."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Annotated

import typer

from fastbn.cli._output import (
    Json,
    check_picture_ending,
    check_writable,
    compile_notice,
    complain,
    print_table,
    write_json,
)

if TYPE_CHECKING:
    from fastbn.model import BatchNormMLP


def profile(
    net: Annotated[
        str,
        typer.Argument(metavar="NET", help="A model file, or layer sizes as in 784-256-128-10."),
    ] = "784-256-128-10",
    batch: Annotated[int, typer.Option(help="Samples in a minibatch.")] = 128,
    threads: Annotated[
        int | None, typer.Option(help="Threads (default: as many as training uses).")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps in one call (default: about 0.15 s).")
    ] = None,
    as_json: Json = None,
    plot: Annotated[
        pathlib.Path | None,
        typer.Option(help="Draw the roofline to this file (.png, .svg, .pdf).", metavar="FILE"),
    ] = None,
    trace: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="Write a timeline of the threads, for ui.perfetto.dev or chrome://tracing.",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Measure where the time of a training step goes, by kernel and layer, and the limits.

    The limits are measured in the same run: how fast register tiles multiply, how fast arrays of
    several sizes are copied and read, and how long a barrier takes. The shortest possible time of a
    kernel follows from its operations, its bytes and these limits. "of roofline" is the shortest
    time divided by the measured time; "above it" is the difference, the most that better code could
    save. For steps of up to 5 ms, the output also says what calls from Python take beyond compiled
    code. A model file is not changed; the data are random.
    """
    check_writable({"--json": as_json, "--plot": plot, "--trace": trace}, inputs=[net])
    check_picture_ending(plot)
    model = _model(net)

    from fastbn.profiling import _report, profile_training

    with compile_notice():
        measured = profile_training(model, batch_size=batch, threads=threads, steps=steps)
    for sentence in _report.summary(measured):
        typer.echo(sentence)
    typer.echo()
    print_table(_report.COLUMNS, _report.rows(measured), left=2)
    if as_json is not None:
        write_json(as_json, measured.to_dict())
    if plot is not None:
        _report.plot(measured, plot)
    if trace is not None:
        written = _report.write_trace(measured, trace)
        if written < measured.steps:
            complain(f"the trace has the first {written} of {measured.steps} steps")


def _model(net: str) -> BatchNormMLP:
    """Load the model file, or create a model of these layer sizes."""
    from fastbn.model import BatchNormMLP

    parts = net.replace(",", "-").split("-")
    if all(part.isdecimal() for part in parts):
        return BatchNormMLP([int(part) for part in parts])
    if not pathlib.Path(net).exists():
        raise typer.BadParameter(
            f"expected a model file, or layer sizes as in 784-256-128-10, got {net!r}",
            param_hint="'NET'",
        )
    return BatchNormMLP.load(net)
