"""`fastbn bench`: compare the speed of fastbn and its peers."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from fastbn.bench import SUITES
from fastbn.cli._output import (
    Json,
    check_choice,
    check_picture_ending,
    check_writable,
    compile_notice,
    complain,
    print_table,
    write_json,
)
from fastbn.errors import missing_extra

if TYPE_CHECKING:
    from fastbn.bench._row import Row

CHOICES = (*SUITES, "all")


def bench(
    against: Annotated[
        str | None,
        typer.Option(
            help="Peers, separated by commas: torch, torch-compile, jax, onnxruntime, sklearn, "
            "numpy (default: all that are installed).",
            metavar="PEER,...",
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            help="What to measure (default: all, or with --random nothing else).",
            metavar="|".join(CHOICES),
        ),
    ] = None,
    random: Annotated[
        int,
        typer.Option(
            help="Measure training steps of so many random networks.",
            min=0,
            max=1000,
            show_default=False,
            metavar="N",
        ),
    ] = 0,
    threads: Annotated[
        int | None, typer.Option(help="Cores that every side may use (default: all).", min=1)
    ] = None,
    isa: Annotated[
        str | None,
        typer.Option(
            help="Instruction set for fastbn and its peers (default: the processor's).",
            metavar="sse2|avx2|avx512",
        ),
    ] = None,
    as_json: Json = None,
    plot: Annotated[
        pathlib.Path | None,
        typer.Option(help="Draw the ratios to this file (.png, .svg, .pdf).", metavar="FILE"),
    ] = None,
) -> None:
    """Compare the speed of fastbn with PyTorch, JAX, ONNX Runtime, scikit-learn and NumPy.

    All sides do the same work in turns, at their best settings. Each is measured nine times; the
    table shows medians and quartiles. A peer's figure is its time as a multiple of fastbn's: above
    1, fastbn is faster. A suite takes some minutes; close other programs. End-to-end training needs
    FASTBN_DATA, a folder with Fashion-MNIST.
    """
    if suite is not None:
        check_choice(suite, CHOICES, "--suite")
    if isa is not None:
        _run_limited(isa)
    check_writable({"--json": as_json, "--plot": plot})
    check_picture_ending(plot)
    _limit_cores(threads)
    try:
        import threadpoolctl  # noqa: F401
    except ImportError:
        raise missing_extra("fastbn bench", "threadpoolctl", "bench") from None

    from fastbn.bench import _peers, _report, _suites

    peers = _peers.choose(against)
    if suite == "torch" and not _peers.is_installed("torch"):
        raise missing_extra("fastbn bench --suite torch", "PyTorch", "torch")
    if suite == "estimators" and not _peers.is_installed("sklearn"):
        raise missing_extra("fastbn bench --suite estimators", "scikit-learn", "sklearn")
    suites: tuple[str, ...] = () if suite is None else (suite,)
    if suite == "all" or (suite is None and not random):
        suites = SUITES
    rows: list[Row] = []
    facts = _report.machine(peers)
    interrupted = False
    try:
        with compile_notice():
            for row in _suites.rows(suites, peers, random):
                rows.append(row)
                typer.echo(f"measured {row.suite}: {row.work}", err=True)
    except KeyboardInterrupt:
        interrupted = True
    if not rows:
        complain("interrupted before the first row was measured")
        raise typer.Exit(1)
    _print(rows, _report.machine_line(facts))
    if as_json is not None:
        write_json(as_json, {"machine": facts, "rows": [row.to_dict() for row in rows]})
    if plot is not None:
        _report.plot(rows, plot, _report.machine_line(facts))
    if interrupted:
        complain(f"interrupted after {len(rows)} rows")
        raise typer.Exit(1)


def _run_limited(isa: str) -> None:
    """Run this command again in a process that is held to an instruction set, unless it is."""
    from fastbn.bench._isa import environment
    from fastbn.jit.isa import LEVELS, VARIABLE

    check_choice(isa, tuple(LEVELS), "--isa")
    if os.environ.get(VARIABLE) == isa:
        return
    limited = {**os.environ, **environment(isa)}
    done = subprocess.run([sys.executable, "-m", "fastbn", *sys.argv[1:]], env=limited)
    raise typer.Exit(done.returncode)


def _limit_cores(threads: int | None) -> None:
    """Limit the cores of this process, and the threads of all pools."""
    if threads is None:
        return
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        if threads > len(allowed):
            raise typer.BadParameter(
                f"expected at most {len(allowed)}, the cores of this process, got {threads}",
                param_hint="'--threads'",
            )
        os.sched_setaffinity(0, allowed[:threads])
    for pool in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
        os.environ[f"{pool}_NUM_THREADS"] = str(threads)
    os.environ.pop("FASTBN_NUM_THREADS", None)  # would override the limits


def _print(rows: list[Row], title: str) -> None:
    """Print a table for each suite, and a summary."""
    from fastbn.bench._report import summary, tables

    typer.echo(title)
    for suite, columns, lines in tables(rows):
        typer.echo(f"\n{suite}")
        print_table(columns, lines)
    typer.echo("\nA peer's figure is its time as a multiple of fastbn's best.")
    for sentence in summary(rows):
        typer.echo(sentence)
