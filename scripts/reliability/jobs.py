"""Random trainings, and a digest of all bits of their results."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np

from fastbn import BatchNormMLP, EarlyStopping, History

Job = dict[str, Any]  # JSON: sizes, rows, data_seed, has_weight, model, fit, ...

LOSSES = ("softmax_cross_entropy", "sigmoid_cross_entropy", "squared_error")


def draw_job(rng: np.random.Generator, **changes: Any) -> Job:
    """Draw a network, its options, the options of its fit, and its data."""

    def one_of(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    model = {
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
    if model["loss"] == "squared_error":
        model["target_normalization"] = one_of(None, "zscore")
    if model["optimizer"] == "sgd" and not model["batch_norm"]:
        model["lr"] = 1e-4  # larger ones diverge without normalization
    batch = int(rng.integers(4, 65))
    return {
        "sizes": [
            int(rng.integers(1, 60)),
            *rng.integers(1, 80, rng.integers(0, 3)).tolist(),
            int(rng.integers(2, 8)),
        ],
        "rows": int(batch * rng.integers(2, 9) + rng.integers(batch)),
        "data_seed": int(rng.integers(2**31)),
        "has_weight": one_of(True, False),
        "model": model,
        "fit": {
            "epochs": int(rng.integers(1, 5)),
            "batch_size": batch,
            "schedule": one_of(None, "cosine", "one-cycle", "exponential"),
            "shuffle": one_of(True, False),
        },
        "patience": one_of(None, 1, 3),  # of early stopping
        "validated": one_of(True, False),
        "explodes": None,  # a step whose learning rate is far too large
        **changes,
    }


def data_of(job: Job, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return X, y and the weights of the samples."""
    rng = np.random.default_rng([job["data_seed"], seed])
    rows, outputs = job["rows"], job["sizes"][-1]
    x = rng.standard_normal((rows, job["sizes"][0])) * 3 + 1
    y: Any = rng.integers(0, outputs, rows)
    if job["model"]["loss"] != "softmax_cross_entropy":
        y = rng.random((rows, outputs))
    return x, y, rng.uniform(0.5, 2, rows) if job["has_weight"] else None


def model_of(job: Job) -> BatchNormMLP:
    """Return the untrained model, without its warning about a poor fit."""
    model = BatchNormMLP(job["sizes"], **job["model"])
    model._engine.warns_of_mean = False
    return model


def digest_of(model: BatchNormMLP, x: np.ndarray, history: History | None = None) -> str:
    """Return a digest of parameters, moments, statistics, scaling, predictions and history."""
    digest = hashlib.sha256()
    for name, value in sorted(model.snapshot().items()):
        digest.update(name.encode() + np.asarray(value).tobytes())
    digest.update(model.predict_logits(x).tobytes())
    if history is not None:
        facts = dataclasses.asdict(history)
        del facts["seconds"]
        digest.update(json.dumps(facts).encode())
    return digest.hexdigest()


def fit(job: Job, model: BatchNormMLP, **options: Any) -> History:
    """Train a model as in the job; `options` override arguments of `fit`."""
    x, y, weight = data_of(job)
    given = {**job["fit"], "progress": False}
    if job["validated"]:
        given["validation_data"] = data_of(job, seed=1)[:2]
    if job["patience"] is not None:
        monitor = "val_loss" if job["validated"] else "loss"
        given["early_stopping"] = EarlyStopping(job["patience"], monitor, min_delta=0.01)
    if job["explodes"] is not None:
        rate = job["model"]["lr"]
        given["schedule"] = lambda step: 1e30 if step == job["explodes"] else rate
    return model.fit(x, y, sample_weight=weight, **given | options)


def train(job: Job, **options: Any) -> str:
    """Train a new model as in the job; return its digest."""
    model = model_of(job)
    history = fit(job, model, **options)
    return digest_of(model, data_of(job)[0], history)
