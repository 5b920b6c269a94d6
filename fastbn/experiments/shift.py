"""How mean and deviation of each layer's input move while the network trains."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastbn.experiments._result import Panel, Result
from fastbn.experiments._runs import Setting, spread, train, verdict
from fastbn.model import BatchNormMLP
from fastbn.reference import mlp

KINDS = {"batch norm": True, "no batch norm": False}
HIDDEN, RATE = (128, 64, 32), 0.01

# Samples on which the inputs of layers are looked at.
PROBE = 1000


class Watch:
    """Notes mean and deviation of the inputs of all layers but the first, unit by unit."""

    def __init__(self, x: np.ndarray) -> None:
        self._x = x
        self.means: list[list[np.ndarray]] = []  # by epoch and layer: (units,)
        self.deviations: list[list[np.ndarray]] = []

    def __call__(self, model: BatchNormMLP, history: Any = None) -> bool:
        """Look at the model as it is now, on a batch of its own."""
        params = {name: view.astype(np.float64) for name, view in model.named_parameters()}
        x = (self._x - model.scaling.center) * model.scaling.scale
        config = model.config
        _, caches = mlp.forward(params, x, slope=config.slope, curve=config.curve, eps=config.eps)
        inputs = [cache["a_prev"] for cache in caches[1:]]
        self.means.append([a.mean(axis=1) for a in inputs])
        self.deviations.append([a.std(axis=1) for a in inputs])
        return False

    def moved(self, layer: int) -> np.ndarray:
        """How far the units' means moved in each epoch but the first, in deviations: the mean.

        A unit that gave the same number for every sample is left out.
        """
        steps = []
        for epoch in range(len(self.means) - 1):
            deviation = self.deviations[epoch][layer]
            alive = deviation > 1e-6
            change = np.abs(self.means[epoch + 1][layer] - self.means[epoch][layer])
            steps.append(float(np.mean(change[alive] / deviation[alive])) if alive.any() else 0.0)
        return np.array(steps)

    def by_epoch(self, of: str, layer: int) -> np.ndarray:
        """Mean over the units of "means" or "deviations", after each epoch."""
        return np.array([values[layer].mean() for values in getattr(self, of)])


def run(setting: Setting) -> Result:
    """Train with and without, and look at a fixed probe after every epoch."""
    probe = setting.data.X_train[:PROBE].astype(np.float64)
    watches: dict[str, list[Watch]] = {kind: [] for kind in KINDS}
    for kind, is_normalized in KINDS.items():
        for seed in setting.seeds:
            watch = Watch(probe)
            train(
                setting, kind, seed=seed, hidden=HIDDEN, callbacks=[watch], lr=RATE,
                batch_norm=is_normalized,
            )  # fmt: skip
            watches[kind].append(watch)
    layers = range(len(HIDDEN))
    epochs = np.arange(1, setting.epochs + 1)
    rows, findings, panels = [], [], []
    for layer in layers:
        moved = {}
        for kind, group in watches.items():
            moved[kind] = [float(watch.moved(layer).mean()) for watch in group]
            rows.append([
                str(layer + 2), kind, *(
                    _first_and_last([watch.by_epoch(of, layer) for watch in group])
                    for of in ("means", "deviations")
                ),
                spread(moved[kind], "{:.3f}"),
            ])  # fmt: skip
        findings.append(
            verdict(
                f"the input of layer {layer + 2} moves less with batch norm, in its own deviations",
                moved["batch norm"], moved["no batch norm"],
            )
        )  # fmt: skip
    for title, of in (("Mean of a layer's input", "means"), ("Its deviation", "deviations")):
        curves = {
            f"layer {layer + 2}, {kind}": (
                epochs, _stacked([watch.by_epoch(of, layer) for watch in group], len(epochs))
            )
            for kind, group in watches.items()
            for layer in layers
        }  # fmt: skip
        panels.append(Panel(title, "epoch", curves, log_y=of == "deviations"))
    curves = {
        f"layer {layer + 2}, {kind}": (
            epochs[1:], _stacked([watch.moved(layer) for watch in group], len(epochs) - 1)
        )
        for kind, group in watches.items()
        for layer in layers
    }  # fmt: skip
    panels.append(Panel("Movement of the mean in an epoch, in deviations", "epoch", curves,
                        log_y=True))  # fmt: skip
    return Result(
        "shift", "How do the inputs of the layers move during training?",
        setting.describe(hidden=HIDDEN) + f", lr {RATE:g}, a probe of {len(probe)} samples",
        ("layer", "network", "mean, first to last epoch", "deviation, first to last epoch",
         "mean moves in an epoch, deviations"),
        rows, findings, panels,
    )  # fmt: skip


def _first_and_last(series: list[np.ndarray]) -> str:
    first, last = (np.median([values[place] for values in series]) for place in (0, -1))
    return f"{first:.2f} to {last:.2f}"


def _stacked(series: list[np.ndarray], length: int) -> np.ndarray:
    """Return a row for each seed, NaN where a training ended early."""
    y = np.full((len(series), length), np.nan)
    for row, values in zip(y, series, strict=True):
        row[: len(values)] = values
    return y
