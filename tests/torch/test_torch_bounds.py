"""Tensors with resized or replaced memory give an error or PyTorch's result, never a wild read."""

from __future__ import annotations

import copy

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
import torch
from torch import nn

import fastbn.torch as ours

RESIZED = "one whose storage was resized"

# -- batch norm ------------------------------------------------------------------------------------


def resize(tensor, kept):
    tensor.untyped_storage().resize_(kept)


@pytest.mark.parametrize("kept", [0, 8])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var", "input"])
def test_storages_that_were_resized(name, training, kept):
    module, x = ours.BatchNorm1d(64).train(training), torch.randn(32, 64)
    before = copy.deepcopy(module.state_dict())
    resize(x if name == "input" else getattr(module, name).data, kept)
    with torch.no_grad(), pytest.raises(RuntimeError, match=RESIZED):
        module(x)
    for other, expected in before.items():
        if other != name:
            assert torch.equal(getattr(module, other), expected), "nothing was changed"


@pytest.mark.parametrize("kept", [0, 8])
def test_a_counter_without_memory(kept):
    module = ours.BatchNorm1d(4)
    module.num_batches_tracked = torch.zeros(9, dtype=torch.int64)[8]
    resize(module.num_batches_tracked, kept)
    with pytest.raises(RuntimeError, match=RESIZED):
        module(torch.randn(8, 4))


@pytest.mark.parametrize("kept", [0, 8])
@pytest.mark.parametrize("name", ["weight", "input"])
@pytest.mark.parametrize("joined", [True, False])
def test_storages_that_were_resized_before_the_backward_pass(name, kept, joined):
    module, x = ours.BatchNorm1d(64), torch.randn(32, 64, requires_grad=True)
    if joined:
        model = nn.Sequential(nn.Linear(64, 64), module, nn.ReLU())
        ours.accelerate(model, verbose=False)
        y = model(x)
        saved = y.grad_fn.saved_tensors[-1]  # the result of the linear layer
    else:
        y, saved = module(x), x
    resize((saved if name == "input" else module.weight).data, kept)
    with pytest.raises(RuntimeError, match=RESIZED):
        y.sum().backward()


def test_a_view_that_ends_where_its_storage_ended():
    """The offset of the view counts."""
    memory = torch.randn(4 + 32 * 8)
    x = memory[4:].view(32, 8)
    module = ours.BatchNorm1d(8)
    module(x)
    resize(memory, 4 * 32 * 8)
    with pytest.raises(RuntimeError, match=RESIZED):
        module(x)


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("change", ["smaller", "resize_", "dtype", "strided"])
def test_vectors_of_another_kind_are_left_to_pytorch(name, training, change):
    x, found = torch.randn(16, 6), []
    for kind in (ours.BatchNorm1d, nn.BatchNorm1d):
        module = kind(6).train(training)
        tensor = getattr(module, name).data
        if change == "smaller":
            tensor = torch.ones(3)
        elif change == "resize_":
            tensor = tensor.clone().resize_(3)
        elif change == "dtype":
            tensor = tensor.double()
        else:
            tensor = torch.stack([tensor, tensor], 1)[:, 0]
        if name in module._parameters:
            getattr(module, name).data = tensor
        else:
            setattr(module, name, tensor)
        try:
            with torch.no_grad():
                found.append(module(x))
        except (RuntimeError, ValueError) as error:
            found.append(str(error))
    if isinstance(found[1], str):
        assert found[0] == found[1]
    else:
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t[:1],
        lambda t: t.double(),
        lambda t: t.to(torch.bfloat16),
        lambda t: t.reshape(-1),
        lambda t: t[..., :3],
    ],
    ids=["rows", "wider", "bfloat16", "flat", "columns"],
)
def test_hooks_that_give_back_other_tensors(change):
    """The kernels would read past the end of the tensors that replace the saved ones."""
    module, x = ours.BatchNorm1d(6), torch.randn(16, 6, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, change):
        y = module(x)
    with pytest.raises(RuntimeError, match="batch norm: expected .* got "):
        y.sum().backward()


@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.parametrize(
    ("lazy", "same"),
    [
        (lambda t: torch._efficientzerotensor(t.shape, dtype=t.dtype), torch.zeros_like),
        (torch._neg_view, torch.neg),
    ],
    ids=["zeros without memory", "negated"],
)
def test_hooks_that_give_back_lazy_tensors(lazy, same, dimensions):
    """The kernels read memory, but the numbers of lazy tensors are not there yet."""
    data, gradients = torch.randn(16, 6), []
    for change in (lazy, same):
        module, x = ours.BatchNorm1d(6), data.clone().requires_grad_()

        def unpack(saved, change=change):
            return change(saved) if saved.dim() == dimensions else saved

        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach(), unpack):
            y = module(x)
        (y * data).sum().backward()
        gradients.append([x.grad, module.weight.grad, module.bias.grad])
    for got, expected in zip(*gradients, strict=True):
        assert torch.equal(got, expected)


def test_hooks_that_give_back_other_vectors():
    module, x = ours.BatchNorm1d(6), torch.randn(16, 6, requires_grad=True)
    hooks = torch.autograd.graph.saved_tensors_hooks(
        lambda t: t, lambda t: t[:2] if t.dim() == 1 else t
    )
    with hooks:
        y = module(x)
    message = r"saved tensors of 6 channels, .*got \(16, 6\) .*, \(2,\) .*, \(2,\) "
    with pytest.raises(RuntimeError, match=message):
        y.sum().backward()


def test_hooks_that_cut_the_gradient():
    module, x = ours.BatchNorm1d(6), torch.randn(4000, 6, requires_grad=True)
    y = module(x)
    y.grad_fn.register_prehook(lambda grads: (grads[0][:1],))
    with pytest.raises(RuntimeError, match="has changed the size"):
        y.sum().backward()


# -- Adam ------------------------------------------------------------------------------------------


def optimizers(shape=(64,), **options):
    """Return one of each, after one step."""
    found = []
    for kind in (ours.Adam, torch.optim.Adam):
        parameters = [nn.Parameter(torch.ones(shape)), nn.Parameter(torch.ones(shape))]
        optimizer = kind(parameters, lr=0.1, foreach=False, **options)
        give_gradients(parameters)
        optimizer.step()
        found.append((optimizer, parameters))
    return found


def give_gradients(parameters):
    for one in parameters:
        one.grad = torch.full_like(one, 0.5)


def steps_alike(pairs):
    """Take a step with both: they give the same error, or the same parameters."""
    said = []
    for optimizer, _ in pairs:
        try:
            optimizer.step()
            said.append("")
        except (RuntimeError, ValueError, IndexError) as error:
            said.append(str(error))
    assert said[0] == said[1]
    if not said[0]:
        for one, other in zip(pairs[0][1], pairs[1][1], strict=True):
            torch.testing.assert_close(one, other)
    return said[0]


@pytest.mark.parametrize("kept", [0, 8])
@pytest.mark.parametrize("which", ["param", "grad", "exp_avg", "exp_avg_sq", "step"])
def test_storages_of_a_step_that_were_resized(which, kept):
    (optimizer, parameters), _ = optimizers()
    last = parameters[1]
    give_gradients(parameters)
    if which in ("param", "grad"):
        tensor = last.data if which == "param" else last.grad
    else:
        tensor = optimizer.state[last][which]
    resize(tensor, kept // 4 if which == "step" else kept)
    expected = parameters[0].detach().clone()
    for _ in range(2):
        with pytest.raises(RuntimeError, match=RESIZED):
            optimizer.step()
    assert torch.equal(parameters[0].detach(), expected), "nothing was changed"


def test_a_storage_that_was_freed_and_made_again():
    """It may be at the same address and smaller, so the address alone proves nothing."""
    (optimizer, parameters), _ = optimizers((4096,))
    for _ in range(20):
        storage = optimizer.state[parameters[0]]["exp_avg"].untyped_storage()
        storage.resize_(0)
        storage.resize_(4 * 4096 - 16)
        with pytest.raises(RuntimeError, match=RESIZED):
            optimizer.step()


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t[:32].clone(),
        lambda t: t[:32],
        lambda t: t.double(),
        lambda t: t.view(torch.bfloat16)[:64],
        lambda t: t.view(8, 8),
        lambda t: torch.stack([t, t], 1)[:, 0],
        lambda t: torch.cat([t, t]),
    ],
    ids=["smaller", "part", "wider", "other", "shape", "strided", "larger"],
)
@pytest.mark.parametrize("which", ["param", "exp_avg", "exp_avg_sq"])
def test_tensors_of_a_step_that_were_replaced(which, change):
    pairs = optimizers()
    for optimizer, parameters in pairs:
        give_gradients(parameters)
        if which == "param":
            parameters[1].data = change(parameters[1].data)
        else:
            state = optimizer.state[parameters[1]]
            state[which] = change(state[which])
    steps_alike(pairs)


def test_a_square_parameter_that_was_transposed():
    """It has the same memory and shape, but another order."""
    pairs = optimizers((8, 8))
    for _, parameters in pairs:
        parameters[1].data = parameters[1].data.add_(torch.arange(64.0).view(8, 8)).t()
        parameters[1].grad = torch.arange(64.0).view(8, 8)
    assert not steps_alike(pairs)


def test_moments_of_other_shapes_from_a_file():
    pairs = optimizers()
    for optimizer, parameters in pairs:
        state = optimizer.state_dict()
        for own in state["state"].values():
            own["exp_avg"] = own["exp_avg"][:5].clone()
        optimizer.load_state_dict(state)
        give_gradients(parameters)
    assert "size" in steps_alike(pairs)


def test_a_moment_that_was_replaced_by_its_first_rows():
    """It has the same address in the same storage, but fewer numbers."""
    (optimizer, parameters), (theirs, others) = optimizers()
    for one, own in ((optimizer, parameters), (theirs, others)):
        state = one.state[own[0]]
        state["exp_avg"] = state["exp_avg"][:5]
        give_gradients(own)
    assert steps_alike([(optimizer, parameters), (theirs, others)])


@pytest.mark.parametrize("shape", [(8, 8), (1, 64)])
def test_gradients_of_another_shape(shape):
    pairs = optimizers()
    for _, parameters in pairs:
        give_gradients(parameters)
        parameters[1].data = parameters[1].data.view(shape)
    steps_alike(pairs)


def test_memory_is_not_kept_for_parameters_that_went_to_pytorchs_step():
    optimizer, parameters = optimizers()[0]
    assert optimizer._kept
    give_gradients(parameters)
    parameters[1].grad = torch.stack([parameters[1].grad] * 2, 1)[:, 0]
    optimizer.step()
    assert not optimizer._kept
