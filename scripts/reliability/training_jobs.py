"""Drawn trainings, and what came of one: a digest of every bit."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from fastbn import BatchNormMLP

Job = dict[str, Any]  # sizes, rows, batch, epochs, options and data_seed: JSON can hold it

LOSSES = ("softmax_cross_entropy", "sigmoid_cross_entropy", "squared_error")


def draw_job(rng: np.random.Generator) -> Job:
    """Draw a net of a few layers, its options and its data."""

    def one_of(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    hidden = rng.integers(1, 80, rng.integers(0, 3)).tolist()
    batch = int(rng.integers(4, 65))
    options = {
        "dtype": one_of("float32", "float32", "float64"),
        "activation": one_of("leaky_relu", "relu", "tanh", "logistic"),
        "batch_norm": one_of(True, True, False),
        "optimizer": one_of("adam", "adamw", "sgd", "rmsprop"),
        "loss": one_of(*LOSSES),
        "input_normalization": one_of(None, "zscore", "minmax"),
        "dropout": one_of(0.0, 0.0, 0.3),
        "weight_decay": one_of(0.0, 0.01),
        "max_norm": one_of(None, 0.5),
        "weighted": one_of(True, False),
        "lr": 0.01,
        "seed": int(rng.integers(2**31)),
    }
    if options["loss"] == "squared_error":
        options["target_normalization"] = one_of(None, "zscore")
    if options["optimizer"] == "sgd" and not options["batch_norm"]:
        options["lr"] = 1e-4  # what is not normalized would diverge
    return {
        "sizes": [int(rng.integers(1, 60)), *hidden, int(rng.integers(2, 8))],
        "rows": int(batch * rng.integers(2, 9) + rng.integers(batch)),
        "batch": batch,
        "epochs": int(rng.integers(1, 5)),
        "has_weight": one_of(True, False),
        "options": options,
        "data_seed": int(rng.integers(2**31)),
    }


def data_of(job: Job) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return X, y and the weights of the samples."""
    rng = np.random.default_rng(job["data_seed"])
    rows, outputs = job["rows"], job["sizes"][-1]
    x = rng.standard_normal((rows, job["sizes"][0])) * 3 + 1
    y: Any = rng.integers(0, outputs, rows)
    if job["options"]["loss"] != "softmax_cross_entropy":
        y = rng.random((rows, outputs))
    return x, y, rng.uniform(0.5, 2, rows) if job["has_weight"] else None


def model_of(job: Job) -> BatchNormMLP:
    """Return the model before its training, which may be too short to learn anything."""
    model = BatchNormMLP(job["sizes"], **job["options"])
    model._warns_of_mean = False
    return model


def digest_of(model: BatchNormMLP, x: np.ndarray) -> str:
    """Digest of parameters, moments, running statistics, input scaling and predictions."""
    digest = hashlib.sha256()
    for name, value in sorted(model.snapshot().items()):
        digest.update(name.encode() + np.asarray(value).tobytes())
    digest.update(model.predict_logits(x).tobytes())
    return digest.hexdigest()


def train(job: Job, **options: Any) -> str:
    """Train as a job says, with more options of `fit`; return the digest."""
    model, (x, y, weight) = model_of(job), data_of(job)
    fit = {"epochs": job["epochs"], "batch_size": job["batch"], "sample_weight": weight}
    model.fit(x, y, **fit, **options)
    return digest_of(model, x)
