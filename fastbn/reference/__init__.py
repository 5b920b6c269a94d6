"""The oracle: what every kernel computes, written from the equations in float64 NumPy.

The code is meant to be read, not to be fast. It imports nothing else from fastbn. Statistics are
taken over all axes except the feature axis, which is 1 in layout "NC" and 0 in "CN". Functions
return new arrays and leave their arguments unchanged. `fastbn.reference.mlp` is a training step of
a whole network.
"""

from fastbn.reference.activations import (
    bias_activation,
    bias_activation_backward,
    dropout_mask,
    elementwise,
    elementwise_gradient,
    leaky_relu,
    leaky_relu_gradient,
    sigmoid,
)
from fastbn.reference.batchnorm import (
    batch_norm,
    batch_norm_backward,
    batch_norm_inference,
    batch_statistics,
    fold_batch_norm,
    update_running_statistics,
)
from fastbn.reference.losses import (
    count_correct,
    sigmoid_cross_entropy,
    softmax,
    softmax_cross_entropy,
    squared_error,
)
from fastbn.reference.optimizers import (
    Settings,
    adam_step,
    clip,
    optimizer_step,
    rmsprop_step,
    sgd_step,
)
from fastbn.reference.preprocessing import (
    min_max_fit,
    min_max_scale,
    standard_fit,
    standardize,
)

__all__ = [
    "Settings",
    "adam_step",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_inference",
    "batch_statistics",
    "bias_activation",
    "bias_activation_backward",
    "clip",
    "count_correct",
    "dropout_mask",
    "elementwise",
    "elementwise_gradient",
    "fold_batch_norm",
    "leaky_relu",
    "leaky_relu_gradient",
    "min_max_fit",
    "min_max_scale",
    "optimizer_step",
    "rmsprop_step",
    "sgd_step",
    "sigmoid",
    "sigmoid_cross_entropy",
    "softmax",
    "softmax_cross_entropy",
    "squared_error",
    "standard_fit",
    "standardize",
    "update_running_statistics",
]
