"""Convert a model to PyTorch modules and an optimizer."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fastbn.model import BatchNormMLP
from fastbn.model.config import ModelConfig

OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}

# The names that PyTorch's optimizers have for the moments m and v.
ADAM = {"exp_avg": "m", "exp_avg_sq": "v"}
MOMENTS = {
    "adam": ADAM,
    "adamw": ADAM,
    "sgd": {"momentum_buffer": "m"},
    "rmsprop": {"square_avg": "v"},
}

# Activations without parameters.
NAMED: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "logistic": nn.Sigmoid}


class _Scaling(nn.Module):
    center: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self, center: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("center", center)
        self.register_buffer("scale", scale)
        # an empty buffer: its dtype changes together with that of the module
        like = None if dtype is None else torch.empty(0, dtype=dtype)
        self.register_buffer("like", like, persistent=False)

    def _cast(self, result: torch.Tensor) -> torch.Tensor:
        like = getattr(self, "like", None)  # modules of earlier versions have none
        return result if like is None else result.to(like.dtype)


class InputScaling(_Scaling):
    """``(x - center) * scale`` per feature: a model's scaling of inputs.

    Parameters
    ----------
    center, scale : tensors (features,)
    dtype : torch.dtype, optional
        Dtype of the result. The default, and the dtype of the computation, is the wider one of x
        and of center and scale.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # PyTorch's name
        """Scale a batch (N, features)."""
        return self._cast((input - self.center) * self.scale)


class TargetScaling(_Scaling):
    """``y / scale + center`` per output: predictions in the units of the targets.

    Parameters
    ----------
    center, scale : tensors (outputs,)
    dtype : torch.dtype, optional
        Dtype of the result, as in `InputScaling`.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # PyTorch's name
        """Scale a batch (N, outputs)."""
        return self._cast(input / self.scale + self.center)


@dataclass
class Layer:
    """A linear layer and the modules that follow it, in their order."""

    linear: nn.Linear
    norm: nn.BatchNorm1d | None = None
    activation: nn.Module | None = None
    dropout: nn.Dropout | None = None


def parameters_of(layers: list[Layer]) -> dict[str, nn.Parameter]:
    """Return the parameters by their names in the model's state, in the module's order."""
    found: dict[str, nn.Parameter] = {}
    for index, layer in enumerate(layers):
        own: dict[str, Any] = {"weight": layer.linear.weight}
        if layer.norm is None:
            own["bias"] = layer.linear.bias
        else:
            own |= {"gamma": layer.norm.weight, "beta": layer.norm.bias}
        found |= {f"layers.{index}.{name}": parameter for name, parameter in own.items()}
    return found


def statistics_of(layers: list[Layer]) -> dict[str, Any]:
    """Return the running statistics by their names in the model's state."""
    return {
        f"layers.{index}.{name}": getattr(layer.norm, name)
        for index, layer in enumerate(layers)
        if layer.norm is not None
        for name in ("running_mean", "running_var")
    }


def to_torch(model: BatchNormMLP) -> tuple[nn.Sequential, torch.optim.Optimizer]:
    """Return copies of a model's layers as PyTorch modules, and of its optimizer.

    Parameters
    ----------
    model : BatchNormMLP

    Returns
    -------
    module : torch.nn.Sequential
        From inputs to logits, in evaluation mode: `InputScaling` if the model scales its inputs,
        then for each layer `Linear`, `BatchNorm1d`, the activation and `Dropout`. If the model has
        a `target_normalization`, the last module is a `TargetScaling` and the outputs are those of
        `predict`; those of ``module[:-1]`` are normalized.
    optimizer : torch.optim.Adam, AdamW, SGD or RMSprop
        With the model's moments and steps.
    """
    if not isinstance(model, BatchNormMLP):
        raise TypeError(f"model: expected a BatchNormMLP, got {type(model).__name__}")
    config, state = model.config, model.snapshot()
    for option, known in (
        ("activation", ("identity", "leaky_relu", *NAMED)), ("optimizer", tuple(OPTIMIZERS)),
    ):  # fmt: skip
        if (value := getattr(config, option)) not in known:
            raise ValueError(
                f"model: expected an {option} that PyTorch has, one of {known}, got {value!r}"
            )
    if not (model.scaling.is_fitted and model.target_scaling.is_fitted):
        raise ValueError("model: expected a model with fitted scaling, got an untrained one")
    dtype = torch.float32 if config.dtype == "float32" else torch.float64
    parts: list[nn.Module] = []
    if config.input_normalization is not None:
        narrow = model.scaling.in_dtype() or (model.scaling.center, model.scaling.scale)
        center, scale = map(torch.tensor, narrow)
        parts.append(InputScaling(center, scale, dtype))
    layers: list[Layer] = []
    for index, (n_in, n_out) in enumerate(itertools.pairwise(config.layer_sizes)):
        normalized, is_last = config.normalized(index), index == len(config.layer_sizes) - 2
        layer = Layer(nn.Linear(n_in, n_out, bias=not normalized, dtype=dtype))
        if normalized:
            layer.norm = nn.BatchNorm1d(n_out, config.eps, config.momentum, dtype=dtype)
            layer.norm.num_batches_tracked.fill_(model.steps)  # type: ignore[union-attr]
        if not is_last and config.activation != "identity":
            layer.activation = _activation(config)
        if not is_last and config.dropout > 0:
            layer.dropout = nn.Dropout(config.dropout)
        layers.append(layer)
        parts += [part for part in vars(layer).values() if part is not None]
    if config.target_normalization is not None:
        center, scale = (torch.from_numpy(state[f"target.{name}"]) for name in ("center", "scale"))
        parts.append(TargetScaling(center, scale, dtype))
    parameters = parameters_of(layers)
    with torch.no_grad():
        for name, tensor in (parameters | statistics_of(layers)).items():
            tensor.copy_(torch.from_numpy(state[name]))
    return nn.Sequential(*parts).eval(), _optimizer(model, parameters, state)


def _activation(config: ModelConfig) -> nn.Module:
    if config.activation == "leaky_relu":
        return nn.LeakyReLU(config.negative_slope)
    return NAMED[config.activation]()


def _optimizer(
    model: BatchNormMLP, named: dict[str, nn.Parameter], state: dict[str, Any]
) -> torch.optim.Optimizer:
    config = model.config
    options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        options |= {"momentum": config.betas[0], "nesterov": config.nesterov}
    elif config.optimizer == "rmsprop":
        options |= {"alpha": config.betas[1], "eps": config.optimizer_eps}
    else:
        options |= {"betas": config.betas, "eps": config.optimizer_eps}
    groups: list[Any] = [{"params": list(named.values())}]
    if config.weight_decay > 0 and not config.decay_vectors:
        vectors = [one for one in named.values() if one.dim() == 1]
        matrices = [one for one in named.values() if one.dim() > 1]
        groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = OPTIMIZERS[config.optimizer](groups, **options)
    if model.steps > 0:
        for name, parameter in named.items():
            own = optimizer.state[parameter]
            if config.optimizer != "sgd":
                own["step"] = torch.tensor(float(model.steps))
            for key, moment in MOMENTS[config.optimizer].items():
                own[key] = torch.from_numpy(state[f"optimizer.{moment}.{name}"])
    return optimizer
