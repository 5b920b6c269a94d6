"""The effect of a normalized output layer on margins and probabilities."""

from __future__ import annotations

import dataclasses

import numpy as np
from figures import Panel, Result, percent, spread, verdict
from runner import train

from fastbn import softmax_cross_entropy

KINDS = {
    "normalized outputs": {"batch_norm_output": True},
    "plain outputs": {"batch_norm_output": False},
    "no batch norm": {"batch_norm": False},
}
RATE = 0.001
BINS = 10  # of equal width, by confidence
EARLY = 2  # epochs of the short training


@dataclasses.dataclass(frozen=True)
class Outputs:
    """The outputs of a trained network for the test samples."""

    accuracy: float
    loss: float
    confidence: np.ndarray  # (samples,) the probability of the predicted class
    correct: np.ndarray  # (samples,) bool
    margin: np.ndarray  # (samples,) the largest logit minus the second largest

    def reliability(self):
        """Return the accuracy in each bin of confidence, (BINS,); NaN where a bin is empty."""
        place = _bins(self.confidence)
        hits = np.bincount(place, self.correct, BINS)
        counts = np.bincount(place, minlength=BINS)
        return np.divide(hits, counts, out=np.full(BINS, np.nan), where=counts > 0)

    def calibration_error(self):
        """Return the expected calibration error (Guo et al. 2017, arXiv 1706.04599, eq. 3).

        It is the mean of |accuracy - mean confidence| over the bins, weighted by their samples.
        """
        difference = np.bincount(_bins(self.confidence), self.correct - self.confidence, BINS)
        return float(np.abs(difference).sum() / self.confidence.size)


# Columns of the table: a number computed from the outputs of a seed, and its format.
MEASURES = {
    "test, %": (lambda one: one.accuracy, percent),
    "test loss": (lambda one: one.loss, lambda values: spread(values, "{:.3f}")),
    "mean confidence, %": (lambda one: float(one.confidence.mean()), percent),
    "calibration error, %": (Outputs.calibration_error, percent),
    "margin, median": (
        lambda one: float(np.median(one.margin)),
        lambda values: spread(values, "{:.1f}"),
    ),
    "margin, largest": (
        lambda one: float(one.margin.max()),
        lambda values: spread(values, "{:.1f}"),
    ),
}
CLAIMS = {
    "the smaller margins": "margin, median",
    "the smaller calibration error": "calibration error, %",
    "the lower test accuracy": "test, %",
}


def run(setting, say=print):
    """Train all kinds of networks, for EARLY epochs and in full."""
    lengths = (min(EARLY, setting.epochs), setting.epochs)
    found = {}
    for kind in KINDS:
        for epochs in lengths:
            found[kind, epochs] = []
            for seed in setting.seeds:
                found[kind, epochs].append(_outputs(setting, kind, seed, epochs))
                say(f"{kind}, {epochs} epochs, seed {seed}")
    rows = [
        [kind, str(epochs), *(text(list(map(of, group))) for of, text in MEASURES.values())]
        for (kind, epochs), group in found.items()
    ]
    findings = []
    for epochs in lengths:
        for claim, measure in CLAIMS.items():
            of, _ = MEASURES[measure]
            normalized, plain = (
                list(map(of, found[kind, epochs]))
                for kind in ("normalized outputs", "plain outputs")
            )
            text = f"after {epochs} epochs normalized outputs have {claim}"
            findings.append(verdict(text, normalized, plain))
    return Result(
        "output", "What does a normalized output layer do to probabilities?",
        setting.describe(epochs=f"{lengths[0]} and {lengths[1]}") + f", lr {RATE:g}",
        ("network", "epochs", *MEASURES), rows, findings,
        _panels({kind: found[kind, lengths[1]] for kind in KINDS}),
    )  # fmt: skip


def _outputs(setting, kind, seed, epochs):
    model, _ = train(setting, seed=seed, epochs=epochs, lr=RATE, **KINDS[kind])
    logits, y = model.predict_logits(setting.data.X_test), setting.data.y_test
    p = model.predict_proba(setting.data.X_test)
    first, second = np.sort(logits, axis=1)[:, :-3:-1].T
    correct = logits.argmax(axis=1) == y
    return Outputs(
        float(correct.mean()), softmax_cross_entropy(logits, y)[0],
        p.max(axis=1).astype(np.float64), correct, first - second,
    )  # fmt: skip


def _bins(confidence):
    return np.minimum((confidence * BINS).astype(np.int64), BINS - 1)


def _panels(groups):
    """Return accuracy by confidence, and the distribution of the margins."""
    middles = (np.arange(BINS) + 0.5) / BINS
    limits = np.linspace(0, 20, 41)
    accuracies, margins = {}, {}
    for kind, group in groups.items():
        accuracies[kind] = 100 * middles, np.array([one.reliability() for one in group])
        beyond = [
            1.0 - np.searchsorted(np.sort(one.margin), limits, side="right") / one.margin.size
            for one in group
        ]
        margins[kind] = limits, np.array(beyond)
    n_seeds = len(next(iter(groups.values())))
    accuracies["calibrated"] = 100 * middles, np.tile(middles, (n_seeds, 1))
    return [
        Panel("Test accuracy", "confidence, %", accuracies, in_percent=True),
        Panel("Test samples with a larger margin", "margin", margins, in_percent=True),
    ]
