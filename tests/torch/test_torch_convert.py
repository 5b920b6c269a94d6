"""Models converted to PyTorch modules and back predict the same and continue training."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
import torch
from torch import nn
from torch.nn import BatchNorm1d, Linear, ReLU, Sequential

from fastbn import BatchNormMLP
from fastbn.torch import _convert, from_torch, to_torch

VARIANTS = [
    {},
    {"batch_norm": False, "activation": "relu"},
    {"activation": "tanh"},
    {"batch_norm": False, "activation": "logistic"},
    {"batch_norm_output": False, "activation": "identity", "eps": 1e-3, "momentum": 0.2},
    {"input_normalization": "zscore", "dropout": 0.3},
    {"input_normalization": "minmax", "negative_slope": 0.2},
    {"optimizer": "adamw", "weight_decay": 0.1, "betas": (0.8, 0.95)},
    {"optimizer": "sgd", "nesterov": True, "betas": (0.8, 0.999)},
    {"optimizer": "rmsprop", "betas": (0.9, 0.95), "weight_decay": 0.01},
]


def make(rng, options, dtype="float64"):
    x, y = rng.standard_normal((60, 5)).astype(dtype), rng.integers(0, 3, 60)
    model = BatchNormMLP((5, 8, 7, 3), dtype=dtype, lr=0.01, **options)
    model.fit(x, y, epochs=3, batch_size=20)
    return model, x, y


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", VARIANTS)
def test_predictions_are_equal(rng, options, dtype):
    model, x, _ = make(rng, options, dtype)
    module, _ = to_torch(model)
    expected = module(torch.from_numpy(x)).detach().numpy()
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(model.predict_logits(x), expected, rtol=tolerance, atol=tolerance)
    before = model.params.copy()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    assert np.array_equal(model.params, before), "nothing is shared"


def test_what_pytorch_does_not_have_is_refused(monkeypatch):
    monkeypatch.delitem(_convert.NAMED, "tanh")
    with pytest.raises(ValueError, match=r"^model: expected an activation .*'leaky_relu'.*'tanh'$"):
        to_torch(BatchNormMLP((3, 4, 2), activation="tanh"))
    monkeypatch.delitem(_convert.OPTIMIZERS, "adam")
    with pytest.raises(ValueError, match=r"^model: expected an optimizer .*'sgd'.*, got 'adam'$"):
        to_torch(BatchNormMLP((3, 4, 2)))


@pytest.mark.parametrize("options", [one for one in VARIANTS if not one.get("dropout")])
def test_training_goes_on_at_the_same_point(rng, options):
    """Both take the same steps, since the optimizer's state is converted, too."""
    model, x, y = make(rng, options)
    module, optimizer = to_torch(model)
    module.train()
    for _ in range(4):
        loss = model.train_step(x, y)
        optimizer.zero_grad()
        theirs = nn.functional.cross_entropy(module(torch.from_numpy(x)), torch.from_numpy(y))
        theirs.backward()
        optimizer.step()
        assert loss == pytest.approx(float(theirs.detach()), rel=1e-9)
    back = from_torch(module, optimizer)
    assert back.steps == model.steps
    np.testing.assert_allclose(back.predict_logits(x), model.predict_logits(x), atol=1e-9)
    for _ in range(3):
        assert back.train_step(x, y) == pytest.approx(model.train_step(x, y), rel=1e-8)


def test_decay_of_weights_alone_makes_two_groups(rng):
    model, x, y = make(rng, {"optimizer": "adamw", "weight_decay": 0.1, "decay_vectors": False})
    module, optimizer = to_torch(model)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    module.train()
    loss = nn.functional.cross_entropy(module(torch.from_numpy(x)), torch.from_numpy(y))
    loss.backward()
    optimizer.step()
    model.train_step(x, y)
    for (_, mine), parameter in zip(model.named_parameters(), module.parameters(), strict=True):
        np.testing.assert_allclose(mine, parameter.detach().numpy(), atol=1e-10)
    back = from_torch(module, optimizer)
    assert not back.config.decay_vectors
    assert back.train_step(x, y) == pytest.approx(model.train_step(x, y), rel=1e-9)
    np.testing.assert_allclose(back.params, model.params, atol=1e-10)


def test_modules_that_compute_differently_are_refused():
    class Twice(Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    class Reverse(Sequential):
        def forward(self, x):
            return -super().forward(x)

    with pytest.raises(TypeError, match=r"module\[0\]: expected Linear's own forward"):
        from_torch(Sequential(Twice(3, 2)))
    with pytest.raises(TypeError, match="module: expected Sequential's own forward"):
        from_torch(Reverse(Linear(3, 2)))
    tied = Linear(3, 3)
    with pytest.raises(ValueError, match=r"module\[2\]: expected each layer once"):
        from_torch(Sequential(tied, ReLU(), tied))
    normalized = Sequential(Linear(3, 4), BatchNorm1d(4), Linear(4, 2), BatchNorm1d(2))
    for loss in ("sigmoid_cross_entropy", "squared_error"):
        with pytest.raises(ValueError, match="expected no batch norm in layer 1, with the loss"):
            from_torch(normalized, loss=loss)
    net = Sequential(Linear(3, 2))
    for parameters in (Linear(3, 2).parameters(), [net[0].weight]):
        with pytest.raises(ValueError, match="optimizer: expected all parameters of the module"):
            from_torch(net, torch.optim.Adam(parameters))
    adam = torch.optim.Adam(net.parameters(), weight_decay=0.1)
    assert from_torch(net, adam).config.optimizer == "adam"
    if "decoupled_weight_decay" in adam.defaults:  # not in PyTorch 2.6
        adam = torch.optim.Adam(net.parameters(), decoupled_weight_decay=True, weight_decay=0.1)
        assert from_torch(net, adam).config.optimizer == "adamw"


def test_an_accelerated_network_is_read_as_it_was(rng):
    from fastbn.torch import accelerate

    model, x, _ = make(rng, {})
    module, optimizer = to_torch(model)
    accelerate(module, verbose=False)
    back = from_torch(module, optimizer)
    np.testing.assert_allclose(back.predict_logits(x), model.predict_logits(x), atol=1e-9)


def test_a_network_of_pytorchs_modules(rng):
    """A bias before batch norm becomes part of the running mean."""
    torch.manual_seed(0)
    module = Sequential(
        Linear(5, 8), BatchNorm1d(8), ReLU(), nn.Dropout(0.1),
        Linear(8, 6), BatchNorm1d(6), ReLU(), nn.Dropout(0.1), nn.Identity(),
        Linear(6, 2),
    )  # fmt: skip
    x = torch.randn(40, 5)
    for _ in range(5):
        module(x)
    model = from_torch(module.eval(), seed=3, loss="sigmoid_cross_entropy")
    assert model.config.layer_sizes == (5, 8, 6, 2)
    assert model.config.dropout == 0.1
    assert model.config.seed == 3
    np.testing.assert_allclose(
        model.predict_logits(x.numpy()), module(x).detach().numpy(), atol=1e-5
    )


def with_nan():
    layer = Linear(2, 2)
    layer.weight.data.fill_(torch.nan)
    return layer


OTHER = r"module\[{}\]: expected Linear, .* in this order, got {}"
INCOMPLETE = r"module\[1\]: expected a BatchNorm1d with parameters, running statistics and a mom"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([nn.Conv1d(2, 2, 1)], OTHER.format(0, "Conv1d")),
        ([ReLU()], OTHER.format(0, "ReLU")),
        ([BatchNorm1d(4), Linear(4, 3)], OTHER.format(0, "BatchNorm1d")),
        ([Linear(2, 2), nn.GELU()], OTHER.format(1, "GELU")),
        ([Linear(4, 3), nn.Conv1d(3, 3, 1)], OTHER.format(1, "Conv1d")),
        ([Linear(4, 3), BatchNorm1d(3), BatchNorm1d(3)], OTHER.format(2, "BatchNorm1d")),
        (
            [Linear(2, 3), ReLU(), BatchNorm1d(3), Linear(3, 2)],
            r"module\[2\]: expected",
        ),
        ([Linear(2, 3), BatchNorm1d(3, affine=False)], INCOMPLETE),
        ([Linear(2, 3), BatchNorm1d(3, track_running_stats=False)], INCOMPLETE),
        ([Linear(2, 3), BatchNorm1d(3, momentum=None)], INCOMPLETE),
        ([Linear(2, 3, False), ReLU(), Linear(3, 2)], "expected a bias in layer 0"),
        ([Linear(2, 3, False)], "expected a bias in layer 0"),
        ([Linear(2, 3), ReLU()], "expected nothing after the last layer but its batch norm"),
        (
            [Linear(2, 3), ReLU(), Linear(3, 3), Linear(3, 2)],
            "expected the same activation",
        ),
        (
            [Linear(2, 3), ReLU(), Linear(3, 3), nn.Tanh(), Linear(3, 2)],
            "expected the same activation",
        ),
        (
            [Linear(2, 3), BatchNorm1d(3), Linear(3, 3), Linear(3, 2)],
            "the same batch norm in all",
        ),
        ([Linear(2, 3), Linear(3, 2), BatchNorm1d(2)], "batch norm in all hidden layers"),
        ([], "expected at least one Linear"),
        ([Linear(2, 2).to(torch.bfloat16)], "expected float32 or float64 throughout"),
        ([Linear(2, 2).half()], "expected float32 or float64 throughout"),
        ([Linear(2, 3), BatchNorm1d(3).double()], "expected float32 or float64 throughout"),
        (
            [Linear(4, 5), ReLU(), Linear(6, 3)],
            "module: expected 5 features .* 1, .* got 6",
        ),
        ([Linear(2, 3), BatchNorm1d(4)], "module: expected batch norm of 3 .* 0, got 4"),
        ([with_nan()], "module: layers.0.weight: expected finite numbers"),
    ],
)
def test_what_a_model_cannot_be(parts, message):
    module = Sequential(*parts)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises((TypeError, ValueError), match=message):
        from_torch(module)
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)


OPTIMIZERS = [
    (torch.optim.Adagrad, {}, "expected Adam, AdamW, SGD or RMSprop, got Adagrad"),
    (torch.optim.Adam, {"amsgrad": True}, r"expected none of \['amsgrad'\]"),
    (torch.optim.SGD, {"maximize": True}, r"expected none of \['maximize'\]"),
    (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.1}, r"expected none of \['dampening'\]"),
    (torch.optim.RMSprop, {"centered": True}, r"expected none of \['centered'\]"),
    (torch.optim.RMSprop, {"momentum": 0.9}, r"expected none of \['momentum'\]"),
]


@pytest.mark.parametrize(("kind", "options", "message"), OPTIMIZERS)
def test_optimizers_that_a_model_does_not_have(kind, options, message):
    module = Sequential(Linear(2, 2))
    with pytest.raises((TypeError, ValueError), match=f"optimizer: {message}"):
        from_torch(module, kind(module.parameters(), **options))


def test_mistakes():
    module = Sequential(Linear(2, 2))
    weight, bias = module.parameters()
    with pytest.raises(TypeError, match=r"module: expected a torch.nn.Sequential, got Linear"):
        from_torch(module[0])
    for decay in (0.2, 0.0):
        groups = [{"params": [bias]}, {"params": [weight], "weight_decay": decay}]
        with pytest.raises(ValueError, match="optimizer: expected one group of .* got 2 groups"):
            from_torch(module, torch.optim.Adam(groups))
    with pytest.raises(TypeError, match="model: expected a BatchNormMLP, got int"):
        to_torch(3)
    with pytest.raises(ValueError, match="model: expected a model with fitted scaling"):
        to_torch(BatchNormMLP((2, 2), input_normalization="zscore"))
