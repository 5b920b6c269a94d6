"""The configuration of a model: its architecture and training settings, checked once."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Set
from typing import Any, get_args

import numpy as np

from fastbn.checks import choice, flag, integer, number, pair
from fastbn.model.parameters import PARAMETERS
from fastbn.options import (
    LOSSES,
    Activation,
    DTypeName,
    ElementwiseActivation,
    Gradient,
    InputNormalization,
    Loss,
    Optimizer,
    TargetNormalization,
    document,
)

MAX_SEED = 2**32 - 1
MAX_LAYERS = 2**16
MAX_LAYER = 2**24  # units of one layer: two such layers have 1 PB of weights

# Defaults for fields that are missing in files of earlier versions.
LATER_FIELDS: dict[str, Any] = {
    "unbiased": True,
    "weighted": False,
    "loss": "softmax_cross_entropy",
    "label_smoothing": 0.0,
    "nesterov": False,
    "decay_vectors": True,
    "target_normalization": None,
}

# Fields that a model's memory and data depend on; they cannot be changed.
ARCHITECTURE = (
    "layer_sizes", "batch_norm", "batch_norm_output", "input_normalization",
    "target_normalization", "loss", "dtype",
)  # fmt: skip


@document(parameters=PARAMETERS)
@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The arguments of `BatchNormMLP`, checked and in plain Python types.

    Parameters
    ----------
    {parameters}
    """

    layer_sizes: tuple[int, ...]
    activation: Activation = "leaky_relu"
    negative_slope: float = 0.01
    batch_norm: bool = True
    batch_norm_output: bool = True
    eps: float = 1e-05
    momentum: float = 0.1
    unbiased: bool = True
    weighted: bool = False
    gradient: Gradient = "exact"
    input_normalization: InputNormalization | None = None
    loss: Loss = "softmax_cross_entropy"
    label_smoothing: float = 0.0
    optimizer: Optimizer = "adam"
    lr: float = 0.001
    betas: tuple[float, float] = (0.9, 0.999)
    optimizer_eps: float = 1e-08
    nesterov: bool = False
    weight_decay: float = 0.0
    decay_vectors: bool = True
    max_norm: float | None = None
    dropout: float = 0.0
    dtype: DTypeName = "float32"
    seed: int = 0
    target_normalization: TargetNormalization | None = None  # missing in older pickles

    def __post_init__(self) -> None:
        first, second = pair("betas", self.betas)
        dtype = choice("dtype", dtype_name(self.dtype), get_args(DTypeName))
        checked = {
            "layer_sizes": _layer_sizes(self.layer_sizes),
            "activation": choice("activation", self.activation, get_args(Activation)),
            "negative_slope": number("negative_slope", self.negative_slope, 0.0, 1.0),
            "batch_norm": flag("batch_norm", self.batch_norm),
            "batch_norm_output": flag("batch_norm_output", self.batch_norm_output),
            "eps": number("eps", self.eps, 0.0, float(np.finfo(dtype).max)),
            "momentum": number("momentum", self.momentum, 0.0, 1.0),
            "unbiased": flag("unbiased", self.unbiased),
            "weighted": flag("weighted", self.weighted),
            "gradient": choice("gradient", self.gradient, get_args(Gradient)),
            "input_normalization": choice(
                "input_normalization",
                self.input_normalization,
                (None, *get_args(InputNormalization)),
            ),
            "target_normalization": choice(
                "target_normalization",
                self.target_normalization,
                (None, *get_args(TargetNormalization)),
            ),
            "loss": choice("loss", self.loss, get_args(Loss)),
            "label_smoothing": number("label_smoothing", self.label_smoothing, 0.0, 1.0),
            "optimizer": choice("optimizer", self.optimizer, get_args(Optimizer)),
            "lr": number("lr", self.lr, 0.0),
            "betas": (
                number("betas[0]", first, 0.0, 1.0, open_high=True),
                number("betas[1]", second, 0.0, 1.0, open_high=True),
            ),
            "optimizer_eps": number("optimizer_eps", self.optimizer_eps, 0.0),
            "nesterov": flag("nesterov", self.nesterov),
            "decay_vectors": flag("decay_vectors", self.decay_vectors),
            "weight_decay": number("weight_decay", self.weight_decay, 0.0),
            "max_norm": None
            if self.max_norm is None
            else number("max_norm", self.max_norm, 0.0, open_low=True),
            "dropout": number("dropout", self.dropout, 0.0, 1.0, open_high=True),
            "dtype": dtype,
            "seed": integer("seed", self.seed, 0, MAX_SEED),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.predicts_one_class:
            integer("layer_sizes[-1]", self.layer_sizes[-1], 2)
        if self.predicts_numbers and self.label_smoothing > 0:
            raise ValueError(
                f"label_smoothing: expected 0 with loss={self.loss!r}, got {self.label_smoothing}"
            )
        if self.target_normalization is not None and not self.predicts_numbers:
            raise ValueError(
                f"target_normalization: expected None with loss={self.loss!r}, "
                f"got {self.target_normalization!r}"
            )

    @property
    def slope(self) -> float:
        """Slope of the fused LeakyReLU in hidden layers: 0 for ReLU, 1 for other activations."""
        slopes = {"relu": 0.0, "leaky_relu": self.negative_slope}
        return slopes.get(self.activation, 1.0)

    @property
    def elementwise_activation(self) -> str | None:
        """The activation of the hidden layers if it is not fused with batch norm."""
        return self.activation if self.activation in get_args(ElementwiseActivation) else None

    @property
    def gradient_limit(self) -> float:
        """Magnitude of a gradient entry at which a step is refused, since its square overflows.

        It is infinite if `max_norm` scales larger gradients down.
        """
        limit = math.sqrt(np.finfo(self.dtype).max)
        return limit if self.max_norm is None or self.max_norm >= limit else math.inf

    @property
    def predicts_one_class(self) -> bool:
        """Whether the loss takes one label per sample instead of a target for each output."""
        return LOSSES[self.loss].targets is None

    @property
    def predicts_numbers(self) -> bool:
        """Whether the outputs are predictions themselves, and not logits of classes."""
        return LOSSES[self.loss].output == "identity"

    def normalized(self, layer: int) -> bool:
        """Return whether layer number `layer` has batch norm."""
        is_output = layer == len(self.layer_sizes) - 2
        output_too = self.batch_norm_output and self.predicts_one_class
        return self.batch_norm and (output_too or not is_output)

    def replaced_by(self, value: Any) -> ModelConfig:
        """Return `value`; raise an error if it is not a configuration of the same architecture."""
        if not isinstance(value, ModelConfig):
            raise TypeError(f"config: expected a ModelConfig, got {value!r:.80}")
        for name in ARCHITECTURE:
            expected, got = getattr(self, name), getattr(value, name)
            if got != expected:
                raise ValueError(f"config.{name}: expected the model's, {expected!r}, got {got!r}")
        return value

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary that can be written as JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Undo `to_dict`; raises ValueError for a missing or unknown field."""
        values = LATER_FIELDS | values
        names = {field.name for field in dataclasses.fields(cls)}
        if set(values) != names:
            odd = sorted(set(values) ^ names)
            raise ValueError(
                f"configuration: expected the fields {sorted(names)}, "
                f"missing or unknown {odd!r:.200}"
            )
        return cls(**values)


def _layer_sizes(value: Any) -> tuple[int, ...]:
    is_sequence = isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping | Set)
    if not is_sequence or getattr(value, "ndim", 1) == 0:
        raise TypeError(f"layer_sizes: expected a sequence of integers, got {value!r:.200}")
    value = tuple(itertools.islice(value, MAX_LAYERS + 1))
    if len(value) > MAX_LAYERS:
        raise ValueError(f"layer_sizes: expected at most {MAX_LAYERS} sizes, got more")
    if len(value) < 2:
        raise ValueError(f"layer_sizes: expected inputs and outputs at least, got {value!r:.200}")
    return tuple(integer(f"layer_sizes[{i}]", size, 1, MAX_LAYER) for i, size in enumerate(value))


def dtype_name(value: Any) -> Any:
    """Return "float32" for numpy.float32 and dtype('float32'), and other values as they are."""
    if isinstance(value, str):
        return value
    return getattr(value, "name", getattr(value, "__name__", repr(value)))
