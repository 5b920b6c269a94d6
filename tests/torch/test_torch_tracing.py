"""Traced graphs contain only PyTorch's operations, as with its own modules."""

from __future__ import annotations

import copy
import importlib.util
import io

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import fastbn.torch as ours
from fastbn.torch import accelerate, restore
from fastbn.torch._tracing import is_traced

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def images():
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3))


def perceptron():
    return nn.Sequential(
        nn.Linear(12, 9), nn.BatchNorm1d(9), nn.LeakyReLU(0.2), nn.Linear(9, 5, bias=False),
        nn.BatchNorm1d(5),
    )  # fmt: skip


def network():
    return nn.Sequential(*images(), nn.Flatten(), *perceptron())


def alone():
    return nn.BatchNorm1d(7)


SHAPES = {network: (8, 2, 6, 6), alone: (32, 7), images: (8, 2, 6, 6), perceptron: (32, 12)}
models = pytest.mark.parametrize("make", [network, alone])
modes = pytest.mark.parametrize("training", [True, False])


def pair(make, training=False):
    """Return an accelerated model and PyTorch's own, after one training batch."""
    torch.manual_seed(0)
    plain = make()
    plain(torch.randn(SHAPES[make]))
    fast = copy.deepcopy(plain)
    accelerate(fast, verbose=False)
    return fast.train(training), plain.train(training)


def operations(graph):
    return [str(node.target) for node in graph.nodes if node.op in ("call_function", "call_module")]


@pytest.mark.parametrize("strict", [True, False])
@modes
@models
def test_export_with_any_number_of_samples(make, training, strict):
    batch = torch.export.Dim("batch")
    fast, plain = pair(make, training)
    x = torch.randn(SHAPES[make])
    found, expected = (
        torch.export.export(one, (x,), dynamic_shapes=({0: batch},), strict=strict)
        for one in (fast, plain)
    )
    assert operations(found.graph) == operations(expected.graph)
    for samples in (2, 5, 3000):  # below and above the size that `accelerate` leaves to PyTorch
        x = torch.randn(samples, *SHAPES[make][1:])
        torch.testing.assert_close(found.module()(x), plain(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [lambda: ours.BatchNormLeakyReLU(7, 0.1),
                                  lambda: ours.LinearBatchNormLeakyReLU(7, 4, 0.1)])  # fmt: skip
def test_export_of_modules_with_an_activation(make):
    module, batch = make().eval(), torch.export.Dim("batch")
    x = torch.randn(9, 7)
    exported = torch.export.export(module, (x,), dynamic_shapes=({0: batch},))
    assert all(name.startswith("aten.") for name in operations(exported.graph))
    x = torch.randn(3000, 7)
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(x), module(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "training", "dynamic"),
    [
        (network, True, True), (network, True, False), (network, True, None),
        (network, False, None), (alone, True, None), (alone, False, None),
    ],
)  # fmt: skip
def test_compiled_models_have_no_graph_more_than_pytorchs(make, training, dynamic):
    from torch._dynamo.testing import CompileCounter  # takes a second

    counts = []
    for model in pair(make, training):
        torch.compiler.reset()
        counter = CompileCounter()
        compiled = torch.compile(model, backend=counter, dynamic=dynamic, fullgraph=True)
        for samples in (32, 16, 3000):
            compiled(torch.randn(samples, *SHAPES[make][1:]))
        counts.append((counter.frame_count, counter.op_count))
    torch.compiler.reset()
    assert counts[0] == counts[1]


@pytest.mark.skipif(
    not (importlib.util.find_spec("onnx") and importlib.util.find_spec("onnxscript")),
    reason="onnx and onnxscript are not installed",
)
@pytest.mark.filterwarnings("ignore")
def test_onnx():
    x, found = torch.randn(SHAPES[network]), []
    for model in pair(network):
        shapes = ({0: torch.export.Dim("batch")},)
        program = torch.onnx.export(model, (x,), dynamo=True, dynamic_shapes=shapes, verbose=False)
        found.append([node.op_type for node in program.model.graph])
    assert found[0] == found[1]


@pytest.mark.skipif(not importlib.util.find_spec("onnx"), reason="onnx is not installed")
@pytest.mark.filterwarnings("ignore")
@models
def test_onnx_by_torchscript(make):
    import onnx

    x, found = torch.randn(SHAPES[make]), []
    for model in pair(make):
        file = io.BytesIO()
        torch.onnx.export(
            model, (x,), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "batch"}}
        )
        nodes = onnx.load_from_string(file.getvalue()).graph.node
        found.append([node.op_type for node in nodes])
    assert found[0] == found[1]


@modes
def test_symbolic_traces(training):
    fast, plain = pair(network, training)
    x = torch.randn(SHAPES[network])
    traced = torch.fx.symbolic_trace(fast)
    expected = torch.fx.symbolic_trace(plain)
    assert operations(traced.graph) == operations(expected.graph)
    torch.testing.assert_close(traced(x), expected(x), rtol=1e-4, atol=1e-5)


def test_symbolic_traces_of_modules_with_an_activation():
    model = nn.Sequential(
        ours.LinearBatchNormLeakyReLU(7, 4, 0.1), ours.BatchNormLeakyReLU(4)
    ).eval()
    traced = torch.fx.symbolic_trace(model)
    assert operations(traced.graph) == ["0.linear", "0.norm", "1"]
    x = torch.randn(9, 7)
    torch.testing.assert_close(traced(x), model(x))


@models
def test_a_trace_of_gradients(make):
    def trace(model):
        def gradient(x):
            return torch.autograd.grad(model(x).square().sum(), x)

        x = torch.randn(SHAPES[make], requires_grad=True)
        return operations(make_fx(gradient)(x).graph)

    fast, plain = pair(make, training=True)
    assert trace(fast) == trace(plain)


class Watching(TorchDispatchMode):
    """A mode that lists the operations it sees."""

    def __init__(self):
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, operation, kinds, args=(), options=None):
        self.seen.append(str(operation))
        return operation(*args, **(options or {}))


def test_a_backward_pass_in_a_dispatch_mode():
    """The forward pass ran outside the mode; the gradients are PyTorch's operations anyway."""
    grads = []
    for module in (ours.BatchNorm1d(7), nn.BatchNorm1d(7)):
        torch.manual_seed(0)
        x = torch.randn(30, 7, requires_grad=True)
        y = module(x)
        with Watching() as mode:
            y.square().sum().backward()
        assert "aten.native_batch_norm_backward.default" in mode.seen
        grads.append(x.grad)
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


@models
def test_torch_function_modes(make):
    class WatchingFunctions(TorchFunctionMode):
        def __torch_function__(self, function, kinds, args=(), options=None):
            seen.append(getattr(function, "__name__", str(function)))
            return function(*args, **(options or {}))

    x, found = torch.randn(3000, *SHAPES[make][1:]), []
    for model in pair(make, training=True):
        seen: list[str] = []
        with WatchingFunctions():
            model(x)
        found.append(seen)
    assert found[0] == found[1]


class Subclass(torch.Tensor):
    pass


@models
def test_subclasses_of_tensors(make):
    x = torch.randn(3000, *SHAPES[make][1:])
    fast, plain = pair(make)
    found = fast(x.as_subclass(Subclass))
    assert type(found) is Subclass
    assert torch.equal(found, plain(x.as_subclass(Subclass)))


def test_is_traced():
    x = torch.ones(2)
    assert not is_traced(x)
    assert not is_traced()
    assert not is_traced((x, x))
    assert is_traced(x.as_subclass(Subclass))
    assert is_traced(nn.parameter.UninitializedParameter())
    seen = []

    def look(x):
        seen.append(is_traced(x))
        return x * 2

    torch.compile(look, backend="eager")(x)
    torch.jit.trace(look, x, check_trace=False)
    torch.vmap(look)(x)
    torch.func.grad(lambda x: look(x).sum())(x)
    torch.func.jvp(look, (x,), (x,))
    make_fx(look)(x)
    torch.fx.symbolic_trace(look)
    with FakeTensorMode(allow_non_fake_inputs=True):
        look(x)
    with torch.autograd.forward_ad.dual_level():
        look(x)
    torch.compiler.reset()
    assert seen == [True] * 9


@pytest.mark.parametrize("kind", [ours.Adam, ours.AdamW])
def test_optimizers_in_a_dispatch_mode(kind):
    """The mode sees every write to memory."""
    found = []
    for one in (kind, getattr(torch.optim, kind.__name__)):
        parameter = nn.Parameter(torch.ones(5))
        parameter.grad = torch.ones(5)
        optimizer = one([parameter], lr=0.1)
        with Watching() as mode:
            optimizer.step()
        found.append(mode.seen)
    assert found[0] == found[1]
    assert found[0]


# -- functions that only accept PyTorch's own classes ----------------------------------------------


@pytest.mark.parametrize("make", [network, alone, lambda: nn.ModuleList([alone()])])
def test_scripts_ask_for_restore(make):
    model = make()
    accelerate(model, verbose=False)
    kinds = [type(part) for part in model.modules()]
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"torch\.jit\.script .*fastbn\.torch\.restore"):
            torch.jit.script(model)
    assert [type(part) for part in model.modules()] == kinds, "the model is as it was"
    if make in SHAPES:
        restore(model)
        x = torch.randn(SHAPES[make])
        torch.testing.assert_close(torch.jit.script(model.eval())(x), model(x))


@pytest.mark.parametrize(
    "module", [ours.BatchNormLeakyReLU(3), ours.BatchNorm1d(3), ours.SyncBatchNorm(3)]
)
def test_scripts_of_modules_that_were_not_swapped(module):
    with pytest.raises(RuntimeError, match=f"torch.nn instead of .* {type(module).__name__}"):
        torch.jit.script(nn.ModuleList([module]))


@pytest.mark.parametrize("inplace", [True, False])
def test_fuse_modules(inplace):
    from torch.ao.quantization import fuse_modules

    fast, plain = pair(images)
    x = torch.randn(SHAPES[images])
    expected = plain(x)
    groups = [["0", "1", "2"]]
    found, theirs = (fuse_modules(one, groups, inplace=inplace) for one in (fast, plain))
    assert [type(part) for part in found] == [type(part) for part in theirs]
    torch.testing.assert_close(found(x), expected, rtol=1e-4, atol=1e-5)
    if not inplace:
        assert type(fast[1]) is ours.BatchNorm2d


def test_fuse_modules_for_training():
    from torch.ao.quantization import fuse_modules, fuse_modules_qat

    fast, plain = pair(images, training=True)
    kinds = [
        [type(part) for part in fuse_modules_qat(one, [["0", "1", "2"]]).modules()][1:]
        for one in (fast, plain)
    ]
    assert kinds[0] == kinds[1]
    assert type(fuse_modules(fast.eval(), [["1", "2"]])[1]) is type(
        fuse_modules(plain.eval(), [["1", "2"]])[1]
    )


def test_quantization_by_graphs_asks_for_restore():
    from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

    model, _ = pair(images)
    x = torch.randn(SHAPES[images])
    with pytest.raises(RuntimeError, match=r"torch\.ao\.quantization .*fastbn\.torch\.restore"):
        quantize_fx.prepare_fx(model, get_default_qconfig_mapping(), (x,))


def test_fusing_for_prediction():
    """PyTorch's helpers fuse; the pass over a graph looks for exact classes and finds none."""
    from torch.fx.experimental.optimization import fuse

    fast, plain = pair(images)
    x = torch.randn(SHAPES[images])
    found = nn.utils.fuse_conv_bn_eval(fast[0], fast[1])(x)
    torch.testing.assert_close(found, plain[:2](x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fuse(fast)(x), plain(x), rtol=1e-4, atol=1e-5)
    restore(fast)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in fuse(fast).modules())
    fast, plain = pair(perceptron)
    x = torch.randn(SHAPES[perceptron])
    found = nn.utils.fuse_linear_bn_eval(fast[0], fast[1])(x)
    torch.testing.assert_close(found, plain[:2](x), rtol=1e-4, atol=1e-5)
