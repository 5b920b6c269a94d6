"""The regressor, for one target or several."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from fastbn.checks import choice
from fastbn.fit.schedules import Schedule
from fastbn.model import BatchNormMLP
from fastbn.model.scaling import TargetScaling
from fastbn.options import Activation, DType, InputNormalization, document
from fastbn.sklearn._base import BaseBatchNormMLP
from fastbn.sklearn._callbacks import with_callbacks
from fastbn.sklearn._parameters import ATTRIBUTES, PARAMETERS, LearningRate, Solver


@document(parameters=PARAMETERS, attributes=ATTRIBUTES)
class BatchNormMLPRegressor(RegressorMixin, BaseBatchNormMLP):
    """Multilayer perceptron regressor with batch normalization, trained by compiled kernels.

    A drop-in replacement for `sklearn.neural_network.MLPRegressor`: it has all its
    parameters and attributes, and more.

    Parameters
    ----------
    loss : "squared_error", default="squared_error"
        Half the squared error of targets that are normalized to mean 0 and standard deviation 1.
    {parameters}

    Attributes
    ----------
    target_mean_, target_scale_ : arrays (outputs,)
        Mean and standard deviation of the training targets of the first fit, by which targets are
        normalized. Losses are computed from normalized targets.
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
        self.__dict__.update({name: value for name, value in locals().items() if name != "self"})

    @available_if(lambda self: self._has_partial_fit())
    @with_callbacks
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> BatchNormMLPRegressor:
        """Train one epoch on the data, in minibatches.

        Parameters
        ----------
        X : array-like (samples, features)
        y : array-like (samples,) or (samples, outputs)
            The first call fits the scaling of targets.
        sample_weight : array-like (samples,), optional

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            As in `fit`.
        """
        return self._train(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> np.ndarray:
        """Return the outputs for each sample.

        Parameters
        ----------
        X : array-like (samples, features)

        Returns
        -------
        array (samples,), or (samples, outputs) for several outputs

        Raises
        ------
        ValueError
            X is float32, and a prediction is too large for it.
        """
        logits, dtype = self._logits(X)
        return _squeezed(self.model_.target_scaling.predictions(logits, "X", dtype))

    def _check_parameters(self) -> None:
        super()._check_parameters()
        choice("loss", self.loss, ["squared_error"])

    def _facts(self, y: np.ndarray, is_first: bool, incremental: bool) -> dict[str, Any]:
        if y.dtype.kind not in "fiub":
            raise ValueError(f"y: expected numbers, got dtype {y.dtype}")
        outputs = 1 if y.ndim == 1 else y.shape[1]
        if not is_first and outputs != self.n_outputs_:
            raise ValueError(
                f"y: expected {self.n_outputs_} outputs as in the earlier fit, got {outputs}"
            )
        return {"n_outputs_": outputs, "loss": self.loss, "out_activation_": "identity"}

    def _config(self, n_features: int, penalized: float, facts: dict[str, Any]) -> dict[str, Any]:
        config = super()._config(n_features, penalized, facts)
        return config | {"target_normalization": "zscore"}

    @property
    def target_mean_(self) -> np.ndarray:
        check_is_fitted(self)
        return self.model_.target_scaling.center.copy()

    @property
    def target_scale_(self) -> np.ndarray:
        check_is_fitted(self)
        return 1.0 / self.model_.target_scaling.scale

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

    def _validation_score(
        self, model: BatchNormMLP, facts: dict[str, Any], X: Any, y: Any, weight: Any
    ) -> float:
        predicted = _squeezed(model.predict(X))
        if not np.isfinite(predicted).all():
            return np.nan  # the fit is diverging
        return float(r2_score(y, predicted, sample_weight=weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _squeezed(y: np.ndarray) -> np.ndarray:
    """Return predictions (samples, outputs) as (samples,) if there is one output."""
    return y[:, 0] if y.shape[1] == 1 else y
