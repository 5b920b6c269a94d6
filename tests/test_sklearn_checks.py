"""scikit-learn's own checks of estimators, all of them."""

from __future__ import annotations

import warnings

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils.estimator_checks import check_estimator

from fastbn.sklearn import BatchNormMLPClassifier, BatchNormMLPRegressor

# Weights against repeated samples to 1e-7, which is less than float32's rounding.
FLOAT32 = {"check_sample_weight_equivalence_on_dense_data"}


def results(estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # many checks do not wait for convergence
        done = check_estimator(estimator, on_skip=None, on_fail=None)
    return {
        status: {one["check_name"] for one in done if one["status"] == status}
        for status in ("passed", "failed", "skipped")
    }


@pytest.mark.parametrize(
    ("estimator", "theirs", "expected"),
    [
        (BatchNormMLPClassifier(dtype="float64"), MLPClassifier(), set()),
        (BatchNormMLPRegressor(dtype="float64"), MLPRegressor(), set()),
        (BatchNormMLPClassifier(), MLPClassifier(), FLOAT32),
        (BatchNormMLPRegressor(), MLPRegressor(), FLOAT32),
    ],
    ids=["classifier-float64", "regressor-float64", "classifier-float32", "regressor-float32"],
)
def test_all_checks_pass(estimator, theirs, expected):
    ours, others = results(estimator), results(theirs)
    assert ours["failed"] == expected
    assert others["failed"] == set()
    # what does not concern an estimator that is no array API one, and has no decision_function
    assert ours["skipped"] <= others["skipped"]
    assert len(ours["passed"]) >= len(others["passed"]) - len(expected) > 50
