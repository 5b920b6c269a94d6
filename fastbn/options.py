"""The names of all options, defined once for types, checks, kernels, the command line and docs.

docs/design.md says how to add an activation, an optimizer or a loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import numpy as np

Class = TypeVar("Class", bound=type)

# Layout of an array: "NC" is (N, C) or (N, C, *spatial), "CN" is (C, N).
Layout = Literal["NC", "CN"]
Gradient = Literal["exact", "detached"]

# Fused with batch norm: one loop with a slope computes all three (kernels/activations.py).
FusedActivation = Literal["leaky_relu", "relu", "identity"]
# Computed in a separate pass after batch norm (kernels/elementwise.py).
ElementwiseActivation = Literal["tanh", "logistic"]

# Options of a network.
Activation = Literal[FusedActivation, ElementwiseActivation]
Loss = Literal["softmax_cross_entropy", "sigmoid_cross_entropy", "squared_error"]
Optimizer = Literal["adam", "adamw", "sgd", "rmsprop"]
DecoupledOptimizer = Literal["adamw"]  # weight decay is not part of the gradient
InputNormalization = Literal["zscore", "minmax"]
TargetNormalization = Literal["zscore"]
DTypeName = Literal["float32", "float64"]
DType = DTypeName | type[np.float32] | type[np.float64] | np.dtype[Any]

# Options of a fit.
ScheduleName = Literal["cosine", "one-cycle", "step", "exponential"]
OnDivergence = Literal["raise", "stop", "skip"]
Monitor = Literal["val_loss", "val_accuracy", "val_r2", "loss", "accuracy"]
StopReason = Literal[
    "epochs", "until_accuracy", "early_stopping", "callback", "diverged", "interrupted"
]
ShowProgress = bool | Literal["auto"]


class LossKind(NamedTuple):
    """What a loss takes, and what turns the outputs of the last layer into predictions."""

    targets: tuple[float, float] | None  # their range; None: one class for each sample instead
    output: Literal["softmax", "logistic", "identity"]


LOSSES: dict[str, LossKind] = {
    "softmax_cross_entropy": LossKind(None, "softmax"),
    "sigmoid_cross_entropy": LossKind((0.0, 1.0), "logistic"),
    "squared_error": LossKind((-math.inf, math.inf), "identity"),
}


def code(option: Any, name: str | None) -> int:
    """Return the number that kernels get for a name: its position in the option, or -1 for None."""
    return -1 if name is None else get_args(option).index(name)


def listed(option: Any) -> str:
    """Return the names of an option as docstrings list them: '"zscore" or "minmax"'."""
    *others, last = (f'"{name}"' for name in get_args(option))
    return f"{', '.join(others)} or {last}" if others else last


def document(**parts: str) -> Callable[[Class], Class]:
    """Replace {name} in a class's docstring by the part of that name."""

    def documented(cls: Class) -> Class:
        if cls.__doc__:  # python -OO removes docstrings
            for name, part in parts.items():
                cls.__doc__ = cls.__doc__.replace(f"{{{name}}}", part)
        return cls

    return documented
