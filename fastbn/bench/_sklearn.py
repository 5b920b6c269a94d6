"""scikit-learn as a contestant, and `fastbn.sklearn` in the same fits."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from fastbn.bench import _numpy
from fastbn.bench import _work as constants
from fastbn.bench._work import BlasRunner, FitWork, Runner
from fastbn.sklearn import BatchNormMLPClassifier

ENOUGH = 0.9  # training accuracy of a right fit


class Scale(_numpy.Scale):
    """`StandardScaler.fit_transform`."""

    def once(self) -> None:
        self.last = [StandardScaler().fit_transform(self.x)]


class FitRunner(Runner):
    """Fits an estimator for all epochs, without early stopping."""

    estimator: Any

    def __init__(self, work: FitWork) -> None:
        self.work = work
        self.x, self.y = work.data()

    @property
    def settings(self) -> dict[str, Any]:
        """The parameters that both estimators have."""
        return {
            "hidden_layer_sizes": self.work.hidden, "batch_size": self.work.batch,
            "max_iter": self.work.epochs, "n_iter_no_change": self.work.epochs,
            "solver": "adam", "learning_rate_init": self.work.lr, "beta_1": constants.BETA1,
            "beta_2": constants.BETA2, "epsilon": constants.ADAM_EPS, "random_state": 0,
        }  # fmt: skip

    def run(self, times: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            super().run(times)

    def once(self) -> None:
        self.estimator.fit(self.x, self.y)

    def results(self) -> list[np.ndarray]:
        """Return the number of epochs; NaN if the estimator has not learned the data.

        The weights differ, since each library draws its own initial ones.
        """
        learned = self.estimator.score(self.x, self.y) > ENOUGH
        return [np.array(self.estimator.n_iter_ if learned else np.nan)]


class FastbnFit(FitRunner):
    """`BatchNormMLPClassifier`, with batch norm or without; the inputs are scaled already."""

    def __init__(self, work: FitWork, batch_norm: bool) -> None:
        super().__init__(work)
        self.estimator = BatchNormMLPClassifier(
            **self.settings, batch_norm=batch_norm, input_normalization=None
        )


class SklearnFit(BlasRunner, FitRunner):
    """`MLPClassifier`."""

    def __init__(self, work: FitWork, threads: int) -> None:
        FitRunner.__init__(self, work)
        BlasRunner.__init__(self, threads)
        self.estimator = MLPClassifier(**self.settings)
