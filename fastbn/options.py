"""The names that options may have: one definition for types, checks, kernels, commands and docs.

docs/design.md says how to add an activation or an optimizer.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar, get_args

import numpy as np

Class = TypeVar("Class", bound=type)

# of the functions on arrays: (N, C) or (N, C, *spatial) is "NC", (C, N) is "CN"
Layout = Literal["NC", "CN"]
Gradient = Literal["exact", "detached"]

# computed together with batch norm, by their slope (kernels/activations.py)
FusedActivation = Literal["leaky_relu", "relu", "identity"]
# a pass of their own after batch norm (kernels/elementwise.py)
ElementwiseActivation = Literal["tanh", "logistic"]

# of a network
Activation = Literal[FusedActivation, ElementwiseActivation]
Loss = Literal["softmax_cross_entropy", "sigmoid_cross_entropy", "squared_error"]
Optimizer = Literal["adam", "adamw", "sgd", "rmsprop"]
DecoupledOptimizer = Literal["adamw"]  # whose weight decay is not part of the gradient
InputNormalization = Literal["zscore", "minmax"]
TargetNormalization = Literal["zscore"]
DTypeName = Literal["float32", "float64"]
DType = DTypeName | type[np.float32] | type[np.float64] | np.dtype[Any]

# of a fit
ScheduleName = Literal["cosine", "one-cycle", "step", "exponential"]
OnDivergence = Literal["raise", "stop", "skip"]


def code(option: Any, name: str | None) -> int:
    """Return the number that kernels know a name by: its position in the option, -1 for None."""
    return -1 if name is None else get_args(option).index(name)


def listed(option: Any) -> str:
    """Return an option's names as a docstring lists them: '"zscore" or "minmax"'."""
    *others, last = (f'"{name}"' for name in get_args(option))
    return f"{', '.join(others)} or {last}" if others else last


def document(cls: Class) -> Class:
    """Fill the names of the options that grow into a class's docstring, in place of {optimizer}."""
    if cls.__doc__:  # python -OO takes it away
        for name, option in (("activation", Activation), ("loss", Loss), ("optimizer", Optimizer)):
            cls.__doc__ = cls.__doc__.replace(f"{{{name}}}", listed(option))
    return cls
