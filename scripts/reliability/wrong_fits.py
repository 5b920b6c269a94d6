"""Wrong calls that train a model."""

from __future__ import annotations

import numpy as np
from wrong_files import MODEL_FILES, named
from wrong_models import NO_SAMPLES, X, given
from wrong_subject import Subject
from wrong_values import COUNT, FLAG, LABELS, NAME, PATH, TARGETS, WEIGHT, Bad, of, with_one

from fastbn import BatchNormMLP, EarlyStopping

TO_TRAIN = (
    X
    | NO_SAMPLES
    | {
        "one sample": lambda a: a[:1],
        "too large": lambda a: np.copysign(1.7e308, a.astype(np.float64)),  # even to be scaled
    }
)
EITHER = {"X": r"(X|y)\b"}  # lengths that differ
NUMBERS: Bad = TARGETS | {
    "nan": with_one(np.nan),
    "infinite": with_one(np.inf),
    "two columns": lambda a: np.stack([a, a], axis=1),
}
FIT = {"epochs": 1, "batch_size": 4, "progress": False}
SEVERAL = {"sample_weight": np.ones(12)}

SUBJECTS = [
    Subject(
        "fit",
        BatchNormMLP.fit,
        given(**FIT, **SEVERAL),
        {
            "X": TO_TRAIN,
            "y": LABELS,
            "epochs": COUNT | of(None),
            "batch_size": COUNT | of(None, 1),
            "sample_weight": WEIGHT,
            "validation_data": of(3, "Xy", (1, 2, 3), ([[1.0]], [0]), (None, None))
            | {
                "no samples": lambda _: (np.zeros((0, 4)), np.zeros(0, int)),
                "floating labels": lambda _: (np.zeros((2, 4)), np.zeros(2)),
                "unknown labels": lambda _: (np.zeros((2, 4)), np.array([0, 3])),
                "nan": lambda _: (np.full((2, 4), np.nan), np.zeros(2, int)),
            },
            "shuffle": FLAG,
            "early_stopping": of(0, -1, 1.5, True, "yes", EarlyStopping(), [3])
            | of(EarlyStopping(monitor="val_accuracy")),
            "schedule": of("linear", 3, ["cosine"], 0.1)
            | {
                "negative": lambda _: lambda step: -1.0,
                "nan": lambda _: lambda step: np.nan,
                "a word": lambda _: lambda step: "slow",
                "nothing": lambda _: lambda step: None,
            },
            "until_accuracy": of(90, -0.1, "0.9", np.nan, True, np.array([0.5])),
            "callbacks": of(3, [3], [None], "ab", len),
            "progress": of("always", 2, None, 1, np.zeros(3), ["auto"]),
            "check_finite": FLAG,
            "on_divergence": NAME | of(None),
            "checkpoint_every": of(10),
        },
        says={"checkpoint_every": "checkpoint: expected a path", **EITHER},
    ),
    Subject(
        "fit, with a checkpoint",
        BatchNormMLP.fit,
        lambda folder: given(checkpoint=folder / "new", **FIT)(folder),
        {
            "checkpoint": {what: PATH[what] for what in PATH if what != "None"}
            | named("folder", "no/such", "text.csv/in"),
            "checkpoint_every": COUNT,
            "resume": FLAG,
        },
    ),
    Subject(
        "fit, to resume",
        BatchNormMLP.fit,
        lambda folder: given(checkpoint=folder / "new", resume=True, **FIT)(folder),
        {"checkpoint": named(*MODEL_FILES, "other.safetensors", "text.csv")},
    ),
    Subject(
        "fit, sigmoid",
        BatchNormMLP.fit,
        given("sigmoid_cross_entropy", **FIT),
        {"y": NUMBERS | {"above 1": lambda a: a + 1, "below 0": lambda a: a - 1}},
    ),
    Subject(
        "fit, squared error",
        BatchNormMLP.fit,
        given("squared_error", **FIT),
        {
            "y": NUMBERS | {"too large": lambda a: np.full(a.shape, 1e300)},
            "until_accuracy": of(0.9),
            "early_stopping": of(EarlyStopping(monitor="accuracy")),
        },
    ),
    Subject(
        "partial_fit",
        BatchNormMLP.partial_fit,
        given(**SEVERAL),
        {
            "X": TO_TRAIN,
            "y": LABELS,
            "batch_size": {what: COUNT[what] for what in COUNT if what != "None"} | of(1),
            "sample_weight": WEIGHT,
        },
        says=EITHER,
    ),
    Subject(
        "train_step",
        BatchNormMLP.train_step,
        given(**SEVERAL),
        {"X": TO_TRAIN, "y": LABELS, "sample_weight": WEIGHT},
        says=EITHER,
    ),
    *[
        Subject(
            f"{method}, few samples",
            lambda self, n, X, y, method=method, more=more: getattr(self, method)(
                X[:n], y[:n], **more
            ),
            given(),
            {"n": of(0, 1)},
            says={"n": "X: expected more samples to train on"},
        )
        for method, more in (("fit", FIT), ("partial_fit", {}), ("train_step", {}))
    ],
]
