"""What classifier and regressor share: parameters, the fit, and fitted attributes."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import numbers
import re
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
from sklearn.base import BaseEstimator, is_regressor
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fastbn.checks import choice, flag, integer, number
from fastbn.functional import fold_batch_norm
from fastbn.model import BatchNormMLP
from fastbn.model.config import MAX_LAYER, dtype_name
from fastbn.options import DTypeName
from fastbn.parallel.cores import at_most
from fastbn.sklearn._callbacks import CallbackSupportMixin, with_callbacks
from fastbn.sklearn._parameters import LearningRate, Solver
from fastbn.sklearn._run import Run

SOLVERS, LEARNING_RATES = get_args(Solver), get_args(LearningRate)
AUTO_BATCH = 200  # samples, as in scikit-learn

# Dtypes of X that are kept for the model, which scales before it rounds; all else becomes float64.
X_DTYPES = [np.float64, np.float32, np.uint8]

# Attributes that scikit-learn sets from X before the other arguments are checked.
DATA_ATTRIBUTES = ("n_features_in_", "feature_names_in_")

# Settings that a fitted model cannot change.
BUILT_IN = (
    "layer_sizes", "dtype", "batch_norm", "batch_norm_output", "loss", "input_normalization",
)  # fmt: skip


@contextlib.contextmanager
def invalid_parameters() -> Iterator[None]:
    """Raise errors of parameters as scikit-learn's, which are ValueError and TypeError in one."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise InvalidParameterError(str(error)) from error


@contextlib.contextmanager
def naming(*names: str) -> Iterator[None]:
    """Name the arguments in scikit-learn's errors that do not; overflow is left to these."""
    try:
        with np.errstate(over="ignore"):
            yield
    except (TypeError, ValueError, RuntimeError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        if isinstance(error, kind) and any(re.search(rf"\b{name}\b", str(error)) for name in names):
            raise
        raise kind(f"{', '.join(names)}: {error}") from error


class BaseBatchNormMLP(CallbackSupportMixin, BaseEstimator):
    """Base of the estimators. As scikit-learn asks, __init__ keeps the parameters as given."""

    # -- fit ---------------------------------------------------------------------------------------

    @with_callbacks
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Fit to the data.

        Parameters
        ----------
        X : array-like (samples, features)
        y : array-like (samples,) or (samples, outputs)
        sample_weight : array-like (samples,), optional
            Weights of the losses; a minibatch's loss is their weighted mean. Batch norm and the
            scaling of inputs measure the samples without weights. With ``batch_norm=False`` a
            weight of two is the same as the sample twice. A sample of weight 0 is left out.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            The data or a parameter is not as described; the estimator is left as it was.

        Warns
        -----
        ConvergenceWarning
            The last of `max_iter` epochs has come before the loss, or the score, stood still.
        UserWarning
            A regressor is worse than the mean of its targets on the samples it was trained on.
        """
        return self._train(X, y, sample_weight)

    def _train(
        self, X: Any, y: Any, sample_weight: Any, *, incremental: bool = False, **options: Any
    ) -> Any:
        known = {name: vars(self)[name] for name in DATA_ATTRIBUTES if name in vars(self)}
        try:
            return self._train_new(X, y, sample_weight, incremental, options)
        except BaseException:
            for name in DATA_ATTRIBUTES:  # what is fitted is as it was, and fits to this
                if name in vars(self):
                    delattr(self, name)
                if name in known:
                    setattr(self, name, known[name])
            raise

    def _train_new(
        self, X: Any, y: Any, sample_weight: Any, incremental: bool, options: dict[str, Any]
    ) -> Any:
        with invalid_parameters():
            self._check_parameters()
        is_first = not hasattr(self, "model_") or not (self.warm_start or incremental)
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        given = {"X": X, "y": y, "metadata": {"sample_weight": sample_weight}}
        with naming("X", "y"):
            X, y = validate_data(
                self, X, y, reset=is_first, multi_output=True, dtype=X_DTYPES,
                y_numeric=is_regressor(self),
            )  # fmt: skip
        if y.ndim == 2 and y.shape[1] == 1:
            y = self._as_column(y)
        if sample_weight is not None:
            with naming("sample_weight"):
                sample_weight = _check_sample_weight(
                    sample_weight, X, dtype=np.float64, ensure_non_negative=True
                )
            if not sample_weight.any():
                raise ValueError("sample_weight: expected some above 0, got zeros")
        with invalid_parameters(), naming("random_state"):
            random = check_random_state(self.random_state)
        facts = self._facts(y, sample_weight, is_first, incremental, **options)
        sample_weight = self._weights(y, sample_weight, facts)
        if sample_weight is not None:  # a sample without weight is none
            some = sample_weight > 0
            X, y, sample_weight = X[some], y[some], sample_weight[some]
        held = None
        if self.early_stopping:
            (X, y, sample_weight), held = self._split(X, y, sample_weight, random, facts)
        batch_size = self._batch_size(X.shape[0])
        counted: float = batch_size  # by which the penalty is divided
        if sample_weight is not None and not self.batch_norm:  # a weight of two is two samples
            counted *= float(sample_weight.mean())
        with invalid_parameters():
            config = self._config(X.shape[1], counted, facts)
            # a fit that goes on from an earlier one leaves that as it was, should it fail
            model = copy.deepcopy(self.model_) if not is_first else None
            if model is None:
                model = BatchNormMLP(**config, seed=random.randint(np.iinfo(np.int32).max))
            else:
                self._reconfigure(model, config)
        epochs = 1 if incremental else self.max_iter
        run = Run(self, model, facts, held, epochs, is_first, incremental, given)
        with at_most(self.n_threads):
            run.train(X, self._targets(y, facts), sample_weight, batch_size)
        for name, value in run.attributes().items():
            setattr(self, name, value)
        run.finish(warns=not incremental)
        return self

    def _reconfigure(self, model: BatchNormMLP, config: dict[str, Any]) -> None:
        """Let the model train by the parameters as they are now."""
        now = dataclasses.replace(model.config, **config)
        for name in BUILT_IN:
            before, wanted = getattr(model.config, name), getattr(now, name)
            if before != wanted:
                raise ValueError(f"{name}: expected {before} as in the earlier fit, got {wanted}")
        if model.config.optimizer != now.optimizer:  # whose moments mean something else
            model.m[...] = model.v[...] = 0
            model.steps = 0
        model.config = now

    def _split(
        self, X: Any, y: Any, weight: Any, random: Any, facts: dict[str, Any]
    ) -> tuple[Any, Any]:
        """Set samples aside for early stopping: X, y and weights of both parts."""
        arrays = [X, y] if weight is None else [X, y, weight]
        parts = train_test_split(
            *arrays, random_state=random, test_size=self.validation_fraction,
            stratify=self._strata(y, facts),
        )  # fmt: skip
        if parts[1].shape[0] < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of "
                "your dataset."
            )
        return (*parts[::2], None)[:3], (*parts[1::2], None)[:3]

    def _batch_size(self, n_samples: int) -> int:
        least = 2 if self.batch_norm else 1
        if n_samples < least:
            raise ValueError(f"X: batch norm needs at least 2 samples, got n_samples = {n_samples}")
        if isinstance(self.batch_size, str):
            choice("batch_size", self.batch_size, ["auto"])
            return min(AUTO_BATCH, n_samples)
        batch_size = integer("batch_size", self.batch_size, 1)
        if batch_size < least:
            warnings.warn(
                "batch_size=1: batch norm needs 2 samples in a minibatch, which it gets",
                stacklevel=4,
            )
            batch_size = least
        if batch_size > n_samples:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be "
                "clipped",
                stacklevel=4,
            )
        return min(batch_size, n_samples)

    def _check_parameters(self) -> None:
        """Refuse what the model does not check itself, by the names that the user knows."""
        choice("solver", self.solver, SOLVERS)
        choice("learning_rate", self.learning_rate, LEARNING_RATES)
        number("learning_rate_init", self.learning_rate_init, 0.0, open_low=True)
        number("alpha", self.alpha, 0.0)
        number("tol", self.tol, 0.0)
        number("power_t", self.power_t, 0.0)
        number("beta_1", self.beta_1, 0.0, 1.0, open_high=True)
        number("beta_2", self.beta_2, 0.0, 1.0, open_high=True)
        number("epsilon", self.epsilon, 0.0, open_low=True)
        number("momentum", self.momentum, 0.0, 1.0, open_high=True)
        number("validation_fraction", self.validation_fraction, 0.0, 1.0, open_high=True)
        if not isinstance(self.verbose, bool | np.bool_ | numbers.Integral):
            raise TypeError(f"verbose: expected True, False or an int, got {self.verbose!r:.200}")
        integer("max_iter", self.max_iter, 1)
        if self.n_iter_no_change != np.inf:
            integer("n_iter_no_change", self.n_iter_no_change, 1)
        number("batch_norm_eps", self.batch_norm_eps, 0.0)
        number("batch_norm_momentum", self.batch_norm_momentum, 0.0, 1.0)
        choice("dtype", dtype_name(self.dtype), get_args(DTypeName))
        for name in ("batch_norm", "shuffle", "warm_start", "early_stopping", "nesterovs_momentum"):
            flag(name, getattr(self, name))
        if self.n_threads is not None:
            integer("n_threads", self.n_threads, 1)
        if self.schedule is not None and self.learning_rate != "constant":
            raise ValueError(
                "schedule: expected None with learning_rate="
                f"{self.learning_rate!r:.200}, got {self.schedule!r:.200}"
            )
        if self.solver == "lbfgs":
            warnings.warn(
                "solver='lbfgs' takes all samples at once, and batch norm is not trained so: "
                "'adam' is used",
                stacklevel=4,
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

    def _config(self, n_features: int, batch_size: float, facts: dict[str, Any]) -> dict[str, Any]:
        """Arguments of the model."""
        solver = "adam" if self.solver == "lbfgs" else self.solver
        is_sgd = solver == "sgd"
        return {
            "layer_sizes": (n_features, *self._hidden(), facts["n_outputs_"]),
            "activation": self.activation,
            "negative_slope": self.negative_slope,
            "batch_norm": self.batch_norm,
            "batch_norm_output": self.batch_norm_output,
            "eps": self.batch_norm_eps,
            "momentum": self.batch_norm_momentum,
            # Batch norm measures the samples as they come: with weights in its statistics, the few
            # heavy samples of a minibatch would decide them. Of a plain network it is the scaling
            # of inputs alone.
            "weighted": not self.batch_norm,
            "input_normalization": self.input_normalization,
            "loss": facts["loss"],
            "label_smoothing": getattr(self, "label_smoothing", 0.0),
            "optimizer": solver,
            "lr": self.learning_rate_init,
            "betas": (self.momentum if is_sgd else self.beta_1, self.beta_2),
            "optimizer_eps": self.epsilon,
            "nesterov": is_sgd and self.nesterovs_momentum,
            # scikit-learn's penalty is alpha / 2 * |W|^2 a minibatch; AdamW's decay has no batch
            "weight_decay": self.alpha if solver == "adamw" else self.alpha / batch_size,
            "decay_vectors": False,
            "max_norm": self.max_norm,
            "dropout": self.dropout,
            "dtype": self.dtype,
        }

    # -- prediction --------------------------------------------------------------------------------

    def _logits(self, X: Any) -> tuple[np.ndarray, np.dtype]:
        """Return the network's outputs in float64, and the dtype of the predictions.

        That is X's, as in scikit-learn: float32 of float32, and float64 of all else.
        """
        check_is_fitted(self)
        with naming("X"):
            X = validate_data(self, X, reset=False, dtype=X_DTYPES)
        with at_most(self.n_threads):
            logits = self.model_.predict_logits(X)
        dtype = np.dtype(np.float32 if X.dtype == np.float32 else np.float64)
        return logits.astype(np.float64, copy=False), dtype

    # -- what was learned --------------------------------------------------------------------------

    @property
    def coefs_(self) -> list[np.ndarray]:
        """Weights (inputs, units) of each layer; input normalization and batch norm are folded in.

        So ``activation(X @ coefs_[0] + intercepts_[0])`` is what the first hidden layer says when
        predicting, as in scikit-learn. They are float64, whatever `dtype` is: float32 does not hold
        a fold of features or targets far from zero. They are computed anew whenever they are read,
        and read-only: writing to them could not change the network.
        """
        return [weight.T for weight, _ in self._folded()]

    @property
    def intercepts_(self) -> list[np.ndarray]:
        """Biases (units,) of each layer, folded and read-only as `coefs_` are."""
        return [bias for _, bias in self._folded()]

    def _folded(self) -> list[tuple[np.ndarray, np.ndarray]]:
        if "model_" not in vars(self):
            raise AttributeError(f"This {type(self).__name__} instance is not fitted yet.")
        model = self.model_
        state, layers = model.snapshot(), []
        for index in range(len(model.config.layer_sizes) - 1):
            name = f"layers.{index}"
            weight = state[f"{name}.weight"].astype(np.float64)
            if model.config.normalized(index):
                gamma, beta, mean, var = (
                    state[f"{name}.{tensor}"].astype(np.float64)
                    for tensor in ("gamma", "beta", "running_mean", "running_var")
                )
                weight, bias = fold_batch_norm(weight, gamma, beta, mean, var, model.config.eps)
            else:
                bias = state[f"{name}.bias"].astype(np.float64)
            if index == 0:
                scale = model.scaling.scale.astype(np.float64)
                bias = bias - (weight * (model.scaling.center * scale)).sum(axis=1)
                weight = weight * scale
            layers.append((weight, bias))
        layers[-1] = self._with_targets_scaled(*layers[-1])
        for array in itertools.chain(*layers):
            array.flags.writeable = False
        return layers

    @property
    def n_layers_(self) -> int:
        """Layers, with the inputs."""
        if "model_" not in vars(self):
            raise AttributeError(f"This {type(self).__name__} instance is not fitted yet.")
        return len(self.model_.config.layer_sizes)

    # -- what the two differ in --------------------------------------------------------------------

    @abstractmethod
    def _facts(
        self, y: np.ndarray, sample_weight: Any, is_first: bool, incremental: bool
    ) -> dict[str, Any]:
        """Return what is known of the targets, `n_outputs_` and `loss` among it."""

    @abstractmethod
    def _targets(self, y: np.ndarray, facts: dict[str, Any]) -> np.ndarray:
        """Return what the model is trained on."""

    @abstractmethod
    def _validation_score(
        self, model: BatchNormMLP, facts: dict[str, Any], X: Any, y: Any, weight: Any
    ) -> float:
        """Return the score that early stopping goes by."""

    @abstractmethod
    def _as_column(self, y: np.ndarray) -> np.ndarray:
        """Return y (samples, 1) as (samples,), with a warning."""

    def _has_partial_fit(self) -> bool:
        if self.solver == "lbfgs":
            raise AttributeError(
                "partial_fit is only available for stochastic optimizers. "
                f"{self.solver} is not stochastic."
            )
        return True

    def _weights(self, y: np.ndarray, sample_weight: Any, facts: dict[str, Any]) -> Any:
        """Return the weights of the samples, those of their classes included."""
        return sample_weight

    def _with_targets_scaled(
        self, weight: np.ndarray, bias: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fold into the last layer what predictions are scaled by."""
        return weight, bias

    def _strata(self, y: np.ndarray, facts: dict[str, Any]) -> Any:
        return None
