"""Adam and AdamW compared with PyTorch's, step by step, with every option."""

from __future__ import annotations

import copy

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
import torch

import fastbn.torch as ours
from fastbn.torch import _optimizers

KINDS = [(ours.Adam, torch.optim.Adam), (ours.AdamW, torch.optim.AdamW)]
SHAPES = [(300, 70), (70,), (1,), (0,), (), (5, 7, 3)]


def parameters(shapes=SHAPES, dtype=torch.float32):
    torch.manual_seed(0)
    mine = [torch.nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in shapes]
    return mine, [torch.nn.Parameter(one.detach().clone()) for one in mine]


def give_gradients(mine, theirs, skip=()):
    for index, (one, other) in enumerate(zip(mine, theirs, strict=True)):
        one.grad = None if index in skip else torch.randn_like(one)
        other.grad = None if index in skip else one.grad.clone()


def assert_same(mine, theirs, tolerance=1e-6):
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.fixture
def no_fallback(monkeypatch):
    def refuse(step):
        raise AssertionError("fell back to PyTorch")

    monkeypatch.setattr(_optimizers, "_unhooked", refuse)


@pytest.mark.usefixtures("no_fallback")
@pytest.mark.parametrize(
    "options",
    [
        {}, {"amsgrad": True}, {"maximize": True}, {"weight_decay": 0.1}, {"betas": (0.5, 0.9)},
        {"lr": 0.1, "eps": 1e-3}, {"lr": torch.tensor(0.01).double()}, {"foreach": False},
        {"fused": True},
        {"amsgrad": True, "maximize": True, "weight_decay": 0.1},
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kinds", KINDS)
def test_step_by_step(kinds, dtype, options):
    mine, theirs = parameters(dtype=dtype)
    first, second = kinds[0](mine, **options), kinds[1](theirs, **options)
    for step in range(10):
        give_gradients(mine, theirs, skip={3: [1], 5: [0, 2]}.get(step, []))
        first.step()
        second.step()
        assert_same(mine, theirs, 1e-5 if dtype == torch.float32 else 1e-12)
    for one, other in zip(mine, theirs, strict=True):
        state, expected = first.state[one], second.state[other]
        assert state.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(state[name], expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kinds", KINDS)
def test_state_goes_both_ways(kinds):
    mine, theirs = parameters()
    first, second = kinds[0](mine, amsgrad=True), kinds[1](theirs, amsgrad=True)
    for step in range(6):
        if step == 2:
            second.load_state_dict(copy.deepcopy(first.state_dict()))
        if step == 4:
            first.load_state_dict(copy.deepcopy(second.state_dict()))
        give_gradients(mine, theirs)
        first.step()
        second.step()
        assert_same(mine, theirs, 1e-5)
    assert first.state_dict()["param_groups"] == second.state_dict()["param_groups"]


def test_groups_and_schedulers():
    mine, theirs = parameters()
    optimizers, schedulers = [], []
    for kind, group in ((ours.AdamW, mine), (torch.optim.AdamW, theirs)):
        groups = [
            {"params": group[:2], "lr": 0.1}, {"params": group[2:], "weight_decay": 0.0},
        ]  # fmt: skip
        optimizers.append(kind(groups, lr=0.01, weight_decay=0.2))
        schedulers.append(torch.optim.lr_scheduler.OneCycleLR(optimizers[-1], 0.1, 20))
    for _ in range(5):
        give_gradients(mine, theirs)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
        assert_same(mine, theirs, 1e-5)
    assert optimizers[0].param_groups[0]["lr"] == optimizers[1].param_groups[0]["lr"]
    extra, other = parameters([(4, 4)])
    optimizers[0].add_param_group({"params": extra})
    optimizers[1].add_param_group({"params": other})
    give_gradients([*mine, *extra], [*theirs, *other])
    for optimizer in optimizers:
        optimizer.step()
    assert_same([*mine, *extra], [*theirs, *other], 1e-5)


def test_closures():
    mine, theirs = parameters([(6,)])
    for kind, (parameter,) in ((ours.Adam, mine), (torch.optim.Adam, theirs)):
        optimizer = kind([parameter], lr=0.1)

        def closure(optimizer=optimizer, parameter=parameter):
            optimizer.zero_grad()
            loss = (parameter**2).sum()
            loss.backward()
            return loss

        losses = [float(optimizer.step(closure).detach()) for _ in range(10)]
        assert losses == sorted(losses, reverse=True)
        assert optimizer.state[parameter]["step"] == 10
    assert_same(mine, theirs)


def test_memory_that_was_replaced_is_not_written():
    mine, theirs = parameters([(40,)])
    first, second = ours.Adam(mine), torch.optim.Adam(theirs)
    give_gradients(mine, theirs)
    first.step()
    second.step()
    stale = mine[0].data
    kept = stale.clone()
    mine[0].data = mine[0].data.clone()
    first.state[mine[0]]["exp_avg"] = first.state[mine[0]]["exp_avg"].clone()
    give_gradients(mine, theirs)
    first.step()
    second.step()
    assert_same(mine, theirs)
    assert torch.equal(stale, kept)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.randn(6, 4).t(),
        lambda: torch.randn(4, 6, dtype=torch.bfloat16),
        lambda: torch.randn(4, 6, dtype=torch.complex64),
    ],
    ids=["transposed", "bfloat16", "complex"],
)
def test_what_is_not_covered_is_left_to_pytorch(make):
    tensor = make()
    mine = [torch.nn.Parameter(tensor.clone()), torch.nn.Parameter(torch.ones(3))]
    theirs = [torch.nn.Parameter(tensor.clone()), torch.nn.Parameter(torch.ones(3))]
    first, second = ours.Adam(mine), torch.optim.Adam(theirs)
    for _ in range(3):
        give_gradients(mine, theirs)
        first.step()
        second.step()
        for one, other in zip(mine, theirs, strict=True):
            assert torch.equal(one, other)


def test_gradients_that_are_views_or_sparse():
    mine, theirs = parameters([(4, 6)])
    first, second = ours.Adam(mine), torch.optim.Adam(theirs)
    for parameter in (*mine, *theirs):
        parameter.grad = torch.ones(6, 4).t()
    first.step()
    second.step()
    assert_same(mine, theirs)
    mine[0].grad = torch.eye(4, 6).to_sparse()
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        first.step()


@pytest.mark.parametrize("option", ["capturable", "differentiable"])
def test_capturable_and_differentiable_are_left_to_pytorch(option):
    for kind in (ours.Adam, torch.optim.Adam):
        (parameter,), _ = parameters([(4,)])
        optimizer = kind([parameter], **{option: True})
        parameter.grad = torch.ones(4)
        with pytest.raises((RuntimeError, AssertionError)) as error:
            optimizer.step()
        if kind is ours.Adam:
            first = str(error.value)
    assert str(error.value) == first


def test_hooks_are_called_once():
    torch.optim.Adam([torch.nn.Parameter(torch.ones(1))])  # PyTorch's own step has hooks now
    for dtype in (torch.float32, torch.bfloat16):
        parameter = torch.nn.Parameter(torch.ones(3, dtype=dtype))
        optimizer, calls = ours.Adam([parameter]), []
        optimizer.register_step_pre_hook(lambda *args, calls=calls: calls.append("before"))
        optimizer.register_step_post_hook(lambda *args, calls=calls: calls.append("after"))
        parameter.grad = torch.ones(3, dtype=dtype)
        optimizer.step()
        assert calls == ["before", "after"]


def test_nothing_to_do():
    mine, _ = parameters()
    optimizer = ours.Adam(mine)
    optimizer.step()
    assert not optimizer.state
    with pytest.raises(ValueError, match="Invalid learning rate"):
        ours.Adam(mine, lr=-1.0)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_a_step_is_a_change_that_autograd_notices(amsgrad):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = ours.Adam([weight], lr=0.5, amsgrad=amsgrad)
    loss = (weight**2).sum()
    weight.grad = torch.ones(3)
    optimizer.step()
    optimizer.step()
    assert weight._version == 2
    assert {one._version for one in optimizer.state[weight].values()} >= {2}
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_other_numbers_at_the_same_place():
    memory = torch.zeros(8)
    memory[:4] = 1
    weight = torch.nn.Parameter(memory[:4])
    optimizer = ours.Adam([weight], lr=0.1)
    weight.grad = torch.ones(4)
    optimizer.step()
    weight.grad = None
    weight.data = memory.view(torch.float64)[:4]
    weight.data.fill_(1.0)
    weight.grad = torch.ones(4, dtype=torch.float64)
    with pytest.raises(RuntimeError):  # PyTorch's: moments of another dtype
        optimizer.step()
    assert torch.equal(weight.detach(), torch.ones(4, dtype=torch.float64))
