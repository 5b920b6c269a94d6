"""The output of `fastbn bench`: tables of ratios, a plot, and a description of the machine."""

from __future__ import annotations

import collections
import datetime
import itertools
import os
import statistics
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fastbn.bench._peers import PACKAGES
from fastbn.bench._row import Row
from fastbn.doctor import installed_version, report
from fastbn.parallel.cores import allowed_cores, available_threads
from fastbn.plotting import INK, PALE, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Each peer's colour (Okabe & Ito's palette) and marker.
LOOKS = {
    "numpy": ("#0072B2", "o"),
    "sklearn": ("#CC79A7", "v"),
    "torch": ("#56B4E9", "s"),
    "torch-compile": ("#D55E00", "D"),
    "jax": ("#009E73", "^"),
    "onnxruntime": ("#E69F00", "P"),
}


def machine(peers: Sequence[str]) -> dict[str, Any]:
    """Describe the machine and the run: date, processor, cores, threads and versions."""
    facts = report().facts
    packages = ["numba", *[package for peer in peers for package in PACKAGES[peer]]]
    versions = {name: installed_version(name) for name in packages}
    return {
        "date": datetime.date.today().isoformat(),
        "processor": facts.cpu.name,
        "instruction_set": facts.instruction_set,
        "cores": allowed_cores(),
        "threads": available_threads(),
        "versions": {"fastbn": facts.fastbn, "Python": facts.python, **versions},
    }


def machine_line(facts: dict[str, Any]) -> str:
    """Return the description in one line."""
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    return (
        f"{facts['date']}, {facts['processor']}, {facts['instruction_set']}, "
        f"{facts['cores']} cores, "
        f"up to {facts['threads']} threads; {versions}"
    )


def seconds(value: float) -> str:
    """Return a time with three digits: "46.1 us", "15.8 ms", "1.24 s"."""
    for unit, size in (("us", 1e-6), ("ms", 1e-3)):
        if value < 999.5 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} s"


def tables(rows: Iterable[Row]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return title, columns and lines of each suite's table."""
    found = []
    for suite, group in itertools.groupby(rows, key=lambda row: row.suite):
        cells = [_cells(row) for row in group]
        columns = sorted(dict.fromkeys(itertools.chain(*cells)), key=lambda column: column[0])
        if not any(rank == PEER for rank, _ in columns):
            columns.remove((WINNER, "winner"))
        lines = [
            [one.get(column, "-" if column[0] == PEER else "") for column in columns]
            for one in cells
        ]
        found.append((suite, [name for _, name in columns], lines))
    return found


# The columns of a table, from left to right.
WORK, OURS, PEER, WINNER, LIMIT, ONE_THREAD, RATE = range(7)


def _cells(row: Row) -> dict[tuple[int, str], str]:
    """Return the cells of a row by column: its rank and its name."""
    cells = {(WORK, "work"): row.work}
    for one in row.contestants:
        if one.side == "fastbn":
            name = f"fastbn {one.setting}".strip()
            cells[OURS, name] = f"{seconds(one.timing.median)} ±{one.timing.spread:.0%}"
    for side, ratio in row.peers.items():
        best = row.best(side)
        setting = f", {best.setting}" if best.setting else ""
        wrong = f" WRONG by {row.apart[side]:.0e}" if side in row.wrong else ""
        cells[PEER, side] = f"{ratio:.2f} ±{best.timing.spread:.0%}{setting}{wrong}"
    cells[WINNER, "winner"] = f"{row.winner}, but a side is wrong" if row.wrong else row.winner
    for limit in row.limits:
        cells[LIMIT, f"over {limit.partition(',')[0]}"] = f"{row.over_limit:.2f}"
    if row.alone:
        cells[ONE_THREAD, "over one thread"] = f"{row.over_alone:.2f}"
    if row.flops:
        cells[RATE, "GFLOP/s"] = f"{row.flops / row.ours / 1e9:.0f}"
    return cells


def summary(rows: Sequence[Row]) -> list[str]:
    """Return a sentence for each suite with peers, and the reasons for missing sides."""
    sentences = []
    for suite, group in itertools.groupby(rows, key=lambda row: row.suite):
        found = [(min(row.peers.values()), row.work) for row in group if row.peers]
        if found:
            mean, (worst, work) = statistics.geometric_mean(r for r, _ in found), min(found)
            sentences.append(
                f"{suite}: the best peer takes {mean:.2f} times fastbn's time (geometric mean); "
                f"at worst {worst:.2f} ({work})"
            )
    reasons = collections.Counter(missing for row in rows for missing in row.missing.items())
    sentences += [
        f"{side} is missing in {count} row{'s' if count > 1 else ''}: {why}"
        for (side, why), count in reasons.items()
    ]
    wrong = [f"{side} in {row.suite}, {row.work}" for row in rows for side in row.wrong]
    if wrong:
        sentences.append(f"results that differ from fastbn's: {'; '.join(wrong)}")
    return sentences


def plot(rows: Sequence[Row], path: str | os.PathLike[str], title: str) -> Figure:
    """Draw each peer's time as a multiple of fastbn's, on a logarithmic axis."""
    compared = [row for row in rows if row.peers]
    if not compared:
        raise ValueError("plot: expected rows with peers to compare with, got none")
    figure = new_figure(9.0, 1.6 + 0.24 * len(compared))
    from matplotlib.ticker import LogLocator, NullFormatter

    axes = figure.subplots()
    sides = list(dict.fromkeys(side for row in compared for side in row.peers))
    for side in sides:
        colour, marker = LOOKS[side]
        places = [place for place, row in enumerate(compared) if side in row.peers]
        ratios = [compared[place].peers[side] for place in places]
        axes.plot(ratios, places, marker, color=colour, label=side, alpha=0.85)
    axes.axvline(1.0, color=INK, linewidth=1)
    axes.set_xscale("log")
    suites = {row.suite for row in compared}
    names = [f"{row.suite}: {row.work}" if len(suites) > 1 else row.work for row in compared]
    axes.set_yticks(range(len(compared)), names, fontsize=7)
    axes.invert_yaxis()
    axes.grid(axis="x", which="both", color=PALE, linewidth=0.5)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    what = f"{suites.pop()}: time" if len(suites) == 1 else "time"
    axes.set_xlabel(f"{what} as a multiple of fastbn's (right of 1: fastbn is faster)")
    figure.suptitle(textwrap.fill(title, 120), fontsize=8)
    figure.legend(loc="outside lower center", ncols=len(sides), frameon=False)
    save_figure(figure, path)
    return figure
