"""Run one training, or all trainings of a table, and collect the result."""

from __future__ import annotations

import dataclasses
import math
import statistics

import numpy as np
from figures import Panel, Result, percent, spread, verdict

from fastbn import BatchNormMLP, datasets

SEEDS = 3
KINDS = {"batch norm": True, "no batch norm": False}


@dataclasses.dataclass(frozen=True)
class Setting:
    """The data and the default network of an experiment."""

    data: datasets.Dataset
    hidden: tuple[int, ...]
    epochs: int
    batch_size: int
    target: float  # a training accuracy
    seeds: tuple[int, ...]
    quick: bool = False

    def describe(self, **changed):
        """Return the setting in a line."""
        chosen = {"hidden": self.hidden, "epochs": self.epochs, "batch_size": self.batch_size}
        chosen |= changed
        sizes = (self.data.X_train.shape[1], *chosen["hidden"], len(self.data.class_names))
        return (
            f"{self.data.name}, {'-'.join(map(str, sizes))}, batch size {chosen['batch_size']}, "
            f"{chosen['epochs']} epochs, seeds {self.seeds[0]} to {self.seeds[-1]}"
        )


def make_setting(quick, seed):
    """Return the setting: digits if quick, otherwise Fashion-MNIST."""
    seeds = tuple(range(seed, seed + SEEDS))
    if quick:
        return Setting(datasets.load("digits"), (128, 64), 20, 64, 0.98, seeds, True)
    return Setting(datasets.load("fashion-mnist"), (256, 128), 20, 128, 0.93, seeds)


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: accuracies by epoch, and accuracy of the trained model."""

    training: tuple[float, ...]  # measured during training
    test: tuple[float, ...]
    final_training: float  # with the running statistics, like the test accuracy
    seconds: float

    def epochs_to(self, target):
        """Return the first epoch whose training accuracy reaches the target, or infinity."""
        reached = [n for n, accuracy in enumerate(self.training, 1) if accuracy >= target]
        return reached[0] if reached else math.inf

    def last(self, of):
        """Return the last accuracy of "training" or "test", or 0 if there is none."""
        return (getattr(self, of) or (0.0,))[-1]


def train(setting, *, seed, callbacks=(), hidden=None, epochs=None, batch_size=None, **options):
    """Train a network with these model options; return it and its run."""
    data = setting.data
    sizes = (data.X_train.shape[1], *(hidden or setting.hidden), len(data.class_names))
    model = BatchNormMLP(sizes, seed=seed, **{"input_normalization": "zscore", **options})
    history = model.fit(
        data.X_train, data.y_train, epochs=epochs or setting.epochs,
        batch_size=batch_size or setting.batch_size, validation_data=(data.X_test, data.y_test),
        callbacks=callbacks, progress=False, on_divergence="stop",
    )  # fmt: skip
    if history.stop_reason == "interrupted":
        raise KeyboardInterrupt
    final = model.evaluate(data.X_train, data.y_train)[1]
    seconds = sum(history.seconds[-1:])
    return model, Run(tuple(history.accuracy), tuple(history.val_accuracy), final, seconds)


@dataclasses.dataclass(frozen=True)
class Claim:
    """The claim that a measure is smaller for one variant than for another.

    A variant is given by its name, at its best learning rate, or by its name and a learning rate.
    """

    text: str
    measure: str  # a name of the table's measures
    smaller: str | tuple[str, float]
    larger: str | tuple[str, float]


@dataclasses.dataclass(frozen=True)
class Table:
    """The variants to train, the measures, and the claims."""

    name: str
    question: str
    labels: tuple[str, ...]  # columns for the parts of the variants' names
    variants: dict[str, dict]  # "a, b": arguments of `train`
    measures: tuple[str, ...]  # columns
    claims: list[Claim]
    rates: dict[str, tuple[float, ...]] | tuple[float, ...] = ()  # by variant, or for all
    every_rate: bool = False  # a row for each rate, not only for the best one
    target: float | None = None  # accuracy; None for that of the setting
    shape: dict = dataclasses.field(default_factory=dict)  # hidden, epochs, batch_size for all
    batch_sizes: tuple[int, ...] = ()  # the last label, and the x axis of the panels


def run_table(table, setting, say=print):
    """Train all variants with all rates and seeds, and compare their best rates."""
    target = table.target or setting.target
    measures = {
        "epochs": (
            f"epochs to {target:.0%}",
            lambda run: run.epochs_to(target),
            spread,
        ),
        "training": ("training, %", lambda run: run.last("training"), percent),
        "test": ("test, %", lambda run: run.last("test"), percent),
        "final training": ("training, %", lambda run: run.final_training, percent),
        "gap": ("gap, points", lambda run: run.final_training - run.last("test"), percent),
        "swing": (
            "swing of the last ten test accuracies, points",
            lambda run: float(np.ptp(run.test[-10:])),
            percent,
        ),
        "seconds": (
            "seconds, tests of every epoch included",
            lambda run: run.seconds,
            lambda values: spread(values, "{:.2f}"),
        ),
    }
    rows, best = [], {}  # best: runs by variant, and by (variant, rate)
    curves = {}
    for name, options in table.variants.items():
        rates = table.rates[name] if isinstance(table.rates, dict) else table.rates
        rates = rates or (options["lr"],)
        runs = {}
        for lr in rates:
            runs[lr] = []
            for seed in setting.seeds:
                _, run = train(setting, seed=seed, **{**table.shape, **options, "lr": lr})
                runs[lr].append(run)
                say(
                    f"{name}, lr {lr:g}, seed {seed}: training {run.last('training'):.1%}, "
                    f"test {run.last('test'):.1%}"
                )
        chosen = fastest(runs, target)
        best[name] = runs[chosen]
        best |= {(name, lr): group for lr, group in runs.items()}
        curves[f"{name}, lr {chosen:g}" if table.every_rate else name] = runs[chosen]
        for lr in rates if table.every_rate else [chosen]:
            if table.every_rate:
                rate = f"{lr:g}" + (" (best)" if lr == chosen else "")
            else:
                rate = rate_text(lr, rates)
            cells = [measures[one] for one in table.measures]
            labels = name.split(", ")[: len(table.labels)]
            rows.append([*labels, rate, *(text(list(map(of, runs[lr]))) for _, of, text in cells)])
    findings = []
    for claim in table.claims:
        _, of, _ = measures[claim.measure]
        smaller, larger = (list(map(of, best[one])) for one in (claim.smaller, claim.larger))
        findings.append(verdict(claim.text.format(target=f"{target:.0%}"), smaller, larger))
    shape = dict(table.shape)
    if table.batch_sizes:
        shape["batch_size"] = f"{table.batch_sizes[0]} to {table.batch_sizes[-1]}"
        panels = [
            over_batch_sizes(title, measures[one][1], table.batch_sizes, best)
            for title, one in (("Training less test accuracy", "gap"), ("Test accuracy", "test"))
        ]
    else:
        epochs = shape.get("epochs", setting.epochs)
        panels = [
            Panel(
                f"{of.capitalize()} accuracy", "epoch",
                {name: curve(runs, of, epochs) for name, runs in curves.items()}, in_percent=True,
            )
            for of in ("training", "test")
        ]  # fmt: skip
    several = table.every_rate or not table.rates
    columns = (
        *table.labels,
        "learning rate" if several else "best learning rate",
        *(measures[one][0] for one in table.measures),
    )
    described = setting.describe(**shape)
    return Result(table.name, table.question, described, columns, rows, findings, panels)


def fastest(runs, target):
    """Return the rate that reaches the target in the fewest epochs, then with better accuracy."""

    def slowness(key):
        epochs = [run.epochs_to(target) for run in runs[key]]
        accuracy = statistics.median(run.last("training") for run in runs[key])
        return statistics.median(epochs), -accuracy

    return min(runs, key=slowness)


def rate_text(chosen, rates):
    """Format the learning rate; say if it is the smallest or largest tried."""
    edge = {min(rates): ", the smallest tried", max(rates): ", the largest tried"}
    return f"{chosen:g}" + (edge.get(chosen, "") if len(rates) > 1 else "")


def curve(runs, of, epochs):
    """Return the epochs, and an accuracy by seed and epoch, NaN after a divergence."""
    y = np.full((len(runs), epochs), np.nan)
    for row, run in zip(y, runs, strict=True):
        values = getattr(run, of)
        row[: len(values)] = values
    return np.arange(1, epochs + 1), y


def over_batch_sizes(title, measure, sizes, runs):
    """Return a panel of a measure by batch size, with a curve for each kind of network."""
    curves = {
        kind: (
            np.array(sizes),
            np.array([list(map(measure, runs[f"{kind}, {size}"])) for size in sizes]).T,
        )
        for kind in KINDS
    }
    return Panel(title, "batch size", curves, log_x=True, in_percent=True)
