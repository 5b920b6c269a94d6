"""The same numbers as PyTorch, to float32 tolerance."""

from __future__ import annotations

import numpy as np
import pytest
from cases import assert_close

import fastbn
from fastbn import reference as ref

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

SHAPES = [(2, 3), (37, 5), (128, 64), (1025, 33), (4, 3, 17), (6, 5, 7, 9)]


def module_for(shape, **options):
    kind = torch.nn.BatchNorm2d if len(shape) == 4 else torch.nn.BatchNorm1d
    module = kind(shape[1], **options)
    generator = torch.Generator().manual_seed(1)
    if module.affine:
        torch.nn.init.normal_(module.weight, generator=generator)
        torch.nn.init.normal_(module.bias, generator=generator)
    return module


def parameters(module):
    if not module.affine:
        return None, None
    return module.weight.detach().numpy(), module.bias.detach().numpy()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm_with_leaky_relu(rng, shape, affine):
    x, dy = rng.standard_normal((2, *shape)).astype(np.float32)
    module = module_for(shape, affine=affine)
    gamma, beta = parameters(module)
    source = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.leaky_relu(module(source), 0.1)
    expected.backward(torch.tensor(dy))
    options = {"activation": "leaky_relu", "negative_slope": 0.1}
    y, mean, rstd = fastbn.batch_norm(x, gamma, beta, **options)
    dx, dgamma, dbeta = fastbn.batch_norm_backward(dy, x, gamma, beta, mean, rstd, **options)
    n = x.size // shape[1]
    # with two samples, their distance determines how many digits are left
    tolerance = 2e-3 if n == 2 else 1e-5
    assert_close(y, expected.detach().numpy(), tolerance=tolerance)
    assert_close(dx, source.grad.numpy(), tolerance=tolerance * 10)
    if affine:
        assert_close(dgamma, module.weight.grad.numpy(), tolerance=1e-5)
        assert_close(dbeta, module.bias.grad.numpy(), tolerance=1e-5)


@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
@pytest.mark.parametrize("shape", SHAPES)
def test_running_statistics_and_inference(rng, shape, momentum):
    module = module_for(shape, momentum=momentum)
    axes = tuple(a for a in range(len(shape)) if a != 1)
    running_mean, running_var = np.zeros(shape[1], "f4"), np.ones(shape[1], "f4")
    for count in range(5):
        x = (2 + 3 * rng.standard_normal(shape)).astype(np.float32)
        module(torch.tensor(x))
        n = int(np.prod([shape[a] for a in axes]))
        fastbn.update_running_statistics(
            running_mean, running_var, *fastbn.batch_statistics(x), n,
            momentum=momentum, num_batches_tracked=count,
        )  # fmt: skip
    assert_close(running_mean, module.running_mean.numpy(), tolerance=1e-6)
    assert_close(running_var, module.running_var.numpy(), tolerance=1e-6)
    module.eval()
    y = fastbn.batch_norm_inference(x, running_mean, running_var, *parameters(module))
    assert_close(y, module(torch.tensor(x)).detach().numpy(), tolerance=1e-5)


@pytest.mark.parametrize("shape", [(1, 3), (0, 3), (1, 3, 1)])
def test_both_refuse_a_batch_with_nothing_to_normalize(shape):
    x = np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match="more than 1 value"):
        fastbn.batch_norm(x)
    if shape[0]:
        with pytest.raises(ValueError, match="more than 1 value"):
            module_for(shape)(torch.tensor(x))


@pytest.mark.parametrize("layout", ["NC", "CN"])
@pytest.mark.parametrize("seed", range(5))
def test_no_worse_than_pytorch_on_a_large_mean_with_a_small_deviation(seed, layout):
    rng = np.random.default_rng(seed)
    x = (1e4 + 1e-2 * rng.standard_normal((4096, 16))).astype(np.float32)
    expected_mean, expected_var = ref.batch_statistics(x)
    expected, _, _ = ref.batch_norm(x, np.ones(16), np.zeros(16))
    torch_var, torch_mean = torch.var_mean(torch.tensor(x), 0, correction=0)
    module = torch.nn.BatchNorm1d(16, momentum=1.0)
    torch_y = module(torch.tensor(x)).detach().numpy()
    source = x if layout == "NC" else np.ascontiguousarray(x.T)
    mean, var = fastbn.batch_statistics(source, layout=layout)
    y, _, _ = fastbn.batch_norm(source, layout=layout)

    def error(actual, wanted):
        return np.max(np.abs(np.asarray(actual, np.float64) - wanted))

    module_var = module.running_var.numpy() * np.float64(4095 / 4096)
    digits = np.finfo(np.float32).eps
    assert error(mean, expected_mean) <= error(torch_mean, expected_mean)
    assert error(mean, expected_mean) <= error(module.running_mean.numpy(), expected_mean)
    torch_best = min(error(torch_var, expected_var), error(module_var, expected_var))
    # "no worse" up to one unit in the last place, since both round to float32
    assert error(var, expected_var) <= max(torch_best, digits * expected_var.max())
    assert error(y if layout == "NC" else y.T, expected) <= error(torch_y, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(1, 2), (37, 10), (500, 1000), (4, 5, 6)])
def test_cross_entropy(rng, shape, smoothing):
    logits = (3 * rng.standard_normal(shape)).astype(np.float32)
    labels = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    source = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(
        source, torch.tensor(labels), label_smoothing=smoothing
    )
    expected.backward()
    loss, dlogits = fastbn.softmax_cross_entropy(logits, labels, label_smoothing=smoothing)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert_close(dlogits, source.grad.numpy(), tolerance=1e-6, scale=1 / labels.size)


def test_class_weights_are_sample_weights(rng):
    logits = rng.standard_normal((50, 4)).astype(np.float32)
    labels = rng.integers(0, 4, 50)
    weight = np.array([0.5, 1.0, 2.0, 3.0], np.float32)
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(labels), torch.tensor(weight)
    )
    loss, _ = fastbn.softmax_cross_entropy(logits, labels, sample_weight=weight[labels])
    assert loss == pytest.approx(expected.item(), rel=1e-6)


OPTIMIZERS = [
    ("Adam", {}),
    ("Adam", {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-4, "weight_decay": 0.1}),
    ("AdamW", {"weight_decay": 0.05}),
    ("SGD", {"lr": 0.01, "momentum": 0.9}),
    ("SGD", {"lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.01, "momentum": 0.0}),
    ("RMSprop", {}),
    ("RMSprop", {"lr": 0.001, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1}),
]


@pytest.mark.parametrize("max_norm", [None, 1.0])
@pytest.mark.parametrize(("name", "options"), OPTIMIZERS)
def test_optimizers_over_twenty_steps(rng, name, options, max_norm):
    param = rng.standard_normal((37, 11)).astype(np.float32)
    tensor = torch.nn.Parameter(torch.tensor(param))
    optimizer = getattr(torch.optim, name)([tensor], **options)
    first, second = np.zeros((2, 37, 11), np.float32)
    for step in range(1, 21):
        grad = rng.standard_normal(param.shape).astype(np.float32)
        tensor.grad = torch.tensor(grad)
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_([tensor], max_norm)
        optimizer.step()
        if name.startswith("Adam"):
            fastbn.adam_step(
                param, grad, first, second, step=step, decoupled=name == "AdamW",
                max_norm=max_norm, **options,
            )  # fmt: skip
        elif name == "SGD":
            fastbn.sgd_step(param, grad, first, max_norm=max_norm, **options)
        else:
            fastbn.rmsprop_step(param, grad, second, max_norm=max_norm, **options)
    assert_close(param, tensor.detach().numpy(), tolerance=2e-6)
