"""The base class of classifier and regressor: `fit`, and the fitted attributes."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.base import is_regressor
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from fastbn.model import BatchNormMLP
from fastbn.model.config import ARCHITECTURE
from fastbn.parallel.cores import at_most
from fastbn.sklearn._callbacks import CallbackSupportMixin, with_callbacks
from fastbn.sklearn._folded import folded_layers
from fastbn.sklearn._run import Run
from fastbn.sklearn._settings import EstimatorSettings, invalid_parameters

# X of these dtypes goes to the model unchanged; other dtypes become float64.
X_DTYPES = [np.dtype(np.float64), np.dtype(np.float32), np.dtype(np.uint8)]

# scikit-learn sets these from X before the other arguments are checked.
DATA_ATTRIBUTES = ("n_features_in_", "feature_names_in_")


@contextlib.contextmanager
def naming(*names: str) -> Iterator[None]:
    """Add the arguments' names to scikit-learn's errors that lack them.

    Overflow gives no warning, since scikit-learn raises an error for the infinity.
    """
    try:
        with np.errstate(over="ignore"):
            yield
    except (TypeError, ValueError, RuntimeError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        if isinstance(error, kind) and any(re.search(rf"\b{name}\b", str(error)) for name in names):
            raise
        raise kind(f"{', '.join(names)}: {error}") from error


class BaseBatchNormMLP(CallbackSupportMixin, EstimatorSettings):
    """Base class of the estimators.

    Subclasses define `_facts` (the loss, and the fitted attributes that depend on y), `_targets`
    (the model's training targets) and `_validation_score` (which early stopping monitors). The
    classifier also defines `_weights` (the weights of samples and their classes).
    """

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
            scaling of inputs ignore them, except that samples of weight 0 are left out. With
            ``batch_norm=False``, a weight of two has the same effect as the sample twice.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            The data or a parameter is not as described. The estimator does not change.

        Warns
        -----
        ConvergenceWarning
            The loss or score was still improving after `max_iter` epochs, or the fit diverged.
        UserWarning
            A regressor predicts its training samples worse than the mean of their targets would.
        """
        return self._train(X, y, sample_weight)

    def _train(
        self, X: Any, y: Any, sample_weight: Any, *, incremental: bool = False, **options: Any
    ) -> Any:
        before = {name: value for name, value in vars(self).items() if name in DATA_ATTRIBUTES}
        try:
            run = self._run(X, y, sample_weight, incremental, options)
        except BaseException:
            for name in DATA_ATTRIBUTES:
                self.__dict__.pop(name, None)
            self.__dict__.update(before)
            raise
        for name, value in run.attributes().items():
            setattr(self, name, value)
        run.finish()
        return self

    def _run(
        self, X: Any, y: Any, sample_weight: Any, incremental: bool, options: dict[str, Any]
    ) -> Run:
        """Check everything and train."""
        with invalid_parameters():
            self._check_parameters()
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        is_first = not hasattr(self, "model_") or not (self.warm_start or incremental)
        data = {"X": X, "y": y, "metadata": {"sample_weight": sample_weight}}
        X, y, sample_weight = self._check_data(X, y, sample_weight, is_first)
        with invalid_parameters(), naming("random_state"):
            random = check_random_state(self.random_state)
        facts = self._facts(y, is_first, incremental, **options)
        if getattr(self, "class_weight", None) is not None:
            sample_weight = self._weights(y, sample_weight, facts, incremental)
        if sample_weight is not None:
            some = sample_weight > 0
            X, y, sample_weight = X[some], y[some], sample_weight[some]
        held = None
        if self.early_stopping:
            (X, y, sample_weight), held = self._split(X, y, sample_weight, random, facts)
        batch_size = self._batch_size(X.shape[0])
        penalized: float = batch_size  # samples
        if sample_weight is not None and not self.batch_norm:
            penalized *= float(sample_weight.mean())
        with invalid_parameters():
            config = self._config(X.shape[1], penalized, facts)
            if is_first:
                model = BatchNormMLP(**config, seed=random.randint(np.iinfo(np.int32).max))
            else:
                model = copy.deepcopy(self.model_)  # if this fit fails, the earlier one is kept
                self._reconfigure(model, config)
        run = Run(self, model, facts, held, is_first, incremental, data)
        with at_most(self.n_threads):
            run.train(X, self._targets(y, facts), sample_weight, batch_size)
        return run

    def _check_data(
        self, X: Any, y: Any, sample_weight: Any, is_first: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        with naming("X", "y"):
            X, y = validate_data(
                self, X, y, reset=is_first, multi_output=True, dtype=X_DTYPES,
                y_numeric=is_regressor(self),
            )  # fmt: skip
        y = y.toarray() if issparse(y) else y
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if sample_weight is not None:
            with naming("sample_weight"):
                sample_weight = _check_sample_weight(
                    sample_weight, X, dtype=np.float64, ensure_non_negative=True
                )
            if not sample_weight.any():
                raise ValueError("sample_weight: expected some above 0, got zeros")
        return X, y, sample_weight

    def _reconfigure(self, model: BatchNormMLP, config: dict[str, Any]) -> None:
        """Set the model's configuration to the present parameters."""
        now = dataclasses.replace(model.config, **config)
        for name in ARCHITECTURE:
            before, wanted = getattr(model.config, name), getattr(now, name)
            if before != wanted:
                raise ValueError(f"{name}: expected {before} as in the earlier fit, got {wanted}")
        if model.config.optimizer != now.optimizer:  # its moments mean something else
            model.m[...] = model.v[...] = 0
            model.steps = 0
        model.config = now

    def _split(
        self, X: Any, y: Any, weight: Any, random: Any, facts: dict[str, Any]
    ) -> tuple[Any, Any]:
        """Split X, y and weights into a part for training and a part for early stopping."""
        arrays = [X, y] if weight is None else [X, y, weight]
        two_classes = facts["loss"] == "sigmoid_cross_entropy" and y.ndim == 1
        parts = train_test_split(
            *arrays, random_state=random, test_size=self.validation_fraction,
            stratify=y if two_classes else None,  # as in scikit-learn
        )  # fmt: skip
        if parts[1].shape[0] < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of "
                "your dataset."
            )
        return (*parts[::2], None)[:3], (*parts[1::2], None)[:3]

    # -- prediction and fitted attributes ----------------------------------------------------------

    def _logits(self, X: Any) -> tuple[np.ndarray, np.dtype]:
        """Return the network's outputs in float64, and the dtype of the predictions."""
        if "model_" not in vars(self):
            check_is_fitted(self)
        is_plain = self._is_plain(X)
        if not is_plain:
            X = self._validated(X)
        try:
            with at_most(self.n_threads):
                logits = self.model_.predict_logits(X)
        except ValueError:
            if is_plain:
                self._validated(X)  # raises scikit-learn's error, such as for NaN
            raise
        dtype = np.dtype(np.float32 if X.dtype == np.float32 else np.float64)
        return logits.astype(np.float64, copy=False), dtype

    def _is_plain(self, X: Any) -> bool:
        """Return whether X is an array that scikit-learn would check only for NaN and infinity.

        The model does that, too. scikit-learn's checks take several times as long as a prediction
        of one sample.
        """
        fitted = vars(self)
        return (
            type(X) is np.ndarray
            and X.dtype in X_DTYPES
            and X.ndim == 2
            and len(X) > 0
            and X.shape[1] == fitted.get("n_features_in_")
            and "feature_names_in_" not in fitted
        )

    def _validated(self, X: Any) -> np.ndarray:
        """Return X to predict from as an array, checked by scikit-learn."""
        with naming("X"):
            checked: np.ndarray = validate_data(self, X, reset=False, dtype=X_DTYPES)
        return checked

    @property
    def coefs_(self) -> list[np.ndarray]:
        """Weights (inputs, units) of each layer, with input normalization and batch norm folded in.

        ``activation(X @ coefs_[0] + intercepts_[0])`` is the output of the first hidden layer when
        predicting, as in scikit-learn. The arrays are float64, computed each time they are read,
        and read-only, since writing to them could not change the network.
        """
        check_is_fitted(self)
        return [weight.T for weight, _ in folded_layers(self.model_)]

    @property
    def intercepts_(self) -> list[np.ndarray]:
        """Biases (units,) of each layer, folded and read-only as `coefs_`."""
        check_is_fitted(self)
        return [bias for _, bias in folded_layers(self.model_)]

    @property
    def n_layers_(self) -> int:
        """Number of layers, including the inputs."""
        check_is_fitted(self)
        return len(self.model_.config.layer_sizes)
