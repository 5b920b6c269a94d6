"""Outputs of the estimators: dtypes, probabilities, a single class, read-only weights."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from estimators import QUIET
from sklearn.datasets import make_gaussian_quantiles
from sklearn.model_selection import train_test_split
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor

from fastbn.sklearn import BatchNormMLPClassifier, BatchNormMLPRegressor

pytestmark = QUIET

FAST = {"hidden_layer_sizes": 8, "max_iter": 5, "random_state": 0, "learning_rate_init": 0.01}


def targets(kind, X):
    """Return targets of each kind for samples X."""
    return {
        "one number": X[:, 0], "numbers": X[:, :2], "two": (X[:, 0] > 0).astype(int),
        "three": np.digitize(X[:, 0], [-0.5, 0.5]), "labels": (X[:, :3] > 0).astype(int),
        "one class": np.array(["spam"] * len(X)),
    }[kind]  # fmt: skip


KINDS = ["one number", "numbers", "two", "three", "labels", "one class"]


def outputs(model, X):
    """Return the numbers that a model predicts."""
    if hasattr(model, "predict_proba"):
        return [model.predict_proba(X), model.predict_log_proba(X)]
    return [model.predict(X)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_predictions_have_the_dtype_of_the_samples(rng, kind, dtype):
    """As in scikit-learn: float32 for float32, and float64 for everything else."""
    X = rng.integers(-4, 5, (80, 4)).astype(float)
    y = targets(kind, X)
    is_regressor = y.dtype.kind == "f"
    ours = (BatchNormMLPRegressor if is_regressor else BatchNormMLPClassifier)(**FAST, dtype=dtype)
    theirs = (MLPRegressor if is_regressor else MLPClassifier)(**FAST)
    for fitted_on in (np.float32, np.float64):
        ours.fit(X.astype(fitted_on), y)
        assert ours.model_.dtype == dtype
        assert ours.coefs_[0].dtype == np.float64
        expected = outputs(ours, X)
        for other in (np.float64, np.float32, np.float16, np.int64, np.int8, bool, list):
            inputs = X.tolist() if other is list else X.astype(other)
            found = outputs(ours, inputs)
            want = np.float32 if other is np.float32 else np.float64
            assert [array.dtype for array in found] == [want] * len(found), other
            if other is not bool:  # whose samples differ
                for a, b in zip(found, expected, strict=True):
                    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        theirs.fit(X.astype(fitted_on), y)
        for other in (np.float32, np.float64):
            if fitted_on == other:  # scikit-learn's weights have this dtype
                dtypes = [array.dtype for array in outputs(theirs, X.astype(other))]
                assert [array.dtype for array in outputs(ours, X.astype(other))] == dtypes
    of_bytes = outputs(ours, (X + 4).astype(np.uint8))
    assert [array.dtype for array in of_bytes] == [np.float64] * len(of_bytes)
    json.dumps([float(array.flat[0]) for array in of_bytes] + list(expected[0].ravel()))


@pytest.mark.parametrize("kind", ["two", "three"])
def test_probabilities_sum_to_one_in_float64(rng, kind):
    X = 10 * rng.standard_normal((500, 4))
    model = BatchNormMLPClassifier(**FAST).fit(X, targets(kind, X))
    p = model.predict_proba(X)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=0, atol=4e-16)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), p, rtol=1e-13)
    single = model.predict_proba(X.astype(np.float32))
    np.testing.assert_allclose(single.astype(np.float64).sum(axis=1), 1, rtol=0, atol=2e-7)


def test_a_large_offset_is_scaled_in_float64(rng):
    """X has Julian dates, of which float32 resolves a quarter of a day."""
    t = rng.uniform(0, 0.1, 1500)
    X = np.c_[2459000.5 + t, rng.standard_normal(1500)]
    near = np.c_[t, X[:, 1]]
    y = t > 0.05
    options = {**FAST, "max_iter": 60}
    model = BatchNormMLPClassifier(**options).fit(X, y)
    assert model.score(X, y) > 0.95
    other = BatchNormMLPClassifier(**options).fit(near, y)
    np.testing.assert_allclose(model.predict_proba(X), other.predict_proba(near), atol=1e-2)
    regressor = BatchNormMLPRegressor(**options).fit(X, t)
    assert regressor.score(X, t) > 0.9
    for _ in range(60):
        model.partial_fit(X, y)
    assert model.score(X, y) > 0.95


def test_predictions_that_float32_does_not_hold(rng):
    X = rng.standard_normal((60, 4))
    model = BatchNormMLPRegressor(**FAST).fit(X, X[:, 0] * 1e200)
    assert np.isfinite(model.predict(X)).all()
    with pytest.raises(
        ValueError, match="X: expected a dtype that holds the predictions, got float32"
    ):
        model.predict(X.astype(np.float32))


# -- a single class --------------------------------------------------------------------------------

# Its probability is 1, and there is a column of zeros, as in scikit-learn's MLPClassifier.
CERTAIN, LOG_CERTAIN = np.tile([1.0, 0.0], (80, 1)), np.tile([0.0, -np.inf], (80, 1))


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_single_class_is_certain(rng, dtype, early_stopping):
    X = rng.standard_normal((60, 4)).astype(dtype)
    y = np.array(["spam"] * 60)
    model = BatchNormMLPClassifier(**FAST, early_stopping=early_stopping, warm_start=True)
    for _ in range(2):  # with a warm start
        model.fit(X, y)
        assert list(model.classes_) == ["spam"]
        assert np.array_equal(model.predict(X), y)
        assert np.array_equal(model.predict_proba(X), CERTAIN[:60])
        assert np.array_equal(model.predict_log_proba(X), LOG_CERTAIN[:60])
        assert model.predict_proba(X).dtype == model.predict_log_proba(X).dtype == dtype
        assert model.score(X, y) == 1
    parts = BatchNormMLPClassifier(**FAST, class_weight={"spam": 2})
    for _ in range(3):
        parts.partial_fit(X, y, classes=["spam"])
    assert np.array_equal(parts.predict_proba(X), CERTAIN[:60])
    assert np.array_equal(parts.predict(X), y)


def test_a_label_that_is_constant(rng):
    X = rng.standard_normal((80, 4))
    Y = np.c_[X[:, 0] > 0, np.zeros(80), np.ones(80)].astype(int)
    model = BatchNormMLPClassifier(**{**FAST, "max_iter": 40})
    for meta in (MultiOutputClassifier(model), ClassifierChain(model)):
        said = meta.fit(X, Y).predict(X)
        assert np.array_equal(said[:, 1:], Y[:, 1:])
        assert (said[:, 0] == Y[:, 0]).mean() > 0.8
    p = MultiOutputClassifier(model).fit(X, Y).predict_proba(X)
    assert [one.shape for one in p] == [(80, 2)] * 3
    assert np.array_equal(p[1], CERTAIN)
    parts = MultiOutputClassifier(model).partial_fit(X, Y, classes=[[0, 1], [0], [1]])
    assert np.array_equal(parts.predict(X)[:, 1:], Y[:, 1:])
    assert np.array_equal(parts.predict_proba(X)[2], CERTAIN)
    chain = ClassifierChain(model).fit(X, Y)
    assert chain.predict_proba(X).shape == (80, 3)
    assert np.array_equal(chain.predict_proba(X)[:, 2], np.ones(80))
    assert model.fit(X, Y).predict_proba(X).shape == (80, 3)  # several labels of one network


# -- read-only weights, verbose output -------------------------------------------------------------


@pytest.mark.parametrize("kind", [BatchNormMLPClassifier, BatchNormMLPRegressor])
@pytest.mark.parametrize("options", [{}, {"batch_norm": False, "input_normalization": None}])
def test_coefs_are_read_only(rng, kind, options):
    X = rng.standard_normal((60, 4))
    model = kind(**FAST, **options).fit(X, targets("three", X))
    before = model.predict(X)
    for arrays in (model.coefs_, model.intercepts_):
        for array in arrays:
            assert not array.flags.writeable
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0
    assert np.array_equal(model.predict(X), before)
    assert model.coefs_[0].copy().flags.writeable
    with pytest.raises(AttributeError):
        model.coefs_ = model.coefs_


@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize("kind", [BatchNormMLPClassifier, BatchNormMLPRegressor])
def test_verbose_without_a_terminal(rng, monkeypatch, kind, name):
    """pythonw and services have no stdout or stderr."""
    X = rng.standard_normal((60, 4))
    y = targets("two", X)
    monkeypatch.setattr(sys, name, None)
    for early_stopping in (False, True):
        model = kind(**FAST, verbose=True, early_stopping=early_stopping).fit(X, y)
        assert model.n_iter_ == 5
        assert model.set_params(early_stopping=False).partial_fit(X, y).n_iter_ == 1


def test_the_last_layer_is_not_normalized_by_default():
    """Normalized outputs are eight points less accurate on these overlapping classes."""
    X, y = make_gaussian_quantiles(n_samples=1500, n_features=10, n_classes=3, random_state=0)
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.25, random_state=0, stratify=y)
    accuracies = []
    for options in ({}, {"batch_norm_output": True}):
        model = BatchNormMLPClassifier(random_state=0, **options).fit(X, y)
        assert model.model_.config.batch_norm_output == bool(options)
        accuracies.append(model.score(X_test, y_test))
    assert accuracies[0] > 0.78
    assert accuracies[0] > accuracies[1] + 0.04
