"""Wrong calls of the NumPy API."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from wrong_subject import Subject
from wrong_values import (
    BATCH,
    COUNT,
    FLAG,
    LABELS,
    NAME,
    NO_FLOATS,
    NUMBER,
    OUT,
    PAIR,
    POSITIVE,
    SHARE,
    STATE,
    TARGETS,
    VECTOR,
    WEIGHT,
    of,
)

import fastbn

# Integers that no kernel can count to.
HUGE = of(10**30, 10**400)


def numbers(*shape: int) -> np.ndarray:
    """Return positive float32 numbers."""
    return np.random.default_rng(1).uniform(0.5, 1.0, shape).astype(np.float32)


def arrays(**shapes: tuple[int, ...]) -> Callable[[pathlib.Path], dict[str, Any]]:
    """Return what makes arguments of these shapes."""
    return lambda folder: {name: numbers(*shape) for name, shape in shapes.items()}


def labelled(folder: pathlib.Path) -> dict[str, Any]:
    """Arguments of softmax cross-entropy."""
    return {"logits": numbers(4, 3), "labels": np.arange(4) % 3, "sample_weight": numbers(4)}


ONE_SAMPLE = {"one sample": lambda a: a[:1]}
THREE = {"three dimensions": lambda a: a[None]}
NEGATIVE = {"negative": lambda a: -a}
ACTIVATION = {
    "layout": NAME | of(None, "NHWC"), "activation": NAME, "negative_slope": NUMBER | of(1e300)
}  # fmt: skip
BATCH_NORM = {"x": (4, 3), "gamma": (3,), "beta": (3,), "out": (4, 3)}
STATISTICS = {"running_mean": (3,), "running_var": (3,)}
NORM = of(0.0, -1.0, "1", True, np.nan)

SUBJECTS = [
    Subject(
        "batch_statistics",
        fastbn.batch_statistics,
        arrays(x=(4, 3)),
        {"x": NO_FLOATS | BATCH, "layout": NAME | of(None)},
    ),
    Subject(
        "batch_norm",
        fastbn.batch_norm,
        arrays(**BATCH_NORM),
        {
            "x": NO_FLOATS | BATCH | ONE_SAMPLE,
            "gamma": VECTOR,
            "beta": VECTOR,
            "eps": POSITIVE,
            "out": OUT,
            **ACTIVATION,
        },
    ),
    Subject(
        "batch_norm, feature-major",
        lambda **arguments: fastbn.batch_norm(layout="CN", **arguments),
        arrays(x=(3, 4), gamma=(3,), out=(3, 4)),
        {"x": THREE | {"one sample": lambda a: a[:, :1]}, "gamma": VECTOR, "out": OUT},
    ),
    Subject(
        "batch_norm, images",
        fastbn.batch_norm,
        arrays(x=(2, 3, 4, 4), gamma=(3,), out=(2, 3, 4, 4)),
        {
            "x": {"one pixel": lambda a: a[:1, :, :1, :1], "none": lambda a: a[:, :, :0]},
            "gamma": {"of a pixel": lambda a: np.ones(4, a.dtype)},
            "out": {"flat": lambda a: a.reshape(2, -1), "over itself": OUT["over itself"]},
        },
    ),
    Subject(
        "batch_norm_backward",
        fastbn.batch_norm_backward,
        arrays(dy=(4, 3), mean=(3,), rstd=(3,), **BATCH_NORM),
        {
            "dy": NO_FLOATS | {"of another shape": lambda a: a[:3], "a row": lambda a: a[0]},
            "x": NO_FLOATS | BATCH | ONE_SAMPLE,
            "gamma": VECTOR,
            "beta": VECTOR,
            "mean": VECTOR | of(None),
            "rstd": VECTOR | of(None),
            "gradient": NAME | of(None),
            "out": OUT,
            **ACTIVATION,
        },
    ),
    Subject(
        "batch_norm_inference",
        fastbn.batch_norm_inference,
        arrays(**BATCH_NORM, **STATISTICS),
        {
            "x": NO_FLOATS | {name: BATCH[name] for name in BATCH if name != "no samples"},
            "running_mean": VECTOR | of(None),
            "running_var": VECTOR | NEGATIVE | of(None),
            "gamma": VECTOR,
            "beta": VECTOR,
            "eps": POSITIVE,
            "out": OUT,
            **ACTIVATION,
        },
    ),
    Subject(
        "update_running_statistics",
        fastbn.update_running_statistics,
        lambda folder: {
            **arrays(mean=(3,), var=(3,), **STATISTICS)(folder),
            "n": 4,
            "num_batches_tracked": 1,
        },
        {
            "running_mean": {name: STATE[name] for name in STATE if name != "too small"}
            | {"a matrix": lambda a: a[None]},
            "running_var": STATE,
            "mean": VECTOR | of(None),
            "var": VECTOR | NEGATIVE | of(None),
            "n": COUNT | HUGE,
            "momentum": {what: SHARE[what] for what in SHARE if what != "None"},
            "unbiased": FLAG,
        },
        says={"running_mean": "running_(mean|var)"},
    ),
    Subject(
        "update_running_statistics, cumulative",
        lambda **given: fastbn.update_running_statistics(n=4, momentum=None, **given),
        arrays(mean=(3,), var=(3,), **STATISTICS),
        {"num_batches_tracked": of(None, -1, 1.5, True, "1", 10**400)},
    ),
    Subject(
        "fold_batch_norm",
        fastbn.fold_batch_norm,
        arrays(W=(3, 2), gamma=(3,), beta=(3,), **STATISTICS),
        {
            "W": NO_FLOATS | {"one dimension": lambda a: a[0], "a number": lambda a: a[0, 0]},
            "gamma": VECTOR,
            "beta": VECTOR,
            "running_mean": VECTOR | of(None),
            "running_var": VECTOR | NEGATIVE | of(None),
            "eps": POSITIVE,
        },
    ),
    Subject(
        "softmax_cross_entropy",
        fastbn.softmax_cross_entropy,
        labelled,
        {
            "logits": NO_FLOATS | BATCH,
            "labels": LABELS,
            "sample_weight": WEIGHT,
            "label_smoothing": SHARE,
            "layout": NAME | of(None),
        },
    ),
    Subject(
        "softmax_cross_entropy, images",
        fastbn.softmax_cross_entropy,
        lambda folder: {"logits": numbers(2, 3, 4), "labels": np.zeros((2, 4), int)},
        {"labels": {"of images": lambda a: a[:, 0], "flat": np.ravel}},
    ),
    Subject(
        "sigmoid_cross_entropy",
        fastbn.sigmoid_cross_entropy,
        arrays(logits=(4, 3), targets=(4, 3), sample_weight=(4,)),
        {
            "logits": NO_FLOATS | BATCH,
            "targets": {
                **TARGETS,
                "above 1": lambda a: a + 1,
                "below 0": lambda a: a - 1,
                "nan": lambda a: a * np.nan,
            },
            "sample_weight": WEIGHT,
            "label_smoothing": SHARE,
            "layout": NAME | of(None),
        },
    ),
    Subject(
        "squared_error",
        fastbn.squared_error,
        arrays(outputs=(4, 3), targets=(4, 3), sample_weight=(4,)),
        {
            "outputs": NO_FLOATS | BATCH,
            "targets": TARGETS | {"too large": lambda a: np.full(a.shape, 1e300)},
            "sample_weight": WEIGHT,
            "layout": NAME | of(None),
        },
    ),
    Subject(
        "adam_step",
        fastbn.adam_step,
        lambda folder: {**arrays(param=(5,), grad=(5,), m=(5,), v=(5,))(folder), "step": 1},
        {
            "param": {name: STATE[name] for name in STATE if name not in ("too small",)}
            | {"no array": lambda a: 3.0},
            "grad": NO_FLOATS | {"too small": lambda a: a[:-1], "wider": lambda a: a.astype(float)},
            "m": STATE,
            "v": STATE,
            "step": COUNT | HUGE,
            "lr": POSITIVE,
            "betas": PAIR | of((1.0, 0.9), (0.9, 1.0), (-0.1, 0.9)),
            "eps": POSITIVE,
            "weight_decay": POSITIVE,
            "decoupled": FLAG,
            "max_norm": NORM,
        },
        says={"param": "(param|grad|m|v): "},
    ),
    Subject(
        "sgd_step",
        fastbn.sgd_step,
        arrays(param=(5,), grad=(5,), m=(5,)),
        {
            "grad": {"too small": lambda a: a[:-1], "ragged": NO_FLOATS["ragged"]},
            "m": STATE,
            "lr": POSITIVE,
            "momentum": SHARE | of(1.0),
            "nesterov": FLAG,
            "weight_decay": POSITIVE,
            "max_norm": NORM,
        },
    ),
    Subject(
        "rmsprop_step",
        fastbn.rmsprop_step,
        arrays(param=(5,), grad=(5,), v=(5,)),
        {
            "grad": {"too small": lambda a: a[:-1], "ragged": NO_FLOATS["ragged"]},
            "v": STATE,
            "lr": POSITIVE,
            "alpha": SHARE | of(1.0),
            "eps": POSITIVE,
            "weight_decay": POSITIVE,
            "max_norm": NORM,
        },
    ),
    Subject(
        "min_max_scale",
        fastbn.min_max_scale,
        lambda folder: {
            "x": numbers(4, 3),
            "minimum": numbers(3) - 1,
            "maximum": numbers(3) + 1,
            "out": numbers(4, 3),
        },
        {
            "x": NO_FLOATS | THREE | {"one dimension": lambda a: a[0]},
            "minimum": VECTOR | of(None),
            "maximum": VECTOR | of(None) | {"below the minimum": lambda a: a - 5},
            "feature_range": PAIR | of((1, 0), (1, 1), (0, np.inf), "ab"),
            "layout": NAME | of(None),
            "out": OUT,
        },
    ),
    Subject(
        "standardize",
        fastbn.standardize,
        arrays(x=(4, 3), mean=(3,), std=(3,), out=(4, 3)),
        {
            "x": NO_FLOATS | THREE | {"one dimension": lambda a: a[0]},
            "mean": VECTOR | of(None),
            "std": VECTOR | NEGATIVE | of(None),
            "layout": NAME | of(None),
            "out": OUT,
        },
    ),
    Subject(
        "min_max_scale, measured",
        fastbn.min_max_scale,
        arrays(x=(4, 3)),
        {"x": {name: BATCH[name] for name in ("no samples", "no features")}},
    ),
    Subject(
        "standardize, measured",
        fastbn.standardize,
        arrays(x=(4, 3)),
        {"x": {name: BATCH[name] for name in ("no samples", "no features")}},
    ),
]
