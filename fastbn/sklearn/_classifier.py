"""The classifier: two classes, several classes, or several labels per sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import numpy as np
from scipy import special
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d

from fastbn.fit.schedules import Schedule
from fastbn.model import BatchNormMLP
from fastbn.options import Activation, DType, InputNormalization, document
from fastbn.sklearn._base import BaseBatchNormMLP, naming
from fastbn.sklearn._callbacks import with_callbacks
from fastbn.sklearn._class_weight import check_class_weight, needs_all_targets, sample_weights
from fastbn.sklearn._parameters import ATTRIBUTES, PARAMETERS, ClassWeight, LearningRate, Solver


@document(parameters=PARAMETERS, attributes=ATTRIBUTES)
class BatchNormMLPClassifier(ClassifierMixin, BaseBatchNormMLP):
    """Multilayer perceptron classifier with batch normalization, trained by compiled kernels.

    A drop-in replacement for `sklearn.neural_network.MLPClassifier`: it has all its
    parameters and attributes, and more.

    Parameters
    ----------
    {parameters}
    label_smoothing : float, default=0.0
        Fraction of each target that is spread evenly over the classes.
    class_weight : dict or "balanced", optional
        Weights of the classes, as in `sklearn.linear_model.SGDClassifier`. Classes missing in a
        dict have weight 1. For several labels, a list with a dict for each, or "balanced".
        `partial_fit` refuses "balanced", because it cannot know how frequent the classes are.

    Attributes
    ----------
    classes_ : array (classes,)
        The classes; for several labels ``[0, 1, ...]``, a number for each label.
    {attributes}

    Notes
    -----
    The loss is softmax cross-entropy for three or more classes, and sigmoid cross-entropy for two
    classes and for several labels.

    Examples
    --------
    >>> from fastbn.sklearn import BatchNormMLPClassifier
    >>> from sklearn.datasets import load_wine
    >>> X, y = load_wine(return_X_y=True)
    >>> model = BatchNormMLPClassifier(learning_rate_init=0.01, random_state=0)
    >>> model.fit(X, y).score(X, y)
    1.0
    """

    def __init__(
        self,
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
        label_smoothing: float = 0.0,
        class_weight: ClassWeight = None,
    ) -> None:
        self.__dict__.update({name: value for name, value in locals().items() if name != "self"})

    # -- fit ---------------------------------------------------------------------------------------

    @available_if(lambda self: self._has_partial_fit())
    @with_callbacks
    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None
    ) -> BatchNormMLPClassifier:
        """Train one epoch on the data, in minibatches.

        Parameters
        ----------
        X : array-like (samples, features)
        y : array-like (samples,) or (samples, labels)
        sample_weight : array-like (samples,), optional
        classes : array-like (classes,), optional
            All classes that occur in any call; required in the first call.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            As in `fit`. Also if `classes` are missing in the first call or differ from those of
            the first call, and if `class_weight` is "balanced".
        """
        return self._train(X, y, sample_weight, incremental=True, classes=classes)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_class_weight(self.class_weight)

    def _facts(
        self, y: np.ndarray, is_first: bool, incremental: bool, classes: Any = None
    ) -> dict[str, Any]:
        with naming("y"):
            check_classification_targets(y)
        kind = type_of_target(y)
        if kind == "multiclass-multioutput":
            raise ValueError(
                f"y: expected classes, or a matrix of 0 and 1 for labels, got {kind}: "
                "several columns of classes are not supported"
            )
        multilabel = kind.startswith("multilabel")
        if not is_first and multilabel != self._is_multilabel:
            raise ValueError(f"y: expected targets as in the earlier fit, got {kind}")
        found: Any = np.arange(y.shape[1]) if multilabel else np.unique(y)
        expected = self._expected_classes(found, is_first, incremental, multilabel, classes)
        if np.setdiff1d(found, expected).size:
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {expected}. "
                f"'y' has {found}."
            )
        one_of_several = not multilabel and len(expected) > 2
        return {
            "classes_": expected,
            "n_outputs_": len(expected) if one_of_several or multilabel else 1,
            "loss": "softmax_cross_entropy" if one_of_several else "sigmoid_cross_entropy",
            "out_activation_": "softmax" if one_of_several else "logistic",
            "_is_multilabel": multilabel,
        }

    def _expected_classes(
        self, found: np.ndarray, is_first: bool, incremental: bool, multilabel: bool, classes: Any
    ) -> np.ndarray:
        """Return all classes, which an earlier fit determines; `found` are the classes of y."""
        if classes is not None and not multilabel:
            with naming("classes"):
                classes = np.unique(column_or_1d(classes))
            if is_first:
                return classes
            if not np.array_equal(classes, self.classes_):
                raise ValueError(
                    f"`classes={classes!r:.200}` is not the same as on last call to partial_fit, "
                    f"was: {self.classes_!r:.200}"
                )
        if is_first:
            if incremental and not multilabel:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            return found
        if not incremental and set(found) != set(self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous "
                f"call to fit. Previously got {self.classes_}, `y` has {found}"
            )
        return self.classes_

    def _targets(self, y: np.ndarray, facts: dict[str, Any]) -> np.ndarray:
        if facts["_is_multilabel"]:
            return y
        places = np.searchsorted(facts["classes_"], y)
        return places if facts["loss"] == "softmax_cross_entropy" else places > 0

    def _weights(
        self, y: np.ndarray, sample_weight: Any, facts: dict[str, Any], incremental: bool
    ) -> Any:
        if incremental and needs_all_targets(self.class_weight):
            raise ValueError(
                f"class_weight: expected None or a dict in partial_fit, got {self.class_weight!r}: "
                "the frequencies of the classes cannot be computed from a part of the data. Pass "
                'class_weight=dict(zip(classes, compute_class_weight("balanced", classes=classes, '
                "y=y))) for all targets, or for a large enough sample of them"
            )
        weights = sample_weights(self.class_weight, y, facts["classes_"])
        if sample_weight is not None:
            weights = weights * sample_weight
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
            raise ValueError(
                "class_weight: expected finite numbers of at least 0, and some above 0, got "
                f"{self.class_weight!r:.200}"
            )
        return weights

    def _validation_score(
        self, model: BatchNormMLP, facts: dict[str, Any], X: Any, y: Any, weight: Any
    ) -> float:
        predicted = self._decided(model.predict_logits(X), facts)
        return float(accuracy_score(y, predicted, sample_weight=weight))

    # -- prediction --------------------------------------------------------------------------------

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class of each sample, or 0 or 1 for each label.

        Parameters
        ----------
        X : array-like (samples, features)

        Returns
        -------
        array (samples,) of classes, or (samples, labels) of 0 and 1
        """
        return self._decided(self._logits(X)[0], vars(self))

    def _decided(self, logits: np.ndarray, facts: Mapping[str, Any]) -> np.ndarray:
        if facts["_is_multilabel"]:
            return (logits > 0).astype(np.int64)
        classes = facts["classes_"]
        if logits.shape[1] > 1:
            return classes[logits.argmax(axis=1)]
        second = logits[:, 0] > 0
        return classes[np.minimum(second, len(classes) - 1)]  # there may be only one class

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities of the classes, or of each label.

        Parameters
        ----------
        X : array-like (samples, features)

        Returns
        -------
        array (samples, classes) or (samples, labels)
            If there is only one class, its probability is 1 and a second column has zeros, as in
            MLPClassifier; ClassifierChain needs that column.
        """
        return self._probabilities(X, special.softmax, special.expit)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithms of `predict_proba`.

        Parameters
        ----------
        X : array-like (samples, features)

        Returns
        -------
        array (samples, classes) or (samples, labels)
        """
        return self._probabilities(X, special.log_softmax, special.log_expit)

    def _probabilities(
        self, X: Any, of_classes: Callable[..., Any], of_labels: Callable[..., Any]
    ) -> np.ndarray:
        logits, dtype = self._logits(X)
        if self.model_.config.predicts_one_class:
            p = of_classes(logits, axis=1)
        elif self._is_multilabel:
            p = of_labels(logits)
        elif len(self.classes_) == 1:
            p = of_labels(np.full((len(logits), 2), [np.inf, -np.inf]))
        else:
            p = of_labels(np.hstack([-logits, logits]))
        return p.astype(dtype, copy=False)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
