"""scikit-learn's own checks of estimators, all of them."""

from __future__ import annotations

from unittest import SkipTest

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
from sklearn.utils.estimator_checks import (
    check_estimator,
    check_sample_weight_equivalence_on_dense_data,
    parametrize_with_checks,
)

from fastbn.sklearn import BatchNormMLPClassifier, BatchNormMLPRegressor

# Weights against repeated samples to 1e-7, which is less than float32's rounding: that in float64.
IN_FLOAT64 = {check_sample_weight_equivalence_on_dense_data.__name__}

# What concerns array API estimators, and those with a decision_function.
OF_OTHERS = {
    "check_array_api_input",
    "check_classifiers_multilabel_output_format_decision_function",
}


IN_DOUBLE = [kind(dtype="float64") for kind in (BatchNormMLPClassifier, BatchNormMLPRegressor)]


@pytest.mark.filterwarnings("ignore")  # many checks do not wait for convergence
@parametrize_with_checks(IN_DOUBLE)
def test_checks(estimator, check):
    try:
        check(estimator)
    except SkipTest:
        assert check.func.__name__ in OF_OTHERS


@pytest.mark.filterwarnings("ignore")  # many checks do not wait for convergence
@pytest.mark.parametrize("kind", [BatchNormMLPClassifier, BatchNormMLPRegressor])
def test_all_checks_pass_in_float32(kind):
    done = check_estimator(kind(), on_skip=None, on_fail=None)
    by_status = {
        status: {one["check_name"] for one in done if one["status"] == status}
        for status in ("passed", "failed", "skipped")
    }
    assert by_status["failed"] == IN_FLOAT64
    assert by_status["skipped"] <= OF_OTHERS
    assert len(by_status["passed"]) > 50
