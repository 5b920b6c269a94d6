"""Helpers for the tests of the scikit-learn estimators."""

from __future__ import annotations

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

# Short fits neither converge nor predict well.
QUIET = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning",
    "ignore:the fit ends worse than the mean:UserWarning",
)

FAST = {"hidden_layer_sizes": 16, "max_iter": 30, "random_state": 0, "learning_rate_init": 0.01}
