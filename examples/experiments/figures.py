"""The result of an experiment over several seeds: findings, a table, and curves."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics

import numpy as np

from fastbn.plotting import INK, new_figure, save_figure, style_axes

# Okabe & Ito's palette.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")


@dataclasses.dataclass(frozen=True)
class Panel:
    """Curves with a common x axis; y has a row for each seed."""

    title: str
    x_label: str
    curves: dict[str, tuple[np.ndarray, np.ndarray]]  # name: x (K,), y (seeds, K)
    log_x: bool = False
    log_y: bool = False
    in_percent: bool = False


@dataclasses.dataclass(frozen=True)
class Result:
    """An experiment: its question and setting, a table, the findings, and panels of curves."""

    name: str
    question: str
    setting: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    findings: list[str]
    panels: list[Panel]

    def to_dict(self):
        """Return everything as a dictionary that JSON can hold."""

        def listed(y):
            return [[v if math.isfinite(v) else None for v in row] for row in y.tolist()]

        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["panels"] = [
            {
                "title": panel.title,
                "x": panel.x_label,
                "curves": {
                    name: {"x": x.tolist(), "y": listed(y)} for name, (x, y) in panel.curves.items()
                },
            }
            for panel in self.panels
        ]
        return values

    def text(self):
        """Return the result as Markdown."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        findings = "\n".join(f"- {finding}" for finding in self.findings)
        return f"{self.question}\n{self.setting}\n\n{table}\n\n{findings}"

    def plot(self, path):
        """Draw the panels, with median and range of the seeds. Needs matplotlib."""
        columns = min(len(self.panels), 3)
        lines = -(-len(self.panels) // columns)
        figure = new_figure(4.6 * columns, 3.6 * lines + 0.5, dpi=130)
        figure.suptitle(
            f"{self.question}\n{self.setting}", color=INK, fontsize=10, x=0.01, ha="left"
        )
        places = figure.subplots(lines, columns, squeeze=False).flat
        named = set()
        for panel, axes in zip(self.panels, places, strict=False):
            draw(axes, panel)
            if axes.lines and not named.issuperset(panel.curves):  # a legend for each set of names
                axes.legend(fontsize=7, frameon=False)
                named = set(panel.curves)
        save_figure(figure, path)


def draw(axes, panel):
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    for colour, (name, (x, y)) in zip(itertools.cycle(PALETTE), panel.curves.items(), strict=False):
        seen = np.isfinite(y).any(axis=0)
        if not seen.any():
            continue
        x, y = x[seen], y[:, seen]
        axes.plot(x, np.nanmedian(y, axis=0), color=colour, linewidth=1.6, label=name)
        axes.fill_between(
            x, np.nanmin(y, axis=0), np.nanmax(y, axis=0), color=colour, alpha=0.15, linewidth=0
        )
    if panel.log_x:
        axes.set_xscale("log", base=2)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if panel.log_y:
        axes.set_yscale("log")
    if panel.in_percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_title(panel.title, loc="left", color=INK, fontsize=10)
    axes.set_xlabel(panel.x_label, color=INK, fontsize=9)
    style_axes(axes, linewidth=0.6)
    axes.tick_params(which="both", labelsize=8)


def spread(values, number="{:g}"):
    """Format the median of the seeds and their range."""

    def text(value):
        return "never" if math.isinf(value) else number.format(value)

    low, middle, high = min(values), statistics.median(values), max(values)
    if text(low) == text(high):
        return text(middle)
    return f"{text(middle)} ({text(low)} to {text(high)})"


def percent(values):
    """Format median and range of fractions in percent."""
    return spread([100.0 * value for value in values], "{:.1f}")


def verdict(claim, smaller, larger):
    """Say whether all seeds agree with a claim that `smaller` is less than `larger`."""
    if max(smaller) < min(larger):
        return f"{claim}: yes"
    if max(larger) < min(smaller):
        return f"{claim}: no, the opposite"
    return f"{claim}: undecided, the seeds overlap"
