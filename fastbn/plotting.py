"""Plots of a training run. They need matplotlib (the optional extra `plot`)."""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING, Any

from fastbn.checks import path_of
from fastbn.errors import missing_extra
from fastbn.files.atomic import atomic_write, writable_file
from fastbn.fit.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Blue and vermilion of Okabe & Ito's palette for colour-blind readers.
TRAINING, VALIDATION = "#0072B2", "#D55E00"
INK, PALE = "#404040", "#DADADA"

MAX_DOTS = 30  # up to this many epochs, each one gets a marker
LOGARITHMIC_FROM = 30.0  # a loss that falls by more than this factor gets a logarithmic axis


def plot_history(
    history: History,
    path: str | os.PathLike[str] | None = None,
    *,
    title: str | None = None,
) -> Figure:
    """Plot loss and accuracy, or R2, per epoch: of the training and, if there is any, validation.

    It does not use pyplot, so it needs no display and does not affect open figures.

    Parameters
    ----------
    history : History
        What `BatchNormMLP.fit` returned.
    path : path, optional
        Save the plot there. Its ending selects the format: .png, .svg, .pdf and others that
        matplotlib writes.
    title : str, optional
        Printed above the panels.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        The history has no epoch, or matplotlib does not write files with the ending of `path`.
    MissingExtraError
        matplotlib is not installed.
    """
    if not isinstance(history, History):
        raise TypeError(f"history: expected a History, got {type(history).__name__}")
    if not history.epochs:
        raise ValueError("history: expected at least one epoch, got none")
    if not (title is None or isinstance(title, str)):
        raise TypeError(f"title: expected a string, got {title!r:.200}")
    if path is not None:
        path = path_of("path", path)
        ending, known = path.suffix.lower().removeprefix("."), picture_formats()
        if ending and ending not in known:
            raise ValueError(
                f"path: expected an ending out of {sorted(known)}, got {path.name!r:.200}"
            )
    figure = new_figure(9.6, 3.8)
    from matplotlib.ticker import PercentFormatter, StrMethodFormatter

    loss, score = figure.subplots(1, 2)
    losses = [*history.loss, *history.val_loss]
    if min(losses) > 0 and max(losses) > LOGARITHMIC_FROM * min(losses):
        loss.set_yscale("log")
        loss.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    _draw(loss, history.loss, history.val_loss, "{:#.3g}")
    if history.accuracy:
        _draw(score, history.accuracy, history.val_accuracy, "{:.1%}")
        score.yaxis.set_major_formatter(PercentFormatter(1.0))
        titles = "Loss (cross-entropy)", "Accuracy"
    else:
        _draw(score, [], history.val_r2, "{:.3f}")
        titles = "Loss (squared error)", "R2"
    for axes, text in zip((loss, score), titles, strict=True):
        axes.set_title(text, loc="left", color=INK, fontsize=11)
    if title is not None:
        figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=13, fontweight="bold")
    if path is not None:
        save_figure(figure, path)
    return figure


def new_figure(width: float, height: float, dpi: int = 150) -> Figure:
    """Return an empty figure of this size in inches, without pyplot.

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
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def style_axes(axes: Axes, **grid: Any) -> None:
    """Draw a pale grid behind the data, and pale axes without ticks."""
    axes.grid(color=PALE, **grid)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALE)
    axes.tick_params(colors=INK, length=0, which="both")


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Save a figure in the format of the path's ending, atomically."""
    kind = pathlib.Path(path).suffix.removeprefix(".") or None
    with atomic_write(writable_file(path), "wb") as file:
        figure.savefig(file, format=kind)


def picture_formats() -> set[str]:
    """Return the endings, without the dot, of the files that `plot_history` can write.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    """
    return set(new_figure(1.0, 1.0).canvas.get_supported_filetypes())


def _draw(axes: Axes, training: list[float], validation: list[float], number: str) -> None:
    """Draw one panel: the curves, and a legend with the last value of each."""
    from matplotlib.ticker import MaxNLocator

    for name, values, colour in (
        ("training", training, TRAINING),
        ("validation", validation, VALIDATION),
    ):
        if values:
            dots = "o" if len(values) <= MAX_DOTS else None
            last = number.format(values[-1])
            axes.plot(
                range(1, len(values) + 1), values, color=colour, linewidth=1.8, marker=dots,
                markersize=3.5, label=f"{name} {last}",
            )  # fmt: skip
    axes.set_xlim(left=0.5)
    axes.set_xlabel("epoch", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    style_axes(axes, linewidth=0.7)
    if axes.lines:
        axes.legend(frameon=False, labelcolor=INK, fontsize=9)
