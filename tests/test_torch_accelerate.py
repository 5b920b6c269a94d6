"""Swapping modules of an existing tree, and back."""

from __future__ import annotations

import copy
import pickle

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
import torch
from torch import nn

from fastbn.torch import BatchNorm1d, BatchNorm2d, _modules, accelerate, restore
from fastbn.torch._accelerate import AbsorbedLeakyReLU, AbsorbedLinear, AbsorbedReLU


def perceptron():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(7, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.0),
        nn.Linear(9, 5, bias=False), nn.BatchNorm1d(5), nn.LeakyReLU(0.2), nn.Linear(5, 3),
    )  # fmt: skip


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(self.norm(self.conv(x)))


def train(model, steps=5):
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    shape = (32, 7) if isinstance(model[0], nn.Linear) else (8, 2, 6, 5)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(torch.randn(shape)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_a_perceptron(capsys):
    model = perceptron()
    plain, before = copy.deepcopy(model), dict(model.named_parameters())
    keys, text = list(model.state_dict()), repr(model)
    lines = accelerate(model)
    assert lines == [
        "1: BatchNorm1d, with the Linear before it, with the ReLU behind it",
        "5: BatchNorm1d, with the Linear before it, with the LeakyReLU behind it",
    ]
    assert capsys.readouterr().out.splitlines() == lines
    kinds = [type(part) for part in model]
    assert kinds == [
        AbsorbedLinear, BatchNorm1d, AbsorbedReLU, nn.Dropout, AbsorbedLinear, BatchNorm1d,
        AbsorbedLeakyReLU, nn.Linear,
    ]  # fmt: skip
    assert "(2): ReLU(by the batch norm beside it)" in repr(model)
    assert "(4): Linear(in_features=9, out_features=5, bias=False, by the" in repr(model)
    assert isinstance(model[0], nn.Linear), "for code that looks for layers"
    assert list(model.state_dict()) == keys
    for name, parameter in model.named_parameters():
        assert parameter is before[name]
    assert train(model) == pytest.approx(train(plain), rel=1e-4)
    x = torch.randn(32, 7)
    torch.testing.assert_close(model.eval()(x), plain.eval()(x), rtol=1e-4, atol=1e-5)
    assert accelerate(model, verbose=False) == []
    restore(model)
    assert repr(model) == text
    assert not any(
        {"_fastbn_original", "slope", "linear"} & vars(part).keys() for part in model.modules()
    )
    torch.testing.assert_close(model(x), plain(x), rtol=1e-4, atol=1e-5)


def test_modules_that_are_called_by_name():
    model = nn.Sequential(Block(), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
    plain = copy.deepcopy(model)
    assert accelerate(model, verbose=False) == ["0.norm: BatchNorm2d", "2: BatchNorm2d"]
    assert type(model[0].norm) is BatchNorm2d
    assert type(model[0].act) is nn.ReLU, "who knows what a forward does with it"
    assert train(model) == pytest.approx(train(plain), rel=1e-4)
    restore(model)
    assert type(model[0].norm) is nn.BatchNorm2d


def test_a_batch_norm_alone():
    model = nn.BatchNorm1d(5)
    assert accelerate(model, verbose=False) == ["BatchNorm1d: BatchNorm1d"]
    assert type(model) is BatchNorm1d
    restore(model)
    assert type(model) is nn.BatchNorm1d


def test_what_occurs_twice_stays_apart():
    act = nn.ReLU()
    model = nn.Sequential(
        nn.Linear(7, 5), nn.BatchNorm1d(5), act, nn.Linear(5, 7), nn.BatchNorm1d(7), act
    )
    plain = copy.deepcopy(model)
    accelerate(model, verbose=False)
    assert type(act) is nn.ReLU
    assert train(model) == pytest.approx(train(plain), rel=1e-4)


def test_hooks_see_what_they_saw():
    model = perceptron()
    seen = {"plain": [], "fast": []}
    for place in (1, 6):
        model[place].register_forward_hook(lambda m, i, o: seen[now].append(o.detach().clone()))
    x = torch.randn(32, 7)
    plain = copy.deepcopy(model)
    now = "plain"
    plain(x)
    now = "fast"
    accelerate(model, verbose=False)
    assert type(model[2]) is nn.ReLU
    assert type(model[6]) is nn.LeakyReLU
    model(x)
    for one, other in zip(seen["plain"], seen["fast"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_subclasses_and_own_sequentials_are_left_alone():
    class Mine(nn.BatchNorm1d):
        pass

    class Skipping(nn.Sequential):
        def forward(self, x):
            return self[1](x)

    model = nn.Sequential(Mine(7), Skipping(nn.BatchNorm1d(7), nn.ReLU()))
    assert accelerate(model, verbose=False) == ["1.0: BatchNorm1d"]
    assert type(model[0]) is Mine
    assert type(model[1][1]) is nn.ReLU


def test_mistakes(capsys):
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got list"):
        accelerate([])
    assert accelerate(nn.Linear(2, 2)) == []
    assert capsys.readouterr().out == "fastbn: found no batch norm to swap\n"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_and_scripted_models_are_pytorchs():
    model = perceptron().eval()
    accelerate(model, verbose=False)
    x = torch.randn(32, 7)
    traced = torch.jit.trace(model, x, check_trace=False)
    torch.testing.assert_close(traced(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_gradients_of_the_chain(bias, affine):
    torch.manual_seed(0)
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    model = nn.Sequential(
        nn.Linear(4, 3, bias=bias), nn.BatchNorm1d(3, affine=affine), nn.LeakyReLU(0.1)
    ).double()  # fmt: skip
    accelerate(model, verbose=False)
    parameters = dict(model.named_parameters())

    def call(x, *values):
        return torch.func.functional_call(model, dict(zip(parameters, values, strict=True)), x)

    seen = []
    real = _modules.normalize_linear
    try:
        _modules.normalize_linear = lambda *a: seen.append(a) or real(*a)
        assert torch.autograd.gradcheck(call, (x, *parameters.values()))
        assert torch.autograd.gradgradcheck(call, (x, *parameters.values()))
        call(x.detach(), *parameters.values()).sum().backward()  # no gradient of x is asked for
    finally:
        _modules.normalize_linear = real
    assert seen


def same(model, plain, x, **tolerance):
    for one, other in zip(
        [model(x), *model.buffers()], [plain(x), *plain.buffers()], strict=True
    ):  # fmt: skip
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize("x", [torch.randn(32, 7), torch.randn(7, 32).t(), torch.randn(64, 7)[::2]])
def test_layouts_before_the_linear_layer(x):
    model = perceptron()
    plain = copy.deepcopy(model)
    accelerate(model, verbose=False)
    same(model, plain, x, rtol=1e-4, atol=1e-5)


def test_autocast_and_compiling_are_pytorchs():
    model = perceptron()
    plain = copy.deepcopy(model)
    accelerate(model, verbose=False)
    x = torch.randn(32, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(x).dtype == plain(x).dtype == torch.bfloat16
        same(model, plain, x)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), plain(x), rtol=1e-4, atol=1e-5)
    torch.compiler.reset()


def test_copies_and_files_of_a_swapped_model(tmp_path):
    model = perceptron()
    accelerate(model, verbose=False)
    x = torch.randn(32, 7)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other[1].linear[0] is other[0]
        same(other, copy.deepcopy(model), x)
        restore(other)
        assert type(other[0]) is nn.Linear
    plain = perceptron()
    plain.load_state_dict(model.state_dict())
    same(model, plain, x, rtol=1e-4, atol=1e-5)


def test_mistakes_behind_a_linear_layer_are_pytorchs():
    model, plain = perceptron(), perceptron()
    accelerate(model, verbose=False)
    for x in (torch.randn(32, 6), torch.randn(1, 7), torch.randn(32, 7).double(), torch.ones(7)):
        with pytest.raises((RuntimeError, ValueError)) as theirs:
            plain(x)
        with pytest.raises(type(theirs.value)) as mine:
            model(x)
        assert str(mine.value) == str(theirs.value)
