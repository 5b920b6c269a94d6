"""The parameters and attributes that both estimators have, for their docstrings."""

from __future__ import annotations

from typing import Any, Literal

from fastbn.options import Activation, Optimizer, listed

Solver = Literal[Optimizer, "lbfgs"]
LearningRate = Literal["constant", "invscaling", "adaptive"]
ClassWeight = dict[Any, float] | list[Any] | Literal["balanced"] | None

PARAMETERS = f"""hidden_layer_sizes : int or sequence of int, default=(100,)
    activation : {listed(Activation)}, default="relu"
        Activation of the hidden layers.
    solver : {listed(Solver)}, default="adam"
        "lbfgs" takes all samples at once, and stands for "adam" here, with a warning.
    alpha : float, default=0.0001
        Strength of the L2 penalty on the weights: ``alpha / 2 * |W|^2``, divided by the samples of
        a minibatch, is added to its loss. With ``batch_norm=False`` a sample counts by its weight,
        as in scikit-learn. With "adamw" the decoupled decay of the weights.
    batch_size : int or "auto", default="auto"
        "auto" is ``min(200, samples)``.
    learning_rate : "constant", "invscaling" or "adaptive", default="constant"
        For "sgd", as in scikit-learn.
    learning_rate_init : float, default=0.001
    power_t : float, default=0.5
        The exponent of "invscaling".
    max_iter : int, default=200
        Epochs at most.
    shuffle : bool, default=True
        Draw a new order of the samples for every epoch.
    random_state : int, RandomState or None, default=None
        Of the initial weights, the order of the samples, dropout and the validation set.
    tol : float, default=0.0001
        An epoch that improves loss or score by less counts as none.
    verbose : bool, default=False
        Print the loss of each epoch.
    warm_start : bool, default=False
        Go on from the earlier fit.
    momentum : float, default=0.9
        Of "sgd".
    nesterovs_momentum : bool, default=True
        Of "sgd".
    early_stopping : bool, default=False
        Set `validation_fraction` of the samples aside, stop by their score, and go back to the
        best epoch.
    validation_fraction : float, default=0.1
    beta_1, beta_2 : float, default=0.9, 0.999
        Of "adam" and "adamw"; `beta_2` is also the smoothing of "rmsprop".
    epsilon : float, default=1e-8
    n_iter_no_change : int, default=10
        Epochs without improvement before the fit stops.
    max_fun : int, default=15000
        Without effect: of scikit-learn's "lbfgs".
    batch_norm : bool, default=True
        Without it every layer has a bias instead.
    batch_norm_output : bool, default=False
        Normalize the last layer too, where it goes by softmax. Its outputs then lie closer
        together, which makes probabilities less sure (docs/experiments.md), and costs accuracy
        where classes overlap.
    batch_norm_eps, batch_norm_momentum : float, default=1e-5, 0.1
        The momentum is the weight of the new batch in the running statistics.
    negative_slope : float, default=0.01
        Of "leaky_relu".
    input_normalization : "zscore", "minmax" or None, default="zscore"
        Fitted on the training samples, those set aside left out; in `partial_fit` on the first
        call's.
    dropout : float, default=0.0
        Probability of dropping a hidden activation in training.
    max_norm : float, optional
        Scale the gradient down to this global norm where it is larger.
    schedule : "cosine", "one-cycle", "step", "exponential" or callable, optional
        Learning rate by step, over `max_iter` epochs, of every solver; see `BatchNormMLP.fit`.
    dtype : "float32" or "float64", default="float32"
    n_threads : int, optional
        The most threads; by default as many as there are cores, where they pay."""

ATTRIBUTES = """model_ : BatchNormMLP
        The network.
    coefs_, intercepts_ : lists of arrays (inputs, units) and (units,)
        The network as a plain one: input normalization and batch norm are folded in. Read-only.
    loss_, best_loss_ : float
        Of the last epoch, and the least; without the penalty. `best_loss_` is None with
        `early_stopping`.
    loss_curve_ : list of float
    validation_scores_ : list of float, or None without `early_stopping`
    best_validation_score_ : float, or None without `early_stopping`
    n_iter_ : int
        Epochs of the last fit.
    t_ : int
        Samples seen.
    n_features_in_, n_layers_, n_outputs_ : int
    feature_names_in_ : array (features,) of str
        Where X had names.
    out_activation_ : str"""


def document(cls: type[Any]) -> type[Any]:
    """Put both into the docstring of a class."""
    if cls.__doc__:  # python -OO takes it away
        cls.__doc__ = cls.__doc__.replace("{parameters}", PARAMETERS).replace(
            "{attributes}", ATTRIBUTES
        )
    return cls
