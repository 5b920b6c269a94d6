"""scikit-learn estimators with the parameters and attributes of its own multilayer perceptrons.

from fastbn.sklearn import BatchNormMLPClassifier, BatchNormMLPRegressor
"""

from __future__ import annotations

from fastbn.errors import missing_extra

try:
    import sklearn  # noqa: F401
except ImportError:
    raise missing_extra("fastbn.sklearn", "scikit-learn", "sklearn") from None

from fastbn.sklearn._classifier import BatchNormMLPClassifier
from fastbn.sklearn._regressor import BatchNormMLPRegressor

__all__ = ["BatchNormMLPClassifier", "BatchNormMLPRegressor"]


def __dir__() -> list[str]:
    return __all__
