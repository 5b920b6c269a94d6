"""A regressor for one target and for several."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import column_or_1d

from fastbn.checks import choice
from fastbn.fit.schedules import Schedule
from fastbn.model import BatchNormMLP
from fastbn.model.scaling import TargetScaling
from fastbn.options import Activation, DType, InputNormalization
from fastbn.sklearn._base import BaseBatchNormMLP
from fastbn.sklearn._callbacks import with_callbacks
from fastbn.sklearn._parameters import LearningRate, Solver, document


@document
class BatchNormMLPRegressor(RegressorMixin, BaseBatchNormMLP):
    """Multilayer perceptron regressor with batch normalization, trained by compiled kernels.

    Takes the place of `sklearn.neural_network.MLPRegressor`: the same parameters and attributes,
    and more of both.

    Parameters
    ----------
    loss : "squared_error", default="squared_error"
        Half the squared error, of targets that the model normalizes to mean 0 and deviation 1.
    {parameters}

    Attributes
    ----------
    target_mean_, target_scale_ : arrays (outputs,)
        What the model normalizes targets by, of the samples that it was trained on first; losses
        are those of normalized targets.
    {attributes}

    Examples
    --------
    >>> from fastbn.sklearn import BatchNormMLPRegressor
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> BatchNormMLPRegressor(random_state=0, early_stopping=True).fit(X, y).score(X, y) > 0.4
    True
    """

    def __init__(
        self,
        loss: Literal["squared_error"] = "squared_error",
        hidden_layer_sizes: int | Iterable[int] = (100,),
        activation: Activation = "relu",
        *,
        solver: Solver = "adam",
        alpha: float = 0.0001,
        batch_size: int | Literal["auto"] = "auto",
        learning_rate: LearningRate = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: int = 10,
        max_fun: int = 15000,
        batch_norm: bool = True,
        batch_norm_output: bool = False,
        batch_norm_eps: float = 1e-5,
        batch_norm_momentum: float = 0.1,
        negative_slope: float = 0.01,
        input_normalization: InputNormalization | None = "zscore",
        dropout: float = 0.0,
        max_norm: float | None = None,
        schedule: Schedule = None,
        dtype: DType = "float32",
        n_threads: int | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name != "self"}
        given.pop("__class__", None)
        for name, value in given.items():
            setattr(self, name, value)

    @available_if(lambda self: self._has_partial_fit())
    @with_callbacks
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> BatchNormMLPRegressor:
        """Train one pass over the data, in minibatches.

        Parameters
        ----------
        X : array-like (samples, features)
        y : array-like (samples,) or (samples, outputs)
            The first call's are what targets are scaled by.
        sample_weight : array-like (samples,), optional

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            As `fit`.
        """
        return self._train(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> np.ndarray:
        """Return the outputs for each sample.

        Parameters
        ----------
        X : array-like (samples, features)

        Returns
        -------
        array (samples,), or (samples, outputs) where there are several

        Raises
        ------
        ValueError
            X is float32, which does not hold a prediction.
        """
        logits, dtype = self._logits(X)
        return self._squeezed(self._target_scaling.predictions(logits, "X", dtype))

    def _check_parameters(self) -> None:
        super()._check_parameters()
        choice("loss", self.loss, ["squared_error"])

    def _facts(
        self, y: np.ndarray, sample_weight: Any, is_first: bool, incremental: bool
    ) -> dict[str, Any]:
        if y.dtype.kind not in "fiub":
            raise ValueError(f"y: expected numbers, got dtype {y.dtype}")
        outputs = 1 if y.ndim == 1 else y.shape[1]
        if not is_first and outputs != self.n_outputs_:
            raise ValueError(
                f"y: expected {self.n_outputs_} outputs as in the earlier fit, got {outputs}"
            )
        return {
            "n_outputs_": outputs,
            "loss": self.loss,
            "out_activation_": "identity",
        }

    def _config(self, n_features: int, batch_size: float, facts: dict[str, Any]) -> dict[str, Any]:
        config = super()._config(n_features, batch_size, facts)
        return config | {"target_normalization": "zscore"}

    @property
    def target_mean_(self) -> np.ndarray:
        return self._target_scaling.center.copy()

    @property
    def target_scale_(self) -> np.ndarray:
        return 1.0 / self._target_scaling.scale

    @property
    def _target_scaling(self) -> TargetScaling:
        if "model_" not in vars(self):
            raise AttributeError(f"This {type(self).__name__} instance is not fitted yet.")
        scaling: TargetScaling = self.model_.target_scaling
        return scaling

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the attributes; estimators of earlier versions normalized targets themselves."""
        state = dict(state)
        mean, scale = state.pop("target_mean_", None), state.pop("target_scale_", None)
        super().__setstate__(state)
        if mean is not None:
            model = self.model_
            config = dataclasses.replace(model.config, target_normalization="zscore")
            scaling = TargetScaling("zscore", mean, 1.0 / scale, True, model.dtype)
            changes = {"config": config, "target_scaling": scaling}
            model.__setstate__(model.__getstate__() | changes)

    def _targets(self, y: np.ndarray, facts: dict[str, Any]) -> np.ndarray:
        return y.reshape(len(y), -1)

    @staticmethod
    def _squeezed(y: np.ndarray) -> np.ndarray:
        """Return predictions (samples, outputs) as (samples,) where there is one output."""
        return y[:, 0] if y.shape[1] == 1 else y

    def _with_targets_scaled(
        self, weight: np.ndarray, bias: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        scaling = self._target_scaling
        return weight / scaling.scale[:, None], scaling.undo(bias)

    def _as_column(self, y: np.ndarray) -> np.ndarray:
        return column_or_1d(y, warn=True)

    def _validation_score(
        self, model: BatchNormMLP, facts: dict[str, Any], X: Any, y: Any, weight: Any
    ) -> float:
        predicted = self._squeezed(model.target_scaling.undo(model.predict_logits(X)))
        if not np.isfinite(predicted).all():
            return np.nan  # it diverges
        return float(r2_score(y, predicted, sample_weight=weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
