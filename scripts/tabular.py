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
from collections.abc import Callable
from typing import Any

import numpy as np
from peers import Parameters, parameters, train_torch
from sklearn import datasets
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler

from fastbn.datasets import load_fashion_mnist
from fastbn.sklearn import BatchNormMLPClassifier, BatchNormMLPRegressor

SMALL: dict[str, Any] = {
    "hidden": (100,), "rate": 0.01, "epochs": 100, "batch": 32, "alpha": 1e-4,
}  # fmt: skip
FASHION_MNIST = {**SMALL, "rate": 0.001, "epochs": 20, "batch": 200}
DATA = {
    "digits": datasets.load_digits,
    "breast cancer": datasets.load_breast_cancer,
    "wine": datasets.load_wine,
    "iris": datasets.load_iris,
    "diabetes": datasets.load_diabetes,
}

Predict = Callable[[np.ndarray], np.ndarray]
Fit = Callable[[np.ndarray, np.ndarray, Parameters], Predict]


def fit_fastbn(X: np.ndarray, y: np.ndarray, params: Parameters) -> Predict:
    """Fit ours."""
    kind = BatchNormMLPClassifier if y.dtype.kind == "i" else BatchNormMLPRegressor
    return kind(**params).fit(X, y).predict


def fit_sklearn(X: np.ndarray, y: np.ndarray, params: Parameters) -> Predict:
    """Fit scikit-learn's, on z-scores; targets are scaled as ours are."""
    scaler = StandardScaler().fit(X)
    if y.dtype.kind == "i":
        model = MLPClassifier(**params).fit(scaler.transform(X), y)
        return lambda X: model.predict(scaler.transform(X))
    mean, scale = y.mean(), y.std()
    model = MLPRegressor(**params).fit(scaler.transform(X), (y - mean) / scale)
    return lambda X: model.predict(scaler.transform(X)) * scale + mean


def fit_torch(X: np.ndarray, y: np.ndarray, params: Parameters) -> Predict:
    """Fit PyTorch's, on z-scores."""
    scaler = StandardScaler().fit(X)
    x = scaler.transform(X)
    if y.dtype.kind != "i":
        mean, scale = y.mean(), y.std()
        net = train_torch(x, ((y - mean) / scale)[:, None], "squared", params)
        return lambda X: net(scaler.transform(X))[:, 0] * scale + mean
    classes, labels = np.unique(y, return_inverse=True)
    if len(classes) == 2:
        net = train_torch(x, labels[:, None], "sigmoid", params)
        return lambda X: classes[(net(scaler.transform(X))[:, 0] > 0).astype(int)]
    net = train_torch(x, labels, "softmax", params)
    return lambda X: classes[net(scaler.transform(X)).argmax(axis=1)]


CONTESTANTS: dict[str, Fit] = {
    "fastbn": fit_fastbn, "scikit-learn": fit_sklearn, "PyTorch": fit_torch,
}  # fmt: skip


def compare(
    name: str, X: np.ndarray, y: np.ndarray, folds: int, seeds: int, recipe: dict[str, Any]
) -> str:
    """Return the line of a data set."""
    kind, score = (StratifiedKFold, accuracy_score) if y.dtype.kind == "i" else (KFold, r2_score)
    means: dict[str, list[float]] = {who: [] for who in CONTESTANTS}  # by seed
    times: dict[str, list[float]] = {who: [] for who in CONTESTANTS}
    for seed in range(seeds):
        params = parameters(**recipe, seed=seed)
        scores: dict[str, list[float]] = {who: [] for who in CONTESTANTS}
        parts = kind(folds, shuffle=True, random_state=seed).split(X, y)
        for fold, (train, test) in enumerate(parts):
            for who in list(CONTESTANTS)[:: -1 if fold % 2 else 1]:
                start = time.perf_counter()
                predict = CONTESTANTS[who](X[train], y[train], params)
                times[who].append(time.perf_counter() - start)
                scores[who].append(score(y[test], predict(X[test])))
        for who, found in scores.items():
            means[who].append(statistics.mean(found))
    cells = []
    for who, found in means.items():
        half = (max(found) - min(found)) / 2
        cells += [
            f"{statistics.mean(found):.3f} ± {half:.3f}",
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
    parser.add_argument("--data", nargs="*", default=[*DATA], choices=[*DATA], metavar="NAME")
    parser.add_argument("--fashion-mnist", metavar="FOLDER", help="Measure this one, too.")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # about convergence: all run all epochs
    for fit in (fit_fastbn, fit_torch):  # compile, and start threads
        for y in (np.arange(64) % 3, np.arange(64) % 2, np.arange(64.0)):
            X = np.random.default_rng(0).standard_normal((64, 4))
            fit(X, y, parameters(**SMALL, seed=0))
    print("| data | " + " | ".join(f"{who} | time" for who in CONTESTANTS) + " |")
    print("|---|" + "---|" * (2 * len(CONTESTANTS)))
    for name in options.data:
        data = DATA[name](return_X_y=True)
        print(compare(name, *data, options.folds, options.seeds, SMALL), flush=True)
    if options.fashion_mnist:
        found = load_fashion_mnist(options.fashion_mnist)
        X = np.concatenate([found.X_train, found.X_test])
        X, y = X.reshape(len(X), -1), np.concatenate([found.y_train, found.y_test]).astype(int)
        print(compare("Fashion-MNIST", X, y, options.folds, options.seeds, FASHION_MNIST))


if __name__ == "__main__":
    main()
