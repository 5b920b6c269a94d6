"""Compare fastbn's estimators with networks of scikit-learn and PyTorch.

    python scripts/estimators.py tabular [--seeds 5] [--folds 5] [--data digits ...]
        [--fashion-mnist FOLDER]
    python scripts/estimators.py rare [--seeds 10] [--shares 0.01 0.03 0.1] [--batches 16 32 200]

All sides train networks of the same size on the same data, with Adam at the same learning rate and
for the same number of epochs:

- fastbn's estimators;
- `MLPClassifier` and `MLPRegressor`, which have no batch norm, on z-scores;
- PyTorch, on z-scores: the layers, initial weights and penalty of fastbn.

`tabular` measures accuracy or R2 on small real data sets, and the time of a fit: the mean over
folds and seeds, half the range of the seeds' means, and the median time. `rare` measures the AUC of
a rare class, weighted so that all classes count the same, by `fit` and by `partial_fit`: the median
over seeds, also of the difference between fastbn and the better of the other two. Both print a
Markdown table.
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import expit, softmax
from sklearn import datasets
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from torch.nn import functional

from fastbn import BatchNormMLP
from fastbn.datasets import load_fashion_mnist
from fastbn.sklearn import BatchNormMLPClassifier, BatchNormMLPRegressor
from fastbn.torch import to_torch

Parameters = dict[str, Any]  # of the estimators, scikit-learn's and fastbn's

SMALL: Parameters = {
    "hidden_layer_sizes": (100,), "learning_rate_init": 0.01, "max_iter": 100, "batch_size": 32,
    "alpha": 1e-4,
}  # fmt: skip
FASHION_MNIST = {**SMALL, "learning_rate_init": 0.001, "max_iter": 20, "batch_size": 200}
RARE = {**SMALL, "hidden_layer_sizes": (64,), "learning_rate_init": 0.003, "max_iter": 10}

DATA = {
    "digits": datasets.load_digits,
    "breast cancer": datasets.load_breast_cancer,
    "wine": datasets.load_wine,
    "iris": datasets.load_iris,
    "diabetes": datasets.load_diabetes,
}
KINDS = ("two classes", "three classes", "three labels")
WAYS = ("fit", "partial_fit")
TRAINING, TEST, FEATURES, CHUNK = 5000, 20_000, 6, 500


class Samples(NamedTuple):
    """The data of a training."""

    X: np.ndarray
    y: np.ndarray  # classes from 0, labels (samples, labels) of 0 and 1, or targets of float64
    weight: np.ndarray | None = None
    chunk: int | None = None  # samples in a call of partial_fit; None for one call of fit

    @property
    def is_classification(self) -> bool:
        """Tell classes and labels from targets."""
        return self.y.dtype.kind == "i"


# Returns targets, or the probabilities of all classes or labels.
Predict = Callable[[np.ndarray], np.ndarray]


# -- contestants -----------------------------------------------------------------------------------


def fit_fastbn(samples: Samples, params: Parameters) -> Predict:
    """Train fastbn's estimator."""
    kind = BatchNormMLPClassifier if samples.is_classification else BatchNormMLPRegressor
    return train_estimator(kind(**params), samples)


def fit_sklearn(samples: Samples, params: Parameters) -> Predict:
    """Train scikit-learn's estimator on z-scores; targets are scaled, too, as fastbn does."""
    kind = MLPClassifier if samples.is_classification else MLPRegressor
    scaled, scale_inputs, unscale = z_scores(samples)
    predict = train_estimator(kind(**params), scaled)
    return lambda X: unscale(predict(scale_inputs(X)))


def fit_torch(samples: Samples, params: Parameters) -> Predict:
    """Train PyTorch's network on z-scores."""
    scaled, scale_inputs, unscale = z_scores(samples)
    y, chunk = scaled.y, scaled.chunk or len(scaled.y)
    several = samples.is_classification and y.ndim == 1 and y.max() > 1  # classes
    targets = y if several else y.reshape(len(y), -1).astype("f4")
    outputs = int(y.max()) + 1 if several else targets.shape[1]
    model = BatchNormMLP(
        (scaled.X.shape[1], *params["hidden_layer_sizes"], outputs), activation="relu",
        loss="softmax_cross_entropy" if several else "sigmoid_cross_entropy",
        seed=params["random_state"], batch_norm_output=False,
    )  # fmt: skip
    net, _ = to_torch(model)
    decay = params["alpha"] / params["batch_size"]  # of matrices only
    groups = [
        {"params": [p for p in net.parameters() if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in net.parameters() if p.dim() == 1]},
    ]
    adam = torch.optim.Adam(groups, lr=params["learning_rate_init"], fused=True)

    def loss(out: torch.Tensor, target: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        if several:
            return functional.cross_entropy(out, target, reduction="none") @ w / w.sum()
        if samples.is_classification:
            mean = functional.binary_cross_entropy_with_logits(out, target, w[:, None])
            return outputs * mean
        return functional.mse_loss(out, target) / 2

    weight = np.ones(len(y)) if scaled.weight is None else scaled.weight
    arrays = scaled.X.astype("f4"), targets, weight.astype("f4")
    tensors = [torch.from_numpy(array) for array in arrays]
    torch.manual_seed(params["random_state"])
    net.train()
    for _ in range(params["max_iter"]):
        for part in torch.arange(len(y)).split(chunk):
            for rows in part[torch.randperm(len(part))].split(params["batch_size"]):
                if len(rows) > 1:  # batch norm cannot normalize a single row
                    inputs, *rest = (tensor[rows] for tensor in tensors)
                    adam.zero_grad(set_to_none=True)
                    loss(net(inputs), *rest).backward()
                    adam.step()
    net.eval()

    @torch.no_grad()
    def predict(X: np.ndarray) -> np.ndarray:
        out = net(torch.from_numpy(scale_inputs(X).astype("f4"))).numpy()
        if several:
            return softmax(out, axis=1)
        if not samples.is_classification:
            return unscale(out[:, 0])
        p = expit(out)
        return p if y.ndim == 2 else np.c_[1 - p, p]

    return predict


CONTESTANTS: dict[str, Callable[[Samples, Parameters], Predict]] = {
    "fastbn": fit_fastbn, "scikit-learn": fit_sklearn, "PyTorch": fit_torch,
}  # fmt: skip


def train_estimator(model: Any, samples: Samples) -> Predict:
    """Train an estimator with scikit-learn's interface."""
    X, y, weight, chunk = samples
    if chunk is None:
        model.fit(X, y, **({} if weight is None else {"sample_weight": weight}))
    else:
        classes = np.unique(y) if y.ndim == 1 else np.arange(y.shape[1])
        for _, start in itertools.product(range(model.max_iter), range(0, len(X), chunk)):
            part = slice(start, start + chunk)
            model.partial_fit(X[part], y[part], sample_weight=weight[part], classes=classes)
    return model.predict_proba if samples.is_classification else model.predict


def z_scores(samples: Samples) -> tuple[Samples, Predict, Predict]:
    """Scale inputs and targets; also return how to scale inputs, and how to unscale outputs.

    The scaling of the inputs is that of the first chunk.
    """
    scaler = StandardScaler().fit(samples.X[: samples.chunk])
    scaled = samples._replace(X=scaler.transform(samples.X))
    if samples.is_classification:
        return scaled, scaler.transform, lambda out: out
    mean, scale = samples.y.mean(), samples.y.std()
    scaled = scaled._replace(y=(samples.y - mean) / scale)
    return scaled, scaler.transform, lambda out: out * scale + mean


def with_seed(settings: Parameters, seed: int) -> Parameters:
    """Return the parameters of a training that runs all its epochs."""
    return {**settings, "n_iter_no_change": settings["max_iter"], "random_state": seed}


# -- small data sets -------------------------------------------------------------------------------


def compare_scores(
    name: str, X: np.ndarray, y: np.ndarray, folds: int, seeds: int, settings: Parameters
) -> str:
    """Return the line of a data set."""
    classes = y.dtype.kind == "i"
    kind, score = (StratifiedKFold, accuracy_score) if classes else (KFold, r2_score)
    scores, times = np.empty((2, len(CONTESTANTS), seeds, folds))
    for seed in range(seeds):
        parts = kind(folds, shuffle=True, random_state=seed).split(X, y)
        for fold, (train, test) in enumerate(parts):
            for who, fit in list(enumerate(CONTESTANTS.values()))[:: -1 if fold % 2 else 1]:
                start = time.perf_counter()
                predict = fit(Samples(X[train], y[train]), with_seed(settings, seed))
                times[who, seed, fold] = time.perf_counter() - start
                out = predict(X[test])
                found = score(y[test], out.argmax(axis=1) if classes else out)
                scores[who, seed, fold] = found
    cells = []
    for means, taken in zip(scores.mean(axis=2), times, strict=True):
        cells.append(f"{means.mean():.3f} ± {np.ptp(means) / 2:.3f}")
        cells.append(f"{np.median(taken):.3f} s")
    return f"| {name} | {' | '.join(cells)} |"


def tabular(options: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of the table of small data sets."""
    yield "| data | " + " | ".join(f"{who} | time" for who in CONTESTANTS) + " |"
    yield "|---|" + "---|" * (2 * len(CONTESTANTS))
    for name in options.data:
        data = DATA[name](return_X_y=True)
        yield compare_scores(name, *data, options.folds, options.seeds, SMALL)
    if options.fashion_mnist:
        found = load_fashion_mnist(options.fashion_mnist)
        X = np.concatenate([found.X_train, found.X_test])
        X, y = X.reshape(len(X), -1), np.concatenate([found.y_train, found.y_test]).astype(int)
        yield compare_scores("Fashion-MNIST", X, y, options.folds, options.seeds, FASHION_MNIST)


# -- rare classes ----------------------------------------------------------------------------------


def draw_rare(kind: str, share: float, seed: int) -> tuple[Samples, np.ndarray, np.ndarray]:
    """Return samples whose last class or label is rare, test inputs, and which inputs are rare."""
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
    return Samples(X[:TRAINING], y[:TRAINING], weight), X[TRAINING:], is_rare[TRAINING:]


def compare_rare(kind: str, way: str, share: float, batch_size: int, seeds: int) -> str:
    """Return the line of one kind of classes and one way to train."""
    aucs = np.empty((seeds, len(CONTESTANTS)))
    for seed in range(seeds):
        samples, X_test, is_rare = draw_rare(kind, share, seed)
        samples = samples._replace(chunk=CHUNK if way == "partial_fit" else None)
        for who, fit in enumerate(CONTESTANTS.values()):
            predict = fit(samples, with_seed({**RARE, "batch_size": batch_size}, seed))
            aucs[seed, who] = roc_auc_score(is_rare, predict(X_test)[:, -1])
    differences = aucs[:, 0] - aucs[:, 1:].max(axis=1)
    medians = [f"{median:.3f}" for median in np.median(aucs, axis=0)]
    cells = [kind, way, f"{share:.0%}", str(batch_size), *medians]
    return f"| {' | '.join(cells)} | {np.median(differences):+.3f} |"


def rare(options: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of the table of rare classes."""
    torch.set_num_threads(1)
    yield f"| classes | way | rare | batch | {' | '.join(CONTESTANTS)} | fastbn less the better |"
    yield "|" + "---|" * (5 + len(CONTESTANTS))
    for case in itertools.product(KINDS, WAYS, options.shares, options.batches):
        yield compare_rare(*case, options.seeds)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tables = parser.add_subparsers(required=True)
    table = tables.add_parser("tabular")
    table.set_defaults(lines=tabular)
    table.add_argument("--seeds", type=int, default=5)
    table.add_argument("--folds", type=int, default=5)
    table.add_argument("--data", nargs="*", default=[*DATA], choices=[*DATA], metavar="NAME")
    table.add_argument("--fashion-mnist", metavar="FOLDER", help="Measure this data set, too.")
    table = tables.add_parser("rare")
    table.set_defaults(lines=rare)
    table.add_argument("--seeds", type=int, default=10)
    table.add_argument("--shares", type=float, nargs="*", default=[0.01, 0.03, 0.1])
    table.add_argument("--batches", type=int, nargs="*", default=[16, 32, 200])
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # about convergence: all run all epochs
    for line in options.lines(options):
        print(line, flush=True)


if __name__ == "__main__":
    main()
