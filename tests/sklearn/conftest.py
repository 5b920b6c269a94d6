"""Data sets for the tests of the estimators."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def iris():
    datasets = pytest.importorskip("sklearn.datasets")
    return datasets.load_iris(return_X_y=True)


@pytest.fixture(scope="session")
def diabetes():
    datasets = pytest.importorskip("sklearn.datasets")
    return datasets.load_diabetes(return_X_y=True)
