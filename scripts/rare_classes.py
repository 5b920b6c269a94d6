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
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from peers import shared, train_torch
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from torch.nn import functional

from fastbn.sklearn import BatchNormMLPClassifier

TRAINING, TEST, FEATURES, CHUNK = 5000, 20_000, 6, 500
HIDDEN, RATE, EPOCHS, ALPHA = 64, 0.003, 10, 1e-4
KINDS = ("two classes", "three classes", "three labels")
WAYS = ("fit", "partial_fit")


class Problem(NamedTuple):
    """Samples whose last class or label is the rare one."""

    X: np.ndarray  # (TRAINING, FEATURES)
    y: np.ndarray  # (TRAINING,) or (TRAINING, labels)
    weight: np.ndarray  # (TRAINING,)
    X_test: np.ndarray
    is_rare: np.ndarray  # (TEST,)


class Recipe(NamedTuple):
    """How to train on it."""

    way: str  # one of WAYS
    batch_size: int
    seed: int


Fit = Callable[[Problem, Recipe], np.ndarray]  # returns the rare class's scores of the test samples


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


def chunks(n: int) -> Iterator[slice]:
    """Yield the chunks of all passes over the data."""
    for _ in range(EPOCHS):
        yield from (slice(start, start + CHUNK) for start in range(0, n, CHUNK))


def train_estimator(model: Any, X: np.ndarray, data: Problem, way: str) -> Any:
    """Train an estimator of scikit-learn's kind."""
    if way == "fit":
        return model.fit(X, data.y, sample_weight=data.weight)
    classes = np.unique(data.y) if data.y.ndim == 1 else np.arange(data.y.shape[1])
    for part in chunks(len(X)):
        model.partial_fit(X[part], data.y[part], sample_weight=data.weight[part], classes=classes)
    return model


def scaler_of(data: Problem, way: str) -> StandardScaler:
    """Return the scaling of the inputs; the first chunk's, where they come in chunks."""
    return StandardScaler().fit(data.X if way == "fit" else data.X[:CHUNK])


def parameters(recipe: Recipe) -> dict[str, Any]:
    """Return the parameters of scikit-learn's estimator and of ours."""
    return shared(HIDDEN, RATE, EPOCHS, recipe.batch_size, ALPHA, recipe.seed)


def fit_fastbn(data: Problem, recipe: Recipe) -> np.ndarray:
    """Fit ours."""
    model = BatchNormMLPClassifier(**parameters(recipe), n_threads=1)
    return train_estimator(model, data.X, data, recipe.way).predict_proba(data.X_test)[:, -1]


def fit_sklearn(data: Problem, recipe: Recipe) -> np.ndarray:
    """Fit scikit-learn's, on z-scores."""
    scaler, model = scaler_of(data, recipe.way), MLPClassifier(**parameters(recipe))
    train_estimator(model, scaler.transform(data.X), data, recipe.way)
    return model.predict_proba(scaler.transform(data.X_test))[:, -1]


def fit_torch(data: Problem, recipe: Recipe) -> np.ndarray:
    """Fit PyTorch's, on z-scores."""
    scaler, y = scaler_of(data, recipe.way), data.y
    outputs = 3 if y.ndim == 2 or y.max() > 1 else 1
    is_softmax = y.ndim == 1 and outputs == 3
    targets = torch.from_numpy(y if is_softmax else y.reshape(-1, outputs).astype(np.float32))
    weight = torch.from_numpy(data.weight.astype(np.float32))

    def minibatches() -> Iterator[torch.Tensor]:
        n = len(data.X)
        for part in [slice(None)] * EPOCHS if recipe.way == "fit" else chunks(n):
            rows = torch.arange(n)[part]
            yield from rows[torch.randperm(len(rows))].split(recipe.batch_size)

    def cost(out: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        target, w = targets[rows], weight[rows]
        if is_softmax:
            return functional.cross_entropy(out, target, reduction="none") @ w / w.sum()
        loss = functional.binary_cross_entropy_with_logits(out, target, weight=w[:, None])
        return outputs * loss

    logits = train_torch(
        (FEATURES, HIDDEN, outputs), is_softmax, recipe.seed, RATE, ALPHA / recipe.batch_size,
        scaler.transform(data.X), minibatches, cost,
    )  # fmt: skip
    out = logits(scaler.transform(data.X_test))
    return (out.softmax(dim=1) if is_softmax else out.sigmoid())[:, -1].numpy()


CONTESTANTS: dict[str, Fit] = {
    "fastbn": fit_fastbn, "scikit-learn": fit_sklearn, "PyTorch": fit_torch,
}  # fmt: skip


def compare(kind: str, way: str, share: float, batch_size: int, seeds: int) -> str:
    """Return the line of one way to train on one kind of classes."""
    found: dict[str, list[float]] = {who: [] for who in CONTESTANTS}
    for seed in range(seeds):
        data = problem(kind, share, seed)
        for who, fit in CONTESTANTS.items():
            scores = fit(data, Recipe(way, batch_size, seed))
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
    warnings.simplefilter("ignore")  # all of them are to take all epochs
    torch.set_num_threads(1)
    print(f"| classes | way | rare | batch | {' | '.join(CONTESTANTS)} | fastbn less the better |")
    print("|" + "---|" * (5 + len(CONTESTANTS)))
    for kind, way, share, batch_size in itertools.product(
        options.kinds, options.ways, options.shares, options.batches
    ):
        print(compare(kind, way, share, batch_size, options.seeds), flush=True)


if __name__ == "__main__":
    main()
