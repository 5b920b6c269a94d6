"""What PyTorch's own tests require of batch norm and Adam, tested on fastbn's."""

from __future__ import annotations

import copy
import io
import warnings

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import fastbn.torch as ours

KINDS = [ours.BatchNorm1d, ours.BatchNorm2d, ours.BatchNormLeakyReLU]
ADAMS = [ours.Adam, ours.AdamW]


def batch(kind, *shape):
    """Return a batch (6, 5) or (6, 5, 4, 3), as the module takes it."""
    return torch.randn(6, 5, 4, 3) if kind is ours.BatchNorm2d else torch.randn(6, 5)


# -- batch norm ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["running_mean", "running_var", "weight", "bias"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [4, 6])
def test_vectors_of_the_wrong_size(name, training, size):
    """A kernel that only gets addresses must not be called."""
    for module in (ours.BatchNorm1d(5), torch.nn.BatchNorm1d(5)):
        wrong = torch.ones(size)
        setattr(module, name, torch.nn.Parameter(wrong) if name in ("weight", "bias") else wrong)
        module.train(training)
        with torch.no_grad(), pytest.raises(RuntimeError) as error:
            module(torch.randn(8, 5))
        if isinstance(module, ours.BatchNorm1d):
            message = str(error.value)
    assert message == str(error.value)


def test_fewer_than_two_values_per_channel():
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        ours.BatchNorm1d(10)(torch.rand(10)[None, :, None])


def test_an_empty_batch_changes_nothing():
    module = ours.BatchNorm2d(3)
    x = torch.randn(0, 3, 2, 2, requires_grad=True)
    y = module(x)
    y.sum().backward()
    assert y.shape == x.shape == x.grad.shape
    assert torch.equal(module.running_mean, torch.zeros(3))
    assert torch.equal(module.running_var, torch.ones(3))
    assert torch.equal(module.weight.grad, torch.zeros(3))
    assert torch.equal(module.bias.grad, torch.zeros(3))


@pytest.mark.parametrize("momentum", [0.5, None])
def test_momentum_1_keeps_the_last_batch_and_none_the_mean_of_all(momentum):
    module = ours.BatchNorm1d(3, momentum=momentum)
    last = ours.BatchNorm1d(3, momentum=1.0)
    batches = torch.randn(2, 5, 3).unbind()
    statistics = []
    for x in batches:
        module(x), last(x)
        statistics.append((last.running_mean.clone(), last.running_var.clone()))
    if momentum is None:
        for actual, parts in zip(
            (module.running_mean, module.running_var), zip(*statistics, strict=True), strict=True
        ):
            torch.testing.assert_close(actual, sum(parts) / 2)
    assert torch.allclose(last.running_mean, batches[-1].mean(0), atol=1e-6)
    assert torch.allclose(last.running_var, batches[-1].var(0), atol=1e-6)
    module.reset_running_stats()
    assert int(module.num_batches_tracked) == 0
    module(batches[0])
    expected = batches[0].mean(0) * (1.0 if momentum is None else momentum)
    torch.testing.assert_close(module.running_mean, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("gone", ["running_mean", "running_var", "both"])
def test_buffers_that_were_set_to_none(affine, gone):
    results = []
    for module in (ours.BatchNorm1d(3, affine=affine), torch.nn.BatchNorm1d(3, affine=affine)):
        torch.manual_seed(0)
        for name in ("running_mean", "running_var") if gone == "both" else (gone,):
            setattr(module, name, None)
        try:
            results.append(module(torch.randn(8, 3)))
        except Exception as error:
            results.append(type(error))
    if isinstance(results[1], type):
        assert results[0] is results[1]
    else:
        torch.testing.assert_close(*results)


def test_frozen_parameters_have_no_gradients():
    for frozen in ("weight", "bias"):
        module = ours.BatchNorm1d(5)
        getattr(module, frozen).requires_grad_(False)
        x = torch.randn(8, 5, requires_grad=True)
        module(x).square().sum().backward()
        assert getattr(module, frozen).grad is None
        assert all(p.grad is not None for p in module.parameters() if p.requires_grad)
        assert x.grad is not None


def test_a_batch_that_changes_before_the_backward_pass_is_noticed():
    x = torch.randn(8, 5, requires_grad=True)
    z = x * 1
    y = ours.BatchNorm1d(5)(z)
    z.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    module = ours.BatchNorm1d(5)
    y = module(x)
    with torch.no_grad():
        module.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_accumulate_and_graphs_are_kept(kind):
    module, x = kind(5), batch(kind).requires_grad_()
    y = module(x)
    (y**2).sum().backward(retain_graph=True)
    first = [x.grad.clone(), *(p.grad.clone() for p in module.parameters())]
    (y**2).sum().backward()
    second = [x.grad, *(p.grad for p in module.parameters())]
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(2 * one, other)
    with pytest.raises(RuntimeError, match="second time"):
        (y**2).sum().backward()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_results_do_not_share_memory_with_the_batch(kind, training):
    module, x = kind(5).train(training), batch(kind)
    before = x.clone()
    with torch.no_grad():
        module(x).zero_()
    assert torch.equal(x, before)


@pytest.mark.parametrize("kind", KINDS)
def test_layouts_of_the_result_are_those_of_the_batch(kind):
    for x in (batch(kind), batch(kind).to(torch.float64)):
        module = kind(5).to(x.dtype)
        formats = [torch.contiguous_format] + [torch.channels_last] * (x.dim() == 4)
        for layout in formats:
            y = module(x.to(memory_format=layout))
            assert y.is_contiguous(memory_format=layout)
            assert y.dtype == x.dtype
        torch.testing.assert_close(module(x[::2]), module(x[::2].contiguous()))
        expanded = x[:, :1].expand(-1, 5, *x.shape[2:])
        torch.testing.assert_close(module(expanded), module(expanded.contiguous()))


@pytest.mark.parametrize("kind", KINDS)
def test_factories_and_printing(kind):
    module = kind(5, eps=0.5, device="cpu", dtype=torch.float64)
    assert {p.dtype for p in module.parameters()} == {torch.float64}
    assert module.running_var.dtype == torch.float64
    assert module.num_batches_tracked.dtype == torch.long
    assert repr(module).startswith(f"{kind.__name__}(5, eps=0.5, momentum=0.1, affine=True")
    half = kind(5).to(torch.bfloat16)
    assert half(batch(kind).bfloat16()).dtype == torch.bfloat16
    meta = kind(5, device="meta")
    assert meta(batch(kind).to("meta")).device.type == "meta"


def test_states_of_former_versions():
    """Old states have no num_batches_tracked."""
    module = ours.BatchNorm2d(3)
    state = module.state_dict()
    del state["num_batches_tracked"]
    state._metadata[""]["version"] = 1
    module.num_batches_tracked.fill_(7)
    module.load_state_dict(state)
    assert int(module.num_batches_tracked) == 7
    state._metadata[""]["version"] = 2
    with pytest.raises(RuntimeError, match="num_batches_tracked"):
        module.load_state_dict(state)


def test_data_parallel_replicas_and_weight_sharing():
    first, second = ours.BatchNorm1d(5), ours.BatchNorm1d(5)
    second.weight = first.weight
    x = torch.randn(8, 5)
    (first(x).square().sum() + second(x).pow(3).sum()).backward()
    plain = torch.nn.BatchNorm1d(5)
    y = plain(x)
    (y.square().sum() + y.pow(3).sum()).backward()
    torch.testing.assert_close(first.weight.grad, plain.weight.grad)


# -- Adam ------------------------------------------------------------------------------------------


def quadratic(kind, **options):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(10, 5))
    bias = torch.nn.Parameter(torch.randn(10))
    x, optimizer = torch.randn(5), kind([weight, bias], **options)

    def closure():
        optimizer.zero_grad()
        loss = (weight @ x + bias).square().sum()
        loss.backward()
        return loss

    return optimizer, closure, (weight, bias)


OPTIONS = [
    {}, {"lr": 0.01}, {"weight_decay": 0.1}, {"amsgrad": True, "weight_decay": 0.1},
    {"maximize": True, "weight_decay": 0.1}, {"lr": torch.tensor(0.01), "foreach": False},
    {"lr": torch.tensor(0.001), "betas": (0.8, 0.9)},
]  # fmt: skip


@pytest.mark.parametrize("kind", ADAMS)
@pytest.mark.parametrize("options", OPTIONS)
def test_goes_in_the_right_direction(kind, options):
    optimizer, closure, _ = quadratic(kind, **options)
    losses = [float(optimizer.step(closure).detach()) for _ in range(20)]
    assert (losses[-1] > losses[0]) == options.get("maximize", False)


@pytest.mark.parametrize("kind", ADAMS)
@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch.optim.lr_scheduler.StepLR(o, 5, 0.9),
        lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.4, total_iters=4),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
        lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o),
        lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.001, 0.01, cycle_momentum=False),
    ],
)
def test_schedulers_do_the_same(kind, make):
    results = []
    for one in (kind, getattr(torch.optim, kind.__name__)):
        optimizer, closure, parameters = quadratic(one, lr=0.01)
        scheduler = make(optimizer)
        for _ in range(12):
            loss = optimizer.step(closure)
            arguments = (loss.detach(),) if hasattr(scheduler, "patience") else ()
            scheduler.step(*arguments)
        results.append([*parameters, torch.tensor(optimizer.param_groups[0]["lr"])])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ADAMS)
def test_no_gradients_and_zero_gradients(kind):
    parameters = [torch.nn.Parameter(torch.randn(2, 3)) for _ in range(2)]
    before = [one.detach().clone() for one in parameters]
    optimizer = kind(parameters, weight_decay=0.0)
    optimizer.step()
    for one in parameters:
        one.grad = torch.zeros_like(one)
    optimizer.step()
    assert all(map(torch.equal, parameters, before))
    assert [int(optimizer.state[one]["step"]) for one in parameters] == [1, 1]


@pytest.mark.parametrize("kind", ADAMS)
def test_state_is_deterministic_and_goes_on(kind):
    optimizer, closure, parameters = quadratic(kind)
    for _ in range(5):
        optimizer.step(closure)
    buffer = io.BytesIO()
    torch.save([optimizer.state_dict(), *(one.detach() for one in parameters)], buffer)
    buffer.seek(0)
    state, *values = torch.load(buffer, weights_only=True)
    other, other_closure, others = quadratic(kind)
    with torch.no_grad():
        for one, value in zip(others, values, strict=True):
            one.copy_(value)
    other.load_state_dict(state)
    for _ in range(5):
        optimizer.step(closure)
        other.step(other_closure)
    assert all(map(torch.equal, parameters, others))


@pytest.mark.parametrize("kind", ADAMS)
def test_states_of_former_versions_of_adam(kind):
    """In old states, steps are numbers, and there are fewer options."""
    optimizer, closure, parameters = quadratic(kind)
    for _ in range(3):
        optimizer.step(closure)
    old = copy.deepcopy(optimizer.state_dict())
    for group in old["param_groups"]:
        for name in ("maximize", "foreach", "capturable", "differentiable", "fused"):
            del group[name]
    for state in old["state"].values():
        state["step"] = int(state["step"])
    other, other_closure, others = quadratic(kind)
    with torch.no_grad():
        for one, value in zip(others, parameters, strict=True):
            one.copy_(value)
    other.load_state_dict(old)
    optimizer.step(closure)
    other.step(other_closure)
    assert all(map(torch.equal, parameters, others))


@pytest.mark.parametrize("kind", ADAMS)
def test_copies_keep_all_and_train_apart(kind):
    optimizer, closure, parameters = quadratic(kind)
    optimizer.step(closure)
    copied = copy.deepcopy(optimizer)
    names = {name for name in vars(optimizer) if not name.startswith("_")}
    assert names <= set(vars(copied))
    before = [one.detach().clone() for one in parameters]
    for group in copied.param_groups:
        for one in group["params"]:
            one.grad = torch.ones_like(one)
    copied.step()
    assert all(map(torch.equal, parameters, before))
    optimizer.step(closure)
    assert not any(map(torch.equal, parameters, before))


def test_hooks_of_optimizers_are_called_in_order():
    optimizer, closure, _ = quadratic(ours.Adam)
    said = []
    optimizer.register_step_pre_hook(lambda o, a, k: said.append("own pre"))
    optimizer.register_step_post_hook(lambda o, a, k: said.append("own post"))
    handles = [
        register_optimizer_step_pre_hook(lambda o, a, k: said.append("pre")),
        register_optimizer_step_post_hook(lambda o, a, k: said.append("post")),
    ]
    optimizer.register_state_dict_post_hook(lambda o, state: said.append("saved"))
    optimizer.register_load_state_dict_post_hook(lambda o: said.append("loaded"))
    try:
        optimizer.step(closure)
    finally:
        for handle in handles:
            handle.remove()
    optimizer.load_state_dict(optimizer.state_dict())
    assert said == ["pre", "own pre", "own post", "post", "saved", "loaded"]


def test_printing_and_groups():
    first, second = (torch.nn.Parameter(torch.ones(2)) for _ in "ab")
    optimizer = ours.AdamW([{"params": [first]}, {"params": [second], "lr": 0.5}], lr=0.1)
    assert repr(optimizer).startswith("AdamW (\nParameter Group 0\n")
    with pytest.raises(ValueError, match="some parameters appear in more than one"):
        optimizer.add_param_group({"params": [first]})
    with warnings.catch_warnings(), pytest.raises(TypeError):
        ours.Adam(first)
    for bad in ({"betas": (1.0, 0.9)}, {"eps": -1}, {"weight_decay": -1}, {"lr": -1}):
        with pytest.raises(ValueError, match="Invalid"):
            ours.Adam([first], **bad)


def test_groups_of_several_dtypes_and_moved_parameters():
    results = []
    for kind in (ours.Adam, torch.optim.Adam):
        torch.manual_seed(0)
        wide = torch.nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
        slim = torch.nn.Parameter(torch.randn(4, 3))
        optimizer = kind([wide, slim], lr=0.1)
        for step in range(4):
            for one in (wide, slim):
                one.grad = torch.randn(4, 3).to(one.dtype)
            if step == 2:  # like `module.to(memory_format=...)`, which leaves gradients alone
                slim.data = slim.data.clone().t().contiguous().t()
            optimizer.step()
        results.append((wide, slim))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_parameter_that_becomes_smaller():
    """Nothing may be read or written past its new end."""
    results = []
    for kind in (ours.Adam, torch.optim.Adam):
        parameter = torch.nn.Parameter(torch.ones(100))
        optimizer = kind([parameter], lr=0.1)
        parameter.grad = torch.ones(100)
        optimizer.step()
        parameter.grad = None
        memory = parameter.data
        parameter.data = memory[:10]
        parameter.grad = torch.ones(10)
        try:
            optimizer.step()
            results.append("done")
        except RuntimeError:
            results.append("refused")
        assert torch.equal(memory[10:], memory[10].expand(90))
        assert float(memory[50]) == pytest.approx(0.9)
    assert results[0] == results[1]
