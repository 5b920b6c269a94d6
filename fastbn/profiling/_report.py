"""What `fastbn profile` shows: a table, a picture of the roofline, a trace for a viewer."""

from __future__ import annotations

import itertools
import json
import os
import pathlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn.files.atomic import atomic_write
from fastbn.plotting import INK, new_figure, save_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fastbn.profiling._profile import Part, Profile

COLUMNS = (
    "layer", "kernel", "calls", "time", "share", "MB", "MFLOP", "GB/s", "GFLOP/s", "of roofline",
    "above it",
)  # fmt: skip

# Parts of less than this share are one row together.
SMALL_SHARE = 0.001

# A trace has the steps that fit into so many events: viewers become slow beyond.
MOST_EVENTS = 100_000

# Colours of Okabe & Ito's palette.
COLOURS = {
    "product": "#0072B2",
    "input gradient": "#56B4E9",
    "weight gradient": "#009E73",
    "optimizer": "#D55E00",
    "forward": "#E69F00",
    "backward": "#CC79A7",
    "gather": "#000000",
    "gather again": "#666666",
}


def rows(profile: Profile) -> list[list[str]]:
    """Return the lines of the table: what takes longest first."""
    shown = [part for part in profile.parts if part.share >= SMALL_SHARE]
    shown.sort(key=lambda part: -part.seconds)
    lines = [_line(part) for part in shown]
    rest = [part for part in profile.parts if part.share < SMALL_SHARE]
    if rest:
        lines.append(_total("", f"{len(rest)} smaller ones", rest, profile))
    lines.append(_total("", "all parts", profile.parts, profile))
    return lines


def _line(part: Part) -> list[str]:
    has_limit = part.limit > 0
    return [
        str(part.layer),
        part.kernel,
        f"{part.calls:.4g}",
        _microseconds(part.seconds),
        f"{part.share:.1%}",
        f"{part.bytes / 1e6:.3g}" if part.bytes else "",
        f"{part.flops / 1e6:.3g}" if part.flops else "",
        f"{part.bytes_rate / 1e9:.3g}" if part.bytes else "",
        f"{part.flops_rate / 1e9:.3g}" if part.flops else "",
        f"{part.of_limit:.0%}" if has_limit else "",
        _microseconds(part.lost) if has_limit else "",
    ]


def _total(layer: str, name: str, parts: Iterable[Part], profile: Profile) -> list[str]:
    parts = list(parts)
    seconds = sum(part.seconds for part in parts)
    flops, moved = sum(part.flops for part in parts), sum(part.bytes for part in parts)
    limit = sum(part.limit for part in parts)
    return [
        layer,
        name,
        f"{sum(part.calls for part in parts):.4g}",
        _microseconds(seconds),
        f"{seconds / profile.logged_seconds:.1%}",
        f"{moved / 1e6:.3g}",
        f"{flops / 1e6:.3g}",
        f"{moved / seconds / 1e9:.3g}",
        f"{flops / seconds / 1e9:.3g}",
        f"{limit / seconds:.0%}",
        _microseconds(sum(part.lost for part in parts)),
    ]


def _microseconds(value: float) -> str:
    return f"{value * 1e6:.4g} us"


def summary(profile: Profile) -> list[str]:
    """Return sentences above and below the table: what was run, and what the limits are."""
    ceilings = profile.ceilings
    copies = ", ".join(
        f"{_size(size)} {copy / 1e9:.0f} and {read / 1e9:.0f}"
        for size, copy, read in zip(ceilings.sizes, ceilings.copy, ceilings.read, strict=True)
    )
    per_second = profile.batch_size / profile.seconds
    return [
        f"{profile.name}, {profile.dtype}, {profile.optimizer}, {_threads(profile.threads)}: "
        f"{_microseconds(profile.seconds)} a step, {per_second:,.0f} samples a second",
        f"logging costs {profile.cost:+.1%}; the parts add up to {profile.accounted:.1%} of the "
        f"whole, {_microseconds(profile.logged_seconds)} a step with logs",
        f"limits: register tiles {ceilings.flops / 1e9:.0f} GFLOP/s; copying and reading, "
        f"GB/s: {copies}",
    ]


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _size(size: int) -> str:
    return f"{size >> 20} MB" if size >= 1 << 20 else f"{size >> 10} kB"


def write_trace(profile: Profile, path: str | os.PathLike[str]) -> int:
    """Write the events for Perfetto or chrome://tracing; return how many steps they are.

    The format is Chrome's "Trace Event Format": complete events, times in microseconds.
    """
    steps = max(1, MOST_EVENTS * profile.steps // max(len(profile.events), 1))
    names = [
        {
            "ph": "M",
            "pid": 1,
            "tid": rank,
            "name": "thread_name",
            "args": {"name": f"member {rank}"},
        }
        for rank in range(profile.threads)
    ]
    process = {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": profile.name}}
    events: list[dict[str, Any]] = [process, *names]
    taken = [event for event in profile.events if event[3] <= steps]
    for (rank, step), group in itertools.groupby(taken, key=lambda event: (event[0], event[3])):
        inside = list(group)
        events.append(_event(rank, f"step {step}", "step", inside[0][4], inside[-1][5]))
        for _, kernel, layer, _, start, end in inside:
            events.append(_event(rank, f"{kernel}, layer {layer}", kernel, start, end))
    with atomic_write(pathlib.Path(path), "w") as file:
        json.dump({"traceEvents": events, "displayTimeUnit": "ns"}, file)
    return min(steps, profile.steps)


def _name(kind: str, rank: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": 1, "tid": rank, "name": kind, "args": {"name": name}}


def _event(rank: int, name: str, category: str, start: float, end: float) -> dict[str, Any]:
    return {
        "ph": "X", "pid": 1, "tid": rank, "name": name, "cat": category,
        "ts": round(start * 1e6, 3), "dur": round((end - start) * 1e6, 3),
    }  # fmt: skip


def _share(parts: Iterable[Part], kernel: str) -> float:
    return sum(part.share for part in parts if part.kernel == kernel)


def plot(profile: Profile, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw each kernel's operations per second over its operations per byte, below the limits.

    Its ending selects the format of the file: .png, .svg, .pdf and what else matplotlib writes.
    """
    figure = new_figure(9.6, 5.4)
    axes = figure.subplots()
    drawn = [part for part in profile.parts if part.flops > 0 and part.bytes > 0]
    intensities = [part.flops / part.bytes for part in drawn]
    x = np.geomspace(min([*intensities, 0.1]) / 2, max([*intensities, 10.0]) * 2, 200)
    ceilings = profile.ceilings
    chosen = [ceilings.sizes.index(size) for size in (min(ceilings.sizes), max(ceilings.sizes))]
    for size, rate in ((ceilings.sizes[n], ceilings.copy[n]) for n in chosen):
        axes.plot(x, np.minimum(ceilings.flops, rate * x) / 1e9, color=INK, linewidth=0.8, zorder=1)
        axes.annotate(
            f"copying {_size(size)}: {rate / 1e9:.0f} GB/s", (x[0], rate * x[0] / 1e9),
            color=INK, fontsize=8, va="bottom", xytext=(0, 8), textcoords="offset points",
        )  # fmt: skip
    axes.annotate(
        f"register tiles: {ceilings.flops / 1e9:.0f} GFLOP/s", (x[0], ceilings.flops / 1e9),
        color=INK, fontsize=8, va="bottom", xytext=(0, 3), textcoords="offset points",
    )  # fmt: skip
    for kernel in sorted({part.kernel for part in drawn}, key=lambda name: -_share(drawn, name)):
        points = [n for n, part in enumerate(drawn) if part.kernel == kernel]
        axes.scatter(
            [intensities[n] for n in points], [drawn[n].flops_rate / 1e9 for n in points],
            s=[20 + 1500 * drawn[n].share for n in points], color=COLOURS.get(kernel, "#999999"),
            alpha=0.7, zorder=2, linewidth=0, label=f"{kernel}, {_share(drawn, kernel):.1%}",
        )  # fmt: skip
    legend = axes.legend(
        loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8, labelcolor=INK
    )
    for handle in legend.legend_handles:
        handle.set_sizes([40])  # type: ignore[union-attr]
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel("operations per byte that must move", color=INK)
    axes.set_ylabel("GFLOP/s", color=INK)
    style_axes(axes, linewidth=0.5, alpha=0.6)
    axes.set_title(
        f"{profile.name}, {_threads(profile.threads)}: {_microseconds(profile.seconds)} a step; "
        "areas are shares of its time",
        loc="left", color=INK, fontsize=11,
    )  # fmt: skip
    if path is not None:
        save_figure(figure, path)
    return figure
