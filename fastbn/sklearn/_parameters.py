"""Types of the parameters, and the parts of the docstrings that both estimators share."""

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
        "lbfgs" needs all samples at once and is not implemented: it warns and uses "adam".
    alpha : float, default=0.0001
        Strength of the L2 penalty on the weights. A minibatch's loss gets ``alpha / 2 * |W|^2``
        divided by its number of samples, or with ``batch_norm=False`` by the sum of their weights,
        as in scikit-learn. With "adamw" it is the decoupled weight decay.
    batch_size : int or "auto", default="auto"
        Samples in a minibatch; "auto" is ``min(200, samples)``.
    learning_rate : "constant", "invscaling" or "adaptive", default="constant"
        How "sgd" changes its learning rate, as in scikit-learn.
    learning_rate_init : float, default=0.001
    power_t : float, default=0.5
        The exponent of "invscaling".
    max_iter : int, default=200
        The maximum number of epochs.
    shuffle : bool, default=True
        Shuffle the samples in every epoch.
    random_state : int, RandomState or None, default=None
        Seed of the initial weights, the shuffling, dropout and the choice of the validation set.
    tol : float, default=0.0001
        An epoch counts as an improvement if the loss or score improves by at least this much.
    verbose : bool, default=False
        Print the loss of each epoch.
    warm_start : bool, default=False
        `fit` continues from the earlier fit.
    momentum : float, default=0.9
        Momentum of "sgd".
    nesterovs_momentum : bool, default=True
        Use Nesterov's momentum with "sgd".
    early_stopping : bool, default=False
        Set `validation_fraction` of the samples aside, stop when their score no longer improves,
        and return to the best epoch.
    validation_fraction : float, default=0.1
    beta_1, beta_2 : float, default=0.9, 0.999
        Decay rates of the moments of "adam" and "adamw"; "rmsprop" uses `beta_2`.
    epsilon : float, default=1e-8
        Added to the root of the second moment.
    n_iter_no_change : int, default=10
        Stop after this many epochs without improvement.
    max_fun : int, default=15000
        Ignored; scikit-learn uses it for "lbfgs".
    batch_norm : bool, default=True
        Normalize the hidden layers. With False every layer has a bias instead.
    batch_norm_output : bool, default=False
        Normalize the last layer too, if it has a softmax. Its outputs then lie closer together:
        probabilities are less certain (docs/experiments.md), and accuracy is lower if classes
        overlap.
    batch_norm_eps, batch_norm_momentum : float, default=1e-5, 0.1
        The number added to variances, and the weight of the new batch in the running statistics.
    negative_slope : float, default=0.01
        Slope of "leaky_relu" for negative inputs.
    input_normalization : "zscore", "minmax" or None, default="zscore"
        Scaling of the features, fitted on the training samples without the validation set;
        `partial_fit` fits it in the first call.
    dropout : float, default=0.0
        Probability of dropping a hidden activation in training.
    max_norm : float, optional
        Scale gradients with a larger global norm down to this norm.
    schedule : "cosine", "one-cycle", "step", "exponential" or callable, optional
        Learning rate by step over `max_iter` epochs, for every solver; see `BatchNormMLP.fit`.
    dtype : "float32" or "float64", default="float32"
        Dtype of the network.
    n_threads : int, optional
        The maximum number of threads; by default the number of cores."""

ATTRIBUTES = """model_ : BatchNormMLP
        The network.
    coefs_, intercepts_ : lists of arrays (inputs, units) and (units,)
        Weights and biases of a plain network with the same predictions: input normalization and
        batch norm are folded in. Read-only.
    loss_, best_loss_ : float
        Loss of the last epoch and the lowest loss, without the penalty. `best_loss_` is None with
        `early_stopping`.
    loss_curve_ : list of float
    validation_scores_ : list of float, or None without `early_stopping`
    best_validation_score_ : float, or None without `early_stopping`
    n_iter_ : int
        Epochs of the last fit.
    t_ : int
        Samples trained on.
    n_features_in_, n_layers_, n_outputs_ : int
    feature_names_in_ : array (features,) of str
        Only if X has names.
    out_activation_ : str"""
