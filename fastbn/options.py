"""The names that options may have, as types: signatures and argument checks share them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

# of the functions on arrays: (N, C) or (N, C, *spatial) is "NC", (C, N) is "CN"
Layout = Literal["NC", "CN"]
FusedActivation = Literal["leaky_relu", "relu", "identity"]
Gradient = Literal["exact", "detached"]

# of a network
Activation = Literal["leaky_relu", "relu", "identity", "tanh", "logistic"]
Loss = Literal["softmax_cross_entropy", "sigmoid_cross_entropy", "squared_error"]
Optimizer = Literal["adam", "adamw", "sgd", "rmsprop"]
InputNormalization = Literal["zscore", "minmax"]
TargetNormalization = Literal["zscore"]
DTypeName = Literal["float32", "float64"]
DType = DTypeName | type[np.float32] | type[np.float64] | np.dtype[Any]

# of a fit
ScheduleName = Literal["cosine", "one-cycle", "step", "exponential"]
OnDivergence = Literal["raise", "stop", "skip"]
