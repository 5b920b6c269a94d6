"""Measure how mean and deviation of each layer's input move during training."""

from __future__ import annotations

import numpy as np
from figures import Panel, Result, spread, verdict
from runner import KINDS, train

from fastbn.reference import mlp as reference_mlp

HIDDEN, RATE = (128, 64, 32), 0.01
PROBE = 1000  # samples for which the inputs of the layers are computed


class Watch:
    """A callback that stores mean and deviation of the inputs of all layers but the first."""

    def __init__(self, x):
        self._x = x
        self.means, self.deviations = [], []  # by epoch and layer: (units,)

    def __call__(self, model, history=None):
        """Compute the inputs of the layers, with batch statistics of the probe."""
        params = {name: view.astype(np.float64) for name, view in model.named_parameters()}
        x = (self._x - model.scaling.center) * model.scaling.scale
        config = model.config
        _, caches = reference_mlp.forward(
            params, x, slope=config.slope, elementwise=config.elementwise_activation, eps=config.eps
        )
        inputs = [cache["a_prev"] for cache in caches[1:]]
        self.means.append([a.mean(axis=1) for a in inputs])
        self.deviations.append([a.std(axis=1) for a in inputs])
        return False

    def moved(self, layer):
        """Return how far the means moved in each epoch but the first, in deviations.

        This is the mean over the units, without those whose output was constant.
        """
        steps = []
        for epoch in range(len(self.means) - 1):
            deviation = self.deviations[epoch][layer]
            alive = deviation > 1e-6
            change = np.abs(self.means[epoch + 1][layer] - self.means[epoch][layer])
            steps.append(float(np.mean(change[alive] / deviation[alive])) if alive.any() else 0.0)
        return np.array(steps)

    def by_epoch(self, of, layer):
        """Return the mean over the units of "means" or "deviations" after each epoch."""
        return np.array([values[layer].mean() for values in getattr(self, of)])


def run(setting, say=print):
    """Train with and without batch norm, and evaluate a fixed probe after every epoch."""
    probe = setting.data.X_train[:PROBE].astype(np.float64)
    watches = {kind: [Watch(probe) for _ in setting.seeds] for kind in KINDS}
    for kind, batch_norm in KINDS.items():
        for seed, watch in zip(setting.seeds, watches[kind], strict=True):
            train(
                setting, seed=seed, hidden=HIDDEN, lr=RATE, batch_norm=batch_norm,
                callbacks=[watch],
            )  # fmt: skip
            say(f"{kind}, seed {seed}")
    layers = range(len(HIDDEN))
    rows, findings = [], []
    for layer in layers:
        moved = {
            kind: [float(watch.moved(layer).mean()) for watch in group]
            for kind, group in watches.items()
        }
        for kind, group in watches.items():
            ends = [
                _first_and_last([watch.by_epoch(of, layer) for watch in group])
                for of in ("means", "deviations")
            ]
            rows.append([str(layer + 2), kind, *ends, spread(moved[kind], "{:.3f}")])
        claim = f"the input of layer {layer + 2} moves less with batch norm, in its own deviations"
        findings.append(verdict(claim, moved["batch norm"], moved["no batch norm"]))

    def panel(title, series, log_y, first=1):
        epochs = np.arange(first, setting.epochs + 1)
        curves = {
            f"layer {layer + 2}, {kind}": (
                epochs,
                _stacked([series(watch, layer) for watch in group], len(epochs)),
            )
            for kind, group in watches.items()
            for layer in layers
        }
        return Panel(title, "epoch", curves, log_y=log_y)

    panels = [
        panel("Mean of a layer's input", lambda watch, k: watch.by_epoch("means", k), False),
        panel("Its deviation", lambda watch, k: watch.by_epoch("deviations", k), True),
        panel("Movement of the mean in an epoch, in deviations", Watch.moved, True, first=2),
    ]
    return Result(
        "shift", "How do the inputs of the layers move during training?",
        setting.describe(hidden=HIDDEN) + f", lr {RATE:g}, a probe of {len(probe)} samples",
        ("layer", "network", "mean, first to last epoch", "deviation, first to last epoch",
         "mean moves in an epoch, deviations"),
        rows, findings, panels,
    )  # fmt: skip


def _first_and_last(series):
    first, last = (np.median([values[place] for values in series]) for place in (0, -1))
    return f"{first:.2f} to {last:.2f}"


def _stacked(series, length):
    """Return a row for each seed, NaN where a training ended early."""
    y = np.full((len(series), length), np.nan)
    for row, values in zip(y, series, strict=True):
        row[: len(values)] = values
    return y
