"""The output of `fastbn profile`: a table, a plot of the roofline, and a trace."""

from __future__ import annotations

import collections
import itertools
import json
import os
import pathlib
from typing import Any

import numpy as np

from fastbn.files.atomic import atomic_write
from fastbn.plotting import INK, new_figure, save_figure, style_axes
from fastbn.profiling._calls import LONGEST_STEP
from fastbn.profiling._profile import Part, Profile

COLUMNS = (
    "layer", "kernel", "calls", "time", "share", "MB", "MFLOP", "GB/s", "GFLOP/s", "of roofline",
    "above it",
)  # fmt: skip

# Parts below this share are added up in one row.
SMALL_SHARE = 0.001

# A trace ends after this number of events, because viewers become slow.
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
    """Return the lines of the table, longest time first."""
    shown = sorted(profile.parts, key=lambda part: -part.seconds)
    small = [part for part in shown if part.share < SMALL_SHARE]
    lines = [_line(part, str(part.layer)) for part in shown if part not in small]
    if small:
        lines.append(_line(_total(f"{len(small)} smaller ones", small)))
    return [*lines, _line(_total("all parts", shown))]


def _total(name: str, parts: list[Part]) -> Part:
    """Return the sum of some parts."""
    sums = {
        figure: sum(getattr(part, figure) for part in parts)
        for figure in ("calls", "seconds", "share", "flops", "bytes")
    }
    limit = sum(min(part.limit, part.seconds) for part in parts)
    return Part(layer=-1, kernel=name, limit=limit, **sums)


def _line(part: Part, layer: str = "") -> list[str]:
    return [
        layer,
        part.kernel,
        f"{part.calls:.4g}",
        _microseconds(part.seconds),
        f"{part.share:.1%}",
        f"{part.bytes / 1e6:.3g}" if part.bytes else "",
        f"{part.flops / 1e6:.3g}" if part.flops else "",
        f"{part.bytes_rate / 1e9:.3g}" if part.bytes else "",
        f"{part.flops_rate / 1e9:.3g}" if part.flops else "",
        f"{part.of_limit:.0%}" if part.limit else "",
        _microseconds(part.lost) if part.limit else "",
    ]


def _microseconds(value: float) -> str:
    return f"{value * 1e6:.4g} us"


def summary(profile: Profile) -> list[str]:
    """Describe the run, the cost of logging, the limits of the machine, barriers and calls."""
    ceilings = profile.ceilings
    copies = ", ".join(
        f"{_size(size)} {copy / 1e9:.0f} and {read / 1e9:.0f}"
        for size, copy, read in zip(ceilings.sizes, ceilings.copy, ceilings.read, strict=True)
    )
    per_second = profile.batch_size / profile.seconds
    limits = (
        f"limits: register tiles {ceilings.flops / 1e9:.0f} GFLOP/s; copying and reading, "
        f"GB/s: {copies}"
    )
    if profile.threads > 1:
        limits += f"; a barrier {_microseconds(ceilings.barrier)}"
    return [
        f"{profile.name}, {profile.dtype}, {profile.optimizer}, {_threads(profile.threads)}: "
        f"{_microseconds(profile.seconds)} a step, {per_second:,.0f} samples a second",
        f"logging costs {profile.cost:+.1%}; the parts add up to {profile.accounted:.1%} of the "
        f"whole, {_microseconds(profile.logged_seconds)} a step with logs",
        limits,
        _barriers(profile),
        *_calls(profile),
    ]


def _barriers(profile: Profile) -> str:
    if profile.threads == 1:
        return "barriers: none, with 1 thread"
    limit, waiting = profile.barrier_seconds, profile.waiting_seconds
    return (
        f"barriers: {profile.barriers} a step, which take {_microseconds(limit)} or "
        f"{limit / profile.seconds:.1%} of it if all threads arrive at once; with waiting for "
        f"slower threads {_microseconds(waiting)} or {waiting / profile.logged_seconds:.1%}"
    )


def _calls(profile: Profile) -> list[str]:
    calls = profile.calls
    if calls is None:
        return [f"calls: not measured, as steps take more than {_microseconds(LONGEST_STEP)}"]
    return [
        f"train_step takes {_microseconds(calls.train_step)} beyond a compiled step",
        f"an epoch of fit takes {_microseconds(calls.epoch)} beyond its {calls.epoch_steps} steps",
        f"a fit of one epoch takes {_microseconds(calls.fit)} beyond its {calls.epoch_steps} steps",
        f"predict_logits of one row takes {_microseconds(calls.prediction)} beyond its compiled "
        "kernel",
    ]


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _size(size: int) -> str:
    return f"{size >> 20} MB" if size >= 1 << 20 else f"{size >> 10} kB"


def write_trace(profile: Profile, path: str | os.PathLike[str]) -> int:
    """Write the events for Perfetto or chrome://tracing; return the number of steps written.

    The format is Chrome's "Trace Event Format": complete events, times in microseconds.
    """
    steps = max(1, MOST_EVENTS * profile.steps // max(len(profile.events), 1))
    events: list[dict[str, Any]] = [_name("process_name", 0, profile.name)]
    events += [_name("thread_name", rank, f"member {rank}") for rank in range(profile.threads)]
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


def plot(profile: Profile, path: str | os.PathLike[str]) -> None:
    """Draw the roofline: operations per second of each kernel over its operations per byte.

    The ending of the path selects the format: .png, .svg, .pdf and others that matplotlib writes.
    """
    figure = new_figure(9.6, 5.4)
    axes = figure.subplots()
    drawn = [part for part in profile.parts if part.flops > 0 and part.bytes > 0]
    intensities = [part.flops / part.bytes for part in drawn]
    x = np.geomspace(min([*intensities, 0.1]) / 2, max([*intensities, 10.0]) * 2, 200)
    ceilings = profile.ceilings

    def write(text: str, height: float, above: int) -> None:
        axes.annotate(
            text, (x[0], height), (0, above), textcoords="offset points", color=INK, fontsize=8
        )

    for n in (0, -1):  # the first-level cache, and memory
        rate = ceilings.copy[n]
        axes.plot(x, np.minimum(ceilings.flops, rate * x) / 1e9, color=INK, linewidth=0.8, zorder=1)
        write(f"copying {_size(ceilings.sizes[n])}: {rate / 1e9:.0f} GB/s", rate * x[0] / 1e9, 10)
    write(f"register tiles: {ceilings.flops / 1e9:.0f} GFLOP/s", ceilings.flops / 1e9, 5)
    shares: dict[str, float] = collections.defaultdict(float)
    for part in drawn:
        shares[part.kernel] += part.share
    for kernel, share in sorted(shares.items(), key=lambda pair: -pair[1]):
        points = [n for n, part in enumerate(drawn) if part.kernel == kernel]
        axes.scatter(
            [intensities[n] for n in points], [drawn[n].flops_rate / 1e9 for n in points],
            s=[20 + 1500 * drawn[n].share for n in points], color=COLOURS.get(kernel, "#999999"),
            alpha=0.7, zorder=2, linewidth=0, label=f"{kernel}, {share:.1%}",
        )  # fmt: skip
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
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
    save_figure(figure, path)
