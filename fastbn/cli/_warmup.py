"""`fastbn warmup`: compile all kernels now."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from fastbn.cli._output import check_choice, compile_notice, complain

DTYPES = {"float32": ["float32"], "float64": ["float64"], "both": ["float32", "float64"]}


def warmup(
    dtype: Annotated[
        str, typer.Option(help="Dtype of the data to compile for.", metavar="|".join(DTYPES))
    ] = "float32",
) -> None:
    """Compile all kernels now, so that later programs do not wait for the compiler.

    The machine code is kept on disk, for this processor, this Python and these versions of the
    packages. A second call takes a second or two.
    """
    check_choice(dtype, DTYPES, "--dtype")
    from fastbn.fit.interrupt import interrupting_fits
    from fastbn.jit.compiler import cache_folder
    from fastbn.kernels.network import train_steps
    from fastbn.warmup import warm_up

    folder = cache_folder(train_steps)
    if folder is None:
        complain("the compiler is off or no cache folder can be written: nothing would be kept")
        raise typer.Exit(1)
    start = time.perf_counter()
    with compile_notice(silent=True) as compiled, interrupting_fits():
        for name in DTYPES[dtype]:
            for part in warm_up(name):
                typer.echo(part)
    seconds = time.perf_counter() - start
    what = "compiled what was missing" if compiled else "everything was compiled already"
    typer.echo(f"{what}: {seconds:.1f} s; machine code in {folder}")
