"""Unusual but valid training runs give no warnings, and finite results."""

from __future__ import annotations

import importlib
import warnings

import numpy as np
import pytest

import fastbn
from fastbn import BatchNormMLP, EarlyStopping, datasets

RNG = np.random.default_rng(1)
X = RNG.normal(size=(12, 4)).astype(np.float32)
Y = np.arange(12) % 3
CONSTANT = np.concatenate([X[:, :3], np.full((12, 1), 7, np.float32)], axis=1)
TARGETS = (RNG.uniform(size=(12, 4)) > 0.5) * 1
LATE = np.arange(12.0) // 4  # the weights of the first minibatch are 0

# X, y, sizes, and options of the model and of fit.
TRAININGS = {
    "a generator of sizes": (X, Y, lambda: (n for n in (4, 5, 3)), {}, {}),
    "sizes of NumPy's": (X, Y, lambda: np.array([4, 5, 3], np.uint8), {}, {}),
    "a constant feature": (CONSTANT, Y, None, {"input_normalization": "zscore"}, {}),
    "a constant feature, minmax": (CONSTANT, Y, None, {"input_normalization": "minmax"}, {}),
    "all features constant": (X * 0, Y, None, {"input_normalization": "zscore"}, {}),
    "one class": (X, Y * 0, None, {}, {}),
    "a batch beyond the data": (X, Y, None, {}, {"batch_size": 10**6}),
    "truths": (X > 0, Y, None, {}, {}),
    "lists": (X.tolist(), Y.tolist(), None, {}, {}),
    "a minibatch without weight": (X, Y, None, {}, {"sample_weight": LATE, "shuffle": False}),
    "the same, weighted": (
        X, Y, None, {"weighted": True}, {"sample_weight": LATE, "shuffle": False},
    ),
    "constant targets": (X, Y * 0.0, lambda: (4, 1), {"loss": "squared_error"}, {}),
    "early stopping of an epoch": (
        X, Y, None, {}, {"early_stopping": EarlyStopping(patience=1, monitor="loss"), "epochs": 3},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TRAININGS)
def test_a_training_is_finite(case):
    x, y, sizes, config, options = TRAININGS[case]
    model = BatchNormMLP(sizes() if sizes else (4, 5, 3), **config)
    history = model.fit(x, y, **{"epochs": 2, "batch_size": 4, "progress": False} | options)
    assert model._engine.is_finite()
    assert np.isfinite(history.loss).all()
    assert np.isfinite(model.predict_logits(np.asarray(x))).all()


def table():
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(X, columns=list("abcd"))


ESTIMATORS = {
    "one class": ("Classifier", lambda: X, Y * 0, {}),
    "constant features": ("Classifier", lambda: X * 0, Y, {}),
    "names": ("Classifier", lambda: X, np.array(["a", "b", "c"])[Y], {}),
    "numbers of classes": ("Classifier", lambda: X, Y * 1.0, {}),
    "labels": ("Classifier", lambda: X, TARGETS, {}),
    "a batch beyond the data": ("Classifier", lambda: X, Y, {"batch_size": 10**6}),
    "a table": ("Classifier", table, Y, {}),
    "constant targets": ("Regressor", lambda: X, Y * 0, {}),
    "vast targets": ("Regressor", lambda: X.astype(float), Y * 1e200, {}),
    "two targets": ("Regressor", lambda: X, TARGETS * 1.0, {}),
}


@pytest.mark.parametrize("case", ESTIMATORS)
def test_an_estimator_predicts(case):
    """A classifier predicts classes of its training data, a regressor finite numbers."""
    pytest.importorskip("sklearn")
    kind, make, y, parameters = ESTIMATORS[case]
    estimator = getattr(importlib.import_module("fastbn.sklearn"), f"BatchNormMLP{kind}")(
        hidden_layer_sizes=(3,), max_iter=1, random_state=0, **parameters
    )
    x = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one epoch is not enough
        said = estimator.fit(x, y).predict(x)
    if kind == "Classifier":
        assert set(np.ravel(said)) <= set(np.ravel(y))
    else:
        assert np.isfinite(said).all()


def test_pytorchs_batch_norm_predicts_one_sample():
    torch = pytest.importorskip("torch")
    ours = importlib.import_module("fastbn.torch")
    x = torch.from_numpy(X[:1])
    assert torch.equal(ours.BatchNorm1d(4).eval()(x), torch.nn.BatchNorm1d(4).eval()(x))


def test_a_loss_that_is_nan_is_drawn():
    pytest.importorskip("matplotlib")
    plotting = importlib.import_module("fastbn.plotting")
    history = fastbn.History(loss=[1.0, np.nan], accuracy=[0.5, 0.5])
    assert plotting.plot_history(history).axes[0].get_title(loc="left") == "Loss (cross-entropy)"


def test_paths_that_are_strings(tmp_path):
    BatchNormMLP((2, 2)).save(tmp_path / "model")
    (tmp_path / "good.csv").write_text("a,b,kind\n" + "1,2,a\n3,4,b\n" * 5)
    model = BatchNormMLP.load(str(tmp_path / "model"))
    found = datasets.load(str(tmp_path / "good.csv"))
    assert len(found.class_names) == model.config.layer_sizes[1]
