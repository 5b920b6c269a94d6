"""Wrong calls of what is for PyTorch: where it is PyTorch that refuses, so does its own."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from wrong_subject import Subject
from wrong_values import FLAG, NUMBER, Bad, of

from fastbn.model import BatchNormMLP

TORCH = ("torch",)


def ours(name: str) -> Callable[..., Any]:
    """Return a function of fastbn.torch, imported when it is called."""

    def call(*given: Any, **options: Any) -> Any:
        import fastbn.torch

        return getattr(fastbn.torch, name)(*given, **options)

    return call


def theirs(path: str) -> Callable[..., Any]:
    """Return PyTorch's own of that name."""

    def call(*given: Any, **options: Any) -> Any:
        import torch

        return functools.reduce(getattr, path.split("."), torch)(*given, **options)

    return call


def tensor(*shape: int) -> Any:
    """Return a tensor of random numbers."""
    import torch

    return torch.from_numpy(np.random.default_rng(1).normal(size=shape).astype(np.float32))


def module(name: str, *shape: int) -> Callable[[pathlib.Path], dict[str, Any]]:
    """Return what makes a module of fastbn.torch and its input."""
    sizes = (3, 4) if name.startswith("Linear") else (3,)
    return lambda folder: {"module": ours(name)(*sizes), "input": tensor(*shape)}


def feed(module: Any, input: Any) -> Any:
    """Call a module."""
    return module(input)


def network(folder: pathlib.Path) -> dict[str, Any]:
    """Arguments of `from_torch`."""
    from torch import nn, optim

    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    return {"module": module, "optimizer": optim.Adam(module.parameters())}


def layers(make: Callable[[Any], list[Any]]) -> Callable[[Any], Any]:
    """Return what puts other layers into a Sequential."""

    def change(good: Any) -> Any:
        from torch import nn

        return nn.Sequential(*make(nn))

    return change


def optimizer(make: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    """Return what makes another optimizer, of a network of its own."""

    def change(good: Any) -> Any:
        from torch import optim

        return make(optim, [p for group in good.param_groups for p in group["params"]])

    return change


INPUT: Bad = {
    "one dimension": lambda x: x.reshape(-1),
    "a number": lambda x: x.sum(),
    "another number of features": lambda x: x[:, :-1],
    "one sample": lambda x: x[:1, :, :1, :1] if x.dim() == 4 else x[:1],
    "integers": lambda x: x.long(),
    "of another dtype": lambda x: x.double(),
    "complex": lambda x: x + 0j,
}
NO_TENSOR: Bad = {
    "an array": lambda x: x.numpy(),
    "None": lambda x: None,
    "a list": lambda x: x.tolist(),
}
FIVE: Bad = {"five dimensions": lambda x: x.reshape(2, 3, 1, 1, -1)}
MODULE = {
    "num_features": of(-1, "3", None, 1.5),
    "dtype": of("float32", 3, int),
    "device": of("nowhere", 3.5, []),
}
OPTIMIZER = {
    "lr": of(-1.0, "1"),
    "betas": of((1.0, 0.9), (0.9, -0.1), 0.9, ("a", "b")),
    "eps": of(-1.0, "1"),
    "weight_decay": of(-1.0, "1"),
    "params": of([], None, 3, [3]),
}
ANY_ELSE = of(None, 3, "model", [])
LAYERS: Bad = {
    "none": layers(lambda nn: []),
    "no linear one": layers(lambda nn: [nn.ReLU()]),
    "a convolution": layers(lambda nn: [nn.Linear(4, 3), nn.Conv1d(3, 3, 1)]),
    "norm before": layers(lambda nn: [nn.BatchNorm1d(4), nn.Linear(4, 3)]),
    "norm twice": layers(lambda nn: [nn.Linear(4, 3), nn.BatchNorm1d(3), nn.BatchNorm1d(3)]),
    "norm without parameters": layers(
        lambda nn: [nn.Linear(4, 3), nn.BatchNorm1d(3, affine=False)]
    ),
    "norm without statistics": layers(
        lambda nn: [nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)]
    ),
    "norm without a momentum": layers(
        lambda nn: [nn.Linear(4, 3), nn.BatchNorm1d(3, momentum=None)]
    ),
    "no bias": layers(lambda nn: [nn.Linear(4, 3, bias=False)]),
    "activated at the end": layers(lambda nn: [nn.Linear(4, 3), nn.ReLU()]),
    "two activations": layers(
        lambda nn: [
            nn.Linear(4, 5),
            nn.ReLU(),
            nn.Linear(5, 5),
            nn.Tanh(),
            nn.Linear(5, 3),
        ]
    ),
    "a layer twice": layers(lambda nn: (lambda one: [one, nn.ReLU(), one])(nn.Linear(4, 4))),
    "sizes that do not fit": layers(lambda nn: [nn.Linear(4, 5), nn.ReLU(), nn.Linear(6, 3)]),
    "norm of another size": layers(lambda nn: [nn.Linear(4, 3), nn.BatchNorm1d(4)]),
    "half": layers(lambda nn: [nn.Linear(4, 3).half()]),
    "two dtypes": layers(lambda nn: [nn.Linear(4, 3), nn.BatchNorm1d(3).double()]),
    "no Sequential": lambda good: good[0],
    "nan": lambda good: (good[0].weight.data.fill_(np.nan), good)[1],
}
STEERED: Bad = {
    "another one": optimizer(lambda optim, p: optim.Adagrad(p)),
    "amsgrad": optimizer(lambda optim, p: optim.Adam(p, amsgrad=True)),
    "maximizing": optimizer(lambda optim, p: optim.SGD(p, maximize=True)),
    "dampening": optimizer(lambda optim, p: optim.SGD(p, momentum=0.9, dampening=0.1)),
    "centered": optimizer(lambda optim, p: optim.RMSprop(p, centered=True)),
    "with momentum": optimizer(lambda optim, p: optim.RMSprop(p, momentum=0.9)),
    "of a part": optimizer(lambda optim, p: optim.Adam(p[:1])),
    "of groups": optimizer(lambda optim, p: optim.Adam([{"params": [one]} for one in p])),
}

SUBJECTS = [
    *[
        Subject(
            name, ours(name), lambda folder: {"num_features": 3}, bad, peer=theirs(f"nn.{name}")
        )
        for name, bad in (("BatchNorm1d", MODULE), ("BatchNorm2d", MODULE))
    ],
    *[
        Subject(
            f"{name}(3)(input)",
            feed,
            module(name, *shape),
            {"input": INPUT | (FIVE if len(shape) == 4 else {})},
            peer=lambda module, input, name=name: theirs(f"nn.{name}")(3)(input),
        )
        for name, shape in (("BatchNorm1d", (6, 3)), ("BatchNorm2d", (2, 3, 4, 4)))
    ],
    *[
        Subject(f"{name}(input)", feed, module(name, *shape), {"input": NO_TENSOR})
        for name, shape in (
            ("BatchNorm1d", (6, 3)),
            ("BatchNorm2d", (2, 3, 4, 4)),
            ("BatchNormLeakyReLU", (6, 3)),
            ("SyncBatchNorm", (6, 3)),
        )
    ],
    *[
        Subject(
            f"{name}(3)(input)",
            feed,
            module(name, 6, 3),
            {"input": {k: INPUT[k] for k in INPUT if k not in ("one dimension", "a number")}},
            peer=lambda module, input: theirs("nn.BatchNorm1d")(3)(input),
        )
        for name in ("BatchNormLeakyReLU", "SyncBatchNorm")
    ],
    *[
        Subject(
            f"{name}(3)(input)",
            feed,
            module(name, 6, 3),
            {"input": {k: INPUT[k] for k in ("one dimension", "a number")}},
            says={"input": "expected at least 2D input"},
        )
        for name in ("BatchNormLeakyReLU", "SyncBatchNorm")
    ],
    Subject(
        "LinearBatchNormLeakyReLU(3, 4)(input)",
        feed,
        module("LinearBatchNormLeakyReLU", 6, 3),
        {"input": INPUT | NO_TENSOR},
        peer=lambda module, input: theirs("nn.Sequential")(
            theirs("nn.Linear")(3, 4, bias=False), theirs("nn.BatchNorm1d")(4)
        )(input),
    ),
    *[
        Subject(
            name,
            ours(name),
            lambda folder, sizes=sizes: sizes,
            {"negative_slope": {k: v for k, v in NUMBER.items() if k != "None"}},
        )
        for name, sizes in (
            ("BatchNormLeakyReLU", {"num_features": 3}),
            ("LinearBatchNormLeakyReLU", {"in_features": 4, "out_features": 3}),
        )
    ],
    *[
        Subject(
            name,
            ours(name),
            lambda folder: {"params": [tensor(3).requires_grad_()]},
            OPTIMIZER,
            peer=theirs(f"optim.{name}"),
        )
        for name in ("Adam", "AdamW")
    ],
    Subject(
        "accelerate",
        ours("accelerate"),
        lambda folder: {"model": theirs("nn.BatchNorm1d")(3)},
        {"model": ANY_ELSE | {"a class": lambda good: type(good)}, "verbose": FLAG},
    ),
    Subject(
        "restore",
        ours("restore"),
        lambda folder: {"model": theirs("nn.BatchNorm1d")(3)},
        {"model": ANY_ELSE | {"a class": lambda good: type(good)}},
    ),
    Subject(
        "to_torch",
        ours("to_torch"),
        lambda folder: {"model": BatchNormMLP((4, 3), input_normalization="zscore")},
        {"model": ANY_ELSE | {"before training": lambda good: good}},
    ),
    Subject(
        "from_torch",
        BatchNormMLP.from_torch,
        network,
        {
            "module": ANY_ELSE | LAYERS,
            "optimizer": of(3, "adam") | STEERED,
            "loss": of("nonsense", "squared_error"),
            "seed": of(-1, 1.5),
            "layer_sizes": of((4, 5, 3), (5, 3)),
            "dtype": of("float64", "float16"),
            "batch_norm": of(False),
        },
        says={"module": r"module\b|optimizer: expected all", "loss": "loss: |module: "},
    ),
]
SUBJECTS = [subject._replace(needs=TORCH) for subject in SUBJECTS]
