"""What a normalized output layer does to margins and probabilities."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from fastbn.experiments._result import Panel, Result
from fastbn.experiments._runs import Setting, percent, spread, train, verdict
from fastbn.functional.losses import softmax_cross_entropy
from fastbn.model import BatchNormMLP

KINDS: dict[str, dict[str, Any]] = {
    "normalized outputs": {"batch_norm_output": True},
    "plain outputs": {"batch_norm_output": False},
    "no batch norm": {"batch_norm": False},
}
RATE = 0.001
BINS = 10  # of equal width, by confidence
EARLY = 2  # epochs: a short training beside the whole one


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What a trained network says of the test samples."""

    accuracy: float
    loss: float
    confidence: np.ndarray  # (samples,) the probability of the predicted class
    correct: np.ndarray  # (samples,) bool
    margin: np.ndarray  # (samples,) the largest logit less the second

    def reliability(self) -> np.ndarray:
        """Return the accuracy in each bin of confidence, (BINS,); NaN where a bin is empty."""
        place = _bins(self.confidence)
        hits = np.bincount(place, self.correct, BINS)
        counts = np.bincount(place, minlength=BINS)
        return np.divide(hits, counts, out=np.full(BINS, np.nan), where=counts > 0)

    def calibration_error(self) -> float:
        """Return the expected calibration error (Guo et al. 2017, arXiv 1706.04599, eq. 3).

        The mean difference of accuracy and mean confidence over the bins, by their samples.
        """
        difference = np.bincount(_bins(self.confidence), self.correct - self.confidence, BINS)
        return float(np.abs(difference).sum() / self.confidence.size)


def run(setting: Setting) -> Result:
    """Train with normalized outputs, without, and without batch norm; briefly and in full."""
    lengths = (min(EARLY, setting.epochs), setting.epochs)
    found = {
        (kind, epochs): [_outputs(setting, kind, seed, epochs) for seed in setting.seeds]
        for kind in KINDS
        for epochs in lengths
    }
    rows = [
        [
            kind, str(epochs), percent([one.accuracy for one in group]),
            spread([one.loss for one in group], "{:.3f}"),
            percent([float(one.confidence.mean()) for one in group]),
            percent([one.calibration_error() for one in group]),
            spread([float(np.median(one.margin)) for one in group], "{:.1f}"),
            spread([float(one.margin.max()) for one in group], "{:.1f}"),
        ]
        for (kind, epochs), group in found.items()
    ]  # fmt: skip
    findings = []
    for epochs in lengths:
        with_norm, plain = (found[kind, epochs] for kind in list(KINDS)[:2])
        after = f"after {epochs} epochs normalized outputs have"
        findings += [
            verdict(
                f"{after} the smaller margins",
                [float(np.median(one.margin)) for one in with_norm],
                [float(np.median(one.margin)) for one in plain],
            ),
            verdict(
                f"{after} the smaller calibration error",
                [one.calibration_error() for one in with_norm],
                [one.calibration_error() for one in plain],
            ),
            verdict(
                f"{after} the lower test accuracy",
                [one.accuracy for one in with_norm], [one.accuracy for one in plain],
            ),
        ]  # fmt: skip
    return Result(
        "output", "What does a normalized output layer do to probabilities?",
        setting.describe(epochs=f"{lengths[0]} and {lengths[1]}") + f", lr {RATE:g}",
        ("network", "epochs", "test, %", "test loss", "mean confidence, %", "calibration error, %",
         "margin, median", "margin, largest"),
        rows, findings, _panels({kind: found[kind, lengths[1]] for kind in KINDS}),
    )  # fmt: skip


def _outputs(setting: Setting, kind: str, seed: int, epochs: int) -> Outputs:
    models: list[BatchNormMLP] = []
    train(
        setting, f"{kind}, {epochs} epochs", seed=seed, epochs=epochs, lr=RATE,
        before=models.append, **KINDS[kind],
    )  # fmt: skip
    logits, y = models[0].predict_logits(setting.data.X_test), setting.data.y_test
    p = models[0].predict_proba(setting.data.X_test)
    first, second = np.sort(logits, axis=1)[:, :-3:-1].T
    correct = logits.argmax(axis=1) == y
    return Outputs(
        float(correct.mean()), softmax_cross_entropy(logits, y)[0],
        p.max(axis=1).astype(np.float64), correct, first - second,
    )  # fmt: skip


def _bins(confidence: np.ndarray) -> np.ndarray:
    return np.minimum((confidence * BINS).astype(np.int64), BINS - 1)


def _panels(groups: dict[str, list[Outputs]]) -> list[Panel]:
    """Return accuracy by confidence, and the distribution of the margins."""
    middles = (np.arange(BINS) + 0.5) / BINS
    limits = np.linspace(0, 20, 41)
    accuracies, margins = {}, {}
    for kind, group in groups.items():
        accuracies[kind] = 100 * middles, np.array([one.reliability() for one in group])
        beyond = [_parts_beyond(one.margin, limits) for one in group]
        margins[kind] = limits, np.array(beyond)
    n_seeds = len(next(iter(groups.values())))
    accuracies["calibrated"] = 100 * middles, np.tile(middles, (n_seeds, 1))
    return [
        Panel("Test accuracy", "confidence, %", accuracies, is_part=True),
        Panel("Test samples with a larger margin", "margin", margins, is_part=True),
    ]


def _parts_beyond(values: np.ndarray, limits: np.ndarray) -> np.ndarray:
    return 1.0 - np.searchsorted(np.sort(values), limits, side="right") / values.size
