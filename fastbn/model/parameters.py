"""The parameters of `BatchNormMLP` and `ModelConfig`, as both docstrings describe them."""

from __future__ import annotations

from fastbn.options import Activation, Loss, Optimizer, listed

PARAMETERS = f"""layer_sizes : sequence of int
        Numbers of input features, of units of each hidden layer, and of classes or outputs.
    activation : {listed(Activation)}
        Activation of the hidden layers.
    negative_slope : float
        Slope of LeakyReLU for negative inputs.
    batch_norm : bool
        Normalize the hidden layers. If False, every layer has a bias instead.
    batch_norm_output : bool
        Normalize the output layer too, if the loss is softmax cross-entropy.
    eps : float
        Added to the variance in batch norm.
    momentum : float
        Weight of the new batch in the running statistics, as in PyTorch.
    unbiased : bool
        Divide running variances by ``n - 1``, as PyTorch does. If False, divide by ``n``, as Keras
        does.
    weighted : bool
        Sample weights count not only in the loss, but also in the statistics of batches and inputs:
        a weight of two has the effect of the sample twice. Leave it False if a few samples have
        large weights, such as those of a rare class. Such samples would determine the mean and
        variance of their minibatches, the running statistics would not fit any minibatch, and
        predictions might be useless.
    gradient : "exact" or "detached"
        "detached" treats mean and variance as constants in the backward pass.
    input_normalization : None, "zscore" or "minmax"
        Scale the features to mean 0 and deviation 1, or to the range from 0 to 1. The scaling is
        fitted to the first training data, without rows of weight 0, and stored with the model.
        uint8 data and data of the model's dtype are scaled in that dtype. Other data are scaled in
        float64 before they are rounded, so that features far from zero, such as dates, keep their
        digits.
    target_normalization : None or "zscore"
        Only for the squared error. Each output's targets are scaled to mean 0 and deviation 1 for
        training, and `predict` converts back to the units of the targets. The scaling is fitted to
        the first training targets, in float64, without rows of weight 0, and stored with the model.
        Losses are computed from normalized targets.
    loss : {listed(Loss)}
        Softmax cross-entropy is for one of several classes, sigmoid cross-entropy for several
        yes-or-no outputs, and the squared error for numbers. The loss of a sample is the sum over
        its outputs. The squared error is halved.
    label_smoothing : float
        Fraction of each target that is spread evenly over the classes, or over yes and no.
    optimizer : {listed(Optimizer)}
    lr : float
        Learning rate.
    betas : pair of float
        Decay rates of Adam's two moments. SGD uses the first as its momentum, RMSprop the second as
        its smoothing constant.
    optimizer_eps : float
        Added to the denominator of Adam's and RMSprop's updates.
    nesterov : bool
        Use Nesterov momentum in SGD.
    weight_decay : float
        Weight decay. It is added to the gradient, except in "adamw", which applies it separately.
    decay_vectors : bool
        Apply weight decay to gamma, beta and biases, too.
    max_norm : float, optional
        Scale a gradient with a larger global norm down to this norm.
    dropout : float
        Probability that a hidden activation is dropped during training.
    dtype : "float32" or "float64"
        Dtype of parameters and computations.
    seed : int
        Seed of the initial weights, the shuffling and dropout. The same seed gives the same
        bits."""
