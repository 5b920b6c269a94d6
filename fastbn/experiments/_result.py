"""What an experiment shows: a table, sentences, and curves to draw."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn.errors import missing_extra
from fastbn.plotting import INK, PALE, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")


@dataclasses.dataclass(frozen=True)
class Panel:
    """Curves over one axis: y has a row for each seed."""

    title: str
    x_label: str
    curves: dict[str, tuple[np.ndarray, np.ndarray]]  # name: x (K,), y (seeds, K)
    log_x: bool = False
    log_y: bool = False
    is_part: bool = False  # y is a part of one, shown in percent


@dataclasses.dataclass(frozen=True)
class Result:
    """Of an experiment: what was asked and run, the figures, and what they say."""

    name: str
    question: str
    setting: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    findings: list[str]
    panels: list[Panel]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, of what JSON can hold."""

        def listed(y: np.ndarray) -> list[Any]:
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

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw the panels: the median of the seeds, and their range.

        The ending of the path selects the format: .png, .svg, .pdf and what else matplotlib writes.

        Raises
        ------
        MissingExtraError
            matplotlib is not installed.
        """
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError:
            raise missing_extra("plotting", "matplotlib", "plot") from None
        columns = min(len(self.panels), 3)
        lines = -(-len(self.panels) // columns)
        size = (4.6 * columns, 3.6 * lines + 0.5)
        figure = Figure(figsize=size, dpi=130, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        figure.suptitle(
            f"{self.question}\n{self.setting}", color=INK, fontsize=10, x=0.01, ha="left"
        )
        places = figure.subplots(lines, columns, squeeze=False).flat
        named: set[str] = set()
        for panel, axes in zip(self.panels, places, strict=False):
            _draw(axes, panel)
            if axes.lines and not named.issuperset(panel.curves):  # a legend for each set of names
                axes.legend(fontsize=7, frameon=False)
                named = set(panel.curves)
        if path is not None:
            save_figure(figure, path)
        return figure


def _draw(axes: Axes, panel: Panel) -> None:
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
    if panel.is_part:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_title(panel.title, loc="left", color=INK, fontsize=10)
    axes.set_xlabel(panel.x_label, color=INK, fontsize=9)
    axes.grid(color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALE)
    axes.tick_params(colors=INK, length=0, which="both", labelsize=8)
