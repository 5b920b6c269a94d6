"""Convert a PyTorch network and its optimizer to a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from fastbn.model import BatchNormMLP
from fastbn.model.state import odd_numbers
from fastbn.torch._accelerate import FastSequential
from fastbn.torch._convert import (
    MOMENTS,
    NAMED,
    OPTIMIZERS,
    InputScaling,
    Layer,
    TargetScaling,
    parameters_of,
    statistics_of,
)

# Options that `from_torch` reads from the module and does not accept as arguments.
OF_THE_MODULE = ("layer_sizes", "batch_norm", "batch_norm_output", "dtype", "target_normalization")

IDENTITY = ("identity", 1.0)

# The parts of a module in their order; all but the first and the last kind form a layer.
SLOTS: dict[str, Any] = {
    "scaling": InputScaling,
    "linear": nn.Linear,
    "norm": nn.BatchNorm1d,
    "activation": (nn.LeakyReLU, *NAMED.values()),
    "dropout": nn.Dropout,
    "undoing": TargetScaling,
}


def from_torch(
    module: nn.Sequential, optimizer: torch.optim.Optimizer | None = None, **options: Any
) -> BatchNormMLP:
    """Return a model with copies of the parameters of a PyTorch network.

    Parameters
    ----------
    module : torch.nn.Sequential
        Layers as in the result of `to_torch`, each in this order: `Linear`, `BatchNorm1d` (with
        parameters and running statistics; a bias before it is subtracted from the running mean),
        `LeakyReLU`, `ReLU`, `Tanh` or `Sigmoid`, `Dropout`. `InputScaling` may be the first
        module, `TargetScaling` the last one, and `Identity` may be anywhere. The last layer has no
        activation and no dropout. All other layers have the same modules with the same options.
    optimizer : torch.optim.Adam, AdamW, SGD or RMSprop, optional
        Optimizer of the module's parameters. The model gets its moments, steps and options.
    options
        More arguments of `BatchNormMLP`: `loss`, `seed`.

    Returns
    -------
    BatchNormMLP

    Raises
    ------
    TypeError, ValueError
        The module or the optimizer has something that a model does not have.
    """
    if not isinstance(module, nn.Sequential):
        raise TypeError(f"module: expected a torch.nn.Sequential, got {type(module).__name__}")
    if not _computes_as(module, nn.Sequential, FastSequential):
        raise TypeError(f"module: expected Sequential's own forward, got that of {type(module)}")
    scaling, layers, undoing = _read_layers(module)
    config = _shared_options(layers) | {"dtype": _shared_dtype(module)}
    if scaling is not None:
        config["input_normalization"] = "zscore"
    if undoing is not None:
        config |= {"target_normalization": "zscore", "loss": "squared_error"}
    for name in OF_THE_MODULE:
        if name in options:
            raise ValueError(f"{name}: expected only that of the module, got {options[name]}")
    model = BatchNormMLP(**(config | _optimizer_options(optimizer, module) | options))
    for index, layer in enumerate(layers):
        if (layer.norm is not None) != model.config.normalized(index):
            raise ValueError(
                f"module: expected {'no ' if layer.norm is not None else ''}batch norm in layer "
                f"{index}, with the loss {model.config.loss!r}"
            )
    state = model.snapshot()
    found = _tensors(scaling, layers, undoing)
    if optimizer is not None:
        state["steps"], moments = _progress(optimizer, layers, model.config.optimizer)
        found |= moments
    for name, tensor in found.items():
        state[name] = tensor.detach().numpy()
        odd = odd_numbers(name, state[name])
        if odd is not None:
            raise ValueError(f"module: {odd}")
    for name, part in (("input", scaling), ("target", undoing)):
        if part is not None:
            state[f"{name}_is_fitted"] = True
    model.restore(state)
    return model


def _tensors(
    scaling: InputScaling | None, layers: list[Layer], undoing: TargetScaling | None
) -> dict[str, torch.Tensor]:
    """Return the tensors of a module by their names in the model's state."""
    found: dict[str, Any] = parameters_of(layers) | statistics_of(layers)
    for index, layer in enumerate(layers):
        if layer.norm is not None and layer.linear.bias is not None:
            mean = f"layers.{index}.running_mean"
            found[mean] = found[mean] - layer.linear.bias
    for name, part in (("input", scaling), ("target", undoing)):
        if part is not None:
            found |= {f"{name}.center": part.center, f"{name}.scale": part.scale}
    return found


def _progress(
    optimizer: torch.optim.Optimizer, layers: list[Layer], kind: str
) -> tuple[int, dict[str, torch.Tensor]]:
    """Return an optimizer's steps, and its moments by their names in the model's state."""
    counted = [layer.norm.num_batches_tracked for layer in layers if layer.norm is not None]
    steps = [int(count) for count in counted if count is not None]  # SGD has no count of its own
    moments = {}
    for name, parameter in parameters_of(layers).items():
        own = optimizer.state.get(parameter, {})
        steps.append(int(own.get("step", 0)))
        for key, moment in MOMENTS[kind].items():
            if own.get(key) is not None:
                moments[f"optimizer.{moment}.{name}"] = own[key]
    return max(steps), moments


def _shared_dtype(module: nn.Module) -> str:
    dtypes = {parameter.dtype for parameter in module.parameters()}
    if dtypes not in ({torch.float32}, {torch.float64}):
        raise TypeError(
            f"module: expected float32 or float64 throughout, got {sorted(map(str, dtypes))}"
        )
    return str(dtypes.pop()).removeprefix("torch.")


def _read_layers(
    module: nn.Sequential,
) -> tuple[InputScaling | None, list[Layer], TargetScaling | None]:
    """Return a module's scaling of inputs, its layers, and its scaling of outputs."""
    scaling: Any = None
    undoing: Any = None
    layers: list[Layer] = []
    rank = -1  # position of a part in SLOTS
    part: Any
    slot: Any
    for place, part in enumerate(module):
        if isinstance(part, nn.Identity):
            continue
        slot = next((slot for slot, kinds in SLOTS.items() if isinstance(part, kinds)), None)
        before, rank = rank, list(SLOTS).index(slot) if slot else -1
        goes_on = rank > before and (layers or slot == "scaling")
        if not (goes_on or (slot == "linear" and undoing is None)):
            raise TypeError(
                f"module[{place}]: expected Linear, BatchNorm1d, LeakyReLU, ReLU, Tanh or Sigmoid, "
                f"Dropout in this order, got {part!s:.200}"
            )
        if slot == "scaling":
            scaling = part
        elif slot == "undoing":
            undoing = part
        elif slot == "linear":
            if not _computes_as(part, nn.Linear):
                raise TypeError(f"module[{place}]: expected Linear's own forward, got {type(part)}")
            if any(part is layer.linear for layer in layers):
                raise ValueError(
                    f"module[{place}]: expected each layer once, got {part!s:.99} again"
                )
            layers.append(Layer(part))
        else:
            needed = ("weight", "bias", "running_mean", "running_var", "momentum")
            if slot == "norm" and any(getattr(part, name) is None for name in needed):
                raise ValueError(
                    f"module[{place}]: expected a BatchNorm1d with parameters, running statistics "
                    f"and a momentum, got {part!s:.200}"
                )
            setattr(layers[-1], slot, part)
    if not layers:
        raise ValueError("module: expected at least one Linear, got none")
    width = layers[0].linear.in_features
    for index, layer in enumerate(layers):
        if layer.norm is None and layer.linear.bias is None:
            raise ValueError(f"module: expected a bias in layer {index}, which has no batch norm")
        if layer.linear.in_features != width:
            raise ValueError(
                f"module: expected {width} features as inputs of layer {index}, the outputs of the "
                f"layer before it, got {layer.linear.in_features}"
            )
        width = layer.linear.out_features
        if layer.norm is not None and layer.norm.num_features != width:
            raise ValueError(
                f"module: expected batch norm of {width} features in layer {index}, got "
                f"{layer.norm.num_features}"
            )
    return scaling, layers, undoing


def _named(part: nn.Module | None) -> tuple[str, float]:
    """Return the model's name and slope for an activation."""
    for name, kind in NAMED.items():
        if isinstance(part, kind):
            return name, 0.01
    return ("leaky_relu", part.negative_slope) if isinstance(part, nn.LeakyReLU) else IDENTITY


def _computes_as(part: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Return whether a module has the forward of one of these classes."""
    return "forward" not in vars(part) and any(type(part).forward is one.forward for one in kinds)


def _shared_options(layers: list[Layer]) -> dict[str, Any]:
    """Return the arguments of the model that must be the same for all layers."""
    *hidden, last = layers
    if last.activation is not None or last.dropout is not None:
        raise ValueError("module: expected nothing after the last layer but its batch norm")
    norms = [layer.norm for layer in layers if layer.norm is not None]
    activation, slope = _one("activation", (_named(one.activation) for one in hidden), IDENTITY)
    batch_norm = _one("batch norm", (one.norm is not None for one in hidden), bool(norms))
    if last.norm is not None and not batch_norm:
        raise ValueError(
            "module: expected batch norm in all hidden layers, because the last layer has it"
        )
    rates = (0.0 if one.dropout is None else one.dropout.p for one in hidden)
    return {
        "layer_sizes": [layers[0].linear.in_features, *(one.linear.out_features for one in layers)],
        "activation": activation,
        "negative_slope": slope,
        "batch_norm": batch_norm,
        "batch_norm_output": last.norm is not None,
        "dropout": _one("dropout", rates, 0.0),
        "eps": _one("eps", (norm.eps for norm in norms), 1e-5),
        "momentum": _one("momentum", (norm.momentum for norm in norms), 0.1),
    }


def _one(name: str, values: Iterable[Any], default: Any) -> Any:
    found = sorted(set(values))
    if len(found) > 1:
        raise ValueError(f"module: expected the same {name} in all layers, got {found}")
    return found[0] if found else default


def _optimizer_options(
    optimizer: torch.optim.Optimizer | None, module: nn.Module
) -> dict[str, Any]:
    """Return the arguments of the model that the optimizer determines."""
    if optimizer is None:
        return {}
    kinds = {kind: name for name, kind in OPTIMIZERS.items()}
    kind = next((kinds[base] for base in type(optimizer).__mro__ if base in kinds), None)
    if kind is None:
        raise TypeError(
            f"optimizer: expected Adam, AdamW, SGD or RMSprop, got {type(optimizer).__name__}"
        )
    group, decay_vectors = _one_group(optimizer)
    updated = {id(one) for group in optimizer.param_groups for one in group["params"]}
    if updated != {id(one) for one in module.parameters()}:
        raise ValueError("optimizer: expected all parameters of the module, and no others")
    unknown = [name for name in ("amsgrad", "maximize", "dampening", "centered") if group.get(name)]
    if kind == "rmsprop" and group["momentum"]:
        unknown.append("momentum")
    if unknown:
        raise ValueError(f"optimizer: expected none of {unknown}, which a model does not have")
    if kind == "adam" and group.get("decoupled_weight_decay"):
        kind = "adamw"
    options = {
        "optimizer": kind, "lr": float(group["lr"]), "weight_decay": group["weight_decay"],
        "decay_vectors": decay_vectors,
    }  # fmt: skip
    if kind == "sgd":
        return options | {"betas": (group["momentum"], 0.999), "nesterov": group["nesterov"]}
    if kind == "rmsprop":
        return options | {"betas": (0.9, group["alpha"]), "optimizer_eps": group["eps"]}
    return options | {"betas": tuple(group["betas"]), "optimizer_eps": group["eps"]}


def _one_group(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], bool]:
    """Return the options of the parameters, and whether weight decay applies to vectors, too."""
    first, *others = optimizer.param_groups
    if not others:
        return first, True
    second, apart = others[0], ("params", "weight_decay")
    if (
        len(others) == 1
        and all(first[name] == second[name] for name in first if name not in apart)
        and second["weight_decay"] == 0
        and all(one.dim() == 2 for one in first["params"])
        and all(one.dim() == 1 for one in second["params"])
    ):
        return first, False
    raise ValueError(
        "optimizer: expected one group of parameters, or matrices, and vectors without decay, got "
        f"{len(others) + 1} groups"
    )
