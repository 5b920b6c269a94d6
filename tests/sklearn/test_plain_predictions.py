"""Predictions of plain arrays, which scikit-learn need not check."""

from __future__ import annotations

import numpy as np
import pytest
from estimators import FAST, QUIET
from sklearn.exceptions import NotFittedError

from fastbn.sklearn import BatchNormMLPClassifier, BatchNormMLPRegressor, _base

pytestmark = QUIET

KINDS = [BatchNormMLPClassifier, BatchNormMLPRegressor]


class _Subclass(np.ndarray):
    pass


@pytest.fixture(params=KINDS)
def model(request, iris):
    return request.param(**FAST).fit(*iris)


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
@pytest.mark.parametrize("rows", [1, 100])
def test_a_plain_array_is_not_validated_again(model, iris, dtype, rows, monkeypatch):
    x = iris[0][:rows].astype(dtype)
    expected = model.predict(x.view(_Subclass))
    monkeypatch.setattr(_base, "validate_data", None)
    assert np.array_equal(model.predict(x), expected)
    assert np.array_equal(model.predict(x[:, ::-1][:, ::-1]), expected)
    with pytest.raises(TypeError, match="NoneType"):
        model.predict(x.tolist())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_errors_are_those_of_scikit_learn(model, iris, value, dtype):
    x = iris[0].astype(dtype)
    x[3, 1] = value
    with pytest.raises(ValueError, match=r"Input X contains (NaN|infinity)") as plain:
        model.predict(x)
    with pytest.raises(ValueError, match="Input X contains") as validated:
        model.predict(x.view(_Subclass))
    assert str(plain.value) == str(validated.value)


def test_numbers_beyond_float32_are_an_error_of_the_model(iris):
    model = BatchNormMLPClassifier(**FAST, input_normalization=None).fit(*iris)
    with pytest.raises(ValueError, match="X: expected finite numbers of float32"):
        model.predict(np.full((2, 4), 1e300))


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros((2, 3)), "X has 3 features"),
        (np.zeros((0, 4)), "0 sample"),
        (np.zeros(4), "Expected 2D array"),
        (np.zeros((2, 4), complex), "Complex data not supported"),
        (np.full((2, 4), "a"), "could not convert string"),
    ],
)
def test_other_arrays_are_refused(model, x, words):
    with pytest.raises(ValueError, match=words):
        model.predict(x)


@pytest.mark.parametrize("dtype", ["float16", "int64", "bool", ">f4", ">f8"])
def test_other_dtypes_are_converted(model, iris, dtype):
    x = iris[0].astype(dtype)
    assert np.array_equal(model.predict(x), model.predict(x.astype("float64")))


def test_an_array_without_the_names_of_the_features_gives_a_warning(model, iris):
    model.feature_names_in_ = np.array(list("abcd"), object)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.predict(iris[0])


@pytest.mark.parametrize("kind", KINDS)
def test_an_estimator_that_is_not_fitted_says_so(kind, iris):
    with pytest.raises(NotFittedError):
        kind().predict(iris[0])
