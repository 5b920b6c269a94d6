"""What the experiments share: the data, networks trained on it, figures of several seeds."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from fastbn import datasets
from fastbn.experiments._result import Panel
from fastbn.fit.loop import Callback
from fastbn.model import BatchNormMLP

SEEDS = 3


@dataclasses.dataclass(frozen=True)
class Setting:
    """What an experiment is run on."""

    data: datasets.Dataset
    hidden: tuple[int, ...]
    epochs: int
    batch_size: int
    target: float  # a training accuracy
    seeds: tuple[int, ...]
    quick: bool
    say: Callable[[str], None]

    def describe(self, **changed: Any) -> str:
        """Return the setting in a line."""
        chosen = {"hidden": self.hidden, "epochs": self.epochs, "batch": self.batch_size, **changed}
        units = "-".join(map(str, (self.n_features, *chosen["hidden"], self.n_classes)))
        return (
            f"{self.data.name}, {units}, batch size {chosen['batch']}, {chosen['epochs']} epochs, "
            f"seeds {self.seeds[0]} to {self.seeds[-1]}"
        )

    @property
    def n_features(self) -> int:
        """Number of inputs."""
        return int(self.data.X_train.shape[1])

    @property
    def n_classes(self) -> int:
        """Number of outputs."""
        return len(self.data.class_names)


def quick_setting(seed: int, say: Callable[[str], None]) -> Setting:
    """Digits: some seconds."""
    seeds = tuple(range(seed, seed + SEEDS))
    return Setting(datasets.load("digits"), (128, 64), 20, 64, 0.98, seeds, True, say)


def full_setting(seed: int, say: Callable[[str], None]) -> Setting:
    """Fashion-MNIST: some minutes."""
    seeds = tuple(range(seed, seed + SEEDS))
    return Setting(datasets.load("fashion-mnist"), (256, 128), 20, 128, 0.93, seeds, False, say)


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: accuracies by epoch, and of the trained model."""

    training: tuple[float, ...]  # as it was trained on
    test: tuple[float, ...]
    final_training: float  # with the running statistics, as the test accuracy is
    seconds: float
    diverged: bool

    def epochs_to(self, target: float) -> float:
        """Return the first epoch whose training accuracy reaches the target, or infinity."""
        reached = [n for n, accuracy in enumerate(self.training, 1) if accuracy >= target]
        return reached[0] if reached else math.inf


def train(
    setting: Setting, name: str, *, seed: int, hidden: tuple[int, ...] | None = None,
    epochs: int | None = None, batch_size: int | None = None, callbacks: Iterable[Callback] = (),
    before: Callable[[BatchNormMLP], object] | None = None, **options: Any,
) -> Run:  # fmt: skip
    """Train one network; `options` are those of the model."""
    data = setting.data
    sizes = (setting.n_features, *(hidden or setting.hidden), setting.n_classes)
    model = BatchNormMLP(sizes, seed=seed, **{"input_normalization": "zscore", **options})
    if before is not None:
        before(model)
    history = model.fit(
        data.X_train, data.y_train, epochs=epochs or setting.epochs,
        batch_size=batch_size or setting.batch_size, validation_data=(data.X_test, data.y_test),
        callbacks=callbacks, progress=False, on_divergence="stop",
    )  # fmt: skip
    if history.stop_reason == "interrupted":
        raise KeyboardInterrupt
    final = model.evaluate(data.X_train, data.y_train)[1]
    run = Run(
        tuple(history.accuracy), tuple(history.val_accuracy), final, sum(history.seconds[-1:]),
        history.stop_reason == "diverged",
    )  # fmt: skip
    setting.say(
        f"{name}, seed {seed}: training {run.training[-1]:.1%}, test {run.test[-1]:.1%}"
        if run.test
        else f"{name}, seed {seed}: diverged"
    )
    return run


def curve(runs: Sequence[Run], of: str, epochs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the epochs, and an accuracy by seed and epoch: NaN after a divergence."""
    y = np.full((len(runs), epochs), np.nan)
    for row, run in zip(y, runs, strict=True):
        values = getattr(run, of)
        row[: len(values)] = values
    return np.arange(1, epochs + 1), y


def accuracy_panels(named: dict[str, list[Run]], epochs: int) -> list[Panel]:
    """Return two panels, training and test accuracy by epoch, with a curve for each name."""
    return [
        Panel(
            title, "epoch", {name: curve(runs, of, epochs) for name, runs in named.items()},
            is_part=True,
        )
        for title, of in (("Training accuracy", "training"), ("Test accuracy", "test"))
    ]  # fmt: skip


def seed_runs(setting: Setting, name: str, **options: Any) -> list[Run]:
    """Train one network from every seed."""
    return [train(setting, name, seed=seed, **options) for seed in setting.seeds]


Key = TypeVar("Key")


def fastest(runs: dict[Key, list[Run]], target: float) -> Key:
    """Return which runs reach the target in the fewest epochs, then with the better accuracy."""

    def slowness(key: Key) -> tuple[float, float]:
        epochs = [run.epochs_to(target) for run in runs[key]]
        return statistics.median(epochs), -statistics.median(last(runs[key], "training"))

    return min(runs, key=slowness)


def rate_text(chosen: float, rates: Sequence[float]) -> str:
    """Return the learning rate, and whether a smaller or a larger one may be better still."""
    edge = {min(rates): ", the smallest tried", max(rates): ", the largest tried"}
    return f"{chosen:g}" + (edge.get(chosen, "") if len(rates) > 1 else "")


def last(runs: Iterable[Run], of: str) -> list[float]:
    """Return the last accuracy of each run; 0 where there is none."""
    return [(getattr(run, of) or (0.0,))[-1] for run in runs]


def spread(values: Sequence[float], number: str = "{:g}") -> str:
    """Return the median of the seeds and their range."""

    def text(value: float) -> str:
        return "never" if math.isinf(value) else number.format(value)

    low, middle, high = min(values), statistics.median(values), max(values)
    if text(low) == text(high):
        return text(middle)
    return f"{text(middle)} ({text(low)} to {text(high)})"


def percent(values: Sequence[float]) -> str:
    """Return median and range of parts, in percent."""
    return spread([100.0 * value for value in values], "{:.1f}")


def verdict(claim: str, smaller: Sequence[float], larger: Sequence[float]) -> str:
    """Say whether the claim that the first are smaller than the second holds for all seeds."""
    if max(smaller) < min(larger):
        return f"{claim}: yes"
    if max(larger) < min(smaller):
        return f"{claim}: no, the opposite"
    return f"{claim}: undecided, the seeds overlap"
