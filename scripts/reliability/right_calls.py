"""Calls that are unusual, but right: what they give is checked, too."""

from __future__ import annotations

import functools
import importlib
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from wrong_subject import Row

import fastbn
from fastbn import BatchNormMLP, EarlyStopping, datasets

RNG = np.random.default_rng(1)
X = RNG.normal(size=(12, 4)).astype(np.float32)
Y = np.arange(12) % 3
CONSTANT = np.concatenate([X[:, :3], np.full((12, 1), 7, np.float32)], axis=1)
ONES = np.ones(4, np.float32)


def with_one(value: float) -> np.ndarray:
    """Return X with a value in its first feature."""
    x = X.copy()
    x[0, 0] = value
    return x


def finite(*arrays: Any) -> bool:
    """Tell whether all is finite."""
    return all(bool(np.isfinite(array).all()) for array in arrays)


def trained(x: Any = X, y: Any = Y, *, sizes: Any = (4, 5, 3), **options: Any) -> bool:
    """Fit a model and tell whether all of it is finite."""
    names = ("input_normalization", "loss", "weighted", "batch_norm")
    model = BatchNormMLP(sizes, **{name: options.pop(name) for name in names if name in options})
    history = model.fit(x, y, **{"epochs": 2, "batch_size": 4, "progress": False} | options)
    return model.is_finite() and finite(history.loss, model.predict_logits(np.asarray(x)))


def estimated(kind: str, x: Any, y: Any, **parameters: Any) -> bool:
    """Fit an estimator and tell whether it predicts, and in the classes that it was given."""
    make = getattr(importlib.import_module("fastbn.sklearn"), f"BatchNormMLP{kind}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one epoch is not enough
        estimator = make(hidden_layer_sizes=(3,), max_iter=1, random_state=0, **parameters).fit(
            x, y
        )
    said = estimator.predict(x)
    return set(np.ravel(said)) <= set(np.ravel(y)) if kind == "Classifier" else finite(said)


def frame() -> Any:
    """Return X as pandas has it."""
    return importlib.import_module("pandas").DataFrame(X, columns=list("abcd"))


def constant_feature_is_beta() -> bool:
    """Return whether a constant feature comes out as beta."""
    y, mean, _ = fastbn.batch_norm(CONSTANT, ONES, ONES * 3)
    return bool((y[:, 3] == 3).all()) and mean[3] == 7


def only_the_first(value: float) -> bool:
    """Return whether a value spoils its own feature and no other."""
    y, mean, rstd = fastbn.batch_norm(with_one(value))
    return not finite(y[:, 0]) and finite(y[:, 1:], mean[1:], rstd[1:])


def half_over_itself() -> bool:
    """Return whether a result that overlaps its input by half is right."""
    memory = np.zeros((18, 4), np.float32)
    memory[:12] = X
    y, *_ = fastbn.batch_norm(memory[:12], out=memory[6:])
    return np.array_equal(y, fastbn.batch_norm(X)[0])


def stepped(shape: tuple[int, ...], **options: Any) -> np.ndarray:
    """Return parameters after a step of Adam from 1 along 1."""
    param, grad, m, v = np.ones((4, *shape))
    fastbn.adam_step(param[...], grad[...], m[...], v[...], **{"step": 1} | options)
    return param


def one_of_a_running_batch() -> bool:
    """Return whether a batch of one value has the variance that it says."""
    mean, var = np.zeros(2), np.ones(2)
    fastbn.update_running_statistics(mean, var, np.ones(2), np.zeros(2), 1, momentum=1.0)
    return np.array_equal(mean, [1, 1]) and np.array_equal(var, [0, 0])


def of_one_sample(folder: pathlib.Path) -> bool:
    """Return whether a batch norm of PyTorch's predicts from one sample as PyTorch's does."""
    torch, ours = importlib.import_module("torch"), importlib.import_module("fastbn.torch")
    x = torch.from_numpy(X[:1])
    return bool(torch.equal(ours.BatchNorm1d(4).eval()(x), torch.nn.BatchNorm1d(4).eval()(x)))


def drawn(folder: pathlib.Path) -> bool:
    """Return whether a loss that is no number can be drawn."""
    plotting = importlib.import_module("fastbn.plotting")
    history = fastbn.History(loss=[1.0, np.nan], accuracy=[0.5, 0.5])
    return plotting.plot_history(history).axes[0].get_title(loc="left") == "Loss (cross-entropy)"


def loaded(folder: pathlib.Path) -> bool:
    """Return whether a model's path may be a string, and a folder's, too."""
    model = BatchNormMLP.load(str(folder / "other.safetensors"))
    return len(datasets.load(str(folder / "good.csv")).class_names) == model.config.layer_sizes[1]


EMPTY = np.zeros((0, 4), np.float32)
VAST = np.where(np.arange(12).reshape(4, 3) % 4 == 0, 1e30, -1e30).astype(np.float32)
DIAGONAL = np.arange(4) % 3
TARGETS = (RNG.uniform(size=(12, 4)) > 0.5) * 1.0

NUMPY: dict[str, Callable[[], bool]] = {
    "batch_norm: a constant feature": constant_feature_is_beta,
    "batch_norm: nan": lambda: only_the_first(np.nan),
    "batch_norm: infinity": lambda: only_the_first(np.inf),
    "batch_norm: two samples": lambda: finite(*fastbn.batch_norm(X[:2])),
    "batch_norm: out half over x": half_over_itself,
    "batch_norm: a mask of nothing": lambda: finite(*fastbn.batch_norm(np.ma.MaskedArray(X))),
    "batch_norm: a list": lambda: finite(*fastbn.batch_norm(X.astype(float).tolist())),
    "batch_norm: eps=0": lambda: finite(*fastbn.batch_norm(X, eps=0)),
    "batch_norm: a negative slope": lambda: finite(
        *fastbn.batch_norm(X, activation="leaky_relu", negative_slope=-1)
    ),
    "batch_norm: nan in gamma": lambda: finite(
        fastbn.batch_norm(X, np.array([np.nan, 1, 1, 1]))[0][:, 1:]
    ),
    "batch_norm_inference: no samples": lambda: (
        fastbn.batch_norm_inference(EMPTY, ONES, ONES).shape == (0, 4)
    ),
    "batch_statistics: one sample": lambda: (fastbn.batch_statistics(X[:1])[1] == 0).all(),
    "batch_statistics: numbers whose squares overflow": lambda: finite(
        fastbn.batch_statistics(X * np.float32(1e18))[0]
    ),
    "softmax_cross_entropy: one class": lambda: (
        fastbn.softmax_cross_entropy(X[:, :1], np.zeros(12, int))[0] == 0
    ),
    "softmax_cross_entropy: bytes": lambda: finite(
        fastbn.softmax_cross_entropy(X, Y.astype(np.uint8))[0]
    ),
    "softmax_cross_entropy: vast logits": lambda: finite(
        *fastbn.softmax_cross_entropy(VAST, DIAGONAL)
    ),
    "softmax_cross_entropy: a weight of 0": lambda: np.array_equal(
        fastbn.softmax_cross_entropy(X, Y, sample_weight=np.arange(12))[1][0], np.zeros(4)
    ),
    "softmax_cross_entropy: tiny weights": lambda: finite(
        *fastbn.softmax_cross_entropy(X, Y, sample_weight=np.full(12, 1e-300))
    ),
    "sigmoid_cross_entropy: vast logits": lambda: finite(
        *fastbn.sigmoid_cross_entropy(VAST, VAST > 0)
    ),
    "squared_error: integers": lambda: (
        abs(fastbn.squared_error(X * 0, np.ones((12, 4), int))[0] - 2) < 1e-6
    ),
    "squared_error: nan": lambda: np.isnan(fastbn.squared_error(X, with_one(np.nan))[0]),
    "adam_step: nothing": lambda: stepped((0,)).size == 0,
    "adam_step: a number": lambda: abs(stepped(()) - 1) < 2e-3,
    "adam_step: lr=0": lambda: (stepped((3,), lr=0) == 1).all(),
    "adam_step: the last step": lambda: finite(stepped((3,), step=2**53)),
    "update_running_statistics: n=1": one_of_a_running_batch,
    "min_max_scale: a constant feature": lambda: (
        fastbn.min_max_scale(CONSTANT, feature_range=(-1, 1))[0][:, 3] == -1
    ).all(),
    "standardize: a constant feature": lambda: (fastbn.standardize(CONSTANT)[0][:, 3] == 0).all(),
    "standardize: a deviation of 0": lambda: finite(
        *fastbn.standardize(X, mean=ONES, std=ONES * 0)
    ),
    "fold_batch_norm: eps=0": lambda: finite(*fastbn.fold_batch_norm(X.T, *[ONES] * 4, eps=0)),
    "minibatch_bounds: one minibatch": lambda: (
        fastbn.fit.loop.minibatch_bounds(3, 10**30).tolist() == [0, 3]
    ),
    "BatchNormMLP: a generator of sizes": lambda: trained(sizes=(n for n in (4, 5, 3))),
    "BatchNormMLP: sizes of NumPy's": lambda: trained(sizes=np.array([4, 5, 3], np.uint8)),
    "fit: a constant feature, zscore": lambda: trained(CONSTANT, input_normalization="zscore"),
    "fit: a constant feature, minmax": lambda: trained(CONSTANT, input_normalization="minmax"),
    "fit: all features constant": lambda: trained(X * 0, input_normalization="zscore"),
    "fit: one class": lambda: trained(X, Y * 0),
    "fit: a batch beyond the data": lambda: trained(batch_size=10**6),
    "fit: truths": lambda: trained(X > 0),
    "fit: lists": lambda: trained(X.tolist(), Y.tolist()),
    "fit: a minibatch without weight": lambda: trained(
        sample_weight=np.arange(12.0) // 4, shuffle=False
    ),
    "fit: the same, weighted": lambda: trained(
        sample_weight=np.arange(12.0) // 4, shuffle=False, weighted=True
    ),
    "fit: constant targets": lambda: trained(X, Y * 0.0, sizes=(4, 1), loss="squared_error"),
    "fit: early stopping of an epoch": lambda: trained(
        early_stopping=EarlyStopping(patience=1, monitor="loss"), epochs=3
    ),
    "predict: no samples": lambda: BatchNormMLP((4, 3)).predict(EMPTY).shape == (0,),
    "predict_proba: no samples": lambda: BatchNormMLP((4, 3)).predict_proba(EMPTY).shape == (0, 3),
}
CLASSES: dict[str, tuple[tuple[str, ...], Callable[[], bool]]] = {
    "one class": ((), lambda: estimated("Classifier", X, Y * 0)),
    "constant features": ((), lambda: estimated("Classifier", X * 0, Y)),
    "names": ((), lambda: estimated("Classifier", X, np.array(["a", "b", "c"])[Y])),
    "numbers of classes": ((), lambda: estimated("Classifier", X, Y * 1.0)),
    "labels": ((), lambda: estimated("Classifier", X, TARGETS.astype(int))),
    "a batch beyond the data": ((), lambda: estimated("Classifier", X, Y, batch_size=10**6)),
    "a table": (("pandas",), lambda: estimated("Classifier", frame(), Y)),
    "constant targets": ((), lambda: estimated("Regressor", X, Y * 0)),
    "vast targets": ((), lambda: estimated("Regressor", X.astype(float), Y * 1e200)),
    "two targets": ((), lambda: estimated("Regressor", X, TARGETS)),
}
IN_A_FOLDER: dict[str, tuple[tuple[str, ...], Callable[[pathlib.Path], bool]]] = {
    "BatchNorm1d: a sample": (("torch",), of_one_sample),
    "plot_history: nan": (("matplotlib",), drawn),
    "load: strings": ((), loaded),
}


def check(name: str, call: Callable[..., bool], *given: Any) -> str:
    """Make the call, whose warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)  # of old libraries, to each other
        assert call(*given), f"{name}: another result"
    return "right"


def without_folder(name: str, call: Callable[[], bool], folder: pathlib.Path) -> str:
    """Make a call that needs no files."""
    return check(name, call)


ROWS = [
    *[Row(name, functools.partial(without_folder, name, call)) for name, call in NUMPY.items()],
    *[
        Row(
            f"estimator: {name}", functools.partial(without_folder, name, call), ("sklearn", *needs)
        )
        for name, (needs, call) in CLASSES.items()
    ],
    *[
        Row(name, functools.partial(check, name, call), needs)
        for name, (needs, call) in IN_A_FOLDER.items()
    ],
]  # fmt: skip
