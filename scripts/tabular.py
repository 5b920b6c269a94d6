"""Accuracy or R2, and time, on small real data sets beside scikit-learn's networks and PyTorch's.

    python scripts/tabular.py [--seeds 5] [--folds 5] [--data digits ...] [--fashion-mnist FOLDER]

trains three networks of the same size, with Adam at the same rate, for as many epochs, on the same
folds (of Fashion-MNIST, its training and test part together):

- fastbn's estimators;
- `MLPClassifier` and `MLPRegressor`, which have no batch norm, on z-scores;
- PyTorch: the same layers, initial weights and penalty as fastbn's, on z-scores.

It prints a Markdown table: the mean over folds and seeds, half the range of the seeds' means, and
the median of the times of a fit. Needs scikit-learn and PyTorch.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from peers import shared, train_torch
from sklearn import datasets
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler
from torch.nn import functional

from fastbn.datasets import load_fashion_mnist
from fastbn.sklearn import BatchNormMLPClassifier, BatchNormMLPRegressor

HIDDEN, RATE, EPOCHS, BATCH, ALPHA = (100,), 0.01, 100, 32, 1e-4
CLASSES = {
    "digits": datasets.load_digits,
    "breast cancer": datasets.load_breast_cancer,
    "wine": datasets.load_wine,
    "iris": datasets.load_iris,
}
NUMBERS = {"diabetes": datasets.load_diabetes}

Predict = Callable[[np.ndarray], np.ndarray]
Fit = Callable[[np.ndarray, np.ndarray, int], Predict]


def parameters(seed: int) -> dict[str, Any]:
    """Return the parameters of scikit-learn's estimators and of ours."""
    return shared(HIDDEN, RATE, EPOCHS, BATCH, ALPHA, seed)


def fit_fastbn(X: np.ndarray, y: np.ndarray, seed: int) -> Predict:
    """Fit ours."""
    kind = BatchNormMLPClassifier if y.dtype.kind == "i" else BatchNormMLPRegressor
    return kind(**parameters(seed)).fit(X, y).predict


def fit_sklearn(X: np.ndarray, y: np.ndarray, seed: int) -> Predict:
    """Fit scikit-learn's, on z-scores; targets are scaled as ours are."""
    scaler = StandardScaler().fit(X)
    if y.dtype.kind == "i":
        model = MLPClassifier(**parameters(seed)).fit(scaler.transform(X), y)
        return lambda X: model.predict(scaler.transform(X))
    mean, scale = y.mean(), y.std()
    model = MLPRegressor(**parameters(seed)).fit(scaler.transform(X), (y - mean) / scale)
    return lambda X: model.predict(scaler.transform(X)) * scale + mean


def fit_torch(X: np.ndarray, y: np.ndarray, seed: int) -> Predict:
    """Fit PyTorch's, on z-scores."""
    scaler = StandardScaler().fit(X)
    classes = np.unique(y) if y.dtype.kind == "i" else np.empty(0)
    mean, scale = (0.0, 1.0) if classes.size else (y.mean(), y.std())
    outputs = classes.size if classes.size > 2 else 1
    if outputs > 1:
        targets = torch.from_numpy(np.searchsorted(classes, y))
    else:
        scaled = (y == classes[1]) if classes.size else (y - mean) / scale
        targets = torch.from_numpy(scaled.astype(np.float32))[:, None]

    def minibatches() -> Iterator[torch.Tensor]:
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(X)).split(BATCH):
                if len(rows) > 1:  # of one, batch norm has nothing to normalize
                    yield rows

    def cost(out: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        if outputs > 1:
            return functional.cross_entropy(out, targets[rows])
        if classes.size:
            return functional.binary_cross_entropy_with_logits(out, targets[rows])
        return functional.mse_loss(out, targets[rows]) / 2

    sizes = (X.shape[1], *HIDDEN, outputs)
    logits = train_torch(
        sizes, outputs > 1, seed, RATE, ALPHA / BATCH, scaler.transform(X), minibatches, cost
    )

    def predict(X: np.ndarray) -> np.ndarray:
        out = logits(scaler.transform(X)).numpy()
        if outputs > 1:
            return classes[out.argmax(axis=1)]
        return classes[(out[:, 0] > 0).astype(int)] if classes.size else out[:, 0] * scale + mean

    return predict


CONTESTANTS: dict[str, Fit] = {
    "fastbn": fit_fastbn, "scikit-learn": fit_sklearn, "PyTorch": fit_torch,
}  # fmt: skip


def load(name: str, fashion_mnist: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples and the targets of a data set."""
    if name in NUMBERS:
        return NUMBERS[name](return_X_y=True)
    if name in CLASSES:
        return CLASSES[name](return_X_y=True)
    data = load_fashion_mnist(fashion_mnist)
    X = np.concatenate([data.X_train, data.X_test])
    return X.reshape(len(X), -1), np.concatenate([data.y_train, data.y_test]).astype(int)


def compare(name: str, X: np.ndarray, y: np.ndarray, folds: int, seeds: int) -> str:
    """Return the line of a data set."""
    kind, score = (StratifiedKFold, accuracy_score) if y.dtype.kind == "i" else (KFold, r2_score)
    scores: dict[str, list[list[float]]] = {who: [] for who in CONTESTANTS}
    times: dict[str, list[float]] = {who: [] for who in CONTESTANTS}
    for seed in range(seeds):
        of_seed: dict[str, list[float]] = {who: [] for who in CONTESTANTS}
        for train, test in kind(folds, shuffle=True, random_state=seed).split(X, y):
            for who in list(CONTESTANTS)[:: -1 if len(of_seed["fastbn"]) % 2 else 1]:
                start = time.perf_counter()
                predict = CONTESTANTS[who](X[train], y[train], seed)
                times[who].append(time.perf_counter() - start)
                of_seed[who].append(score(y[test], predict(X[test])))
        for who, found in of_seed.items():
            scores[who].append(found)
    cells = []
    for who in CONTESTANTS:
        means = [statistics.mean(found) for found in scores[who]]
        half = (max(means) - min(means)) / 2
        cells += [
            f"{statistics.mean(means):.3f} ± {half:.3f}",
            f"{statistics.median(times[who]):.2f} s",
        ]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--data", nargs="*", default=[*CLASSES, *NUMBERS], metavar="NAME")
    parser.add_argument("--fashion-mnist", metavar="FOLDER", help="Take this one, too.")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # all of them are to take all epochs
    for fit in (fit_fastbn, fit_torch):  # compile, and start threads
        for y in (np.arange(64) % 3, np.arange(64) % 2, np.arange(64.0)):
            fit(np.random.default_rng(0).standard_normal((64, 4)), y, 0)
    print("| data | " + " | ".join(f"{who} | time" for who in CONTESTANTS) + " |")
    print("|---|" + "---|" * (2 * len(CONTESTANTS)))
    for name in options.data:
        X, y = load(name, None)
        print(compare(name, X, y, options.folds, options.seeds), flush=True)
    if options.fashion_mnist:
        global EPOCHS, BATCH, RATE
        EPOCHS, BATCH, RATE = 20, 200, 0.001
        X, y = load("Fashion-MNIST", options.fashion_mnist)
        print(compare("Fashion-MNIST", X, y, options.folds, options.seeds), flush=True)


if __name__ == "__main__":
    main()
