"""What `fastbn bench` prints and draws: tables of ratios, and the machine they are of."""

from __future__ import annotations

import datetime
import itertools
import math
import os
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fastbn.bench._peers import ALONE, PACKAGES
from fastbn.bench._row import Row
from fastbn.doctor import installed_version, report
from fastbn.parallel.cores import allowed_cores, available_threads
from fastbn.plotting import INK, PALE, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def machine(peers: Sequence[str]) -> dict[str, Any]:
    """Return what the figures are of: date, processor, cores, threads and versions."""
    facts = report().facts
    packages = ["numba", *[package for peer in peers for package in PACKAGES[peer]]]
    versions = {name: installed_version(name) for name in packages}
    return {
        "date": datetime.date.today().isoformat(),
        "processor": facts.cpu.name,
        "cores": allowed_cores(),
        "threads": available_threads(),
        "versions": {"fastbn": facts.fastbn, "Python": facts.python, **versions},
    }


def machine_line(facts: dict[str, Any]) -> str:
    """Return the machine in a line."""
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    return (
        f"{facts['date']}, {facts['processor']}, {facts['cores']} cores, "
        f"up to {facts['threads']} threads; {versions}"
    )


def seconds(value: float) -> str:
    """Return a time with three digits: "46.1 us", "15.8 ms", "1.24 s"."""
    for unit, size in (("us", 1e-6), ("ms", 1e-3), ("s", 1.0)):
        if value < 999.5 * size or unit == "s":
            return f"{value / size:.3g} {unit}"
    raise AssertionError


def tables(rows: Iterable[Row]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return a table for each suite: its title, its columns, its lines."""
    found = []
    for suite, group in itertools.groupby(rows, key=lambda row: row.suite):
        members = list(group)
        sides = list(dict.fromkeys(side for row in members for side in row.sides))
        peers = [side for side in sides if side != "fastbn"]
        ours = list(dict.fromkeys(
            one.setting for row in members for one in row.contestants if one.side == "fastbn"
        ))  # fmt: skip
        columns = ["work", *[f"fastbn {setting}".strip() for setting in ours], *peers]
        columns += ["winner"] if peers else []
        limits = sorted({_limit_name(row) for row in members} - {""})
        columns += [f"over {limit}" for limit in limits]
        shows_alone = any(row.alone for row in members)
        columns += [f"over {ALONE}"] if shows_alone else []
        columns += ["GFLOP/s"] if any(row.flops for row in members) else []
        lines = []
        for row in members:
            line = [row.work, *[_ours(row, setting) for setting in ours]]
            line += [_theirs(row, side) for side in peers]
            line += [_winner(row)] if peers else []
            for limit in limits:
                line.append(f"{row.over_limit:.2f}" if _limit_name(row) == limit else "")
            if shows_alone:
                line.append(f"{row.over_alone:.2f}" if row.alone else "")
            best = row.best("fastbn")
            if row.flops and best is not None:
                line.append(f"{row.flops / best.timing.median / 1e9:.0f}")
            lines.append(line)
        found.append((suite, columns, lines))
    return found


def _limit_name(row: Row) -> str:
    return next(iter(row.limits), "").partition(",")[0]


def _ours(row: Row, setting: str) -> str:
    for one in row.contestants:
        if (one.side, one.setting) == ("fastbn", setting):
            return f"{seconds(one.timing.median)} ±{one.timing.spread:.0%}"
    return ""


def _theirs(row: Row, side: str) -> str:
    best, ratio = row.best(side), row.ratio(side)
    if best is None or ratio is None:
        return "-"
    mark = f" WRONG by {row.apart[side]:.0e}" if side in row.wrong else ""
    setting = f", {best.setting}" if best.setting else ""
    return f"{ratio:.2f} ±{best.timing.spread:.0%}{setting}{mark}"


def _winner(row: Row) -> str:
    return f"{row.winner}, but a side is wrong" if row.wrong else row.winner


def summary(rows: Sequence[Row]) -> list[str]:
    """Return a sentence for each suite that has peers, and why sides are missing."""
    sentences = []
    for suite, group in itertools.groupby(rows, key=lambda row: row.suite):
        ratios = {row.work: row.best_peer_ratio for row in group}
        found = {work: ratio for work, ratio in ratios.items() if ratio is not None}
        if not found:
            continue
        worst = min(found, key=found.__getitem__)
        mean = math.exp(sum(map(math.log, found.values())) / len(found))
        sentences.append(
            f"{suite}: the best peer takes {mean:.2f} times fastbn's time (geometric mean); "
            f"at worst {found[worst]:.2f} ({worst})"
        )
    reasons: dict[tuple[str, str], int] = {}
    for row in rows:
        for missing in row.missing.items():
            reasons[missing] = reasons.get(missing, 0) + 1
    sentences += [
        f"{side} is missing in {count} row{'s' if count > 1 else ''}: {why}"
        for (side, why), count in reasons.items()
    ]
    wrong = [f"{side} in {row.suite}, {row.work}" for row in rows for side in row.wrong]
    if wrong:
        sentences.append(f"other results than fastbn's: {'; '.join(wrong)}")
    return sentences


def plot(rows: Sequence[Row], path: str | os.PathLike[str], title: str) -> Figure:
    """Draw each peer's time as a multiple of fastbn's, on a logarithmic axis."""
    compared = [row for row in rows if row.best_peer_ratio is not None]
    if not compared:
        raise ValueError("plot: expected rows with peers to compare with, got none")
    sides = [s for s in dict.fromkeys(s for row in compared for s in row.sides) if s != "fastbn"]
    figure = new_figure(9.0, 1.6 + 0.24 * len(compared))
    from matplotlib.ticker import LogLocator, NullFormatter

    axes = figure.subplots()
    places = range(len(compared))
    # Okabe & Ito's palette, and a marker each: colours alone do not tell
    looks = zip(["#0072B2", "#56B4E9", "#D55E00", "#009E73", "#CC79A7"], "osD^v", strict=True)
    for side, (colour, marker) in zip(sides, looks, strict=False):
        points = [(row.ratio(side), place) for place, row in zip(places, compared, strict=True)]
        found = [(ratio, place) for ratio, place in points if ratio is not None]
        axes.plot(*zip(*found, strict=True), marker, color=colour, label=side, alpha=0.85)
    axes.axvline(1.0, color=INK, linewidth=1)
    axes.set_xscale("log")
    suites = {row.suite for row in compared}
    names = [f"{row.suite}: {row.work}" if len(suites) > 1 else row.work for row in compared]
    axes.set_yticks(list(places), names, fontsize=7)
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
