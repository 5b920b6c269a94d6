"""Wrong calls of the model, but for what trains it: its arguments, predictions and files."""

from __future__ import annotations

import functools
import itertools
import pathlib
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from wrong_files import MODEL_FILES, named
from wrong_subject import Subject
from wrong_values import (
    COUNT,
    FLAG,
    LABELS,
    NAME,
    NO_FLOATS,
    NO_NUMBERS,
    PAIR,
    PATH,
    POSITIVE,
    SHARE,
    Bad,
    of,
    with_one,
)

import fastbn
from fastbn import BatchNormMLP, EarlyStopping
from fastbn.fit.loop import History, minibatch_bounds
from fastbn.plotting import plot_history
from fastbn.profiling import profile_training

X: Bad = NO_NUMBERS | {
    "None": NO_FLOATS["None"],
    "one dimension": lambda a: a[0],
    "three dimensions": lambda a: a[None],
    "a number": lambda a: a[0, 0],
    "a feature less": lambda a: a[:, :-1],
    "turned": lambda a: a.T,
    "nan": with_one(np.nan),
    "infinite": with_one(np.inf),
    "too large": lambda a: np.full(a.shape, 1e300),
}
NO_SAMPLES: Bad = {"no samples": lambda a: a[:0]}
LOSSES = ("softmax_cross_entropy", "sigmoid_cross_entropy", "squared_error")


class Endless:
    """What has no last size."""

    def __iter__(self) -> Iterator[int]:
        return itertools.count(4)


@functools.cache
def pickled(loss: str, is_fitted: bool) -> bytes:
    """Return a small model."""
    outputs = 3 if loss == "softmax_cross_entropy" else 1
    model = BatchNormMLP((4, 5, outputs), loss=loss, input_normalization="zscore")
    if is_fitted:
        model.partial_fit(*samples(loss))
    return pickle.dumps(model)


def samples(loss: str) -> tuple[np.ndarray, np.ndarray]:
    """Return some training data: X and y."""
    x = np.random.default_rng(1).normal(size=(12, 4)).astype(np.float32)
    return x, np.arange(12) % 3 if loss == "softmax_cross_entropy" else (x[:, 0] > 0) * 1.0


def given(
    loss: str = "softmax_cross_entropy", *, is_fitted: bool = False, y: bool = True, **more: Any
) -> Callable[[pathlib.Path], dict[str, Any]]:
    """Return what makes the arguments of a method: the model, data, and more."""

    def make(folder: pathlib.Path) -> dict[str, Any]:
        x, targets = samples(loss)
        model = pickle.loads(pickled(loss, is_fitted))
        return {"self": model, "X": x, **({"y": targets} if y else {}), **more}

    return make


def restoring(folder: pathlib.Path) -> dict[str, Any]:
    """Arguments of `restore`."""
    model = pickle.loads(pickled("softmax_cross_entropy", True))
    return {"self": model, "snapshot": model.snapshot()}


def history(folder: pathlib.Path) -> dict[str, Any]:
    """Arguments of `plot_history`."""
    return {"history": History(loss=[1.0], accuracy=[0.5]), "path": folder / "picture.png"}


SUBJECTS = [
    Subject(
        "BatchNormMLP",
        BatchNormMLP,
        lambda folder: {"layer_sizes": (4, 3)},
        {
            "layer_sizes": of(
                None,
                4,
                "43",
                b"43",
                {4, 3},
                {4: 3},
                (),
                (4,),
                (4, 0),
                (4, -3),
                (4.0, 3),
                (4, 1),
                (4, "3"),
                (True, 3),
                (4, None),
                ((4, 3),),
                (2**40, 3),
                (10**30, 3),
                (2**24, 2**24),
                np.zeros((2, 2)),
                np.array(4),
            )
            | {"without end": lambda good: Endless()},
            "activation": NAME | of(None),
            "negative_slope": SHARE,
            "batch_norm": FLAG,
            "batch_norm_output": FLAG,
            "eps": POSITIVE,
            "momentum": SHARE,
            "unbiased": FLAG,
            "weighted": FLAG,
            "gradient": NAME | of(None),
            "input_normalization": NAME,
            "loss": NAME | of(None),
            "label_smoothing": SHARE,
            "optimizer": NAME | of(None),
            "lr": POSITIVE,
            "betas": PAIR | of((1.0, 0.9), (0.9, 1.0), (-0.1, 0.9)),
            "optimizer_eps": POSITIVE,
            "nesterov": FLAG,
            "weight_decay": POSITIVE,
            "decay_vectors": FLAG,
            "max_norm": of(0.0, -1.0, "1", True, np.nan),
            "dropout": SHARE | of(1.0),
            "dtype": of("float16", "int32", int, np.complex64, None, 3, ["float32"]),
            "seed": of(-1, 2**32, 1.5, "1", None, True),
        },
    ),
    Subject(
        "BatchNormMLP, squared error",
        lambda **arguments: BatchNormMLP((4, 1), loss="squared_error", **arguments),
        lambda folder: {},
        {"label_smoothing": of(0.1)},
    ),
    *[
        Subject(method, getattr(BatchNormMLP, method), given(is_fitted=True, y=False), {"X": X})
        for method in ("predict_logits", "predict_proba", "predict")
    ],
    Subject(
        "evaluate",
        BatchNormMLP.evaluate,
        given(is_fitted=True),
        {"X": X | NO_SAMPLES, "y": LABELS},
    ),
    *[
        Subject(
            f"{method}, before training",
            getattr(BatchNormMLP, method),
            given(is_fitted=False, y=method == "evaluate"),
            {"X": {"good": lambda a: a}},
            says={"X": "input_normalization='zscore' has seen no data"},
        )
        for method in ("predict_logits", "predict_proba", "predict", "evaluate")
    ],
    Subject(
        "predict_proba, squared error",
        BatchNormMLP.predict_proba,
        given("squared_error", is_fitted=True, y=False),
        {"X": {"good": lambda a: a}},
        says={"X": "predict_proba: expected a loss of classes"},
    ),
    Subject(
        "save",
        BatchNormMLP.save,
        lambda folder: {"self": pickle.loads(pickled(LOSSES[0], True)), "path": folder / "new"},
        {"path": PATH | named("folder", "no/such", "text.csv/in")},
    ),
    Subject(
        "save, of numbers that are none",
        lambda what: _with(metadata={"what": what}).save("nowhere"),
        lambda folder: {},
        {"what": of({1}, b"1", np.nan, np.zeros(2), (1, 2), {1: 2}, object)},
        says={"what": "metadata: "},
    ),
    Subject(
        "save, of metadata that are none",
        lambda metadata: _with(metadata=metadata).save("nowhere"),
        lambda folder: {},
        {"metadata": of(3, None, [1], "a")},
    ),
    Subject(
        "load",
        BatchNormMLP.load,
        lambda folder: {"path": folder / "other.safetensors"},
        {"path": PATH | named(*MODEL_FILES, "folder", "nothing", "text.csv", "text.csv/in")},
    ),
    Subject(
        "restore",
        BatchNormMLP.restore,
        restoring,
        {
            "snapshot": of(None, 3, {}, [], {"steps": 1})
            | {
                "without a tensor": lambda s: {k: s[k] for k in s if k != "layers.0.beta"},
                "without steps": lambda s: {k: s[k] for k in s if k != "steps"},
                "one more": lambda s: {**s, "layers.2.beta": np.zeros(3)},
                "of another shape": lambda s: {**s, "layers.0.beta": np.zeros(1)},
                "of strings": lambda s: {**s, "layers.0.beta": np.array(["a"] * 5)},
                "no array": lambda s: {**s, "layers.0.beta": "a"},
                "negative steps": lambda s: {**s, "steps": -1},
                "floating steps": lambda s: {**s, "steps": 1.0},
                "no flag": lambda s: {**s, "input_is_fitted": "yes"},
                "of another model": lambda s: BatchNormMLP((4, 6, 3)).snapshot(),
            }
        },
    ),
    Subject(
        "EarlyStopping",
        EarlyStopping,
        lambda folder: {},
        {
            "patience": COUNT | of(None),
            "monitor": NAME | of(None),
            "min_delta": POSITIVE,
            "restore_best": FLAG,
        },
    ),
    Subject(
        "minibatch_bounds",
        minibatch_bounds,
        lambda folder: {"n_samples": 10, "batch_size": 4},
        {"n_samples": COUNT, "batch_size": COUNT},
    ),
    Subject(
        "plot_history",
        plot_history,
        history,
        {
            "history": of(None, 3, {"loss": [1.0]}) | {"no epochs": lambda _: fastbn.History()},
            "path": of(3, ["a"], "a\0b") | named("picture.xyz", "no/such.png", "folder.png"),
            "title": of(3, b"a", ["a"]),
        },
        needs=("matplotlib",),
    ),
    Subject(
        "profile_training",
        profile_training,
        lambda folder: {"model": pickle.loads(pickled(LOSSES[0], True))},
        {
            "model": of(None, 3, "model") | {"the class": lambda _: BatchNormMLP},
            "batch_size": COUNT | of(None, 1),
            "threads": COUNT | of(10**6),
            "steps": COUNT,
        },
    ),
]


def _with(**attributes: Any) -> BatchNormMLP:
    """Return a model with attributes of that value."""
    model = pickle.loads(pickled(LOSSES[0], True))
    for name, value in attributes.items():
        setattr(model, name, value)
    return model
