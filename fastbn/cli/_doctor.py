"""`fastbn doctor`: report what fastbn found on this machine, and what to fix."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from fastbn.cli._output import print_rows

if TYPE_CHECKING:
    from fastbn.doctor import Facts


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON.")] = False,
) -> None:
    """Report what fastbn found on this machine: versions, cores, threads and cache.

    Warnings say what is slow or broken here and how to fix it. Please add this output to a bug
    report.
    """
    from fastbn.doctor import report

    found = report()
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
        return
    print_rows(_rows(found.facts))
    for kind, sentences in [("warning", found.warnings), ("note", found.notes)]:
        for sentence in sentences:
            typer.echo(f"\n{kind}: {sentence}")
    if not found.warnings:
        typer.echo("\nNothing to fix.")


def _rows(facts: Facts) -> list[tuple[str, str]]:
    from fastbn.doctor import PACKAGES

    cpu, cache = facts.cpu, facts.cache
    cores = f"{cpu.cores}, {cpu.cores_allowed} allowed for this process"
    if cpu.cores_fast is not None:
        cores += f", {cpu.cores_fast} of them fast"
    if cpu.quota is not None:
        cores += f", limited to {cpu.quota:g} by a control group"
    rows = [
        ("fastbn", facts.fastbn),
        ("Python", facts.python),
        ("platform", facts.platform),
        *(
            (name, version or f"not installed; part of the extra {PACKAGES[name]}")
            for name, version in facts.packages.items()
        ),
        ("processor", f"{cpu.name} ({cpu.architecture}, {facts.instruction_set})"),
        ("cores", cores),
        ("training", f"teams of up to {facts.team_threads} threads"),
        ("numba threads", str(facts.numba_threads)),
    ]
    if cache.folder is None:
        why = "the compiler is off" if facts.jit_disabled else "no folder can be written"
        rows.append(("cache", f"none: {why}"))
    else:
        state = "writable" if cache.writable else "read-only"
        state = "not used" if cache.problem else state
        rows.append(
            ("cache", f"{cache.folder}, {state}, {cache.megabytes:.1f} MB in {cache.files} files")
        )
    return [*rows, *facts.environment.items()]
