"""Checks of the estimators' parameters, and their conversion to the model's arguments."""

from __future__ import annotations

import contextlib
import numbers
import warnings
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import InvalidParameterError

from fastbn.checks import choice, flag, integer, number
from fastbn.model.config import MAX_LAYER
from fastbn.options import DecoupledOptimizer
from fastbn.sklearn._parameters import LearningRate, Solver

AUTO_BATCH = 200  # samples, as in scikit-learn


@contextlib.contextmanager
def invalid_parameters() -> Iterator[None]:
    """Raise errors as scikit-learn's own, which is both a ValueError and a TypeError."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise InvalidParameterError(str(error)) from error


class EstimatorSettings(BaseEstimator):
    """Base class with the methods that use only the parameters."""

    def _check_parameters(self) -> None:
        """Check the parameters that the model does not check under the same name."""
        choice("solver", self.solver, get_args(Solver))
        choice("learning_rate", self.learning_rate, get_args(LearningRate))
        for name in ("alpha", "tol", "power_t", "batch_norm_eps"):
            number(name, getattr(self, name), 0.0)
        for name in ("learning_rate_init", "epsilon"):
            number(name, getattr(self, name), 0.0, open_low=True)
        for name in ("beta_1", "beta_2", "momentum", "validation_fraction"):
            number(name, getattr(self, name), 0.0, 1.0, open_high=True)
        number("batch_norm_momentum", self.batch_norm_momentum, 0.0, 1.0)
        for name in ("batch_norm", "shuffle", "warm_start", "early_stopping", "nesterovs_momentum"):
            flag(name, getattr(self, name))
        if not isinstance(self.verbose, bool | np.bool_ | numbers.Integral):
            raise TypeError(f"verbose: expected True, False or an int, got {self.verbose!r:.200}")
        integer("max_iter", self.max_iter, 1)
        if self.n_iter_no_change != np.inf:
            integer("n_iter_no_change", self.n_iter_no_change, 1)
        if isinstance(self.batch_size, str):
            choice("batch_size", self.batch_size, ["auto"])
        else:
            integer("batch_size", self.batch_size, 1)
        if self.n_threads is not None:
            integer("n_threads", self.n_threads, 1)
        if self.schedule is not None and self.learning_rate != "constant":
            raise ValueError(
                "schedule: expected None with learning_rate="
                f"{self.learning_rate!r:.200}, got {self.schedule!r:.200}"
            )
        if self.solver == "lbfgs":
            warnings.warn(
                "solver='lbfgs' takes all samples at once and is not implemented: 'adam' is used",
                stacklevel=5,
            )

    def _hidden(self) -> list[int]:
        sizes = self.hidden_layer_sizes
        if isinstance(sizes, numbers.Integral):
            sizes = [sizes]
        elif isinstance(sizes, str) or not hasattr(sizes, "__iter__"):
            raise TypeError(
                f"hidden_layer_sizes: expected an int, or a sequence, got {sizes!r:.200}"
            )
        return [
            integer(f"hidden_layer_sizes[{i}]", size, 1, MAX_LAYER) for i, size in enumerate(sizes)
        ]

    def _config(self, n_features: int, penalized: float, facts: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of the model."""
        solver = "adam" if self.solver == "lbfgs" else self.solver
        is_sgd = solver == "sgd"
        is_decoupled = solver in get_args(DecoupledOptimizer)
        return {
            "layer_sizes": (n_features, *self._hidden(), facts["n_outputs_"]),
            "activation": self.activation,
            "negative_slope": self.negative_slope,
            "batch_norm": self.batch_norm,
            "batch_norm_output": self.batch_norm_output,
            "eps": self.batch_norm_eps,
            "momentum": self.batch_norm_momentum,
            # With weighted statistics the few heavy samples of a minibatch would decide mean and
            # variance. In a plain network only the scaling of inputs is weighted.
            "weighted": not self.batch_norm,
            "input_normalization": self.input_normalization,
            "loss": facts["loss"],
            "label_smoothing": getattr(self, "label_smoothing", 0.0),
            "optimizer": solver,
            "lr": self.learning_rate_init,
            "betas": (self.momentum if is_sgd else self.beta_1, self.beta_2),
            "optimizer_eps": self.epsilon,
            "nesterov": is_sgd and self.nesterovs_momentum,
            # scikit-learn divides the penalty, but not decoupled decay, by the minibatch's size
            "weight_decay": self.alpha if is_decoupled else self.alpha / penalized,
            "decay_vectors": False,
            "max_norm": self.max_norm,
            "dropout": self.dropout,
            "dtype": self.dtype,
        }

    def _batch_size(self, n_samples: int) -> int:
        least = 2 if self.batch_norm else 1
        if n_samples < least:
            raise ValueError(f"X: batch norm needs at least 2 samples, got n_samples = {n_samples}")
        if isinstance(self.batch_size, str):
            return min(AUTO_BATCH, n_samples)
        if self.batch_size < least:
            warnings.warn(
                "batch_size=1: batch norm needs 2 samples in a minibatch, so 2 is used",
                stacklevel=5,
            )
        elif self.batch_size > n_samples:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be "
                "clipped",
                stacklevel=5,
            )
        return min(max(int(self.batch_size), least), n_samples)

    def _has_partial_fit(self) -> bool:
        if self.solver == "lbfgs":
            raise AttributeError(
                "partial_fit is only available for stochastic optimizers. "
                f"{self.solver} is not stochastic."
            )
        return True
