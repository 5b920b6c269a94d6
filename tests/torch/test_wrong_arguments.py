"""fastbn.torch with one wrong argument: if PyTorch refuses it, the error is PyTorch's own."""

from __future__ import annotations

import numpy as np
import pytest
import wrong
from hypothesis import given
from hypothesis import strategies as st
from wrong import FLAG, NUMBER, changed, of, value, without

torch = pytest.importorskip("torch")

from torch import nn, optim  # noqa: E402

import fastbn.torch  # noqa: E402
from fastbn import BatchNormMLP  # noqa: E402


def tensor(*shape):
    return torch.from_numpy(np.random.default_rng(1).normal(size=shape).astype(np.float32))


def feed(module, input):
    return module(input)


def peer_of(make):
    """Return a call of PyTorch's own module."""
    return lambda module, input: make()(input)


INPUT = {
    "one dimension": changed(lambda x: x.reshape(-1)),
    "a number": changed(lambda x: x.sum()),
    "another number of features": changed(lambda x: x[:, :-1]),
    "one sample": changed(lambda x: x[:1, :, :1, :1] if x.dim() == 4 else x[:1]),
    "integers": changed(lambda x: x.long()),
    "of another dtype": changed(lambda x: x.double()),
    "complex": changed(lambda x: x + 0j),
}
FEW_DIMENSIONS = {name: INPUT[name] for name in ("one dimension", "a number")}
FIVE = {"five dimensions": changed(lambda x: x.reshape(2, 3, 1, 1, -1))}
NO_TENSOR = {
    "an array": changed(lambda x: x.numpy()),
    "None": value(st.none()),
    "a list": changed(lambda x: x.tolist()),
}
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
ANYTHING_ELSE = of(None, 3, "model", [])
A_CLASS = {"a class": changed(type)}


def network():
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    return {"module": module, "optimizer": optim.Adam(module.parameters())}


def module(name, *shape):
    """Return what makes a module of fastbn and its input."""
    sizes = (3, 4) if name.startswith("Linear") else (3,)
    return lambda: {"module": getattr(fastbn.torch, name)(*sizes), "input": tensor(*shape)}


def linear_then_norm():
    return nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4))


# For each call: function, good arguments, wrong values, and PyTorch's function or None.
CALLS = {
    **{
        name: (getattr(fastbn.torch, name), lambda: {"num_features": 3}, MODULE, getattr(nn, name))
        for name in ("BatchNorm1d", "BatchNorm2d")
    },
    "BatchNorm1d(input)": (
        feed,
        module("BatchNorm1d", 6, 3),
        {"input": INPUT},
        peer_of(lambda: nn.BatchNorm1d(3)),
    ),
    "BatchNorm2d(input)": (
        feed,
        module("BatchNorm2d", 2, 3, 4, 4),
        {"input": INPUT | FIVE},
        peer_of(lambda: nn.BatchNorm2d(3)),
    ),
    **{
        f"{name}(input)": (
            feed,
            module(name, 6, 3),
            {"input": without(INPUT, *FEW_DIMENSIONS)},
            peer_of(lambda: nn.BatchNorm1d(3)),
        )
        for name in ("BatchNormLeakyReLU", "SyncBatchNorm")
    },
    **{
        f"{name}(few dimensions)": (feed, module(name, 6, 3), {"input": FEW_DIMENSIONS}, None)
        for name in ("BatchNormLeakyReLU", "SyncBatchNorm")
    },
    **{
        f"{name}(no tensor)": (feed, module(name, *shape), {"input": NO_TENSOR}, None)
        for name, shape in (
            ("BatchNorm1d", (6, 3)),
            ("BatchNorm2d", (2, 3, 4, 4)),
            ("BatchNormLeakyReLU", (6, 3)),
            ("SyncBatchNorm", (6, 3)),
        )
    },
    "LinearBatchNormLeakyReLU(input)": (
        feed,
        module("LinearBatchNormLeakyReLU", 6, 3),
        {"input": INPUT | NO_TENSOR},
        peer_of(linear_then_norm),
    ),
    **{
        name: (
            getattr(fastbn.torch, name),
            lambda sizes=sizes: dict(sizes),
            {"negative_slope": without(NUMBER, "None")},
            None,
        )
        for name, sizes in (
            ("BatchNormLeakyReLU", {"num_features": 3}),
            ("LinearBatchNormLeakyReLU", {"in_features": 4, "out_features": 3}),
        )
    },
    **{
        name: (
            getattr(fastbn.torch, name),
            lambda: {"params": [tensor(3).requires_grad_()]},
            OPTIMIZER,
            getattr(optim, name),
        )
        for name in ("Adam", "AdamW")
    },
    "accelerate": (
        fastbn.torch.accelerate,
        lambda: {"model": nn.BatchNorm1d(3)},
        {"model": ANYTHING_ELSE | A_CLASS, "verbose": FLAG},
        None,
    ),
    "restore": (
        fastbn.torch.restore,
        lambda: {"model": nn.BatchNorm1d(3)},
        {"model": ANYTHING_ELSE | A_CLASS},
        None,
    ),
    "to_torch": (
        fastbn.torch.to_torch,
        lambda: {"model": BatchNormMLP((4, 3), input_normalization="zscore")},
        {"model": ANYTHING_ELSE | {"before training": changed(lambda good: good)}},
        None,
    ),
    "from_torch": (
        fastbn.torch.from_torch,
        network,
        {
            "module": ANYTHING_ELSE | {"no Sequential": changed(lambda good: good[0])},
            "optimizer": of(3, "adam"),
            "loss": of("nonsense", "squared_error"),
            "seed": of(-1, 1.5),
            "layer_sizes": of((4, 5, 3), (5, 3)),
            "dtype": of("float64", "float16"),
            "batch_norm": of(False),
        },
        None,
    ),
}
SAYS = {
    **{
        (f"{name}(few dimensions)", "input"): "expected at least 2D input"
        for name in ("BatchNormLeakyReLU", "SyncBatchNorm")
    },
    ("from_torch", "loss"): "loss: |module: ",
}
EACH = [(call, argument) for call, (_, _, kinds, _) in CALLS.items() for argument in kinds]


@pytest.mark.parametrize(("call", "argument"), EACH)
@wrong.examples
@given(data=st.data())
def test_a_wrong_argument_is_refused(call, argument, data):
    function, good, kinds, peer = CALLS[call]
    wrong.assert_refused(
        data, function, good, argument, kinds[argument], says=SAYS.get((call, argument)), peer=peer
    )
