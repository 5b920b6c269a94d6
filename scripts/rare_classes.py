"""Weighted rare classes: test AUC of fastbn beside scikit-learn's network and PyTorch's.

    python scripts/rare_classes.py [--seeds 10] [--shares 0.01 0.03 0.1] [--batches 16 32 200]

trains three networks of the same size on classes of which one is rare, weighted so that all classes
count the same, with Adam at the same rate for as many passes over the same samples:

- fastbn's `BatchNormMLPClassifier`;
- scikit-learn's `MLPClassifier`, which has no batch norm, on z-scores;
- PyTorch: the same layers, initial weights and penalty as fastbn's, on z-scores. The loss of a
  minibatch is what PyTorch's functions make of weights: of classes the weighted mean
  (`cross_entropy`), of yes-or-no outputs the mean of the weighted losses
  (`binary_cross_entropy_with_logits`).

Of two classes, of three, and of three labels; by `fit`, and by `partial_fit` with chunks of the
data. It prints a Markdown table: the median over the seeds of the AUC of the rare class, and of the
difference, seed by seed, to the better of the other two. Needs scikit-learn and PyTorch.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from peers import Parameters, parameters, train_torch
from scipy.special import expit, softmax
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from fastbn.sklearn import BatchNormMLPClassifier

TRAINING, TEST, FEATURES, CHUNK = 5000, 20_000, 6, 500
HIDDEN, RATE, EPOCHS, ALPHA = (64,), 0.003, 10, 1e-4
KINDS = ("two classes", "three classes", "three labels")
WAYS = ("fit", "partial_fit")


class Problem(NamedTuple):
    """Samples; the last class or label is the rare one."""

    X: np.ndarray  # (TRAINING, FEATURES)
    y: np.ndarray  # (TRAINING,) or (TRAINING, labels)
    weight: np.ndarray  # (TRAINING,)
    X_test: np.ndarray
    is_rare: np.ndarray  # (TEST,)


# Trains in one of WAYS, and returns the rare class's scores of the test samples.
Fit = Callable[[Problem, str, Parameters], np.ndarray]


def problem(kind: str, share: float, seed: int) -> Problem:
    """Draw the samples; the rare class is a part `share` of them."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((TRAINING + TEST, FEATURES))
    noise = rng.standard_normal((2, len(X)))
    score = X[:, 0] + 0.5 * X[:, 1] * X[:, 2] + 0.8 * noise[0]
    is_rare = score > np.quantile(score, 1 - share)
    other = X[:, 3] + 0.5 * noise[1] > 0
    y = is_rare.astype(int)
    if kind == "three classes":
        y = np.where(is_rare, 2, other)
    elif kind == "three labels":
        y = np.c_[other, X[:, 4] > 0.5, is_rare].astype(int)
    weight = compute_sample_weight("balanced", y[:TRAINING])
    return Problem(X[:TRAINING], y[:TRAINING], weight, X[TRAINING:], is_rare[TRAINING:])


def train_estimator(model: Any, X: np.ndarray, data: Problem, way: str) -> Any:
    """Train an estimator of scikit-learn's kind."""
    if way == "fit":
        return model.fit(X, data.y, sample_weight=data.weight)
    classes = np.unique(data.y) if data.y.ndim == 1 else np.arange(data.y.shape[1])
    for _, start in itertools.product(range(EPOCHS), range(0, len(X), CHUNK)):
        part = slice(start, start + CHUNK)
        model.partial_fit(X[part], data.y[part], sample_weight=data.weight[part], classes=classes)
    return model


def scaler_of(data: Problem, way: str) -> StandardScaler:
    """Return the scaling of the inputs; the first chunk's, where they come in chunks."""
    return StandardScaler().fit(data.X if way == "fit" else data.X[:CHUNK])


def fit_fastbn(data: Problem, way: str, params: Parameters) -> np.ndarray:
    """Fit ours."""
    model = BatchNormMLPClassifier(**params, n_threads=1)
    return train_estimator(model, data.X, data, way).predict_proba(data.X_test)[:, -1]


def fit_sklearn(data: Problem, way: str, params: Parameters) -> np.ndarray:
    """Fit scikit-learn's, on z-scores."""
    scaler, model = scaler_of(data, way), MLPClassifier(**params)
    train_estimator(model, scaler.transform(data.X), data, way)
    return model.predict_proba(scaler.transform(data.X_test))[:, -1]


def fit_torch(data: Problem, way: str, params: Parameters) -> np.ndarray:
    """Fit PyTorch's, on z-scores."""
    scaler, y = scaler_of(data, way), data.y
    loss = "softmax" if y.ndim == 1 and y.max() > 1 else "sigmoid"
    if y.ndim == 1 and loss == "sigmoid":
        y = y[:, None]
    chunk = None if way == "fit" else CHUNK
    logits = train_torch(scaler.transform(data.X), y, loss, params, data.weight, chunk)
    out = logits(scaler.transform(data.X_test))
    return (softmax(out, axis=1) if loss == "softmax" else expit(out))[:, -1]


CONTESTANTS: dict[str, Fit] = {
    "fastbn": fit_fastbn, "scikit-learn": fit_sklearn, "PyTorch": fit_torch,
}  # fmt: skip


def compare(kind: str, way: str, share: float, batch_size: int, seeds: int) -> str:
    """Return the line of one way to train on one kind of classes."""
    found: dict[str, list[float]] = {who: [] for who in CONTESTANTS}
    for seed in range(seeds):
        data = problem(kind, share, seed)
        for who, fit in CONTESTANTS.items():
            params = parameters(HIDDEN, RATE, EPOCHS, batch_size, ALPHA, seed)
            scores = fit(data, way, params)
            found[who].append(float(roc_auc_score(data.is_rare, scores)))
    ours, *others = found.values()
    differences = [a - max(rest) for a, *rest in zip(ours, *others, strict=True)]
    medians = [f"{statistics.median(values):.3f}" for values in found.values()]
    cells = [kind, way, f"{share:.0%}", str(batch_size), *medians]
    return f"| {' | '.join(cells)} | {statistics.median(differences):+.3f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--shares", type=float, nargs="*", default=[0.01, 0.03, 0.1])
    parser.add_argument("--batches", type=int, nargs="*", default=[16, 32, 200])
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=WAYS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # about convergence: all run all epochs
    torch.set_num_threads(1)
    print(f"| classes | way | rare | batch | {' | '.join(CONTESTANTS)} | fastbn less the better |")
    print("|" + "---|" * (5 + len(CONTESTANTS)))
    for kind, way, share, batch_size in itertools.product(
        options.kinds, options.ways, options.shares, options.batches
    ):
        print(compare(kind, way, share, batch_size, options.seeds), flush=True)


if __name__ == "__main__":
    main()
