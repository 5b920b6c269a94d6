"""Batch norm modules compared with PyTorch's: results, state, modes, layouts, and fallbacks."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
import torch

import fastbn.torch as ours
from fastbn.torch import _functions, _modules

# (N, C, *spatial): one value more than a feature, primes, a parallel region, images
SHAPES = [
    (2, 3),
    (37, 5),
    (1025, 33),
    (5, 4, 7),
    (1, 3, 2),
    (3, 5, 7, 9),
    (2100, 64),
    (8, 64, 17, 19),
]


@pytest.fixture
def no_fallback(monkeypatch):
    """Fail if PyTorch's own code is called."""

    def refuse(*args):
        raise AssertionError("fell back to PyTorch")

    monkeypatch.setattr(_modules.FastBatchNorm, "_by_pytorch", refuse)


def pair(shape, **options):
    kinds = (
        (ours.BatchNorm2d, torch.nn.BatchNorm2d)
        if len(shape) == 4
        else (ours.BatchNorm1d, torch.nn.BatchNorm1d)
    )
    mine, theirs = (kind(shape[1], **options) for kind in kinds)
    for parameter in mine.parameters():
        torch.nn.init.normal_(parameter)
    theirs.load_state_dict(mine.state_dict())
    return mine, theirs


def assert_same(mine, theirs, x, tolerance=None):
    tolerance = tolerance or (1e-5 if x.dtype == torch.float32 else 1e-11)
    inputs = [x.detach().clone(memory_format=torch.preserve_format) for _ in range(2)]
    results = [
        module(one.requires_grad_()) for module, one in zip((mine, theirs), inputs, strict=True)
    ]
    dy = torch.randn_like(results[1])
    for result in results:
        result.backward(dy)
    pairs = [results, [one.grad for one in inputs]]
    pairs += zip(
        (p.grad for p in mine.parameters()), (p.grad for p in theirs.parameters()), strict=True
    )
    pairs += zip(mine.buffers(), theirs.buffers(), strict=True)
    for actual, expected in pairs:
        assert actual.shape == expected.shape
        assert actual.dtype == expected.dtype
        scale = max(1.0, float(expected.detach().abs().max()))
        assert float((actual - expected).detach().abs().max()) <= tolerance * scale


@pytest.mark.usefixtures("no_fallback")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"affine": False},
        {"momentum": None},
        {"track_running_stats": False},
        {"eps": 0.1, "momentum": 0.3},
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_training_step_by_step(shape, dtype, options):
    torch.manual_seed(0)
    mine, theirs = pair(shape, dtype=dtype, **options)
    for _ in range(3):
        mine.zero_grad()
        theirs.zero_grad()
        assert_same(
            mine,
            theirs,
            2 + 3 * torch.randn(shape, dtype=dtype),
            1e-4 if 2 in shape[:1] + shape[2:] and dtype == torch.float32 else None,
        )
    if options.get("track_running_stats", True):
        assert int(mine.num_batches_tracked) == 3


@pytest.mark.usefixtures("no_fallback")
@pytest.mark.parametrize("shape", SHAPES)
def test_prediction(shape):
    mine, theirs = pair(shape)
    x = torch.randn(shape)
    mine(x), theirs(x)
    mine.eval(), theirs.eval()
    with torch.no_grad():
        torch.testing.assert_close(mine(x), theirs(x), rtol=1e-5, atol=1e-5)
    assert int(mine.num_batches_tracked) == 1


@pytest.mark.usefixtures("no_fallback")
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_layouts(mode):
    mine, theirs = pair((6, 5, 7, 3))
    x = torch.randn(6, 5, 7, 3).to(memory_format=torch.channels_last)
    if mode == "train":
        assert_same(mine, theirs, x)
        assert mine(x).is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        for strange in (x, x.transpose(2, 3), x[:, :, ::2], x[::2]):
            torch.testing.assert_close(
                mine.train(mode == "train")(strange), theirs.train(mode == "train")(strange)
            )
    mine, theirs = pair((40, 6))
    transposed = torch.randn(6, 40).t()
    if mode == "train":
        assert_same(mine, theirs, transposed)
        dy = torch.randn(6, 40).t()
        x = torch.randn(40, 6, requires_grad=True)
        mine(x).backward(dy)
        first = x.grad.clone()
        x.grad = None
        mine(x).backward(dy.contiguous())
        assert torch.equal(x.grad, first)
    with torch.no_grad():
        torch.testing.assert_close(mine(transposed), theirs(transposed))


def test_results_are_on_the_tensors_own_memory(monkeypatch):
    """Nothing is copied: the kernels get the addresses of input and result."""
    seen = []
    real = _functions.train_at
    monkeypatch.setattr(_functions, "train_at", lambda *a: seen.append(a) or real(*a))
    x = torch.randn(40, 6, requires_grad=True)
    module = ours.BatchNorm1d(6)
    y = module(x)
    (arguments,) = seen
    assert {
        x.data_ptr(),
        y.data_ptr(),
        module.weight.data_ptr(),
        module.running_mean.data_ptr(),
    } <= {*arguments[4], *arguments[8]}


@pytest.mark.parametrize("slope", [0.0, 0.1, 1.0])
def test_with_leaky_relu(slope):
    theirs = torch.nn.Sequential(torch.nn.BatchNorm1d(6), torch.nn.LeakyReLU(slope))
    mine = ours.BatchNormLeakyReLU(6, slope)
    assert f"negative_slope={slope}" in repr(mine)
    for shape in ((40, 6), (4, 6, 5), (4, 6, 5, 3)):
        if len(shape) == 4:
            theirs[0] = torch.nn.BatchNorm2d(6)
        mine.load_state_dict(theirs[0].state_dict())
        mine.zero_grad(), theirs.zero_grad()
        assert_same(mine, theirs, torch.randn(shape))
    mine.eval(), theirs.eval()
    x = torch.randn(4, 6, 5, 3)
    torch.testing.assert_close(mine(x), theirs(x))  # with gradients it is PyTorch's own
    with torch.no_grad():
        torch.testing.assert_close(mine(x), theirs(x))


def test_linear_batch_norm_leaky_relu():
    mine = torch.nn.Sequential(
        ours.LinearBatchNormLeakyReLU(7, 9, 0.1), ours.LinearBatchNormLeakyReLU(9, 5, 0.1)
    )
    theirs = torch.nn.Sequential(
        torch.nn.Linear(7, 9, bias=False), torch.nn.BatchNorm1d(9), torch.nn.LeakyReLU(0.1),
        torch.nn.Linear(9, 5, bias=False), torch.nn.BatchNorm1d(5), torch.nn.LeakyReLU(0.1),
    )  # fmt: skip
    assert list(mine[0].state_dict()) == [
        "linear.weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var",
        "norm.num_batches_tracked",
    ]  # fmt: skip
    theirs.load_state_dict(dict(zip(theirs.state_dict(), mine.state_dict().values(), strict=True)))
    assert_same(mine, theirs, torch.randn(40, 7))


@pytest.mark.parametrize("slope", [1.0, 0.1])
@pytest.mark.parametrize("shape", [(7, 3), (3, 2, 4), (2, 2, 3, 2)])
def test_gradcheck(shape, slope):
    torch.manual_seed(1)
    module = ours.BatchNormLeakyReLU(shape[1], slope, dtype=torch.float64)

    def normalize(x, weight, bias):
        arguments = _functions.NormArguments(1e-5, slope, 0.0, None, None, None)
        return _functions.BatchNormTraining.apply(x, None, None, weight, bias, arguments)

    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.randn(shape[1], dtype=torch.float64, requires_grad=True) for _ in "wb")
    assert torch.autograd.gradcheck(normalize, (x, weight, bias))
    assert torch.autograd.gradgradcheck(normalize, (x, weight, bias))
    assert torch.autograd.gradcheck(lambda x: normalize(x, None, None), (x,))
    assert torch.autograd.gradcheck(module.eval(), (x,))


def test_state_has_pytorchs_format():
    mine, theirs = pair((40, 6))
    assert isinstance(mine, torch.nn.BatchNorm1d)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    mine(torch.randn(40, 6))
    theirs.load_state_dict(mine.state_dict())
    for copied in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):
        assert type(copied) is ours.BatchNorm1d
        for name, tensor in copied.state_dict().items():
            assert torch.equal(tensor, theirs.state_dict()[name])


@pytest.mark.parametrize(
    ("module", "x"),
    [
        (torch.nn.BatchNorm1d, torch.randn(1, 6)),
        (torch.nn.BatchNorm1d, torch.randn(40, 5)),
        (torch.nn.BatchNorm1d, torch.randn(3, 6, 2, 2)),
        (torch.nn.BatchNorm2d, torch.randn(3, 6)),
        (torch.nn.BatchNorm1d, torch.randn(40, 6, dtype=torch.float64)),
        (torch.nn.BatchNorm1d, torch.randint(0, 5, (40, 6))),
    ],
)
def test_mistakes_raise_pytorchs_errors(module, x):
    with pytest.raises((ValueError, RuntimeError)) as theirs:
        module(6)(x)
    with pytest.raises(type(theirs.value)) as mine:
        getattr(ours, module.__name__)(6)(x)
    assert str(mine.value) == str(theirs.value)


def test_bfloat16_and_half_fall_back():
    for dtype in (torch.bfloat16, torch.float16):
        mine, theirs = pair((40, 6))
        x = torch.randn(40, 6).to(dtype)
        assert torch.equal(mine(x), theirs(x))
        assert mine(x).dtype == dtype
        assert mine.running_mean.dtype == torch.float32


def test_nothing_and_other_devices_fall_back():
    mine, theirs = pair((40, 6))
    empty = torch.empty(0, 6)
    mine.eval(), theirs.eval()
    assert mine(empty).shape == theirs(empty).shape == (0, 6)
    meta = ours.BatchNorm1d(6, device="meta")
    assert meta(torch.empty(40, 6, device="meta")).device.type == "meta"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_function_transforms_are_left_to_pytorch():
    mine, theirs = pair((40, 6), affine=False, track_running_stats=False)
    x, tangent = torch.randn(2, 40, 6)
    for one, other in zip(
        torch.func.jvp(mine, (x,), (tangent,)), torch.func.jvp(theirs, (x,), (tangent,)),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(one, other)
    batches = torch.randn(3, 40, 6)
    torch.testing.assert_close(torch.vmap(mine)(batches), torch.vmap(theirs)(batches))
    gradient = torch.func.grad(lambda x: mine(x).square().sum())(x)
    torch.testing.assert_close(gradient, torch.func.grad(lambda x: theirs(x).square().sum())(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("training", [True, False])
def test_forward_mode_is_left_to_pytorch(training):
    mine, theirs = ours.BatchNorm1d(6).train(training), torch.nn.BatchNorm1d(6).train(training)
    forward_ad = torch.autograd.forward_ad
    with forward_ad.dual_level():
        x = forward_ad.make_dual(torch.randn(40, 6), torch.randn(40, 6))
        with torch.no_grad():
            found, expected = (forward_ad.unpack_dual(one(x)).tangent for one in (mine, theirs))
    torch.testing.assert_close(found, expected)


def test_gradients_of_gradients_of_an_input_that_was_copied():
    torch.manual_seed(0)
    for affine in (True, False):
        mine, theirs = (
            kind(5, affine=affine, dtype=torch.float64)
            for kind in (ours.BatchNorm1d, torch.nn.BatchNorm1d)
        )
        x = torch.randn(4, 6, 5, dtype=torch.float64, requires_grad=True)
        found = []
        for module in (mine, theirs):
            y = module(x.transpose(1, 2))
            (dx,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
            found.append(torch.autograd.grad((dx**2).sum(), x)[0])
        torch.testing.assert_close(*found)


@pytest.mark.parametrize("kind", [ours.BatchNorm1d, torch.nn.BatchNorm1d])
def test_batched_gradients(kind):
    x = torch.randn(6, 3, requires_grad=True)
    y = kind(3)(x)
    directions = torch.randn(4, 6, 3)
    (together,) = torch.autograd.grad(y, x, directions, is_grads_batched=True, retain_graph=True)
    for one, direction in zip(together, directions, strict=True):
        torch.testing.assert_close(one, torch.autograd.grad(y, x, direction, retain_graph=True)[0])


def test_saved_tensors_may_come_back_in_another_layout():
    torch.manual_seed(0)
    x, dy = torch.randn(2, 4, 3, 5, 5)
    x = x.to(memory_format=torch.channels_last)
    found = []
    for module in (ours.BatchNorm2d(3), torch.nn.BatchNorm2d(3)):
        leaf = x.detach().requires_grad_()
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda t: t.contiguous().numpy().copy(), torch.from_numpy
        )
        with hooks:
            y = module(leaf)
        y.backward(dy)
        found.append([leaf.grad, module.weight.grad, module.bias.grad])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_what_has_no_memory_or_other_signs():
    torch.manual_seed(0)
    mine, theirs = ours.BatchNorm1d(5), torch.nn.BatchNorm1d(5)
    x, dy = torch.randn(2, 30, 5)
    for training in (True, False):
        one, other = mine.train(training), theirs.train(training)
        torch.testing.assert_close(one(torch._neg_view(x)), other(torch._neg_view(x)))
    mine.train(), theirs.train()
    for gradient in (torch._neg_view(dy), torch._efficientzerotensor((30, 5))):
        for module in (mine, theirs):
            module.zero_grad()
            module(x).backward(gradient)
        torch.testing.assert_close(mine.weight.grad, theirs.weight.grad)
        torch.testing.assert_close(mine.bias.grad, theirs.bias.grad)
    y = mine(x.requires_grad_())
    x.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="storage"):
        y.backward(dy)


def test_dispatch_modes_see_all_operations():
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    module, plain, x = ours.BatchNorm1d(5).eval(), torch.nn.BatchNorm1d(5).eval(), torch.randn(9, 5)
    torch.testing.assert_close(make_fx(module)(x)(x), plain(x))
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert module.train()(x).shape == (9, 5)


def test_settings_that_pytorch_refuses_or_reads_differently():
    x = torch.arange(12.0).view(4, 3)
    for training in (True, False):
        outcomes = []
        for kind in (ours.BatchNorm1d, torch.nn.BatchNorm1d):
            try:
                outcomes.append(str(kind(3, eps=-1.0).train(training)(x)))
            except (RuntimeError, ValueError) as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1]
    takes_bias = "bias" in inspect.signature(torch.nn.BatchNorm1d).parameters  # not in PyTorch 2.6
    without_bias = {"bias": False} if takes_bias else {}
    for options, change in [
        ({"momentum": -0.5}, None),
        ({"momentum": torch.tensor(0.25)}, None),
        ({"eps": torch.tensor(0.5)}, None),
        (without_bias, None),
        ({}, lambda module: setattr(module, "num_batches_tracked", None)),
    ]:
        mine, theirs = ours.BatchNorm1d(3, **options), torch.nn.BatchNorm1d(3, **options)
        for module in (mine, theirs):
            if change:
                change(module)
        torch.testing.assert_close(mine(x), theirs(x))
        torch.testing.assert_close(mine.running_mean, theirs.running_mean)
    assert (ours.BatchNormLeakyReLU(3, **without_bias).bias is None) == takes_bias
    norm = ours.LinearBatchNormLeakyReLU(3, 2, **without_bias).norm
    assert (norm.bias is None) == takes_bias


def test_data_that_needs_care():
    x = 1e4 + 1e-2 * torch.randn(4096, 3)  # float32 has ten distinct values here
    wide = torch.nn.BatchNorm1d(3, affine=False, dtype=torch.float64)(x.double())
    y = ours.BatchNorm1d(3, affine=False)(x)
    assert float((y - wide).abs().max()) < 1e-2
    huge = torch.randn(64, 3) * 1e25  # squares overflow float32
    expected = torch.nn.BatchNorm1d(3, affine=False, dtype=torch.float64)(huge.double())
    assert float((ours.BatchNorm1d(3, affine=False)(huge) - expected).abs().max()) < 1e-5
    x[5, 1] = torch.nan
    y = ours.BatchNorm1d(3)(x)
    assert y[:, 1].isnan().all()
    assert y[:, [0, 2]].isfinite().all()


def test_the_same_bits_with_any_number_of_threads():
    import numba

    x = torch.randn(3000, 64)
    before = numba.get_num_threads()
    results = []
    for threads in (1, before):
        numba.set_num_threads(threads)
        module = ours.BatchNorm1d(64)
        source = x.clone().requires_grad_()
        module(source).sum().backward()
        results.append((module.running_var.clone(), source.grad, module.weight.grad))
    numba.set_num_threads(before)
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


def test_checkpoints_train_on(tmp_path):
    """One saves in the middle of training, and the other loads and continues."""
    mine, theirs = pair((40, 6))
    mine(torch.randn(40, 6))
    torch.save(mine.state_dict(), tmp_path / "state.pt")
    theirs.load_state_dict(torch.load(tmp_path / "state.pt"))
    x = torch.randn(40, 6)
    torch.testing.assert_close(mine(x), theirs(x))
    torch.testing.assert_close(mine.running_var, theirs.running_var)
