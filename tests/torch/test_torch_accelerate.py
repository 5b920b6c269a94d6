"""`accelerate` and `restore` on existing models."""

from __future__ import annotations

import copy
import pickle

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
import torch
from torch import nn
from torch.nn.utils import prune

from fastbn.torch import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNormLeakyReLU,
    LinearBatchNormLeakyReLU,
    SyncBatchNorm,
    _modules,
    accelerate,
    restore,
)
from fastbn.torch._accelerate import FastSequential


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
        "1: BatchNorm1d, with the Linear before it, with the ReLU after it",
        "5: BatchNorm1d, with the Linear before it, with the LeakyReLU after it",
    ]
    assert capsys.readouterr().out.splitlines() == lines
    kinds = [type(part) for part in model]
    assert kinds == [
        nn.Linear, BatchNorm1d, nn.ReLU, nn.Dropout, nn.Linear, BatchNorm1d, nn.LeakyReLU,
        nn.Linear,
    ]  # fmt: skip
    assert type(model) is FastSequential
    assert repr(model) == text
    assert list(model.state_dict()) == keys
    for name, parameter in model.named_parameters():
        assert parameter is before[name]
    assert train(model) == pytest.approx(train(plain), rel=1e-4)
    x = torch.randn(32, 7)
    torch.testing.assert_close(model.eval()(x), plain.eval()(x), rtol=1e-4, atol=1e-5)
    assert accelerate(model, verbose=False) == []
    restore(model)
    assert repr(model) == text
    assert [type(part) for part in model.modules()] == [type(part) for part in plain.modules()]
    assert not any("_fastbn_original" in vars(part) for part in model.modules())
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


def joined(model, x):
    """Return how many linear layers were joined with a batch norm in this call."""
    seen, real = [], _modules.normalize
    try:
        _modules.normalize = lambda x, linear_weight, *rest: (
            seen.append(linear_weight) or real(x, linear_weight, *rest)
        )
        model(x)
    finally:
        _modules.normalize = real
    return sum(weight is not None for weight in seen)


def test_modules_that_occur_twice():
    """The activation also occurs between a linear layer and its batch norm."""
    act, drop, norm = nn.ReLU(), nn.Tanh(), nn.BatchNorm1d(7)
    model = nn.Sequential(
        nn.Linear(7, 7), act, norm, nn.Linear(7, 7), act, nn.BatchNorm1d(7), act, drop, norm, drop
    )
    plain = copy.deepcopy(model)
    accelerate(model, verbose=False)
    assert joined(model, torch.randn(32, 7)) == 0
    model.load_state_dict(plain.state_dict())
    assert train(model) == pytest.approx(train(plain), rel=1e-4)


def test_a_layer_that_is_also_called_alone():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = perceptron()

        def forward(self, x):
            return self.body[0](x).sum() + self.body(x) + self.body[1:](self.body[:1](x))

    model = Net()
    plain = copy.deepcopy(model)
    accelerate(model, verbose=False)
    same(model, plain, torch.randn(32, 7), rtol=1e-4, atol=1e-4)


def swap_linear(model):
    model[0] = nn.Linear(7, 9)


def swap_activation(model):
    model[2] = nn.GELU()


def remove_activation(model):
    del model[2]


def put_between(model):
    model.insert(1, nn.Tanh())


def swap_norm(model):
    model[1] = nn.Identity()


def other_slope(model):
    model[6].negative_slope = 0.9


def own_forward(model):
    for place in (0, 1, 2):
        old = model[place].forward
        model[place].forward = lambda x, old=old: old(x) + 1


def prune_and_parametrize(model):
    prune.l1_unstructured(model[0], "weight", 0.5)
    prune.l1_unstructured(model[1], "weight", 0.3)
    nn.utils.parametrizations.weight_norm(model[4])


def hooks(model):
    model[1].register_forward_pre_hook(lambda part, given: (2 * given[0] + 1,))
    model[5].register_forward_hook(lambda part, given, y: 3 * y)
    model[6].register_full_backward_hook(lambda part, dx, dy: (2 * dx[0],))


CHANGES = [
    swap_linear, swap_activation, remove_activation, put_between, swap_norm, other_slope,
    own_forward, prune_and_parametrize, hooks,
]  # fmt: skip


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_tree_that_is_changed(change, when):
    """It is changed before or after `accelerate`, and computes the same as PyTorch's."""
    model, plain = perceptron(), perceptron()
    if when == "after":
        accelerate(model, verbose=False)
    for one in (model, plain):
        torch.manual_seed(3)
        change(one)
    accelerate(model, verbose=False)
    x = torch.randn(32, 7)
    x, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    model(x).square().sum().backward()
    plain(other).square().sum().backward()
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-3, atol=1e-3)
    same(model, plain, x, rtol=1e-4, atol=1e-4)
    if change is own_forward:
        return  # it keeps the class that the module had
    restore(model)
    kinds = [[str(type(part)) for part in one.modules()] for one in (model, plain)]
    assert kinds[0] == kinds[1]
    same(model, plain, x, rtol=1e-4, atol=1e-4)


def test_hooks_see_the_same_tensors_after_accelerate():
    model = perceptron()
    plain = copy.deepcopy(model)
    accelerate(model, verbose=False)
    seen = {"plain": [], "fast": []}
    for one, name in ((plain, "plain"), (model, "fast")):
        for place in (1, 6):
            one[place].register_forward_hook(
                lambda m, i, o, name=name: seen[name].extend([i[0].detach(), o.detach().clone()])
            )
    x = torch.randn(32, 7)
    plain(x)
    model(x)
    assert len(seen["plain"]) == 4
    for one, other in zip(seen["plain"], seen["fast"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_hooks_of_all_modules():
    model = perceptron()
    accelerate(model, verbose=False)
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, i, o: seen.append(type(m)))
    try:
        model(torch.randn(32, 7))
    finally:
        handle.remove()
    assert seen[:3] == [nn.Linear, BatchNorm1d, nn.ReLU]


def test_subclasses_of_sequential(tmp_path):
    model = nn.Sequential(Named(7), nn.Linear(5, 3))
    plain, text = copy.deepcopy(model), repr(model)
    lines = accelerate(model, verbose=False)
    assert lines == ["0.1: BatchNorm1d, with the Linear before it, with the ReLU after it"]
    assert isinstance(model[0], Named)
    assert model[0].what == "mine"
    assert repr(model) == text
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    x = torch.randn(32, 7)
    assert [joined(one, x) for one in (model, loaded, copy.deepcopy(model))] == [1, 1, 1]
    plain(x)
    for one in (model, loaded):
        same(one.eval(), plain.eval(), x, rtol=1e-4, atol=1e-5)
        restore(one)
        assert type(one[0]) is Named


class Named(nn.Sequential):
    def __init__(self, width):
        super().__init__(nn.Linear(width, 5), nn.BatchNorm1d(5), nn.ReLU())
        self.what = "mine"


def lazy_perceptron():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.LazyLinear(9), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(5), nn.BatchNorm1d(5),
        nn.Linear(5, 4), nn.LazyBatchNorm1d(momentum=0.3),
    )  # fmt: skip


lazily = pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")


@lazily
def test_lazy_modules():
    """They change their class at the first call; then they are swapped and joined."""
    model, plain = lazy_perceptron(), lazy_perceptron()
    text = repr(model)
    lines = accelerate(model, verbose=False)
    assert lines == ["1: LazyBatchNorm1d", "4: BatchNorm1d", "6: LazyBatchNorm1d"]
    assert accelerate(model, verbose=False) == []
    assert repr(model) == text
    assert list(model.state_dict()) == list(plain.state_dict())
    x = torch.randn(32, 7)
    for one in (model, plain):
        torch.manual_seed(1)
        one(x)
    assert [type(model[place]) for place in (1, 4, 6)] == [BatchNorm1d] * 3
    assert type(model[0]) is nn.Linear
    assert repr(model) == repr(plain)
    same(model, plain, x, rtol=1e-4, atol=1e-5)
    assert joined(model, x) == 3
    assert train(model) == pytest.approx(train(plain), rel=1e-4)
    restore(model)
    assert [type(part) for part in model.modules()] == [type(part) for part in plain.modules()]
    for part in model.modules():
        assert not {"_fastbn_original", "least", "cls_to_become"} & set(vars(part))


@lazily
def test_lazy_modules_that_are_called_by_name():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d()
            self.deep = nn.LazyBatchNorm3d()

        def forward(self, x):
            return self.deep(self.norm(self.conv(x))[..., None])

    model = Net()
    assert accelerate(model, verbose=False) == ["norm: LazyBatchNorm2d"]
    model(torch.randn(3, 2, 6, 6))
    assert type(model.norm) is BatchNorm2d
    assert type(model.deep) is nn.BatchNorm3d


@lazily
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_of_lazy_modules(copied):
    x = torch.randn(32, 7)
    model = lazy_perceptron()
    accelerate(model, verbose=False)
    if copied is not copy.deepcopy:  # it refuses PyTorch's own lazy batch norms, too
        model = copied(model)
    model(x)
    other = copied(model)
    assert type(other[1]) is BatchNorm1d
    assert joined(other, x) == 3
    restore(other)
    assert type(other[1]) is nn.BatchNorm1d


@lazily
def test_lazy_modules_that_are_restored_before_their_first_call():
    model = lazy_perceptron()
    accelerate(model, verbose=False)
    restore(model)
    plain = lazy_perceptron()
    assert [type(part) for part in model.modules()] == [type(part) for part in plain.modules()]
    model(torch.randn(32, 7))
    assert type(model[1]) is nn.BatchNorm1d


@lazily
def test_states_of_lazy_modules():
    model, full = lazy_perceptron(), lazy_perceptron()
    x = torch.randn(32, 7)
    full(x)
    accelerate(model, verbose=False)
    model.load_state_dict(full.state_dict())
    same(model, full, x, rtol=1e-4, atol=1e-5)
    assert type(model[1]) is BatchNorm1d
    other = lazy_perceptron()
    other.load_state_dict(model.state_dict())
    same(other, model, x, rtol=1e-4, atol=1e-5)


def test_what_is_converted_to_sync_batch_norm():
    x = torch.randn(32, 7)
    for make in (
        perceptron,
        lambda: nn.Sequential(nn.Linear(7, 4), BatchNormLeakyReLU(4, 0.3)),
        lambda: nn.Sequential(LinearBatchNormLeakyReLU(7, 4, 0.2)),
        lambda: BatchNormLeakyReLU(7, 0.1),
    ):
        model = make()
        accelerate(model, verbose=False)
        model(x)
        expected = model.eval()(x)
        found = SyncBatchNorm.convert_sync_batchnorm(model).eval()
        assert any(type(part) is SyncBatchNorm for part in found.modules())
        torch.testing.assert_close(found(x), expected, rtol=1e-4, atol=1e-5)


def test_subclasses_and_own_sequentials_are_left_alone():
    class Mine(nn.BatchNorm1d):
        pass

    class Skipping(nn.Sequential):
        def forward(self, x):
            return self[1](x)

    model = nn.Sequential(Mine(7), Skipping(nn.BatchNorm1d(7), nn.ReLU()))
    assert accelerate(model, verbose=False) == ["1.0: BatchNorm1d"]
    assert type(model[0]) is Mine
    assert type(model[1]) is Skipping


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

    assert joined(model, x) == 1
    assert torch.autograd.gradcheck(call, (x, *parameters.values()))
    assert torch.autograd.gradgradcheck(call, (x, *parameters.values()))
    call(x.detach(), *parameters.values()).sum().backward()  # x needs no gradient


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


def test_autocast_and_compiling_are_left_to_pytorch():
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
        assert type(other) is FastSequential
        same(other, copy.deepcopy(model), x)
        restore(other)
        assert type(other) is nn.Sequential
    plain = perceptron()
    plain.load_state_dict(model.state_dict())
    same(model, plain, x, rtol=1e-4, atol=1e-5)


def test_mistakes_after_a_linear_layer_raise_pytorchs_errors():
    model, plain = perceptron(), perceptron()
    accelerate(model, verbose=False)
    for x in (torch.randn(32, 6), torch.randn(1, 7), torch.randn(32, 7).double(), torch.ones(7)):
        with pytest.raises((RuntimeError, ValueError)) as theirs:
            plain(x)
        with pytest.raises(type(theirs.value)) as mine:
            model(x)
        assert str(mine.value) == str(theirs.value)
