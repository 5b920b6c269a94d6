"""The picture of a training run."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from fastbn.errors import MissingExtraError
from fastbn.fit.history import History
from fastbn.plotting import picture_formats, plot_history

matplotlib = pytest.importorskip("matplotlib")


def history_of(epochs, validation=True):
    loss = [1.2 * 0.9**epoch + 0.05 for epoch in range(epochs)]
    accuracy = [1.0 - 0.6 * 0.9**epoch for epoch in range(epochs)]
    return History(
        loss=loss,
        accuracy=accuracy,
        val_loss=[1.1 * value for value in loss] if validation else [],
        val_accuracy=[0.98 * value for value in accuracy] if validation else [],
    )


def curves(axes):
    return {line.get_label().split()[0]: line.get_xydata().tolist() for line in axes.lines}


def test_each_panel_shows_training_and_validation_by_epoch():
    history = history_of(40)
    loss, accuracy = plot_history(history).axes
    epochs = range(1, 41)
    assert curves(loss) == {
        "training": [[e, v] for e, v in zip(epochs, history.loss, strict=True)],
        "validation": [[e, v] for e, v in zip(epochs, history.val_loss, strict=True)],
    }
    assert curves(accuracy) == {
        "training": [[e, v] for e, v in zip(epochs, history.accuracy, strict=True)],
        "validation": [[e, v] for e, v in zip(epochs, history.val_accuracy, strict=True)],
    }
    for axes, title in [(loss, "Loss (cross-entropy)"), (accuracy, "Accuracy")]:
        assert axes.get_title(loc="left") == title
        assert axes.get_xlabel() == "epoch"


def test_legends_have_the_last_values():
    history = history_of(3)
    loss, accuracy = plot_history(history).axes
    for axes, values, number in [
        (loss, (history.loss[-1], history.val_loss[-1]), "{:#.3g}"),
        (accuracy, (history.accuracy[-1], history.val_accuracy[-1]), "{:.1%}"),
    ]:
        expected = [
            f"{name} {number.format(value)}"
            for name, value in zip(["training", "validation"], values, strict=True)
        ]
        legend = axes.get_legend()
        assert [text.get_text() for text in legend.get_texts()] == expected
        colours = [line.get_color() for line in legend.get_lines()]
        assert colours == [line.get_color() for line in axes.lines]
        assert len(set(colours)) == 2


def test_nothing_is_cut_off_at_the_edges():
    figure = plot_history(history_of(50), title="a title")
    figure.canvas.draw()
    assert figure.get_suptitle() == "a title"
    width, height = figure.canvas.get_width_height()
    for artist in [*figure.texts, *(axes.get_legend() for axes in figure.axes)]:
        box = artist.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= width
        assert 0 <= box.y0 < box.y1 <= height


def test_without_validation_there_is_one_curve():
    for axes in plot_history(history_of(5, validation=False)).axes:
        assert list(curves(axes)) == ["training"]


def test_few_epochs_have_dots_and_many_have_none():
    assert {line.get_marker() for line in plot_history(history_of(1)).axes[0].lines} == {"o"}
    assert {line.get_marker() for line in plot_history(history_of(60)).axes[0].lines} == {"None"}


def test_a_loss_over_orders_of_magnitude_is_on_a_logarithmic_axis():
    history = History(loss=[2.0, 0.2, 0.002], accuracy=[0.1, 0.9, 1.0])
    assert plot_history(history).axes[0].get_yscale() == "log"
    assert plot_history(history_of(5)).axes[0].get_yscale() == "linear"
    assert plot_history(History(loss=[2.0, 0.0], accuracy=[0.1, 1.0])).axes[0].get_yscale() == (
        "linear"
    )


def test_a_diverged_loss_is_drawn(tmp_path):
    history = History(loss=[2.0, math.nan], accuracy=[0.1, 0.1])
    figure = plot_history(history, tmp_path / "diverged.png")
    (text,) = figure.axes[0].get_legend().get_texts()
    assert text.get_text() == "training nan"


@pytest.mark.parametrize(
    ("ending", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_the_ending_selects_the_format(tmp_path, ending, magic):
    path = tmp_path / f"history.{ending}"
    plot_history(history_of(4), path)
    assert path.read_bytes().startswith(magic)
    assert ending in picture_formats()


def test_an_unknown_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match="xyz"):
        plot_history(history_of(4), tmp_path / "history.xyz")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_history_is_refused():
    with pytest.raises(ValueError, match="history: expected at least one epoch, got none"):
        plot_history(History())


def test_pyplot_is_left_alone():
    code = """
import sys
from fastbn.plotting import plot_history
from fastbn.fit.history import History
plot_history(History(loss=[1.0], accuracy=[0.5]))
print("matplotlib.pyplot" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    for call in (lambda: plot_history(history_of(2)), picture_formats):
        with pytest.raises(MissingExtraError, match=r"matplotlib.*fastbn\[plot\]"):
            call()


def test_a_picture_that_cannot_be_written_keeps_the_old_one(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    path = tmp_path / "p.png"
    plot_history(History(loss=[1.0, 0.5]), path)
    before = path.read_bytes()

    def full_disk(figure, file, **options):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full_disk)
    with pytest.raises(OSError, match="No space"):
        plot_history(History(loss=[1.0, 0.4]), path)
    assert path.read_bytes() == before
    assert [place.name for place in tmp_path.iterdir()] == ["p.png"]
    with pytest.raises(IsADirectoryError, match="path: expected a file to write"):
        plot_history(History(loss=[1.0, 0.4]), tmp_path)
