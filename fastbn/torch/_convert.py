"""A model as PyTorch modules, and back: weights, running statistics, scaling, optimizer state."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import nn

from fastbn.model import BatchNormMLP
from fastbn.model.config import ModelConfig
from fastbn.model.state import odd_numbers
from fastbn.torch._accelerate import FastSequential

OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}

# What no option can make otherwise.
OF_THE_MODULE = ("layer_sizes", "batch_norm", "batch_norm_output", "dtype", "target_normalization")

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
        # has the dtype, and goes along when the module's is changed
        like = None if dtype is None else torch.empty(0, dtype=dtype)
        self.register_buffer("like", like, persistent=False)

    def _delivered(self, result: torch.Tensor) -> torch.Tensor:
        like = getattr(self, "like", None)  # modules of earlier versions have none
        return result if like is None else result.to(like.dtype)


class InputScaling(_Scaling):
    """``(x - center) * scale`` per feature: the scaling of inputs that a model has learned.

    Parameters
    ----------
    center, scale : tensors (features,)
    dtype : torch.dtype, optional
        Of the result, which is computed in the dtype of center and scale, or in that of x where it
        is wider. Without `dtype` it stays in that.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # PyTorch's name
        """Scale a batch (N, features)."""
        return self._delivered((input - self.center) * self.scale)


class TargetScaling(_Scaling):
    """``y / scale + center`` per output: what a model says, in the units of its targets.

    Parameters
    ----------
    center, scale : tensors (outputs,)
    dtype : torch.dtype, optional
        As that of `InputScaling`.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # PyTorch's name
        """Scale a batch (N, outputs)."""
        return self._delivered(input / self.scale + self.center)


def to_torch(model: BatchNormMLP) -> tuple[nn.Sequential, torch.optim.Optimizer]:
    """Return a model's layers as PyTorch modules, and its optimizer; nothing is shared.

    Parameters
    ----------
    model : BatchNormMLP

    Returns
    -------
    module : torch.nn.Sequential
        From inputs to logits: `InputScaling` where the model scales, then for each layer `Linear`,
        `BatchNorm1d`, the activation and `Dropout`. In the mode of prediction (`eval`). Of a model
        with `target_normalization` the last module is a `TargetScaling`, so that the outputs are
        those of `predict`; ``module[:-1]`` is the network that learns normalized targets.
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
    dtype = torch.float32 if config.dtype == "float32" else torch.float64
    layers: list[nn.Module] = []
    if config.input_normalization is not None:
        if not model.scaling.is_fitted:
            raise ValueError("model: expected one that has seen data, its inputs are to be scaled")
        narrow = model.scaling.in_dtype() or (model.scaling.center, model.scaling.scale)
        center, scale = map(torch.tensor, narrow)
        layers.append(InputScaling(center, scale, dtype))
    if not model.target_scaling.is_fitted:
        raise ValueError("model: expected one that has seen data, its targets are to be scaled")
    names: list[str] = []  # of the model's tensors, in the order of the module's parameters
    sizes = config.layer_sizes
    for index, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        name, is_last = f"layers.{index}", index == len(sizes) - 2
        normalized = config.normalized(index)
        layers.append(nn.Linear(n_in, n_out, bias=not normalized, dtype=dtype))
        names += [f"{name}.weight"] if normalized else [f"{name}.weight", f"{name}.bias"]
        if normalized:
            norm = nn.BatchNorm1d(n_out, config.eps, config.momentum, dtype=dtype)
            for buffer in ("running_mean", "running_var"):
                getattr(norm, buffer).copy_(torch.from_numpy(state[f"{name}.{buffer}"]))
            norm.num_batches_tracked.fill_(model.steps)  # type: ignore[union-attr]
            layers.append(norm)
            names += [f"{name}.gamma", f"{name}.beta"]
        if not is_last and config.activation != "identity":
            layers.append(_activation(config))
        if not is_last and config.dropout > 0:
            layers.append(nn.Dropout(config.dropout))
    if config.target_normalization is not None:
        center, scale = (torch.from_numpy(state[f"target.{name}"]) for name in ("center", "scale"))
        layers.append(TargetScaling(center, scale, dtype))
    module = nn.Sequential(*layers)
    with torch.no_grad():
        for name, parameter in zip(names, module.parameters(), strict=True):
            parameter.copy_(torch.from_numpy(state[name]))
    return module.eval(), _optimizer(model, module, names, state)


def _activation(config: ModelConfig) -> nn.Module:
    if config.activation == "leaky_relu":
        return nn.LeakyReLU(config.negative_slope)
    return NAMED[config.activation]()


def _optimizer(
    model: BatchNormMLP, module: nn.Module, names: list[str], state: dict[str, Any]
) -> torch.optim.Optimizer:
    config = model.config
    options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        options |= {"momentum": config.betas[0], "nesterov": config.nesterov}
    elif config.optimizer == "rmsprop":
        options |= {"alpha": config.betas[1], "eps": config.optimizer_eps}
    else:
        options |= {"betas": config.betas, "eps": config.optimizer_eps}
    parameters: Any = list(module.parameters())
    if config.weight_decay > 0 and not config.decay_vectors:
        vectors = [one for one in parameters if one.dim() == 1]
        matrices = [one for one in parameters if one.dim() > 1]
        groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        optimizer = OPTIMIZERS[config.optimizer](groups, **options)
    else:
        optimizer = OPTIMIZERS[config.optimizer](parameters, **options)
    if model.steps > 0:
        for name, parameter in zip(names, parameters, strict=True):
            m, v = (torch.from_numpy(state[f"optimizer.{moment}.{name}"]) for moment in "mv")
            step = torch.tensor(float(model.steps))
            optimizer.state[parameter] = {
                "sgd": {"momentum_buffer": m},
                "rmsprop": {"step": step, "square_avg": v},
            }.get(config.optimizer, {"step": step, "exp_avg": m, "exp_avg_sq": v})
    return optimizer


def from_torch(
    module: nn.Sequential, optimizer: torch.optim.Optimizer | None = None, **options: Any
) -> BatchNormMLP:
    """Return a PyTorch network as a model; nothing is shared.

    Parameters
    ----------
    module : torch.nn.Sequential
        Layers as `to_torch` makes them, in order: `Linear`, `BatchNorm1d` (with parameters and
        running statistics; a bias before it moves into the running mean), `LeakyReLU`, `ReLU`,
        `Tanh` or `Sigmoid`, `Dropout`; an `InputScaling` before the first, a `TargetScaling`
        behind the last, an `Identity` anywhere.
        All hidden layers have to be alike, and so has the last but for its activation.
    optimizer : torch.optim.Adam, AdamW, SGD or RMSprop, optional
        Of the module's parameters: gives its moments, steps and options.
    options
        More arguments of `BatchNormMLP`: `loss`, `seed`.

    Returns
    -------
    BatchNormMLP

    Raises
    ------
    TypeError, ValueError
        The module or the optimizer has something that a model does not; the message says what.
    """
    if not isinstance(module, nn.Sequential):
        raise TypeError(f"module: expected a torch.nn.Sequential, got {type(module).__name__}")
    if not _computes_as(module, nn.Sequential, FastSequential):
        raise TypeError(f"module: expected Sequential's own forward, got that of {type(module)}")
    scaling, layers, undoing = _read_layers(module)
    config = _shared_options(layers)
    dtypes = {parameter.dtype for parameter in module.parameters()}
    if dtypes not in ({torch.float32}, {torch.float64}):
        raise TypeError(
            f"module: expected float32 or float64 throughout, got {sorted(map(str, dtypes))}"
        )
    config["dtype"] = str(dtypes.pop()).removeprefix("torch.")
    if scaling is not None:
        config["input_normalization"] = "zscore"
    if undoing is not None:
        config |= {"target_normalization": "zscore", "loss": "squared_error"}
    for name in OF_THE_MODULE:
        if name in options:
            raise ValueError(f"{name}: expected that of the module alone, got {options[name]}")
    config |= _optimizer_options(optimizer, module) | options
    model = BatchNormMLP(**config)
    for index, layer in enumerate(layers):
        if (layer["norm"] is not None) != model.config.normalized(index):
            raise ValueError(
                f"module: expected {'no ' if layer['norm'] is not None else ''}batch norm in layer "
                f"{index}, with the loss {model.config.loss!r}"
            )
    state = model.snapshot()
    if scaling is not None:
        for name in ("center", "scale"):
            state[f"input.{name}"] = getattr(scaling, name).detach().numpy()
        state["input_is_fitted"] = True
    if undoing is not None:
        for name in ("center", "scale"):
            state[f"target.{name}"] = getattr(undoing, name).detach().numpy()
        state["target_is_fitted"] = True
    tensors: dict[str, nn.Parameter] = {}
    for index, layer in enumerate(layers):
        name, linear, norm = f"layers.{index}", layer["linear"], layer["norm"]
        tensors[f"{name}.weight"] = linear.weight
        if norm is None:
            tensors[f"{name}.bias"] = linear.bias
            continue
        tensors |= {f"{name}.gamma": norm.weight, f"{name}.beta": norm.bias}
        mean = norm.running_mean if linear.bias is None else norm.running_mean - linear.bias
        state[f"{name}.running_mean"] = mean.detach().numpy()
        state[f"{name}.running_var"] = norm.running_var.detach().numpy()
        if optimizer is not None and norm.num_batches_tracked is not None:
            state["steps"] = int(norm.num_batches_tracked)  # which SGD does not count
    for name, tensor in tensors.items():
        state[name] = tensor.detach().numpy()
        found = {} if optimizer is None else optimizer.state.get(tensor, {})
        for key, moment in (
            ("exp_avg", "m"), ("momentum_buffer", "m"), ("exp_avg_sq", "v"), ("square_avg", "v"),
        ):  # fmt: skip
            if found.get(key) is not None:
                state[f"optimizer.{moment}.{name}"] = found[key].detach().numpy()
        state["steps"] = max(state["steps"], int(found.get("step", 0)))
    for name, values in state.items():
        odd = odd_numbers(name, values) if isinstance(values, np.ndarray) else None
        if odd is not None:
            raise ValueError(f"module: {odd}")
    model.restore(state)
    return model


def _read_layers(
    module: nn.Sequential,
) -> tuple[InputScaling | None, list[dict[str, Any]], TargetScaling | None]:
    """The scaling of inputs, what each layer is made of, and the scaling of outputs."""
    scaling: InputScaling | None = None
    undoing: TargetScaling | None = None
    layers: list[dict[str, Any]] = []
    for place, part in enumerate(module):
        last = layers[-1] if layers else None
        if isinstance(part, InputScaling) and last is None and scaling is None:
            scaling = part
        elif undoing is not None and not isinstance(part, nn.Identity):
            _refuse(place, part)
        elif isinstance(part, TargetScaling) and last is not None:
            undoing = part
        elif isinstance(part, nn.Linear):
            if not _computes_as(part, nn.Linear):
                raise TypeError(f"module[{place}]: expected Linear's own forward, got {type(part)}")
            if any(part is layer["linear"] for layer in layers):
                raise ValueError(
                    f"module[{place}]: expected each layer once, got {part!s:.99}, too"
                )
            layers.append({"linear": part, "norm": None, "activation": None, "dropout": None})
        elif last is None:
            _refuse(place, part)
        elif isinstance(part, nn.BatchNorm1d) and _is_free(last, "norm", "activation", "dropout"):
            tensors = part.weight, part.bias, part.running_mean, part.running_var
            if any(tensor is None for tensor in tensors) or part.momentum is None:
                raise ValueError(
                    f"module[{place}]: expected a BatchNorm1d with parameters, running statistics "
                    f"and a momentum, got {part!s:.200}"
                )
            last["norm"] = part
        elif _named(part) is not None and _is_free(last, "activation", "dropout"):
            last["activation"] = _named(part)
        elif isinstance(part, nn.Dropout) and _is_free(last, "dropout"):
            last["dropout"] = part.p
        elif not isinstance(part, nn.Identity):
            _refuse(place, part)
    if not layers:
        raise ValueError("module: expected at least one Linear, got none")
    for index, layer in enumerate(layers):
        if layer["norm"] is None and layer["linear"].bias is None:
            raise ValueError(f"module: expected a bias in layer {index}, which has no batch norm")
    return scaling, layers, undoing


def _named(part: nn.Module) -> tuple[str, float] | None:
    """Name and slope of an activation, as the model has them; None for other modules."""
    for name, kind in NAMED.items():
        if isinstance(part, kind):
            return name, 0.01
    return ("leaky_relu", part.negative_slope) if isinstance(part, nn.LeakyReLU) else None


def _computes_as(part: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Tell whether a module has the forward of one of these, and not one of its own."""
    return "forward" not in vars(part) and any(type(part).forward is one.forward for one in kinds)


def _is_free(layer: dict[str, Any], *names: str) -> bool:
    return all(layer[name] is None for name in names)


def _refuse(place: int, part: nn.Module) -> None:
    raise TypeError(
        f"module[{place}]: expected Linear, BatchNorm1d, LeakyReLU, ReLU, Tanh or Sigmoid, Dropout "
        f"in this order, got {part!s:.200}"
    )


def _shared_options(layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Arguments of the model that all layers have to agree on."""
    *hidden, last = layers
    if last["activation"] is not None or last["dropout"] is not None:
        raise ValueError("module: expected nothing behind the last layer but its batch norm")
    sizes = [layers[0]["linear"].in_features, *(layer["linear"].out_features for layer in layers)]
    norms = [layer["norm"] for layer in layers if layer["norm"] is not None]
    none = ("identity", 1.0)
    activation, slope = _one("activation", {one["activation"] or none for one in hidden}, none)
    batch_norm = _one("batch norm", {one["norm"] is not None for one in hidden}, bool(norms))
    if last["norm"] is not None and not batch_norm:
        raise ValueError("module: expected batch norm in all hidden layers, as the last one has it")
    options = {
        "layer_sizes": sizes,
        "activation": activation,
        "negative_slope": slope,
        "batch_norm": batch_norm,
        "batch_norm_output": last["norm"] is not None,
        "dropout": _one("dropout", {one["dropout"] or 0.0 for one in hidden}, 0.0),
    }
    if norms:
        options["eps"] = _one("eps", {norm.eps for norm in norms}, 1e-5)
        options["momentum"] = _one("momentum", {norm.momentum for norm in norms}, 0.1)
    return options


def _one(name: str, found: set[Any], default: Any) -> Any:
    if len(found) > 1:
        raise ValueError(f"module: expected the same {name} in all layers, got {sorted(found)}")
    return found.pop() if found else default


def _optimizer_options(
    optimizer: torch.optim.Optimizer | None, module: nn.Module
) -> dict[str, Any]:
    """Arguments of the model that say how the optimizer goes about it."""
    if optimizer is None:
        return {}
    kinds = {kind: name for name, kind in OPTIMIZERS.items()}
    kind = next((kinds[base] for base in type(optimizer).__mro__ if base in kinds), None)
    if kind is None:
        raise TypeError(
            f"optimizer: expected Adam, AdamW, SGD or RMSprop, got {type(optimizer).__name__}"
        )
    group, decay_vectors = _one_group(optimizer)
    steered = {id(one) for group in optimizer.param_groups for one in group["params"]}
    if steered != {id(one) for one in module.parameters()}:
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
    """Return the options of all parameters, and whether those of one dimension decay, too.

    There may be two groups, as `to_torch` makes them: matrices, and vectors without decay.
    """
    first, *others = optimizer.param_groups
    if not others:
        return first, True
    apart = ("params", "weight_decay")
    same = [
        {name: value for name, value in group.items() if name not in apart}
        for group in (first, others[0])
    ]
    if (
        len(others) == 1
        and same[0] == same[1]
        and others[0]["weight_decay"] == 0
        and all(one.dim() == 2 for one in first["params"])
        and all(one.dim() == 1 for one in others[0]["params"])
    ):
        return first, False
    raise ValueError(
        "optimizer: expected one group of parameters, or matrices and vectors without decay, got "
        f"{len(others) + 1} groups"
    )
